//! A routing key: the text of a prompt as the prefix index sees it, one hash for every block of 32 bytes.
//!
//! Two keys begin with the same hashes as far as their texts begin with the same blocks. The hash is seeded anew in each process, so that
//! nobody can write prompts that collide on purpose; by accident two blocks collide once in 2^32.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Bytes of text that one hash stands for.
pub const BLOCK_BYTES: usize = 32;

static SEEDS: LazyLock<[u64; 4]> = LazyLock::new(|| std::array::from_fn(|index| RandomState::new().hash_one(index)));

/// The key of one request, made once and owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Of the whole blocks; text that is shorter than a block makes one block by itself.
    blocks: Vec<u32>,
    bytes: usize,
}

/// Makes a key from the pieces of a prompt, without putting them together.
pub struct KeyBuilder {
    key: Key,
    /// The block that has begun: its first `key.bytes % BLOCK_BYTES` bytes.
    begun: [u8; BLOCK_BYTES],
}

// ===== impl Key =====

impl Key {
    pub fn new(text: &[u8]) -> Self {
        let mut builder = KeyBuilder::with_capacity(text.len());
        builder.push(text);
        builder.finish()
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Length of the text.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A hash of (about) the first `bytes` bytes: the same, in this process, for keys that begin alike.
    pub fn hash_of_beginning(&self, bytes: usize) -> u64 {
        let beginning = &self.blocks[..self.blocks.len().min(bytes.div_ceil(BLOCK_BYTES))];
        beginning.iter().fold(SEEDS[0], |hash, block| folded(hash ^ u64::from(*block), SEEDS[1]))
    }

    pub(super) fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

// ===== impl KeyBuilder =====

impl KeyBuilder {
    /// For pieces of `bytes` bytes in all.
    pub fn with_capacity(bytes: usize) -> Self {
        let blocks = (bytes / BLOCK_BYTES).max(bytes.min(1));
        Self { key: Key { blocks: Vec::with_capacity(blocks), bytes: 0 }, begun: [0; BLOCK_BYTES] }
    }

    pub fn push(&mut self, mut piece: &[u8]) {
        let begun = self.key.bytes % BLOCK_BYTES;
        self.key.bytes += piece.len();
        if begun > 0 {
            let missing = (BLOCK_BYTES - begun).min(piece.len());
            self.begun[begun..begun + missing].copy_from_slice(&piece[..missing]);
            piece = &piece[missing..];
            if begun + missing < BLOCK_BYTES {
                return;
            }
            self.key.blocks.push(hash(&self.begun, &SEEDS));
        }
        let (blocks, rest) = piece.as_chunks();
        let seeds = *SEEDS;
        self.key.blocks.extend(blocks.iter().map(|block| hash(block, &seeds)));
        self.begun[..rest.len()].copy_from_slice(rest);
    }

    pub fn finish(mut self) -> Key {
        let Key { blocks, bytes } = &mut self.key;
        if blocks.is_empty() && *bytes > 0 {
            self.begun[*bytes..].fill(0);
            // Its length tells it from a whole block, and from one that ends in zeros.
            blocks.push(hash(&self.begun, &SEEDS) ^ hash(&[*bytes as u8; BLOCK_BYTES], &SEEDS));
        }
        self.key
    }
}

/// Two multiplications of two words each: all of a block's bits reach all bits of the hash.
fn hash(block: &[u8; BLOCK_BYTES], seeds: &[u64; 4]) -> u32 {
    let (words, _) = block.as_chunks();
    let word = |index: usize| u64::from_le_bytes(words[index]) ^ seeds[index];
    let (first, second) = (folded(word(0), word(1)), folded(word(2), word(3)));
    (folded(first ^ seeds[2], second ^ seeds[1]) >> 32) as u32
}

/// Both halves of the product, one over the other.
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_make_the_key_of_the_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..12)) {
            let mut builder = KeyBuilder::with_capacity(0);
            pieces.iter().for_each(|piece| builder.push(piece));
            let whole = pieces.concat();
            let key = builder.finish();
            prop_assert_eq!(&key, &Key::new(&whole));
            prop_assert_eq!(key.bytes(), whole.len());
            prop_assert_eq!(key.blocks().len(), (whole.len() / BLOCK_BYTES).max(whole.len().min(1)));
        }

        #[test]
        fn keys_begin_alike_as_far_as_their_blocks_do(text in prop::collection::vec(any::<u8>(), 32..300), at: prop::sample::Index, bit in 0..8_u32) {
            let at = at.index(text.len());
            let mut other = text.clone();
            other[at] ^= 1_u8 << bit;
            let (key, other) = (Key::new(&text), Key::new(&other));
            let common = key.blocks().iter().zip(other.blocks()).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common, (at / BLOCK_BYTES).min(text.len() / BLOCK_BYTES));
        }
    }

    #[test]
    fn a_short_text_is_a_block_of_its_own() {
        let texts: Vec<Vec<u8>> = (1..=32).flat_map(|length| [vec![0; length], vec![b'a'; length]]).collect();
        let keys: HashSet<u32> = texts.iter().map(|text| Key::new(text).blocks()[0]).collect();
        assert_eq!(keys.len(), texts.len());
        assert!(Key::new(b"").is_empty());
    }

    #[test]
    fn a_flipped_bit_flips_half_of_the_hash() {
        let mut random = fastrand::Rng::with_seed(3);
        let rounds = 64;
        let mut flips = [0_u32; 32];
        for _ in 0..rounds {
            let mut block: [u8; BLOCK_BYTES] = std::array::from_fn(|_| random.u8(b'a'..=b'z'));
            let before = hash(&block, &SEEDS);
            for bit in 0..256 {
                block[bit / 8] ^= 1 << (bit % 8);
                let changed = before ^ hash(&block, &SEEDS);
                flips.iter_mut().enumerate().for_each(|(index, count)| *count += changed >> index & 1);
                block[bit / 8] ^= 1 << (bit % 8);
            }
        }
        // Ten standard deviations around a half.
        let (mean, allowed) = (f64::from(rounds * 256) / 2.0, 10.0 * f64::from(rounds * 256).sqrt() / 2.0);
        assert!(flips.iter().all(|count| (f64::from(*count) - mean).abs() < allowed), "{flips:?}");
    }

    #[test]
    fn the_hash_of_the_beginning_says_how_keys_begin() {
        let key = |text: &[u8]| Key::new(text).hash_of_beginning(64);
        assert_eq!(key(&[b'a'; 64]), key(&[[b'a'; 64], [b'b'; 64]].concat()));
        assert_ne!(key(&[b'a'; 64]), key(&[[b'a'; 32], [b'b'; 32]].concat()));
        assert_ne!(key(b"a"), key(b"b"));
    }
}
