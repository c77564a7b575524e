//! The nodes of one tree that one worker holds, the least recently used first.
//!
//! Every node that the worker holds has one entry. An entry's time may be older than the node's: a use does not touch the queue. Then the
//! entry goes back to its place when its turn comes. Of two nodes of one time the deeper one comes first, and a node was used whenever
//! one below it was: so a node whose turn has come with its own time is a leaf of the worker.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::Time;
use super::node::NodeId;

#[derive(Default)]
pub(super) struct Queue {
    entries: BinaryHeap<Entry>,
}

pub(super) struct Entry {
    pub time: Time,
    /// Blocks from the beginning of a key to the node's end; a split leaves it as it is.
    pub end: u32,
    pub node: NodeId,
}

// ===== impl Queue =====

impl Queue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub fn first(&mut self) -> Option<PeekMut<'_, Entry>> {
        self.entries.peek_mut()
    }

    pub fn first_time(&self) -> Option<Time> {
        self.entries.peek().map(|entry| entry.time)
    }

    #[cfg(test)]
    pub fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries).into_vec()
    }

    /// Gives memory back that has not been needed for long.
    pub fn shrink(&mut self) {
        if self.entries.capacity() > 4 * self.entries.len() {
            self.entries.shrink_to_fit();
        }
    }
}

// ===== impl Entry: the greatest is the first one =====

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (Reverse(self.time), self.end).cmp(&(Reverse(other.time), other.end))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
