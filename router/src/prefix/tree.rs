//! One shard of the prefix index: a radix tree over the blocks of keys, under one lock.
//!
//! Invariants: a worker that holds a node holds its parent, used no earlier; a node is held by someone; every claim of a worker on a node
//! has one entry in the worker's queue and is charged to its account.

use std::collections::HashMap;
use std::collections::binary_heap::PeekMut;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::Time;
use super::account::{Account, Amount, NEVER};
use super::node::{Node, NodeId, ROOT};
use super::queue::{Entry, Queue};
use super::slab::Slab;
use crate::fleet::WorkerId;

/// Entries of a queue that are looked at before others may have the lock.
const STEPS: usize = 128;

/// A worker's order of use is exact up to this part of the nodes that it holds.
const RECENT_PART: usize = 16;

pub(super) struct Tree {
    /// Which shard it is.
    pub(super) shard: usize,
    pub(super) nodes: Slab,
    /// By parent and first block.
    pub(super) children: HashMap<(NodeId, u32), NodeId, BuildHasherDefault<Mixer>>,
    /// By worker id.
    pub(super) queues: Vec<Queue>,
    /// Bytes of labels and of holders outside of their nodes.
    pub(super) outside_bytes: usize,
}

// ===== impl Tree =====

impl Tree {
    pub fn new(shard: usize) -> Self {
        Self { shard, nodes: Slab::default(), children: HashMap::default(), queues: Vec::new(), outside_bytes: 0 }
    }

    /// Memory that the tree takes, an estimate.
    pub fn bytes(&self) -> usize {
        let slot = size_of::<((NodeId, u32), NodeId)>() + 1;
        let children = self.children.capacity() * 8 / 7 * slot;
        let queues = self.queues.capacity() * size_of::<Queue>() + self.queues.iter().map(Queue::bytes).sum::<usize>();
        self.nodes.bytes() + children + queues + self.outside_bytes
    }

    /// The child of `parent` that `rest` goes on with, and how many blocks they have in common.
    pub(super) fn step(&self, parent: NodeId, rest: &[u32]) -> Option<(NodeId, usize)> {
        let child = *self.children.get(&(parent, *rest.first()?))?;
        Some((child, common_prefix(&self.nodes[child].label, rest)))
    }

    /// Writes to `by_worker` (by worker id) how many leading blocks each worker holds. Ids beyond its end are left out.
    pub fn matches(&self, blocks: &[u32], by_worker: &mut [u32]) {
        let (mut parent, mut depth) = (ROOT, 0);
        let mut last: Option<&Node> = None;
        let mut report = |node: &Node, depth: usize| {
            for worker in node.holders.workers() {
                if let Some(blocks) = by_worker.get_mut(usize::from(worker)) {
                    *blocks = depth as u32;
                }
            }
        };
        while let Some((id, common)) = self.step(parent, &blocks[depth..]) {
            let node = &self.nodes[id];
            // Who holds a node holds its parent: as long as their number is the same, so are the workers.
            if let Some(above) = last
                && above.holders.len() != node.holders.len()
            {
                report(above, depth);
            }
            depth += common;
            last = Some(node);
            if common < node.label.len() {
                break;
            }
            parent = id;
        }
        if let Some(deepest) = last {
            report(deepest, depth);
        }
    }

    /// Notes a use of `blocks`, if `worker` holds all of them; else false. Writes nothing if they have just been used.
    pub fn touch(&self, blocks: &[u32], worker: WorkerId, clock: &AtomicU64) -> bool {
        let mut path: SmallVec<[&Node; 16]> = SmallVec::new();
        let (mut parent, mut depth) = (ROOT, 0);
        let mut last_used = 0;
        while depth < blocks.len() {
            let Some((id, common)) = self.step(parent, &blocks[depth..]) else { return false };
            let node = &self.nodes[id];
            let Some(used) = node.holders.last_used(worker) else { return false };
            depth += common;
            if common < node.label.len() && depth < blocks.len() {
                return false;
            }
            path.push(node);
            (parent, last_used) = (id, used);
        }
        let recent = (self.queues[usize::from(worker)].len() / RECENT_PART) as Time;
        if clock.load(Ordering::Relaxed).saturating_sub(last_used) > recent {
            let now = clock.fetch_add(1, Ordering::Relaxed) + 1;
            for node in path {
                node.holders.touch(worker, now);
            }
        }
        true
    }

    /// Evicts what `worker` used least recently, leaf by leaf, until it is `enough`, or the next one was used after `until`, or others
    /// should have the lock.
    pub fn evict(&mut self, worker: WorkerId, account: &Account, until: Time, enough: impl Fn() -> bool) {
        let Some(queue) = self.queues.get_mut(usize::from(worker)) else { return };
        for _ in 0..STEPS {
            let Some(mut first) = queue.first().filter(|first| first.time <= until && !enough()) else { break };
            let used = self.nodes[first.node].holders.last_used(worker).expect("what is queued is held");
            if used > first.time {
                first.time = used;
                continue;
            }
            let node = PeekMut::pop(first).node;
            account.refund(release(&mut self.nodes, &mut self.children, &mut self.outside_bytes, node, worker));
        }
        account.set_oldest(self.shard, queue.first_time().unwrap_or(NEVER));
    }

    /// Gives the memory of what was evicted back, as far as there is much of it.
    pub fn shrink(&mut self) {
        self.queues.iter_mut().for_each(Queue::shrink);
        if self.children.capacity() > 4 * self.children.len() {
            self.children.shrink_to_fit();
        }
    }

    pub(super) fn enqueue(&mut self, node: NodeId, worker: WorkerId, time: Time, accounts: &[Arc<Account>]) {
        let index = usize::from(worker);
        if self.queues.len() <= index {
            self.queues.resize_with(index + 1, Queue::default);
        }
        let queue = &mut self.queues[index];
        queue.push(Entry { time, end: self.nodes[node].end, node });
        accounts[index].set_oldest(self.shard, queue.first_time().expect("one was pushed"));
    }
}

/// Ends `worker`'s claim on a leaf of its own, and the node if it was the last: what it was charged for.
fn release(
    nodes: &mut Slab,
    children: &mut HashMap<(NodeId, u32), NodeId, BuildHasherDefault<Mixer>>,
    outside_bytes: &mut usize,
    id: NodeId,
    worker: WorkerId,
) -> Amount {
    let node = &mut nodes[id];
    let claimed = Amount { blocks: node.label.len() as u32, nodes: 1 };
    *outside_bytes -= node.outside_bytes();
    node.holders.remove(worker);
    if node.holders.is_empty() {
        children.remove(&(node.parent, node.label[0]));
        nodes.remove(id);
    } else {
        *outside_bytes += node.outside_bytes();
    }
    claimed
}

/// Hashes ids and blocks, which are well mixed or small already.
#[derive(Default)]
pub(super) struct Mixer(u64);

impl Hasher for Mixer {
    fn write_u32(&mut self, value: u32) {
        let mixed = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    const STEP: usize = 16;
    let limit = a.len().min(b.len());
    let mut at = 0;
    while at + STEP <= limit && a[at..at + STEP] == b[at..at + STEP] {
        at += STEP;
    }
    at + a[at..limit].iter().zip(&b[at..limit]).take_while(|(x, y)| x == y).count()
}
