//! Who is asked next when a worker did not answer, or answered that it cannot.
//!
//! Until the first byte of an answer has been passed on, a request can be sent again. Another worker is preferred to the same one. What
//! counts against a worker: no connection, a connection that breaks, a time-out, and 500 and 502 when another worker does better with
//! the same request. 429 and 503 mean busy, 404 for what is stored that it is not stored there: another one is asked, and nobody is
//! punished. When nobody does better, the client gets the last answer as it was. What only one worker has, no other is asked for
//! once that one has answered.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::{Instant, sleep};
use tracing::{debug, error};

use super::attempt::{Failure, Limits, Outgoing};
use super::home::may_be_elsewhere;
use crate::config::{RouterConfig, seconds};
use crate::error::RouterError;
use crate::fleet::{Fleet, Placement, Unassigned, Wanted, Worker};
use crate::metrics::Observation;
use crate::upstream::Answer;

/// The pause before a retry: at random between these, doubled each time up to the longest. A client waits for it.
const PAUSE_MS: std::ops::Range<f64> = 10.0..50.0;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) type Answered = (Response<Answer>, Placement);

/// How often and how long is tried.
pub(super) struct Retry {
    fleet: Arc<Fleet>,
    limits: Limits,
    max_worker_attempts: u32,
    max_retries: u32,
    timeout: Duration,
}

impl Retry {
    pub fn new(fleet: Arc<Fleet>, config: &RouterConfig) -> Self {
        Self {
            fleet,
            limits: Limits::from(config),
            max_worker_attempts: config.max_worker_retries,
            max_retries: config.max_total_retries,
            timeout: seconds(config.request_timeout_secs),
        }
    }

    /// Tries until a worker answers well, or there is nobody left to try.
    pub async fn answer(
        &self,
        outgoing: &Outgoing,
        wanted: Wanted<'_>,
        observation: &Observation,
    ) -> Result<Answered, RouterError> {
        let mut course = Course {
            retry: self,
            outgoing,
            wanted,
            asked: Vec::new(),
            retries: 0,
            moved: false,
            is_sought: false,
            last: None,
        };
        let deadline = Instant::now() + self.timeout;
        let mut placement = self.fleet.assign(wanted).map_err(|reason| self.unassigned(reason, wanted))?;
        loop {
            // One that was taken from a worker that hung says nothing about the next one: perhaps it is the request. On trial it has to.
            if !course.moved || placement.is_on_trial() {
                placement.wait(outgoing.kind);
            }
            let outcome = match self.limits.attempt(outgoing, &placement, &self.fleet, deadline).await {
                Ok(response) => course.judge(response, placement),
                Err(_) if Instant::now() >= deadline => Err(RouterError::TimedOut {
                    worker: placement.worker().url().to_string(),
                    seconds: self.timeout.as_secs_f64(),
                }),
                Err(failure) => course.blame(failure, placement).map(|()| None),
            };
            if let Some(answered) = outcome? {
                return Ok(answered);
            }
            placement = match course.next(deadline).await {
                Some(placement) => placement,
                None => return course.give_up(),
            };
            observation.is_retried();
        }
    }

    fn unassigned(&self, reason: Unassigned, wanted: Wanted<'_>) -> RouterError {
        match reason {
            Unassigned::NoWorker => RouterError::NoHealthyWorker { workers: self.fleet.workers().len() },
            Unassigned::UnknownModel(known) => {
                RouterError::UnknownModel { model: wanted.model.unwrap_or_default().to_owned(), known }
            }
        }
    }
}

/// One request's way from worker to worker.
struct Course<'a> {
    retry: &'a Retry,
    outgoing: &'a Outgoing,
    wanted: Wanted<'a>,
    asked: Vec<Asked>,
    retries: u32,
    /// It was taken from a worker that hung.
    moved: bool,
    /// The last one asked does not have what is sought: somebody else may.
    is_sought: bool,
    last: Option<Last>,
}

/// A worker that has been asked.
struct Asked {
    worker: Arc<Worker>,
    attempts: u32,
    /// Answered that it cannot: not asked again.
    is_final: bool,
    /// 500 or 502, not held against the worker yet.
    accused_of: Option<StatusCode>,
}

/// How the last attempt ended.
enum Last {
    Answer(Box<Answered>),
    /// What went wrong, with the worker's URL.
    Failure(String),
}

// ===== impl Course =====

impl Course<'_> {
    /// What an answer means: `Some` if it is the one for the client.
    fn judge(&mut self, response: Response<Answer>, mut placement: Placement) -> Result<Option<Answered>, RouterError> {
        let status = response.status();
        if !status.is_success() {
            placement.refused();
        }
        let is_failure = matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY);
        let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        self.is_sought = may_be_elsewhere(self.outgoing.request.uri().path(), &response);
        if !is_failure && !is_busy && !self.is_sought {
            placement.succeeded();
            self.hold_to_account();
            return Ok(Some((response, placement)));
        }
        debug!(worker = %placement.worker().url(), status = status.as_u16(), retries = self.retries, "not the answer wanted");
        let on_trial = placement.is_on_trial();
        if is_failure && on_trial {
            placement.failed(&format!("status {status}"));
        }
        let asked = self.asked(placement.worker());
        asked.is_final = true;
        asked.accused_of = (is_failure && !on_trial).then_some(status);
        let is_passed_on =
            is_failure && !self.outgoing.is_repeatable() || self.wanted.home.is_some() && !self.is_sought;
        self.last = Some(Last::Answer(Box::new((response, placement))));
        if is_passed_on { self.give_up().map(Some) } else { Ok(None) }
    }

    /// Another worker did better with the same request: so it was theirs to answer.
    fn hold_to_account(&mut self) {
        for asked in &mut self.asked {
            if let Some(status) = asked.accused_of.take() {
                asked.worker.failed(false, &format!("status {status}"));
            }
        }
    }

    /// Holds a failure against the worker as far as it is to blame. `Err` if trying again would not help.
    fn blame(&mut self, failure: Failure, mut placement: Placement) -> Result<(), RouterError> {
        let worker = placement.worker().clone();
        let url = worker.url();
        let asked = self.asked(&worker);
        asked.attempts += 1;
        let was_sent = !matches!(failure, Failure::Connect(_));
        let reason = match failure {
            Failure::Connect(error) => {
                let reason = format!("cannot connect: {error}");
                placement.failed(&reason);
                worker.mark_unhealthy(&reason);
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.retry.fleet.forget(&worker);
                }
                reason
            }
            Failure::Broken(error) => {
                let reason = format!("connection broke before the answer: {error}");
                placement.failed(&reason);
                worker.check_soon();
                reason
            }
            Failure::Silent => {
                asked.is_final = true;
                let reason = "no answer in time (--worker-ttfb-timeout-secs)".to_owned();
                placement.failed(&reason);
                reason
            }
            Failure::GivenUp => {
                asked.is_final = true;
                self.moved = true;
                "the worker hangs".to_owned()
            }
            Failure::Exhausted(error) => {
                error!(%error, "cannot open connections");
                return Err(RouterError::Exhausted(format!("the router cannot open connections: {error}")));
            }
        };
        self.is_sought = false;
        debug!(worker = %url, reason, retries = self.retries, "attempt failed");
        self.last = Some(Last::Failure(format!("{url}: {reason}")));
        if was_sent && !self.outgoing.is_repeatable() {
            return Err(RouterError::WorkersFailed(format!(
                "the worker may have begun to work, so the request is not sent again; {url}: {reason}"
            )));
        }
        Ok(())
    }

    /// The worker for the next attempt, after a pause unless it is the first and to a worker that was not asked yet. A search goes
    /// on at once, through all that were not asked yet.
    async fn next(&mut self, deadline: Instant) -> Option<Placement> {
        let fleet = &self.retry.fleet;
        if self.is_sought {
            return fleet.assign_again(self.wanted, |worker| self.attempts(worker) == Some(0)).ok();
        }
        if self.retries == self.retry.max_retries {
            return None;
        }
        self.retries += 1;
        let is_first = self.retries == 1 || self.moved;
        if !(is_first && fleet.has_available(self.wanted.model, |worker| self.attempts(worker) == Some(0))) {
            let pause = fastrand::f64() * (PAUSE_MS.end - PAUSE_MS.start) + PAUSE_MS.start;
            let pause = Duration::from_secs_f64(pause / 1e3) * 2_u32.pow(self.retries.min(10) - 1);
            if self.may_go_on() {
                sleep(pause.min(LONGEST_PAUSE).min(deadline - Instant::now())).await;
            }
        }
        let max = self.retry.max_worker_attempts;
        let fresh = fleet.assign_again(self.wanted, |worker| self.attempts(worker) == Some(0));
        fresh
            .or_else(|_| fleet.assign_again(self.wanted, |worker| self.attempts(worker).is_some_and(|done| done < max)))
            .ok()
    }

    /// True when a pause makes sense: somebody could be asked after it.
    fn may_go_on(&self) -> bool {
        let max = self.retry.max_worker_attempts;
        self.retry.fleet.has_available(self.wanted.model, |worker| self.attempts(worker).is_some_and(|done| done < max))
    }

    /// Attempts on a worker so far; `None` for one that is not to be asked again.
    fn attempts(&self, worker: &Worker) -> Option<u32> {
        match self.asked.iter().find(|asked| std::ptr::eq(&*asked.worker, worker)) {
            None => Some(0),
            Some(asked) => (!asked.is_final).then_some(asked.attempts),
        }
    }

    fn asked(&mut self, worker: &Arc<Worker>) -> &mut Asked {
        let known = self.asked.iter().position(|asked| Arc::ptr_eq(&asked.worker, worker));
        let index = known.unwrap_or_else(|| {
            self.asked.push(Asked { worker: worker.clone(), attempts: 0, is_final: false, accused_of: None });
            self.asked.len() - 1
        });
        &mut self.asked[index]
    }

    /// Nobody is left to try: the last answer, if there is one, is better than none.
    fn give_up(&mut self) -> Result<Answered, RouterError> {
        // Several workers that fail alike: the request is to blame. Fewer: nobody knows, and the worker counts.
        if self.asked.iter().filter(|asked| asked.accused_of.is_some()).count() < 2 {
            self.hold_to_account();
        }
        match self.last.take() {
            Some(Last::Answer(answered)) => Ok(*answered),
            Some(Last::Failure(reason)) if self.retry.fleet.has_available(self.wanted.model, |_| true) => {
                Err(RouterError::WorkersFailed(format!(
                    "no worker answered after {} retries (--max-total-retries {}, --max-worker-retries {}); the last: {reason}",
                    self.retries, self.retry.max_retries, self.retry.max_worker_attempts
                )))
            }
            _ => Err(self.retry.unassigned(Unassigned::NoWorker, self.wanted)),
        }
    }
}
