//! A model of what a worker does before its first token: one prefill at a time, in order of arrival, less what its prefix cache holds.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use serde::Deserialize;
use tokio::sync::Mutex;

use super::Worker;
use super::prefix_cache::{BLOCK_BYTES, PrefixCache, block_hashes};
use super::prompt;
use crate::clock::{now_ns, sleep_until};

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefill {
    bytes_per_second: f64,
    /// What every request costs beside its bytes.
    overhead_us: u64,
    /// Prompt and answer text that the prefix cache holds.
    cache_bytes: usize,
}

pub struct Engine {
    prefill: Option<Prefill>,
    /// When the prefill that runs will be done. The lock is the queue; tokio's is first come, first served.
    free_at_ns: Mutex<u64>,
    cache: RefCell<PrefixCache>,
    /// Every block that any worker ever computed.
    unbounded: Rc<RefCell<HashSet<u64>>>,
}

impl Engine {
    pub fn new(prefill: Option<Prefill>, unbounded: Rc<RefCell<HashSet<u64>>>) -> Self {
        let blocks = prefill.map_or(0, |prefill| prefill.cache_bytes / BLOCK_BYTES);
        Self { prefill, free_at_ns: Mutex::new(0), cache: RefCell::new(PrefixCache::new(blocks)), unbounded }
    }

    pub fn is_modelled(&self) -> bool {
        self.prefill.is_some()
    }

    /// Waits its turn, then for as long as the prompt's uncached bytes take. Returns the prompt.
    pub async fn prefill(&self, body: &[u8], worker: &Worker) -> Vec<u8> {
        let Some(prefill) = self.prefill else { return Vec::new() };
        let prompt = prompt::text(body);
        let blocks = block_hashes(&prompt);
        let mut free_at = self.free_at_ns.lock().await;
        let hit = self.cache.borrow_mut().matched(&blocks) * BLOCK_BYTES;
        let ideal = self.unbounded_match(&blocks) * BLOCK_BYTES;
        worker.count(|stats| {
            stats.prompt_bytes += prompt.len() as u64;
            stats.hit_bytes += hit as u64;
            stats.ideal_hit_bytes += ideal as u64;
        });
        let compute_ns = (prompt.len() - hit) as f64 / prefill.bytes_per_second * 1e9;
        let done = now_ns().max(*free_at) + prefill.overhead_us * 1000 + compute_ns as u64;
        *free_at = done;
        sleep_until(done).await;
        self.keep(&blocks);
        prompt
    }

    /// After its last token a request's whole text is cached.
    pub fn keep_answer(&self, mut prompt: Vec<u8>, answer: &str) {
        if self.prefill.is_some() {
            prompt::append_message(&mut prompt, "assistant", answer);
            self.keep(&block_hashes(&prompt));
        }
    }

    fn keep(&self, blocks: &[u64]) {
        self.cache.borrow_mut().insert(blocks);
        self.unbounded.borrow_mut().extend(blocks);
    }

    fn unbounded_match(&self, blocks: &[u64]) -> usize {
        let unbounded = self.unbounded.borrow();
        blocks.iter().take_while(|block| unbounded.contains(block)).count()
    }
}
