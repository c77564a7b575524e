//! Who should take a request: one file per policy behind one small trait.

mod cache_aware;
mod random;
mod round_robin;

use std::sync::Arc;

pub use self::cache_aware::CacheAware;
pub use self::random::Random;
pub use self::round_robin::RoundRobin;
use crate::config::RouterConfig;
use crate::fleet::{Worker, WorkerId};
use crate::moment::Moment;
use crate::prefix::Key;

/// What a policy is told about a request.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub key: &'a Key,
    /// What keeps a client's requests together: the value of the header or the body field that `consistent_hash` hashes.
    pub affinity: Option<&'a [u8]>,
    pub now: Moment,
}

/// A policy's decision.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    pub worker: &'a Arc<Worker>,
    /// Why, in a word or two: one of the few that the policy's file lists. A label of metrics.
    pub reason: &'static str,
    /// Leading bytes of the key that the worker probably has cached; 0 where the policy does not know.
    pub held_bytes: usize,
}

/// One request on one worker, from `Policy::assigned` to `Policy::ended`.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    pub worker: WorkerId,
    pub key_bytes: usize,
    pub held_bytes: usize,
    pub begun: Moment,
}

/// Hooks are called in this order: `choose`, `assigned`, `answered` if the worker began to answer well, `ended` always.
/// All may be called from several threads at once. None may block.
pub trait Policy: Send + Sync {
    /// The worker for a request: one that `is_available`, or `None` if there is none. `workers` is the part of the fleet that
    /// can serve the request.
    fn choose<'a>(&self, query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>>;

    /// The request went to a worker and is counted there; `forget` cannot be running for it.
    fn assigned(&self, _query: Query<'_>, _assignment: &Assignment) {}

    /// The first byte of a successful answer's body arrived.
    fn answered(&self, _assignment: &Assignment, _now: Moment) {}

    /// The answer ended, well or not, or never began: `answered` says whether `answered` was called.
    fn ended(&self, _assignment: &Assignment, _answered: bool, _now: Moment) {}

    /// What was learnt about `worker` holds no more: it left, or lost its cache.
    fn forget(&self, _worker: WorkerId) {}

    /// Memory of the prefix index, for policies that have one.
    fn index_bytes(&self) -> Option<usize> {
        None
    }

    /// Called every `--eviction-interval`, off the threads that serve.
    fn maintain(&self) {}
}

/// The workers that may be given a request now. Looked at once, since health changes at any moment.
fn available(workers: &[Arc<Worker>]) -> Vec<&Arc<Worker>> {
    workers.iter().filter(|worker| worker.is_available()).collect()
}

/// A policy as `--policy` names it.
struct Entry {
    name: &'static str,
    build: fn(&RouterConfig) -> Box<dyn Policy>,
}

const POLICIES: &[Entry] = &[cache_aware::ENTRY, round_robin::ENTRY, random::ENTRY];

/// The names that `--policy` takes, the default first.
pub fn names() -> Vec<&'static str> {
    POLICIES.iter().map(|entry| entry.name).collect()
}

/// The policy that a validated `config` names.
pub fn build(config: &RouterConfig) -> Box<dyn Policy> {
    let entry = POLICIES.iter().find(|entry| entry.name == config.policy).expect("the policy's name is validated");
    (entry.build)(config)
}

#[cfg(test)]
mod tests;
