//! `consistent_hash`: a client's requests stay with one worker, by hash, as long as that worker is not overloaded.
//!
//! What is hashed is the request's affinity (a header or a body field), else the beginning of its prompt. Rendezvous hashing
//! (Thaler and Ravishankar, 1998) over the workers' URLs: a worker that comes or goes moves its own share and nothing else, and
//! routers that do not know of each other agree on affinities. Loads are bounded (Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent hashing with bounded loads", 2018): a worker that has more than `--consistent-hash-load-factor` times the mean
//! number of requests in progress is passed over for the next in the key's own order.

use std::sync::Arc;

use super::{Choice, Entry, Policy, Query};
use crate::config::RouterConfig;
use crate::fleet::Worker;

pub(super) const ENTRY: Entry =
    Entry { name: "consistent_hash", build: |config| Box::new(ConsistentHash::new(config)) };

/// Bytes of the prompt that count when a request has no affinity.
const BEGINNING: usize = 1024;

pub struct ConsistentHash {
    load_factor: f64,
}

impl ConsistentHash {
    pub fn new(config: &RouterConfig) -> Self {
        Self { load_factor: config.consistent_hash_load_factor }
    }
}

impl Policy for ConsistentHash {
    /// Reasons: `affinity`, `beginning` (of the prompt), `overflow` (the first choice has too many requests).
    fn choose<'a>(&self, query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let (hash, reason) = match query.affinity {
            Some(affinity) => (hash_bytes(affinity), "affinity"),
            None => (query.key.hash_of_beginning(BEGINNING), "beginning"),
        };
        let available = || workers.iter().filter(|worker| worker.is_available());
        let loads: usize = available().map(|worker| worker.load()).sum();
        // With this request, rounded up: some worker is always below it.
        let most = (self.load_factor * (loads + 1) as f64 / available().count() as f64).ceil() as usize;
        let rank = |worker: &&Arc<Worker>| rank(hash, worker);
        let first = available().max_by_key(rank)?;
        if first.load() < most {
            return Some(Choice::new(first, reason));
        }
        // Loads move while they are looked at: should all seem full, the first choice it is.
        let next = available().filter(|worker| worker.load() < most).max_by_key(rank).unwrap_or(first);
        Some(Choice::new(next, "overflow"))
    }
}

/// The worker that keeps what `name` stands for, however busy it is: of those that are available, the one that ranks it first.
pub fn home<'a>(name: &[u8], workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
    let hash = hash_bytes(name);
    let available = workers.iter().filter(|worker| worker.is_available());
    available.max_by_key(|worker| rank(hash, worker)).map(|worker| Choice::new(worker, "home"))
}

/// How well a worker suits what has this hash, in an order of its own for each.
fn rank(hash: u64, worker: &Worker) -> u64 {
    mix(hash ^ hash_bytes(worker.url().as_str().as_bytes()))
}

/// FNV-1a, the same in every process.
fn hash_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The finalizer of splitmix64: every bit of the input moves half the bits of the output.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
