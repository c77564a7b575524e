//! A circuit breaker: whether what a worker did lately speaks against giving it requests. Without a clock of its own.
//!
//! Closed, everything goes through; enough failures in a row open it. Open, nothing goes through until its time-out is over; then
//! it is half-open: one request at a time goes through on trial. Enough trials that succeed close it, one that fails opens it again.
//! A worker that hangs opens it too, and then it becomes half-open only when the worker has shown a sign of life.

use std::time::Duration;

use serde::Serialize;

use crate::config::{RouterConfig, seconds};
use crate::moment::Moment;

#[derive(Clone, Copy, Debug)]
pub struct BreakerSettings {
    /// Failures in a row that open it; `None` where failures never do.
    failures: Option<u32>,
    /// Trials in a row that must succeed to close it.
    successes: u32,
    /// How long it stays open.
    timeout: Duration,
    /// Failures further apart than this are not in a row.
    window: Duration,
}

impl From<&RouterConfig> for BreakerSettings {
    fn from(config: &RouterConfig) -> Self {
        Self {
            failures: (!config.disable_circuit_breaker).then_some(config.cb_failure_threshold),
            successes: config.cb_success_threshold,
            timeout: seconds(config.cb_timeout_duration_secs),
            window: seconds(config.cb_window_duration_secs),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    Closed,
    Open,
    HalfOpen,
}

/// Why it is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Failures,
    /// Requests waited for an answer for too long, and none came.
    Silence,
}

#[derive(Clone, Copy, Debug)]
enum Position {
    Closed { failures: u32, first: Option<Moment> },
    Open { since: Moment, cause: Cause },
    HalfOpen { successes: u32, on_trial: bool, cause: Cause },
}

const CLOSED: Position = Position::Closed { failures: 0, first: None };

#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    position: Position,
}

// ===== impl Breaker =====

impl Breaker {
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, position: CLOSED }
    }

    pub fn state(&self) -> BreakerState {
        match self.position {
            Position::Closed { .. } => BreakerState::Closed,
            Position::Open { .. } => BreakerState::Open,
            Position::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Why it is open or half-open.
    pub fn cause(&self) -> Option<Cause> {
        match self.position {
            Position::Closed { .. } => None,
            Position::Open { cause, .. } | Position::HalfOpen { cause, .. } => Some(cause),
        }
    }

    /// True when a request may go through now. Half-open, it has to `begin_trial`.
    pub fn permits(&self) -> bool {
        match self.position {
            Position::Closed { .. } => true,
            Position::Open { .. } => false,
            Position::HalfOpen { on_trial, .. } => !on_trial,
        }
    }

    /// True when a success would change something.
    pub fn remembers_failures(&self) -> bool {
        matches!(self.position, Position::Closed { failures: 1.., .. })
    }

    /// Takes the one place for a request on trial; `false` if it is taken, or if it is not half-open.
    pub fn begin_trial(&mut self) -> bool {
        match &mut self.position {
            Position::HalfOpen { on_trial, .. } => !std::mem::replace(on_trial, true),
            _ => false,
        }
    }

    /// The request on trial ended without a verdict, as when its client went away.
    pub fn abandon_trial(&mut self) {
        if let Position::HalfOpen { on_trial, .. } = &mut self.position {
            *on_trial = false;
        }
    }

    /// A request was answered; `trial` says that it was the one on trial.
    pub fn succeeded(&mut self, trial: bool) {
        match &mut self.position {
            Position::Closed { .. } => self.position = CLOSED,
            Position::HalfOpen { successes, on_trial, cause } if trial => {
                *successes += 1;
                *on_trial = false;
                if *successes >= self.settings.successes || *cause == Cause::Silence {
                    self.position = CLOSED;
                }
            }
            // Begun before it opened: says nothing about now.
            Position::Open { .. } | Position::HalfOpen { .. } => {}
        }
    }

    /// A request failed; `trial` says that it was the one on trial.
    pub fn failed(&mut self, trial: bool, now: Moment) {
        match &mut self.position {
            Position::Closed { failures, first } => {
                if first.is_none_or(|first| now.since(first) > self.settings.window) {
                    (*failures, *first) = (0, Some(now));
                }
                *failures += 1;
                if self.settings.failures.is_some_and(|limit| *failures >= limit) {
                    self.position = Position::Open { since: now, cause: Cause::Failures };
                }
            }
            Position::HalfOpen { cause, .. } if trial => self.position = Position::Open { since: now, cause: *cause },
            Position::Open { .. } | Position::HalfOpen { .. } => {}
        }
    }

    /// Opens it because the worker is silent.
    pub fn trip(&mut self, now: Moment) {
        self.position = Position::Open { since: now, cause: Cause::Silence };
    }

    /// Time passed: open because of failures, it becomes half-open when its time-out is over.
    pub fn tick(&mut self, now: Moment) {
        if let Position::Open { cause: Cause::Failures, .. } = self.position {
            self.expire(now);
        }
    }

    /// As `tick`, whatever it is open for.
    pub fn expire(&mut self, now: Moment) {
        if let Position::Open { since, .. } = self.position
            && now.since(since) >= self.settings.timeout
        {
            self.half_open();
        }
    }

    /// Open, it lets a request through on trial at once.
    pub fn half_open(&mut self) {
        if let Position::Open { cause, .. } = self.position {
            self.position = Position::HalfOpen { successes: 0, on_trial: false, cause };
        }
    }

    /// What spoke against the worker holds no more: it was silent, and is not.
    pub fn close(&mut self) {
        self.position = CLOSED;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
