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
        Self { nodes: BTreeMap::new(), max_bytes, now: 0 }
    }

    pub fn insert(&mut self, text: &[u8], worker: u16) {
        self.now += 1;
        let key = self.bounded(text);
        loop {
            let plan = self.plan(&key, worker);
            let lacks_room = |model: &Self, (who, bytes): (u16, usize)| model.charged(who) + bytes > model.max_bytes;
            let Some(cost) = plan.costs.iter().copied().find(|cost| lacks_room(self, *cost)) else {
                return self.apply(plan, &key, worker);
            };
            while lacks_room(self, cost) {
                self.evict(cost.0);
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

    /// Walks along `key`, noting the use.
    fn plan(&mut self, key: &Prefix, worker: u16) -> Plan {
        let mut plan = Plan::default();
        let (mut depth, mut path_bytes, mut cost) = (0, 0, 0);
        while let Some((prefix, common)) = self.next(key, depth) {
            let node = self.nodes.get_mut(&prefix).unwrap();
            let held = node.holders.contains_key(&worker);
            let bytes = (common - depth) * BLOCK_BYTES + NODE_BYTES;
            path_bytes += bytes;
            if path_bytes > self.max_bytes {
                plan.costs.insert(0, (worker, cost));
                return plan;
            }
            depth = common;
            if common < prefix.len() && !(held && common == key.len()) {
                cost += if held { NODE_BYTES } else { bytes };
                plan.costs =
                    node.holders.keys().filter(|other| **other != worker).map(|other| (*other, NODE_BYTES)).collect();
                plan.fork = Some((prefix, common));
                break;
            }
            if !held {
                cost += bytes;
                plan.claimed.push(prefix);
            } else {
                node.holders.insert(worker, self.now);
            }
        }
        let room = self.max_bytes.saturating_sub(path_bytes + NODE_BYTES) / BLOCK_BYTES;
        let length = room.min(key.len() - depth);
        if length > 0 {
            plan.leaf = Some((depth, length));
            cost += length * BLOCK_BYTES + NODE_BYTES;
        } else if plan.fork.as_ref().is_some_and(|(prefix, _)| self.nodes[prefix].holders.contains_key(&worker)) {
            return Plan { costs: vec![(worker, cost - NODE_BYTES)], fork: None, ..plan };
        }
        plan.costs.insert(0, (worker, cost));
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
    /// What whom is charged, in the order in which it is.
    costs: Vec<(u16, usize)>,
}

fn common(a: &Prefix, b: &Prefix) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
