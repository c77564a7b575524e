//! A node of the prefix index: the blocks of its edge, and the workers that hold it.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::Time;
use crate::fleet::WorkerId;

/// Names a node of one tree while it exists.
pub(super) type NodeId = u32;

/// The parent of the nodes at the top; no node itself.
pub(super) const ROOT: NodeId = NodeId::MAX;

#[derive(Default)]
pub(super) struct Node {
    /// The blocks between the parent's prefix and this one's; empty only in a slot that is free.
    pub label: Box<[u32]>,
    pub holders: Holders,
    pub parent: NodeId,
    /// Blocks from the beginning of a key to the end of the label.
    pub end: u32,
}

/// The workers that hold a node, by id, each with the time of its last use.
#[derive(Default)]
pub(super) struct Holders {
    /// In each the time in the upper 48 bits and the worker in the lower 16: the later use of a worker is the larger number.
    claims: SmallVec<[AtomicU64; 2]>,
}

// ===== impl Node =====

impl Node {
    /// Bytes that the node allocates for itself.
    pub fn outside_bytes(&self) -> usize {
        size_of_val(&*self.label) + self.holders.spilled_bytes()
    }
}

// ===== impl Holders =====

impl Holders {
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub fn workers(&self) -> impl Iterator<Item = WorkerId> {
        self.claims.iter().map(worker)
    }

    pub fn uses(&self) -> impl Iterator<Item = (WorkerId, Time)> {
        self.claims.iter().map(|claim| (worker(claim), time(claim)))
    }

    pub fn last_used(&self, worker: WorkerId) -> Option<Time> {
        let at = self.place(worker).ok()?;
        Some(time(&self.claims[at]))
    }

    /// Notes a use. False if `worker` is not among the holders.
    pub fn touch(&self, worker: WorkerId, now: Time) -> bool {
        let Ok(at) = self.place(worker) else { return false };
        let claim = now << 16 | u64::from(worker);
        // Writing what stands there already would take the line away from other cores.
        if self.claims[at].load(Ordering::Relaxed) < claim {
            self.claims[at].fetch_max(claim, Ordering::Relaxed);
        }
        true
    }

    /// Adds a worker that is not among the holders.
    pub fn add(&mut self, worker: WorkerId, now: Time) {
        let at = self.place(worker).expect_err("a worker holds a node once");
        self.claims.insert(at, AtomicU64::new(now << 16 | u64::from(worker)));
    }

    pub fn remove(&mut self, worker: WorkerId) {
        let at = self.place(worker).expect("it is a holder");
        self.claims.remove(at);
    }

    /// The same workers with the same times, for a node that is put above.
    pub fn above(&self) -> Self {
        Self { claims: self.claims.iter().map(|claim| AtomicU64::new(claim.load(Ordering::Relaxed))).collect() }
    }

    /// Bytes outside of the node.
    fn spilled_bytes(&self) -> usize {
        if self.claims.spilled() { self.claims.capacity() * size_of::<AtomicU64>() } else { 0 }
    }

    fn place(&self, worker: WorkerId) -> Result<usize, usize> {
        self.claims.binary_search_by_key(&worker, self::worker)
    }
}

fn worker(claim: &AtomicU64) -> WorkerId {
    claim.load(Ordering::Relaxed) as WorkerId
}

fn time(claim: &AtomicU64) -> Time {
    claim.load(Ordering::Relaxed) >> 16
}
