//! What the prefix index should do, written down naively, for tests and fuzzing: every node by its whole prefix, nothing shared,
//! nothing fast.

use std::cmp::Reverse;
use std::collections::BTreeMap;

const BLOCK_BYTES: usize = 32;
const NODE_BYTES: usize = 128;

/// The blocks of a prefix; a text shorter than a block is one.
type Prefix = Vec<Vec<u8>>;

pub struct Model {
    nodes: BTreeMap<Prefix, Node>,
    max_bytes: usize,
    /// Most bytes of text by worker.
    limits: BTreeMap<u16, usize>,
    now: u64,
}

#[derive(Default)]
struct Node {
    /// Blocks after the parent's.
    length: usize,
    /// Time of last use by worker.
    holders: BTreeMap<u16, u64>,
}

impl Model {
    pub fn new(max_bytes: usize) -> Self {
        Self { nodes: BTreeMap::new(), max_bytes, limits: BTreeMap::new(), now: 0 }
    }

    pub fn insert(&mut self, text: &[u8], worker: u16) {
        self.now += 1;
        let key = self.bounded(text);
        if self.matched(text, worker) == self.compared(text) {
            return self.touch(&key, worker);
        }
        loop {
            let plan = self.plan(&key, worker);
            let Some(cost) = plan.costs.iter().copied().find(|cost| !self.has_room(*cost)) else {
                return self.apply(plan, &key, worker);
            };
            while !self.has_room(cost) {
                self.evict(cost.worker);
            }
        }
    }

    pub fn set_limit(&mut self, worker: u16, bytes: usize) {
        self.limits.insert(worker, bytes);
    }

    pub fn trim(&mut self) {
        for worker in 0..64 {
            while !self.has_room(Cost { worker, blocks: 0, nodes: 0 }) {
                self.evict(worker);
            }
        }
    }

    /// Leading bytes of `text` that `worker` holds.
    pub fn matched(&self, text: &[u8], worker: u16) -> usize {
        let key = self.bounded(text);
        let held = self.nodes.iter().filter(|(_, node)| node.holders.contains_key(&worker));
        let blocks = held.map(|(prefix, _)| common(prefix, &key)).max().unwrap_or(0);
        key[..blocks].iter().map(Vec::len).sum()
    }

    pub fn compared(&self, text: &[u8]) -> usize {
        self.bounded(text).iter().map(Vec::len).sum()
    }

    /// Bytes of text that `worker` holds, every block whole.
    pub fn bytes(&self, worker: u16) -> usize {
        self.held(worker).map(|(_, node)| node.length * BLOCK_BYTES).sum()
    }

    /// What `worker` is charged.
    pub fn charged(&self, worker: u16) -> usize {
        self.bytes(worker) + self.held(worker).count() * NODE_BYTES
    }

    pub fn forget(&mut self, worker: u16) {
        for node in self.nodes.values_mut() {
            node.holders.remove(&worker);
        }
        self.nodes.retain(|_, node| !node.holders.is_empty());
        self.limits.remove(&worker);
    }

    fn held(&self, worker: u16) -> impl Iterator<Item = (&Prefix, &Node)> {
        self.nodes.iter().filter(move |(_, node)| node.holders.contains_key(&worker))
    }

    fn bounded(&self, text: &[u8]) -> Prefix {
        let whole = text.len() / BLOCK_BYTES * BLOCK_BYTES;
        let counted = if whole == 0 { text } else { &text[..whole] };
        let most = self.max_bytes.saturating_sub(NODE_BYTES) / BLOCK_BYTES;
        counted.chunks(BLOCK_BYTES).take(most).map(<[u8]>::to_vec).collect()
    }

    /// The node that `key` goes on with after its first `depth` blocks: its prefix, and how many blocks are in common in all.
    fn next(&self, key: &Prefix, depth: usize) -> Option<(Prefix, usize)> {
        let below = self.nodes.iter().filter(|(prefix, node)| prefix.len() - node.length == depth);
        let next = below.map(|(prefix, _)| (prefix.clone(), common(prefix, key))).find(|(_, common)| *common > depth);
        next.filter(|_| depth < key.len())
    }

    /// Notes a use of `key`, all of which `worker` holds.
    fn touch(&mut self, key: &Prefix, worker: u16) {
        for (prefix, node) in &mut self.nodes {
            let begin = prefix.len() - node.length;
            if begin < key.len() && common(prefix, key) == prefix.len().min(key.len()) {
                node.holders.insert(worker, self.now);
            }
        }
    }

    fn has_room(&self, more: Cost) -> bool {
        let text = self.bytes(more.worker) + more.blocks * BLOCK_BYTES;
        let charged = self.charged(more.worker) + more.blocks * BLOCK_BYTES + more.nodes * NODE_BYTES;
        charged <= self.max_bytes && text <= self.limit(more.worker)
    }

    fn limit(&self, worker: u16) -> usize {
        self.limits.get(&worker).copied().unwrap_or(usize::MAX)
    }

    /// Walks along `key`, noting the use, until the key or what `worker` may hold on one path ends.
    fn plan(&mut self, key: &Prefix, worker: u16) -> Plan {
        let mut plan = Plan::default();
        let mut cost = Cost { worker, blocks: 0, nodes: 0 };
        let (mut depth, mut path_nodes) = (0, 0);
        let (max_bytes, limit) = (self.max_bytes, self.limit(worker));
        // Blocks that a path of so many nodes may have.
        let most = |nodes: usize| (max_bytes.saturating_sub(nodes * NODE_BYTES)).min(limit) / BLOCK_BYTES;
        while let Some((prefix, common)) = self.next(key, depth) {
            let node = self.nodes.get_mut(&prefix).unwrap();
            let held = node.holders.contains_key(&worker);
            path_nodes += 1;
            if common > most(path_nodes) {
                plan.costs.insert(0, cost);
                return plan;
            }
            let blocks = common - depth;
            depth = common;
            if common < prefix.len() && !(held && common == key.len()) {
                cost.nodes += 1;
                cost.blocks += if held { 0 } else { blocks };
                let others = node.holders.keys().filter(|other| **other != worker);
                plan.costs = others.map(|other| Cost { worker: *other, blocks: 0, nodes: 1 }).collect();
                plan.fork = Some((prefix, common));
                break;
            }
            if held {
                node.holders.insert(worker, self.now);
            } else {
                cost.nodes += 1;
                cost.blocks += blocks;
                plan.claimed.push(prefix);
            }
        }
        let end = key.len().min(most(path_nodes + 1).max(depth));
        if end > depth {
            plan.leaf = Some((depth, end - depth));
            cost.nodes += 1;
            cost.blocks += end - depth;
        } else if plan.fork.as_ref().is_some_and(|(prefix, _)| self.nodes[prefix].holders.contains_key(&worker)) {
            cost.nodes -= 1;
            return Plan { costs: vec![cost], fork: None, ..plan };
        }
        plan.costs.insert(0, cost);
        plan
    }

    fn apply(&mut self, plan: Plan, key: &Prefix, worker: u16) {
        let Plan { mut claimed, fork, leaf, .. } = plan;
        if let Some((prefix, at)) = fork {
            let lower = self.nodes.get_mut(&prefix).unwrap();
            let below = prefix.len() - at;
            let upper = Node { length: lower.length - below, holders: lower.holders.clone() };
            lower.length = below;
            self.nodes.insert(prefix[..at].to_vec(), upper);
            claimed.push(prefix[..at].to_vec());
        }
        if let Some((depth, length)) = leaf {
            let prefix = key[..depth + length].to_vec();
            self.nodes.insert(prefix.clone(), Node { length, ..Node::default() });
            claimed.push(prefix);
        }
        for prefix in claimed {
            self.nodes.get_mut(&prefix).unwrap().holders.insert(worker, self.now);
        }
    }

    /// Ends `worker`'s claim on what it used least recently; of what was used at one time, on the deepest.
    fn evict(&mut self, worker: u16) {
        let order = |(prefix, node): &(&Prefix, &Node)| (node.holders[&worker], Reverse(prefix.len()));
        let oldest = self.held(worker).min_by_key(order).unwrap().0.clone();
        let node = self.nodes.get_mut(&oldest).unwrap();
        node.holders.remove(&worker);
        if node.holders.is_empty() {
            self.nodes.remove(&oldest);
        }
    }
}

/// What has to happen for a worker to hold a key.
#[derive(Default)]
struct Plan {
    /// Nodes that the worker does not hold yet.
    claimed: Vec<Prefix>,
    /// A node that the key leaves in the middle, and after how many blocks from the top.
    fork: Option<(Prefix, usize)>,
    /// Depth and length of a new node.
    leaf: Option<(usize, usize)>,
    /// In the order in which they are charged.
    costs: Vec<Cost>,
}

/// What a worker is charged.
#[derive(Clone, Copy)]
struct Cost {
    worker: u16,
    blocks: usize,
    nodes: usize,
}

fn common(a: &Prefix, b: &Prefix) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
