//! A routing key: the text of a request that the prefix index works on.

/// The key of one request, made once and owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    text: Vec<u8>,
}

/// Makes a key from the pieces of a prompt.
pub struct KeyBuilder {
    text: Vec<u8>,
}

// ===== impl Key =====

impl Key {
    pub fn new(text: &[u8]) -> Self {
        Self { text: text.into() }
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Length of the text.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// A hash of (about) the first `bytes` bytes: the same for keys that begin alike.
    pub fn hash_of_beginning(&self, bytes: usize) -> u64 {
        let beginning = &self.text[..self.text.len().min(bytes)];
        beginning
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}

// ===== impl KeyBuilder =====

impl KeyBuilder {
    /// For pieces of `bytes` bytes in all.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes) }
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.text.extend_from_slice(piece);
    }

    pub fn finish(self) -> Key {
        Key { text: self.text }
    }
}
