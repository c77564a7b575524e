//! What each worker probably has cached: approximate radix trees over the blocks of routing keys, shared by all workers.
//!
//! A key is a hash for every block of 32 bytes. An edge of a tree is a run of blocks; every node lists the workers that hold the prefix that
//! ends there, each with the time of its last use. One walk along a key therefore answers for every worker at once, and text that several
//! workers hold is stored once. Keys are spread over shards by their first block; each shard has a tree and a lock of its own, taken
//! for the length of one walk, and shared by walks that change nothing.
//!
//! A worker is charged for the text of every node that it holds and `NODE_BYTES` for the node itself. What it is charged never exceeds the
//! bound: an insertion first evicts what it needs. All that the index allocates is less than what the workers are charged, for long
//! prompts an eighth of it.

mod account;
mod insert;
mod key;
#[cfg(test)]
mod model;
mod node;
mod queue;
mod slab;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use smallvec::{SmallVec, smallvec};

use self::account::{Account, Amount};
use self::insert::Shortage;
pub use self::key::{BLOCK_BYTES, Key, KeyBuilder};
use self::tree::Tree;
use crate::fleet::WorkerId;

/// What a worker is charged for a node, on top of its text.
pub const NODE_BYTES: usize = 128;

const SHARDS: usize = 64;

/// The most that the bound can be: amounts of 2^32 blocks are not counted.
const MAX_BYTES: usize = 1 << 35;

/// Counts insertions.
type Time = u64;

/// The index. All methods take `&self` and lock one shard at a time.
pub struct PrefixIndex {
    shards: Box<[Shard]>,
    clock: AtomicU64,
    /// By worker id: what that worker is charged.
    accounts: ArcSwap<Vec<Arc<Account>>>,
    growing: Mutex<()>,
    max_bytes: usize,
}

/// Shards do not share cache lines.
#[repr(align(128))]
struct Shard(RwLock<Tree>);

impl PrefixIndex {
    /// An index that never charges a worker more than `max_bytes`, nor more than 32 GiB.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|shard| Shard(RwLock::new(Tree::new(shard)))).collect(),
            clock: AtomicU64::new(0),
            accounts: ArcSwap::default(),
            growing: Mutex::new(()),
            max_bytes: max_bytes.min(MAX_BYTES),
        }
    }

    /// How many leading bytes of `key` each worker holds, in whole blocks.
    pub fn matches(&self, key: &Key) -> Matches {
        let blocks = self.bounded(key);
        let mut by_worker: SmallVec<[u32; 32]> = smallvec![0; self.accounts.load().len()];
        if let Some(shard) = shard(blocks) {
            self.shards[shard].0.read().matches(blocks, &mut by_worker);
        }
        Matches { by_worker, key_bytes: key.bytes().min(blocks.len() * BLOCK_BYTES) }
    }

    /// From now on `worker` holds `key`, as much of it as the bound allows. Must not run at the same time as `forget` of the same
    /// worker.
    pub fn insert(&self, key: &Key, worker: WorkerId) {
        let blocks = self.bounded(key);
        let Some(shard) = shard(blocks) else { return };
        let shard = &self.shards[shard].0;
        if shard.read().touch(blocks, worker, &self.clock) {
            return;
        }
        self.open_account(worker);
        let now = self.clock.fetch_add(1, Ordering::Relaxed) + 1;
        loop {
            let result = {
                let mut tree = shard.write();
                // Loaded under the lock: everyone who holds something in the tree has an account.
                tree.insert(blocks, worker, now, &self.accounts.load(), self.max_bytes)
            };
            match result {
                Ok(()) => return,
                // If nothing is left to evict, insertions that run now have taken all: this one is not noted.
                Err(Shortage { worker, amount }) if !self.make_room(worker, amount) => return,
                Err(_) => {}
            }
        }
    }

    /// Bounds the text that `worker` holds below the index's own bound, as a worker's cache that is smaller than that does. Insertions
    /// and `trim` evict down to it; it lasts until `forget`.
    pub fn set_limit(&self, worker: WorkerId, bytes: usize) {
        self.open_account(worker).set_text_limit(bytes);
    }

    /// Bytes of text that `worker` holds; a shorter key counts as one block.
    pub fn bytes(&self, worker: WorkerId) -> usize {
        self.accounts.load().get(usize::from(worker)).map_or(0, |account| account.held().text())
    }

    /// Memory that the index takes.
    pub fn total_bytes(&self) -> usize {
        let accounts = self.accounts.load().len() * (size_of::<Account>() + size_of::<Arc<Account>>());
        let shards = self.shards.iter().map(|shard| size_of::<Shard>() + shard.0.read().bytes());
        accounts + shards.sum::<usize>()
    }

    /// Evicts what workers hold above limits that were lowered, and gives unused memory back.
    pub fn trim(&self) {
        for worker in 0..self.accounts.load().len() {
            self.make_room(worker as WorkerId, Amount::default());
        }
        self.shards.iter().for_each(|shard| shard.0.write().shrink());
    }

    /// Removes every trace of `worker`.
    pub fn forget(&self, worker: WorkerId) {
        let Some(account) = self.accounts.load().get(usize::from(worker)).cloned() else { return };
        while let Some((shard, _)) = account.oldest() {
            self.shards[shard].0.write().evict(worker, &account, Time::MAX, || false);
        }
        account.set_text_limit(usize::MAX);
        self.shards.iter().for_each(|shard| shard.0.write().shrink());
    }

    /// Evicts what `worker` used least recently, until it may be charged for `amount` more. False if that cannot be.
    fn make_room(&self, worker: WorkerId, amount: Amount) -> bool {
        let Some(account) = self.accounts.load().get(usize::from(worker)).cloned() else { return false };
        let fits = || account.allows(account.held().plus(amount), self.max_bytes);
        while !fits() {
            let Some((shard, second)) = account.oldest() else { return false };
            self.shards[shard].0.write().evict(worker, &account, second, fits);
        }
        true
    }

    /// The blocks that count: no more than fit into one node.
    fn bounded<'a>(&self, key: &'a Key) -> &'a [u32] {
        let most = self.max_bytes.saturating_sub(NODE_BYTES) / BLOCK_BYTES;
        &key.blocks()[..key.blocks().len().min(most)]
    }

    fn open_account(&self, worker: WorkerId) -> Arc<Account> {
        let index = usize::from(worker);
        if let Some(account) = self.accounts.load().get(index) {
            return account.clone();
        }
        let _growing = self.growing.lock();
        let mut table = Vec::clone(&self.accounts.load());
        while table.len() <= index {
            table.push(Arc::default());
        }
        let account = table[index].clone();
        self.accounts.store(Arc::new(table));
        account
    }
}

/// The shard of a key; an empty one has none.
fn shard(blocks: &[u32]) -> Option<usize> {
    blocks.first().map(|first| *first as usize % SHARDS)
}

/// The answer of `PrefixIndex::matches`.
pub struct Matches {
    /// In blocks.
    by_worker: SmallVec<[u32; 32]>,
    key_bytes: usize,
}

impl Matches {
    /// Leading bytes of the key that `worker` holds.
    pub fn bytes(&self, worker: WorkerId) -> usize {
        let blocks = self.by_worker.get(usize::from(worker)).copied().unwrap_or(0);
        (blocks as usize * BLOCK_BYTES).min(self.key_bytes)
    }

    /// Bytes of the key that were compared: its whole blocks, unless it is longer than the index keeps.
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }
}
