//! What one worker holds in the prefix index, and how the least recently used of it goes first.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::node::Link;
use crate::fleet::WorkerId;

/// One worker's share of the tree.
pub(super) struct Held {
    bytes: AtomicUsize,
    /// Bytes that the worker's own cache seems to hold at most.
    limit: AtomicUsize,
    /// Nodes that were leaves of the worker when they were noted, each at most once, the one used longest ago on top.
    leaves: Mutex<BinaryHeap<Leaf>>,
}

struct Leaf {
    /// When the node was last used as far as the queue knows; the node's own time may be later.
    last_used: u64,
    node: Link,
}

// ===== impl Held =====

impl Held {
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Entries in the queue of leaves.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.leaves.lock().len()
    }

    pub fn push(&self, last_used: u64, node: Link) {
        self.leaves.lock().push(Leaf { last_used, node });
    }
}

impl Default for Held {
    fn default() -> Self {
        Self { bytes: AtomicUsize::new(0), limit: AtomicUsize::new(usize::MAX), leaves: Mutex::default() }
    }
}

/// Evicts leaves of `worker`, the least recently used first, until it holds at most `limit` bytes.
pub(super) fn evict(worker: WorkerId, held: &Held, limit: usize) {
    while held.bytes() > limit {
        let Some(oldest) = held.leaves.lock().pop() else { return };
        settle(oldest, worker, held);
    }
}

/// Decides about the top of the queue: a node that is no leaf any more leaves the queue, one that was used since goes back
/// to its place, and what remains is the least recently used leaf, which is evicted.
fn settle(oldest: Leaf, worker: WorkerId, held: &Held) {
    let (mut parent, mut node) = loop {
        let above = oldest.node.read().parent().expect("a node that is held has its parent");
        let parent = above.write_arc();
        let node = oldest.node.write();
        // A split may have put another node above it in the meantime.
        if node.parent().is_some_and(|now| Arc::ptr_eq(&now, &above)) {
            break (parent, node);
        }
    };
    let holder = node.holder(worker).expect("a queued node is held");
    if !holder.is_leaf() {
        holder.set_queued(false);
        return;
    }
    if holder.last_used() > oldest.last_used {
        held.push(holder.last_used(), oldest.node.clone());
        return;
    }
    held.bytes.fetch_sub(node.label().len(), Ordering::Relaxed);
    parent.release_child(&mut node, worker);
    // The parent may now be a leaf itself.
    if let Some(above) = parent.holder(worker)
        && above.is_leaf()
        && !above.set_queued(true)
    {
        held.push(above.last_used(), parking_lot::ArcRwLockWriteGuard::rwlock(&parent).clone());
    }
}

// ===== impl Leaf: the order of the queue, the smallest time on top =====

impl Ord for Leaf {
    fn cmp(&self, other: &Self) -> Order {
        other.last_used.cmp(&self.last_used)
    }
}

impl PartialOrd for Leaf {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Leaf {}
