//! What is under way on one worker: prompts that are not answered yet, and how much prefill it got lately.

use super::Ahead;
use crate::moment::Moment;
use crate::policy::Assignment;

#[derive(Default)]
pub(super) struct Ledger {
    /// Streamed requests that are not answered, and the bytes that they brought to prefill.
    waiting: usize,
    waiting_bytes: f64,
    /// When one of them was answered last, or the first of them came.
    progress: Option<Moment>,
    /// Requests whose answers come whole say nothing until they end: their prefill is taken to last until then.
    silent_until: f64,
    /// Bytes to prefill that were given to the worker, times its factor. In bytes, since the speed may still be being learnt.
    pub recent: Fading,
}

// ===== impl Ledger =====

impl Ledger {
    /// What a new request would find before it, at `per_byte` seconds a byte on this worker, which has `load` requests.
    pub fn ahead(&self, per_byte: f64, load: f64, now: Moment) -> Ahead {
        // Work that was begun shrinks, but no further than the first prompt of the queue reaches: it may be slower than thought.
        let elapsed = self.progress.map_or(0.0, |progress| now.since(progress).as_secs_f64());
        let first = self.waiting_bytes / self.waiting.max(1) as f64;
        let done = (elapsed / per_byte).min(first);
        let silent = (self.silent_until - seconds_of(now)).max(0.0) / per_byte;
        Ahead { bytes: (self.waiting_bytes - done).max(0.0) + silent, streams: (load - self.waiting as f64).max(0.0) }
    }

    /// Counts a request in, on a worker that is slower than others by `factor`.
    pub fn add(&mut self, assignment: &Assignment, factor: f64, per_byte: f64, horizon: f64) {
        let now = assignment.begun;
        let work = factor * assignment.uncached_bytes();
        self.recent.add(work, horizon, now);
        if !assignment.stream {
            self.silent_until = self.silent_until.max(seconds_of(now)) + per_byte * work;
            return;
        }
        if self.waiting == 0 {
            self.progress = Some(now);
        }
        self.waiting += 1;
        self.waiting_bytes += assignment.uncached_bytes();
    }

    /// A request that `add` counted was answered, or ended without an answer.
    pub fn settle(&mut self, assignment: &Assignment, now: Moment) {
        // After `forget`, requests from before are settled too.
        if assignment.stream && self.waiting > 0 {
            self.waiting -= 1;
            self.waiting_bytes = (self.waiting_bytes - assignment.uncached_bytes()).max(0.0);
            if self.waiting == 0 {
                self.waiting_bytes = 0.0;
            }
            self.progress = Some(now);
        }
    }
}

/// A sum of which what was added a horizon ago counts 1/e.
#[derive(Default)]
pub(super) struct Fading {
    sum: f64,
    at: Option<Moment>,
}

// ===== impl Fading =====

impl Fading {
    pub fn add(&mut self, amount: f64, horizon: f64, now: Moment) {
        self.sum = self.at(horizon, now) + amount;
        self.at = Some(now);
    }

    pub fn at(&self, horizon: f64, now: Moment) -> f64 {
        self.at.map_or(0.0, |at| self.sum * (-now.since(at).as_secs_f64() / horizon).exp())
    }
}

fn seconds_of(moment: Moment) -> f64 {
    moment.since(Moment::after(std::time::Duration::ZERO)).as_secs_f64()
}
