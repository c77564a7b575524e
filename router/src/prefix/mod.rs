//! What each worker probably has cached: one approximate radix tree over the bytes of routing keys, shared by all workers.
//!
//! An edge of the tree is a run of bytes; every node lists the workers that hold the prefix that ends there, each with the time of its
//! last use. One walk along a key therefore answers for every worker at once, and text that several workers hold is stored once.
//! Keys are bytes: nothing here knows about UTF-8, so an edge may end inside a character.

mod eviction;
mod key;
mod node;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use self::eviction::Held;
pub use self::key::{Key, KeyBuilder};
use self::node::{Link, Node};
use crate::fleet::WorkerId;

/// The index. All methods take `&self` and lock single nodes, from the root down, each only for as long as the next step takes.
pub struct PrefixIndex {
    root: Link,
    /// Counts insertions: the time of the tree.
    clock: AtomicU64,
    /// By worker id: what that worker holds.
    held: ArcSwap<Vec<Arc<Held>>>,
    growing: Mutex<()>,
    max_bytes: usize,
}

impl PrefixIndex {
    /// An index that keeps at most `max_bytes` bytes of edges for each worker (an edge counts for every worker that holds it).
    /// `trim` evicts down to that; an insertion evicts by itself when its worker is more than an eighth above.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            root: Node::root(),
            clock: AtomicU64::new(0),
            held: ArcSwap::default(),
            growing: Mutex::new(()),
            max_bytes,
        }
    }

    /// How many leading bytes of `key` each worker holds.
    pub fn matches(&self, key: &Key) -> Matches {
        let key = self.bounded(key.text());
        let mut matches = Matches { by_worker: vec![0; self.held.load().len()], key_bytes: key.len() };
        walk::measure(&self.root, key, &mut matches.by_worker);
        matches
    }

    /// From now on `worker` holds `key`; only the first `max_bytes` bytes of it count. Must not run at the same time as `forget`
    /// of the same worker.
    pub fn insert(&self, key: &Key, worker: WorkerId) {
        let key = self.bounded(key.text());
        if key.is_empty() {
            return;
        }
        let held = self.held(worker);
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        walk::insert(&self.root, key, worker, now, &held);
        let limit = held.limit().min(self.max_bytes);
        eviction::evict(worker, &held, limit.saturating_add(limit / 8));
    }

    /// Bounds what `worker` holds below the index's own bound, as a worker's cache that is smaller than that does. Insertions and
    /// `trim` evict down to it; it lasts until `forget`.
    pub fn set_limit(&self, worker: WorkerId, bytes: usize) {
        self.held(worker).set_limit(bytes);
    }

    /// Bytes of edges that `worker` holds.
    pub fn bytes(&self, worker: WorkerId) -> usize {
        self.held.load().get(usize::from(worker)).map_or(0, |held| held.bytes())
    }

    /// Evicts the least recently used leaves of every worker that holds more than the limit.
    pub fn trim(&self) {
        for (worker, held) in self.held.load().iter().enumerate() {
            eviction::evict(worker as WorkerId, held, held.limit().min(self.max_bytes));
        }
    }

    /// Removes every trace of `worker`.
    pub fn forget(&self, worker: WorkerId) {
        if let Some(held) = self.held.load().get(usize::from(worker)) {
            eviction::evict(worker, held, 0);
            held.set_limit(usize::MAX);
        }
    }

    fn bounded<'a>(&self, key: &'a [u8]) -> &'a [u8] {
        &key[..key.len().min(self.max_bytes)]
    }

    fn held(&self, worker: WorkerId) -> Arc<Held> {
        let index = usize::from(worker);
        if let Some(held) = self.held.load().get(index) {
            return held.clone();
        }
        let _growing = self.growing.lock();
        let mut table = Vec::clone(&self.held.load());
        while table.len() <= index {
            table.push(Arc::default());
        }
        let held = table[index].clone();
        self.held.store(Arc::new(table));
        held
    }
}

impl Drop for PrefixIndex {
    /// Takes the tree apart level by level: letting nodes drop their children would recurse as deep as the tree is.
    fn drop(&mut self) {
        let mut nodes = vec![self.root.clone()];
        while let Some(node) = nodes.pop() {
            nodes.extend(node.write().take_children());
        }
    }
}

/// The answer of `PrefixIndex::matches`.
pub struct Matches {
    by_worker: Vec<usize>,
    key_bytes: usize,
}

impl Matches {
    /// Leading bytes of the key that `worker` holds.
    pub fn bytes(&self, worker: WorkerId) -> usize {
        self.by_worker.get(usize::from(worker)).copied().unwrap_or(0)
    }

    /// Bytes of the key that were compared: all of it, unless it is longer than the index keeps.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }
}
