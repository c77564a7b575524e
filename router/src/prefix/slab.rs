//! Where a tree keeps its nodes: small ids, slots that are used again, and no moving of nodes when there are more of them.

use std::ops::{Index, IndexMut};

use super::node::{Node, NodeId, ROOT};

/// Nodes that are allocated at a time.
const CHUNK: usize = 64;

pub(super) struct Slab {
    chunks: Vec<Vec<Node>>,
    /// The first free slot; the next one stands in its `parent`.
    free: NodeId,
    len: usize,
}

impl Default for Slab {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: ROOT, len: 0 }
    }
}

impl Slab {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Vec<Node>>() + self.chunks.len() * CHUNK * size_of::<Node>()
    }

    pub fn insert(&mut self, node: Node) -> NodeId {
        self.len += 1;
        if self.free != ROOT {
            let id = self.free;
            let slot = &mut self[id];
            let next = slot.parent;
            *slot = node;
            self.free = next;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.push(node);
        (last * CHUNK + chunk.len() - 1) as NodeId
    }

    pub fn remove(&mut self, id: NodeId) {
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
            return;
        }
        let free = self.free;
        self[id] = Node { parent: free, ..Node::default() };
        self.free = id;
    }
}

impl Index<NodeId> for Slab {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}

impl IndexMut<NodeId> for Slab {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }
}
