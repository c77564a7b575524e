//! The two ways along a key: measuring what every worker holds of it, and making one worker hold all of it.

use std::sync::Arc;

use parking_lot::{ArcRwLockReadGuard, ArcRwLockWriteGuard, RawRwLock};

use super::eviction::Held;
use super::node::{Link, Node};
use crate::fleet::WorkerId;

type Reading = ArcRwLockReadGuard<RawRwLock, Node>;
type Writing = ArcRwLockWriteGuard<RawRwLock, Node>;

/// Writes to `by_worker` (by worker id) how many leading bytes of `key` each worker holds. Ids beyond its end are left out.
pub(super) fn measure(root: &Link, key: &[u8], by_worker: &mut [usize]) {
    let mut node = root.read_arc();
    let mut depth = 0;
    while let Some(child) = key.get(depth).and_then(|first| node.child(*first)) {
        let child = child.read_arc();
        let common = common_prefix(child.label(), &key[depth..]);
        depth += common;
        // Who holds a node holds its parent, so the deepest node that lists a worker has the last word.
        for holder in child.holders() {
            if let Some(bytes) = by_worker.get_mut(usize::from(holder.worker())) {
                *bytes = depth;
            }
        }
        if common < child.label().len() {
            break;
        }
        node = child;
    }
}

/// Makes `worker` hold every prefix of `key`, used at time `now`.
pub(super) fn insert(root: &Link, key: &[u8], worker: WorkerId, now: u64, held: &Held) {
    while !try_insert(root, key, worker, now, held) {}
}

/// False when the path was evicted while it was being walked: then the caller begins anew at the root.
fn try_insert(root: &Link, key: &[u8], worker: WorkerId, now: u64, held: &Held) -> bool {
    let mut node = root.read_arc();
    let mut rest = key;
    while !rest.is_empty() {
        let Some(child) = node.child(rest[0]).cloned() else {
            return match exclusive(node, worker) {
                Some(parent) => grow(parent, rest, worker, now, held),
                None => false,
            };
        };
        let mut next = child.read_arc();
        let common = common_prefix(next.label(), rest);
        if common < next.label().len() {
            drop(next);
            let Some(mut parent) = exclusive(node, worker) else { return false };
            split(&mut parent, rest);
            node = ArcRwLockWriteGuard::downgrade(parent);
            continue;
        }
        if next.holder(worker).is_none() {
            drop(next);
            // The parent's lock keeps the child where it is, and whole.
            next = claim(&node, &child, worker, held);
        }
        next.holder(worker).expect("claimed").touch(now);
        rest = &rest[common..];
        node = next;
    }
    enqueue(node, worker, held);
    true
}

/// The exclusive lock on a node in place of the shared one. In between others may have changed it: `None` if `worker` lost it.
fn exclusive(shared: Reading, worker: WorkerId) -> Option<Writing> {
    let link = ArcRwLockReadGuard::rwlock(&shared).clone();
    drop(shared);
    let node = link.write_arc();
    (node.is_root() || node.holder(worker).is_some()).then_some(node)
}

/// Adds a leaf for `rest` below `parent`. When someone else added one in the meantime, false.
fn grow(mut parent: Writing, rest: &[u8], worker: WorkerId, now: u64, held: &Held) -> bool {
    if parent.child(rest[0]).is_some() {
        return false;
    }
    let link = ArcRwLockWriteGuard::rwlock(&parent).clone();
    let child = parent.add_child(&link, rest);
    let mut leaf = child.write_arc();
    leaf.add_holder(&parent, worker);
    leaf.holder(worker).expect("just added").touch(now);
    held.add(rest.len());
    drop(parent);
    enqueue(ArcRwLockWriteGuard::downgrade(leaf), worker, held);
    true
}

/// Splits the child of `parent` on the way along `rest` where the two part, if they still do.
fn split(parent: &mut Writing, rest: &[u8]) {
    let Some(child) = parent.child(rest[0]).cloned() else { return };
    let mut lower = child.write();
    let common = common_prefix(lower.label(), rest);
    if common < lower.label().len() {
        let link = ArcRwLockWriteGuard::rwlock(parent).clone();
        parent.split_child(&link, &child, &mut lower, common);
    }
}

/// Makes `worker`, which holds `parent`, hold its child too.
fn claim(parent: &Node, child: &Link, worker: WorkerId, held: &Held) -> Reading {
    let mut node = Arc::clone(child).write_arc();
    // Another request for the same worker may have been faster.
    if node.holder(worker).is_none() {
        node.add_holder(parent, worker);
        held.add(node.label().len());
    }
    ArcRwLockWriteGuard::downgrade(node)
}

/// Notes a key's last node as a candidate for eviction, if it is a leaf of the worker and not noted yet.
fn enqueue(node: Reading, worker: WorkerId, held: &Held) {
    let holder = node.holder(worker).expect("the walk made it one");
    if holder.is_leaf() && !holder.set_queued(true) {
        let last_used = holder.last_used();
        held.push(last_used, ArcRwLockReadGuard::rwlock(&node).clone());
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 64;
    let limit = a.len().min(b.len());
    let mut at = 0;
    while at + STEP <= limit && a[at..at + STEP] == b[at..at + STEP] {
        at += STEP;
    }
    at + a[at..limit].iter().zip(&b[at..limit]).take_while(|(x, y)| x == y).count()
}
