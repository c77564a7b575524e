//! `cache_aware`: the worker that probably holds the longest prefix, unless the fleet is out of balance.
//!
//! The published algorithm of SGLang's router: when `max load - min load` is above `balance_abs_threshold` and `max load` above
//! `balance_rel_threshold * min load`, the shortest queue. Otherwise the worker that holds the longest prefix of the key, if that is
//! more than `cache_threshold` of it; else the worker with the smallest tree. The key then counts as held by the chosen worker.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Assignment, Choice, Entry, Policy, Query};
use crate::config::RouterConfig;
use crate::fleet::{Worker, WorkerId};
use crate::prefix::PrefixIndex;

pub(super) const ENTRY: Entry = Entry { name: "cache_aware", build: |config| Box::new(CacheAware::new(config)) };

pub struct CacheAware {
    index: PrefixIndex,
    cache_threshold: f64,
    balance_abs_threshold: usize,
    balance_rel_threshold: f64,
    /// Where the search for the best worker begins: it moves on, so that equal workers take turns.
    turn: AtomicUsize,
}

impl CacheAware {
    pub fn new(config: &RouterConfig) -> Self {
        Self {
            index: PrefixIndex::new(config.max_tree_size),
            cache_threshold: config.cache_threshold,
            balance_abs_threshold: config.balance_abs_threshold,
            balance_rel_threshold: config.balance_rel_threshold,
            turn: AtomicUsize::new(0),
        }
    }

    fn is_imbalanced(&self, workers: &[Arc<Worker>]) -> bool {
        let loads = || workers.iter().filter(|worker| worker.is_available()).map(|worker| worker.load());
        let (Some(min), Some(max)) = (loads().min(), loads().max()) else { return false };
        max.saturating_sub(min) > self.balance_abs_threshold && max as f64 > self.balance_rel_threshold * min as f64
    }

    /// The available worker with the smallest rank; equal ones take turns.
    fn least<'a, R: Ord>(&self, workers: &'a [Arc<Worker>], rank: impl Fn(&Worker) -> R) -> Option<&'a Arc<Worker>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(workers.len())?;
        let (later, first) = workers.split_at(turn);
        let available = first.iter().chain(later).filter(|worker| worker.is_available());
        available.min_by_key(|worker| rank(worker))
    }
}

impl Policy for CacheAware {
    /// Reasons: `imbalance` (or no key), `prefix`, `smallest_tree`.
    fn choose<'a>(&self, query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let key = query.key;
        let matches = self.index.matches(key);
        let choice = |worker: &'a Arc<Worker>, reason| Choice {
            held_bytes: matches.bytes(worker.id()),
            ..Choice::new(worker, reason)
        };
        if key.is_empty() || self.is_imbalanced(workers) {
            return Some(choice(self.least(workers, Worker::load)?, "imbalance"));
        }
        let longest = |worker: &Worker| (Reverse(matches.bytes(worker.id())), worker.load());
        let best = self.least(workers, longest)?;
        if matches.bytes(best.id()) as f64 > self.cache_threshold * matches.key_bytes() as f64 {
            return Some(choice(best, "prefix"));
        }
        let smallest = self.least(workers, |worker| (self.index.bytes(worker.id()), worker.load()))?;
        Some(choice(smallest, "smallest_tree"))
    }

    fn assigned(&self, query: Query<'_>, assignment: &Assignment) {
        self.index.insert(query.key, assignment.worker);
    }

    fn forget(&self, worker: WorkerId) {
        self.index.forget(worker);
    }

    fn index_bytes(&self) -> Option<usize> {
        Some(self.index.total_bytes())
    }

    fn maintain(&self) {
        self.index.trim();
    }
}
