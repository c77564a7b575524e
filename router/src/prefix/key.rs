//! A routing key: the text of a request that the prefix index works on.

/// The key of one request, made once and owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    text: Box<[u8]>,
}

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

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }
}
