//! What one worker is charged for in all trees of the prefix index, and where its least recently used node is.

use std::array;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{BLOCK_BYTES, NODE_BYTES, SHARDS, Time};

/// An amount of the index: blocks of text, and nodes that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub blocks: u32,
    pub nodes: u32,
}

pub(super) struct Account {
    /// An `Amount` in one word, so that it changes at once.
    held: AtomicU64,
    /// Bytes of text that the worker's own cache seems to hold at most.
    text_limit: AtomicUsize,
    /// By shard: no node of the worker was last used before this; `NEVER` if there is none.
    oldest: [AtomicU64; SHARDS],
}

/// Later than all times.
pub(super) const NEVER: Time = Time::MAX;

// ===== impl Amount =====

impl Amount {
    pub fn text(self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }

    /// What counts towards the bound of the index.
    pub fn bytes(self) -> usize {
        self.text() + self.nodes as usize * NODE_BYTES
    }

    /// Adds a node with `blocks` blocks.
    pub fn add_node(&mut self, blocks: usize) {
        *self = self.plus(Self { blocks: blocks as u32, nodes: 1 });
    }

    pub fn plus(self, more: Self) -> Self {
        Self { blocks: self.blocks + more.blocks, nodes: self.nodes + more.nodes }
    }

    fn packed(self) -> u64 {
        u64::from(self.blocks) << 32 | u64::from(self.nodes)
    }

    fn unpacked(word: u64) -> Self {
        Self { blocks: (word >> 32) as u32, nodes: word as u32 }
    }
}

// ===== impl Account =====

impl Default for Account {
    fn default() -> Self {
        Self {
            held: AtomicU64::new(0),
            text_limit: AtomicUsize::new(usize::MAX),
            oldest: array::from_fn(|_| AtomicU64::new(NEVER)),
        }
    }
}

impl Account {
    pub fn held(&self) -> Amount {
        Amount::unpacked(self.held.load(Ordering::Relaxed))
    }

    /// Whether `amount` is within `max_bytes` and within the worker's own limit.
    pub fn allows(&self, amount: Amount, max_bytes: usize) -> bool {
        amount.bytes() <= max_bytes && amount.text() <= self.text_limit.load(Ordering::Relaxed)
    }

    /// The most blocks, up to `blocks`, that may come on top of `amount`.
    pub fn longest(&self, amount: Amount, blocks: usize, max_bytes: usize) -> usize {
        let text = self.text_limit.load(Ordering::Relaxed).saturating_sub(amount.text());
        let room = max_bytes.saturating_sub(amount.bytes()).min(text);
        blocks.min(room / BLOCK_BYTES)
    }

    /// Charges `more`, if that is allowed with what is held.
    pub fn charge(&self, more: Amount, max_bytes: usize) -> bool {
        let add = |word| {
            let amount = Amount::unpacked(word).plus(more);
            self.allows(amount, max_bytes).then(|| amount.packed())
        };
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// Gives back what was charged.
    pub fn refund(&self, amount: Amount) {
        self.held.fetch_sub(amount.packed(), Ordering::Relaxed);
    }

    pub fn set_text_limit(&self, bytes: usize) {
        self.text_limit.store(bytes, Ordering::Relaxed);
    }

    pub fn set_oldest(&self, shard: usize, time: Time) {
        self.oldest[shard].store(time, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn oldest_in(&self, shard: usize) -> Time {
        self.oldest[shard].load(Ordering::Relaxed)
    }

    /// The shard with the oldest node, and how old the oldest one is elsewhere; `None` if the worker holds nothing.
    pub fn oldest(&self) -> Option<(usize, Time)> {
        let (mut shard, mut oldest, mut second) = (0, NEVER, NEVER);
        for (index, time) in self.oldest.iter().enumerate() {
            let time = time.load(Ordering::Relaxed);
            if time < oldest {
                (shard, oldest, second) = (index, time, oldest);
            } else {
                second = second.min(time);
            }
        }
        (oldest < NEVER).then_some((shard, second))
    }
}
