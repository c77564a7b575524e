//! One request on its worker, as the policy and the worker's condition are told about it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::futures::OwnedNotified;

use super::load::LoadGuard;
use super::progress::{AnswerKind, Waiting};
use super::worker::Worker;
use crate::moment::Moment;
use crate::policy::{Assignment, Policy};

/// A request's place in its worker's load. Tells the policy when the answer begins and, on every way out, when it ended.
pub struct Placement {
    guard: LoadGuard,
    policy: Arc<dyn Policy>,
    assignment: Assignment,
    answered: bool,
    reason: &'static str,
    /// Until the worker begins to answer, for a request whose waiting says something about the worker.
    waiting: Option<Waiting>,
    /// Once somebody listens, with who does.
    cut_off: Option<(Pin<Box<OwnedNotified>>, Waker)>,
}

impl Placement {
    /// For a request that the policy has been told of as `assigned`.
    pub(super) fn new(guard: LoadGuard, policy: Arc<dyn Policy>, assignment: Assignment, reason: &'static str) -> Self {
        Self { guard, policy, assignment, answered: false, reason, waiting: None, cut_off: None }
    }

    /// Why the policy chose the worker.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub fn worker(&self) -> &Arc<Worker> {
        self.guard.worker()
    }

    /// The request is sent, and an answer of this kind expected.
    pub fn wait(&mut self, kind: AnswerKind) {
        let bytes = self.assignment.key_bytes.saturating_sub(self.assignment.held_bytes);
        self.waiting = Some(Waiting::begin(self.guard.worker(), kind, bytes));
    }

    /// The worker answers, but not as was hoped: it is not waited for any more.
    pub fn refused(&mut self) {
        self.waiting = None;
        self.moved();
    }

    /// The worker did well, as far as its circuit breaker is concerned.
    pub fn succeeded(&mut self) {
        self.guard.succeeded();
    }

    /// The worker failed, for its circuit breaker.
    pub fn failed(&mut self, reason: &str) {
        self.guard.failed(reason);
    }

    /// True when the circuit breaker waits for the outcome of this request.
    pub fn is_on_trial(&self) -> bool {
        self.guard.is_on_trial()
    }

    /// A piece of the answer arrived.
    pub fn moved(&self) {
        self.worker().progress.moved();
    }

    /// The first byte of a successful answer's body arrived. Later calls do nothing.
    pub fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            if let Some(waiting) = self.waiting.take() {
                waiting.answered(self.assignment.begun);
            }
            self.policy.answered(&self.assignment, Moment::now());
        }
    }

    /// Ready when the worker has left and the time for its last answers is over.
    pub fn poll_cut_off(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let worker = self.guard.worker();
        // Who listens already does so for the next piece too: asking again would take a lock for each.
        if !self.cut_off.as_ref().is_some_and(|(_, waker)| waker.will_wake(context.waker())) {
            let mut signal = Box::pin(worker.cut_off_signal());
            let _ = signal.as_mut().poll(context);
            self.cut_off = Some((signal, context.waker().clone()));
        }
        // It may have come before anybody listened.
        if worker.is_cut_off() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.policy.ended(&self.assignment, self.answered, Moment::now());
    }
}
