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

pub trait Policy: Send + Sync {
    /// The worker for a request with routing key `key`: one that `is_available`, or `None` if there is none.
    fn choose<'a>(&self, key: &[u8], workers: &'a [Arc<Worker>]) -> Option<&'a Arc<Worker>>;

    /// The request went to `worker` and is counted there; `forget` cannot be running for it.
    fn assigned(&self, _key: &[u8], _worker: WorkerId) {}

    /// What was learnt about `worker` holds no more.
    fn forget(&self, _worker: WorkerId) {}

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
