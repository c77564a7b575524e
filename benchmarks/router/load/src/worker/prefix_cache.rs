//! A worker's prefix cache: blocks of text, each known by the hash of all text up to its end; least recently used ends go first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};

/// About 16 tokens.
pub const BLOCK_BYTES: usize = 64;

/// One hash for each whole block of `text`, over the text from its beginning.
pub fn block_hashes(text: &[u8]) -> Vec<u64> {
    let mut hasher = DefaultHasher::new();
    let blocks = text.chunks_exact(BLOCK_BYTES);
    blocks
        .map(|block| {
            hasher.write(block);
            hasher.finish()
        })
        .collect()
}

/// When a block was last used, and how many blocks lie before it: of one use the deepest is evicted first.
type Age = (u64, Reverse<usize>);

pub struct PrefixCache {
    capacity: usize,
    uses: u64,
    ages: HashMap<u64, Age>,
    by_age: BTreeMap<Age, u64>,
}

impl PrefixCache {
    pub fn new(capacity_blocks: usize) -> Self {
        Self { capacity: capacity_blocks, uses: 0, ages: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// Leading blocks that are cached; they count as used now.
    pub fn matched(&mut self, blocks: &[u64]) -> usize {
        let count = blocks.iter().take_while(|block| self.ages.contains_key(block)).count();
        self.insert(&blocks[..count]);
        count
    }

    /// Makes all blocks (as many as fit) the most recently used.
    pub fn insert(&mut self, blocks: &[u64]) {
        self.uses += 1;
        for (depth, &block) in blocks.iter().take(self.capacity).enumerate() {
            let age = (self.uses, Reverse(depth));
            if let Some(before) = self.ages.insert(block, age) {
                self.by_age.remove(&before);
            }
            self.by_age.insert(age, block);
        }
        while self.ages.len() > self.capacity {
            let (_, block) = self.by_age.pop_first().expect("as many ages as blocks");
            self.ages.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(beginning: u8, blocks: usize) -> Vec<u64> {
        block_hashes(&vec![beginning; blocks * BLOCK_BYTES])
    }

    #[test]
    fn the_same_block_after_another_beginning_is_another() {
        let (mut one, mut other) = (vec![b'a'; BLOCK_BYTES], vec![b'b'; BLOCK_BYTES]);
        one.extend([b'c'; BLOCK_BYTES]);
        other.extend([b'c'; BLOCK_BYTES]);
        assert_ne!(block_hashes(&one)[1], block_hashes(&other)[1]);
        assert_eq!(block_hashes(&one[..BLOCK_BYTES + 5]), block_hashes(&one)[..1]);
    }

    #[test]
    fn the_end_of_the_least_recently_used_goes_first() {
        let mut cache = PrefixCache::new(6);
        cache.insert(&text(b'a', 3));
        cache.insert(&text(b'b', 3));
        assert_eq!(cache.matched(&text(b'a', 3)), 3);
        cache.insert(&text(b'c', 2));
        assert_eq!(cache.matched(&text(b'b', 3)), 1);
        assert_eq!(cache.matched(&text(b'a', 3)), 3);
        assert_eq!(cache.matched(&text(b'c', 2)), 2);
    }

    #[test]
    fn a_text_longer_than_the_cache_leaves_its_beginning() {
        let mut cache = PrefixCache::new(2);
        cache.insert(&text(b'a', 5));
        assert_eq!(cache.matched(&text(b'a', 5)), 2);
    }
}
