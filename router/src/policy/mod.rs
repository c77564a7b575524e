//! Who should take a request: one file per policy behind one small trait.

mod cache_aware;
mod consistent_hash;
mod expected_cost;
mod least_load;
mod power_of_two;
mod random;
mod round_robin;

use std::sync::Arc;

pub use self::cache_aware::CacheAware;
pub use self::consistent_hash::ConsistentHash;
pub use self::consistent_hash::home;
pub use self::expected_cost::ExpectedCost;
pub use self::least_load::LeastLoad;
pub use self::power_of_two::PowerOfTwo;
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
    /// The answer comes in pieces as it is generated, so that its first byte tells when the prompt was done.
    pub stream: bool,
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
    /// What the worker had to do already, where the policy knows.
    pub ahead: Ahead,
}

/// Work on a worker when a request came to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead {
    /// Bytes of prompts before it that were still to be prefilled.
    pub bytes: f64,
    /// Answers in progress.
    pub streams: f64,
}

/// One request on one worker, from `Policy::assigned` to `Policy::ended`.
#[derive(Clone, Copy, Debug)]
pub struct Assignment {
    pub worker: WorkerId,
    pub key_bytes: usize,
    pub held_bytes: usize,
    pub ahead: Ahead,
    pub stream: bool,
    pub begun: Moment,
}

impl<'a> Choice<'a> {
    /// A choice that knows nothing of prefixes or work.
    fn new(worker: &'a Arc<Worker>, reason: &'static str) -> Self {
        Self { worker, reason, held_bytes: 0, ahead: Ahead::default() }
    }
}

impl Assignment {
    pub fn new(query: &Query<'_>, choice: &Choice<'_>) -> Self {
        Self {
            worker: choice.worker.id(),
            key_bytes: query.key.bytes(),
            held_bytes: choice.held_bytes,
            ahead: choice.ahead,
            stream: query.stream,
            begun: query.now,
        }
    }

    /// Bytes of the key that the worker probably has to prefill.
    fn uncached_bytes(&self) -> f64 {
        self.key_bytes.saturating_sub(self.held_bytes) as f64
    }
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

/// Requests in progress on a worker, those of other routers among them where the worker reports its load.
fn total_load(worker: &Worker) -> f64 {
    worker.load() as f64 + worker.load_elsewhere()
}

/// The worker with the smallest rank; among equal ones each is equally likely.
fn least<'a, R: PartialOrd>(
    workers: impl Iterator<Item = &'a Arc<Worker>>,
    rank: impl Fn(&Worker) -> R,
) -> Option<&'a Arc<Worker>> {
    let mut best: Option<(&Arc<Worker>, R)> = None;
    let mut ties = 1;
    for worker in workers {
        let rank = rank(worker);
        match &best {
            Some((_, smallest)) if rank > *smallest => continue,
            Some((_, smallest)) if rank == *smallest => {
                ties += 1;
                if fastrand::usize(..ties) > 0 {
                    continue;
                }
            }
            _ => ties = 1,
        }
        best = Some((worker, rank));
    }
    best.map(|(worker, _)| worker)
}

/// A policy as `--policy` names it.
struct Entry {
    name: &'static str,
    build: fn(&RouterConfig) -> Box<dyn Policy>,
}

const POLICIES: &[Entry] = &[
    expected_cost::ENTRY,
    cache_aware::ENTRY,
    consistent_hash::ENTRY,
    least_load::ENTRY,
    power_of_two::ENTRY,
    round_robin::ENTRY,
    random::ENTRY,
];

/// The names that `--policy` takes.
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
