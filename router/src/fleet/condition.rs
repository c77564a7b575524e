//! How a worker is: what its checks and its requests say, and what follows from it for new requests.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tracing::{info, warn};

use super::breaker::{Breaker, BreakerSettings, BreakerState, Cause};
use super::worker::{HALF_OPEN, OPEN, UNHEALTHY, Worker};
use crate::moment::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Has not answered its checks yet.
    Starting,
    Healthy,
    /// Has answered before, and does not now.
    Unhealthy,
}

/// What one lock guards, since health and breaker are shown to requests together.
pub(super) struct Condition {
    health: Health,
    pub(super) breaker: Breaker,
    /// Checks and requests that failed since the last one that did not.
    pub(super) failures: u32,
    pub(super) last_error: Option<String>,
    /// When the health or the breaker changed last.
    pub(super) since: Moment,
}

impl Condition {
    pub(super) fn new(breaker: BreakerSettings, now: Moment) -> Self {
        Self { health: Health::Starting, breaker: Breaker::new(breaker), failures: 0, last_error: None, since: now }
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    fn note(&mut self, error: &str) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error.to_owned());
    }

    /// The bits of `Worker::show`.
    fn bits(&self) -> u8 {
        let unhealthy = if self.health == Health::Healthy { 0 } else { UNHEALTHY };
        let open = if self.breaker.permits() { 0 } else { OPEN };
        let half_open = if self.breaker.state() == BreakerState::HalfOpen { HALF_OPEN } else { 0 };
        unhealthy | open | half_open
    }
}

// ===== impl Worker: its condition =====

impl Worker {
    /// Changes the condition and shows requests what follows from it.
    fn change<R>(&self, change: impl FnOnce(&mut Condition) -> R) -> R {
        let mut condition = self.condition.lock();
        let before = (condition.health, condition.breaker.state());
        let result = change(&mut condition);
        let (health, state) = (condition.health, condition.breaker.state());
        self.has_failed.store(condition.breaker.remembers_failures(), Ordering::Relaxed);
        self.show(condition.bits());
        if (health, state) != before {
            condition.since = Moment::now();
        }
        if state != before.1 {
            let error = condition.last_error.as_deref().unwrap_or_default();
            match state {
                BreakerState::Closed => {
                    info!(worker = %self.url(), "circuit breaker closed: the worker gets requests again")
                }
                BreakerState::HalfOpen => {
                    info!(worker = %self.url(), "circuit breaker half-open: one request at a time on trial")
                }
                BreakerState::Open => {
                    warn!(worker = %self.url(), error, "circuit breaker open: the worker gets no requests")
                }
            }
        }
        result
    }

    /// Its checks pass.
    pub(crate) fn mark_healthy(&self) {
        let before = self.change(|condition| {
            if condition.breaker.state() == BreakerState::Closed {
                condition.failures = 0;
            }
            // It was gone and is back: what it did before it went is worth a trial, not a time-out.
            if condition.health == Health::Unhealthy && condition.breaker.cause() == Some(Cause::Failures) {
                condition.breaker.half_open();
            }
            std::mem::replace(&mut condition.health, Health::Healthy)
        });
        if before != Health::Healthy {
            info!(worker = %self.url(), "worker is healthy");
            self.recovered.notify_waiters();
        }
    }

    /// Takes a healthy worker out of service until its checks pass again; requests that it has not begun to answer go elsewhere.
    pub(crate) fn mark_unhealthy(&self, reason: &str) {
        let was_healthy = self.change(|condition| {
            condition.note(reason);
            let was_healthy = condition.health == Health::Healthy;
            if was_healthy {
                condition.health = Health::Unhealthy;
            }
            was_healthy
        });
        if was_healthy {
            warn!(worker = %self.url(), reason, "worker is unhealthy");
            self.pool.clear();
            self.given_up.notify_waiters();
            self.attention.notify_one();
        }
    }

    /// Something was odd: its checks should not wait for their time.
    pub(crate) fn check_soon(&self) {
        self.attention.notify_one();
    }

    /// A check failed that does not make it unhealthy yet.
    pub(super) fn note_error(&self, error: &str) {
        self.condition.lock().note(error);
    }

    /// What went wrong last.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.condition.lock().last_error.clone()
    }

    /// A request was answered. Takes no lock unless there is something to forget.
    pub(super) fn succeeded(&self, trial: bool) {
        if trial || self.has_failed.load(Ordering::Relaxed) {
            self.change(|condition| {
                condition.failures = 0;
                condition.breaker.succeeded(trial);
            });
        }
    }

    /// A request failed in a way that counts against the worker.
    pub(crate) fn failed(&self, trial: bool, reason: &str) {
        self.change(|condition| {
            condition.note(reason);
            condition.breaker.failed(trial, Moment::now());
        });
    }

    pub(super) fn begin_trial(&self) -> bool {
        self.change(|condition| condition.breaker.begin_trial())
    }

    pub(super) fn abandon_trial(&self) {
        self.change(|condition| condition.breaker.abandon_trial());
    }

    /// It hangs: gets no new requests, and what it has not begun to answer goes elsewhere.
    pub(super) fn suspect(&self, reason: &str) {
        self.change(|condition| {
            condition.note(reason);
            condition.breaker.trip(Moment::now());
        });
        self.pool.clear();
        self.given_up.notify_waiters();
    }

    pub(super) fn breaker_state(&self) -> BreakerState {
        self.condition.lock().breaker.state()
    }

    /// True from when it was found to hang until it has answered again.
    pub(super) fn is_suspect(&self) -> bool {
        self.condition.lock().breaker.cause() == Some(Cause::Silence)
    }

    /// True when there is no use in waiting for an answer that has not begun.
    fn is_given_up(&self) -> bool {
        let condition = self.condition.lock();
        let hangs =
            condition.breaker.state() == BreakerState::Open && condition.breaker.cause() == Some(Cause::Silence);
        hangs || condition.health != Health::Healthy || self.is_cut_off()
    }

    /// Returns when there is no use any more in waiting for an answer that has not begun.
    pub(crate) async fn wait_until_given_up(&self) {
        loop {
            let given_up = self.given_up.notified();
            if self.is_given_up() {
                return;
            }
            given_up.await;
        }
    }

    /// Lets time pass for the breaker.
    pub(super) fn tick(&self, now: Moment) {
        if self.condition.lock().breaker.state() == BreakerState::Open {
            self.change(|condition| condition.breaker.tick(now));
        }
    }

    /// A worker that hung has answered a check that generates, or, where it has none such, has had its time out.
    pub(super) fn give_a_trial(&self, checked: bool) {
        self.change(
            |condition| if checked { condition.breaker.half_open() } else { condition.breaker.expire(Moment::now()) },
        );
    }

    /// A worker that hung goes on with its answers.
    pub(super) fn clear_suspicion(&self) {
        self.change(|condition| condition.breaker.close());
    }
}
