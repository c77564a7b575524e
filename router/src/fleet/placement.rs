//! One request on its worker, as the policy is told about it.

use std::sync::Arc;

use super::worker::{LoadGuard, Worker};
use crate::moment::Moment;
use crate::policy::{Assignment, Policy};

/// A request's place in its worker's load. Tells the policy when the answer begins and, on every way out, when it ended.
pub struct Placement {
    guard: LoadGuard,
    policy: Arc<dyn Policy>,
    assignment: Assignment,
    answered: bool,
    reason: &'static str,
}

impl Placement {
    /// For a request that the policy has been told of as `assigned`.
    pub(super) fn new(guard: LoadGuard, policy: Arc<dyn Policy>, assignment: Assignment, reason: &'static str) -> Self {
        Self { guard, policy, assignment, answered: false, reason }
    }

    /// Why the policy chose the worker.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    pub fn worker(&self) -> &Arc<Worker> {
        self.guard.worker()
    }

    /// The first byte of a successful answer's body arrived. Later calls do nothing.
    pub fn answered(&mut self) {
        if !self.answered {
            self.answered = true;
            self.policy.answered(&self.assignment, Moment::now());
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.policy.ended(&self.assignment, self.answered, Moment::now());
    }
}
