//! A node of the prefix index: an edge's bytes, the nodes below it, and the workers that hold it.
//!
//! Invariants, whenever no lock is held: a worker that holds a node holds its parent; a node below the root is held by someone;
//! `Holder::children` counts the node's children that the worker holds.
//! Locks are taken from parent to child. Who holds a node's lock, shared or not, keeps its children from being added, split off or
//! removed and its holders from being evicted.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::fleet::WorkerId;

pub(super) type Link = Arc<RwLock<Node>>;

pub(super) struct Node {
    /// The bytes between the parent's prefix and this one's; empty only at the root.
    label: Box<[u8]>,
    /// Sorted by the first byte of their labels.
    children: Vec<(u8, Link)>,
    holders: Vec<Holder>,
    parent: Weak<RwLock<Node>>,
}

/// One worker's claim on a node.
pub(super) struct Holder {
    worker: WorkerId,
    /// True while the worker's queue of leaves has an entry for this node.
    queued: AtomicBool,
    children: AtomicU32,
    last_used: AtomicU64,
}

// ===== impl Node =====

impl Node {
    pub fn root() -> Link {
        Arc::new(RwLock::new(Self {
            label: Box::default(),
            children: Vec::new(),
            holders: Vec::new(),
            parent: Weak::new(),
        }))
    }

    pub fn label(&self) -> &[u8] {
        &self.label
    }

    pub fn is_root(&self) -> bool {
        self.label.is_empty()
    }

    pub fn parent(&self) -> Option<Link> {
        self.parent.upgrade()
    }

    /// The child whose label begins with `first`.
    pub fn child(&self, first: u8) -> Option<&Link> {
        let at = self.children.binary_search_by_key(&first, |child| child.0).ok()?;
        Some(&self.children[at].1)
    }

    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    pub fn holder(&self, worker: WorkerId) -> Option<&Holder> {
        self.holders.iter().find(|holder| holder.worker == worker)
    }

    /// Makes `worker`, which does not hold this node but its parent, hold it. The parent's lock is held.
    pub fn add_holder(&mut self, parent: &Node, worker: WorkerId) {
        self.holders.push(Holder::new(worker, 0));
        if let Some(holder) = parent.holder(worker) {
            holder.children.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds an empty-handed node below this one; the caller makes someone hold it before it lets the lock go.
    pub fn add_child(&mut self, itself: &Link, label: &[u8]) -> Link {
        let child = Arc::new(RwLock::new(Self {
            label: label.into(),
            children: Vec::new(),
            holders: Vec::new(),
            parent: Arc::downgrade(itself),
        }));
        let at = self.children.partition_point(|other| other.0 < label[0]);
        self.children.insert(at, (label[0], child.clone()));
        child
    }

    /// Puts a new node between this one and the child that `lower` is, for the first `at` bytes of its label.
    /// The lower node keeps its identity, its children and its place in the queues of its holders.
    pub fn split_child(&mut self, itself: &Link, link: &Link, lower: &mut Node, at: usize) -> Link {
        let slot = self.children.binary_search_by_key(&lower.label[0], |child| child.0).expect("it is a child");
        let upper = Arc::new(RwLock::new(Self {
            label: lower.label[..at].into(),
            children: vec![(lower.label[at], link.clone())],
            holders: lower.holders.iter().map(Holder::above).collect(),
            parent: Arc::downgrade(itself),
        }));
        lower.label = lower.label[at..].into();
        lower.parent = Arc::downgrade(&upper);
        self.children[slot].1 = upper.clone();
        upper
    }

    /// Ends `worker`'s claim on the child `lower`, whose lock the caller holds; drops the child if nobody holds it any more.
    pub fn release_child(&mut self, lower: &mut Node, worker: WorkerId) {
        lower.holders.retain(|holder| holder.worker != worker);
        if let Some(holder) = self.holder(worker) {
            holder.children.fetch_sub(1, Ordering::Relaxed);
        }
        if lower.holders.is_empty() {
            debug_assert!(lower.children.is_empty(), "who holds a child holds its parent");
            self.children.retain(|child| child.0 != lower.label[0]);
        }
    }

    pub fn take_children(&mut self) -> impl Iterator<Item = Link> {
        std::mem::take(&mut self.children).into_iter().map(|child| child.1)
    }
}

// ===== impl Holder =====

impl Holder {
    fn new(worker: WorkerId, last_used: u64) -> Self {
        Self {
            worker,
            queued: AtomicBool::new(false),
            children: AtomicU32::new(0),
            last_used: AtomicU64::new(last_used),
        }
    }

    /// The claim on a node that is put above the node of this claim.
    fn above(&self) -> Self {
        let upper = Self::new(self.worker, self.last_used());
        upper.children.store(1, Ordering::Relaxed);
        upper
    }

    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    pub fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub fn touch(&self, now: u64) {
        self.last_used.fetch_max(now, Ordering::Relaxed);
    }

    /// True when the worker holds nothing below the node.
    pub fn is_leaf(&self) -> bool {
        self.children.load(Ordering::Relaxed) == 0
    }

    /// Sets whether the queue has an entry; returns whether it had one.
    pub fn set_queued(&self, queued: bool) -> bool {
        self.queued.swap(queued, Ordering::Relaxed)
    }
}
