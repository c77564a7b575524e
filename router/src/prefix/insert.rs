//! Making a worker hold a key: first it is found out what that takes, then that is charged, then it is done.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Time;
use super::account::{Account, Amount};
use super::node::{Holders, Node, NodeId, ROOT};
use super::tree::Tree;
use crate::fleet::WorkerId;

/// A worker has no room for this much more.
pub(super) struct Shortage {
    pub worker: WorkerId,
    pub amount: Amount,
}

/// What has to happen for a worker to hold a key.
struct Plan {
    /// Nodes that the worker does not hold yet, from the top.
    claimed: SmallVec<[NodeId; 8]>,
    fork: Option<Fork>,
    /// Below which node the rest of the key goes, unless below the fork.
    parent: NodeId,
    /// The blocks that make a new leaf, from and to.
    leaf: (usize, usize),
    /// What the worker is charged for.
    amount: Amount,
}

/// A node that the key leaves in the middle.
struct Fork {
    node: NodeId,
    common: usize,
    held: bool,
}

impl Tree {
    /// Makes `worker` hold `blocks`, or as many of them as `max_bytes` allows, used at time `now`. Changes nothing on a shortage.
    pub fn insert(
        &mut self,
        blocks: &[u32],
        worker: WorkerId,
        now: Time,
        accounts: &[Arc<Account>],
        max_bytes: usize,
    ) -> Result<(), Shortage> {
        let plan = self.plan(blocks, worker, now, &accounts[usize::from(worker)], max_bytes);
        self.charge(&plan, worker, accounts, max_bytes)?;
        for node in &plan.claimed {
            self.claim(*node, worker, now, accounts);
        }
        let mut parent = plan.parent;
        if let Some(fork) = &plan.fork {
            parent = self.split(fork, accounts);
            if !self.nodes[parent].holders.touch(worker, now) {
                self.claim(parent, worker, now, accounts);
            }
        }
        let (from, to) = plan.leaf;
        if from < to {
            let leaf = self.add(parent, to as u32, blocks[from..to].into(), Holders::default());
            self.claim(leaf, worker, now, accounts);
        }
        Ok(())
    }

    /// Walks along `blocks`, noting the use, until the key or the worker's bound ends.
    fn plan(&self, blocks: &[u32], worker: WorkerId, now: Time, account: &Account, max_bytes: usize) -> Plan {
        let mut plan = Plan {
            claimed: SmallVec::new(),
            fork: None,
            parent: ROOT,
            leaf: (blocks.len(), blocks.len()),
            amount: Amount::default(),
        };
        // What the worker is charged for the whole path, held or not: that has to fit by itself.
        let mut path = Amount::default();
        let mut depth = 0;
        while depth < blocks.len() {
            let Some((id, common)) = self.step(plan.parent, &blocks[depth..]) else { break };
            let node = &self.nodes[id];
            let held = node.holders.last_used(worker).is_some();
            path.add_node(common);
            if !account.allows(path, max_bytes) {
                return plan;
            }
            depth += common;
            if common < node.label.len() && !(held && depth == blocks.len()) {
                plan.fork = Some(Fork { node: id, common, held });
                plan.amount.add_node(if held { 0 } else { common });
                break;
            }
            if !node.holders.touch(worker, now) {
                plan.claimed.push(id);
                plan.amount.add_node(common);
            }
            plan.parent = id;
        }
        path.add_node(0);
        let end = account.longest(path, blocks.len() - depth, max_bytes) + depth;
        if end > depth {
            plan.leaf = (depth, end);
            plan.amount.add_node(end - depth);
        } else if plan.fork.as_ref().is_some_and(|fork| fork.held) {
            // Nothing to put below it.
            plan.fork = None;
            plan.amount.nodes -= 1;
        }
        plan
    }

    /// Charges the worker, and everyone who holds a node that is split for one node more.
    fn charge(
        &self,
        plan: &Plan,
        worker: WorkerId,
        accounts: &[Arc<Account>],
        max_bytes: usize,
    ) -> Result<(), Shortage> {
        let take = |worker: WorkerId, amount| {
            let charged = accounts[usize::from(worker)].charge(amount, max_bytes);
            if charged { Ok(()) } else { Err(Shortage { worker, amount }) }
        };
        take(worker, plan.amount)?;
        let Some(fork) = &plan.fork else { return Ok(()) };
        let others = || self.nodes[fork.node].holders.workers().filter(|other| *other != worker);
        let node = Amount { blocks: 0, nodes: 1 };
        for (charged, other) in others().enumerate() {
            take(other, node).inspect_err(|_| {
                accounts[usize::from(worker)].refund(plan.amount);
                others().take(charged).for_each(|other| accounts[usize::from(other)].refund(node));
            })?;
        }
        Ok(())
    }

    /// Puts a new node above the one of `fork`, with the same holders, for the blocks in common.
    /// The lower node keeps its identity, its children and its entries in the queues.
    fn split(&mut self, fork: &Fork, accounts: &[Arc<Account>]) -> NodeId {
        let lower = &mut self.nodes[fork.node];
        let (label, parent, end) = (&lower.label, lower.parent, lower.end - (lower.label.len() - fork.common) as u32);
        let (above, below): (Box<[u32]>, Box<[u32]>) = (label[..fork.common].into(), label[fork.common..].into());
        let holders = lower.holders.above();
        let next = below[0];
        lower.label = below;
        self.outside_bytes -= fork.common * size_of::<u32>();
        let upper = self.add(parent, end, above, holders);
        self.nodes[fork.node].parent = upper;
        self.children.insert((upper, next), fork.node);
        let entries: SmallVec<[(WorkerId, Time); 8]> = self.nodes[upper].holders.uses().collect();
        for (worker, time) in entries {
            self.enqueue(upper, worker, time, accounts);
        }
        upper
    }

    fn add(&mut self, parent: NodeId, end: u32, label: Box<[u32]>, holders: Holders) -> NodeId {
        let first = label[0];
        let node = Node { label, holders, parent, end };
        self.outside_bytes += node.outside_bytes();
        let id = self.nodes.insert(node);
        self.children.insert((parent, first), id);
        id
    }

    fn claim(&mut self, id: NodeId, worker: WorkerId, now: Time, accounts: &[Arc<Account>]) {
        let node = &mut self.nodes[id];
        self.outside_bytes -= node.outside_bytes();
        node.holders.add(worker, now);
        self.outside_bytes += node.outside_bytes();
        self.enqueue(id, worker, now, accounts);
    }
}
