//! What requests show of a worker's progress: how many wait for its first byte, and whether anything came from it lately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::worker::Worker;
use crate::moment::Moment;

/// Prompts of fewer bytes do not explain how long a first byte takes.
pub(super) const LONG_PROMPT_BYTES: usize = 4096;

/// What a worker's first byte has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// A stream of events: for the first token.
    Stream,
    /// An answer in one piece: for all of its tokens.
    Whole,
}

/// Written by requests, read by the fleet's monitor.
#[derive(Default)]
pub struct Progress {
    /// Bytes of the keys of waiting requests that the worker probably has to prefill.
    waiting_bytes: AtomicUsize,
    /// A byte of some answer came since the monitor looked last.
    moved: AtomicBool,
    streams: Counters,
    wholes: Counters,
}

/// Of one kind of answer.
#[derive(Default)]
struct Counters {
    waiting: AtomicUsize,
    /// The slowest answer that began since the monitor looked last, as 1 + nanoseconds for each byte of a long prompt; 0 for none.
    answered: AtomicU64,
}

/// The state of a worker's answers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Snapshot {
    pub streams: usize,
    pub wholes: usize,
    pub bytes: usize,
    pub moved: bool,
    pub answered_stream: Option<SecondsPerByte>,
    pub answered_whole: Option<SecondsPerByte>,
}

/// Time to first byte of an answer to a long prompt; 0 for a short one.
pub(super) type SecondsPerByte = f64;

// ===== impl Progress =====

impl Progress {
    /// Called for every piece of an answer: one read, nearly always.
    pub fn moved(&self) {
        if !self.moved.load(Ordering::Relaxed) {
            self.moved.store(true, Ordering::Relaxed);
        }
    }

    /// Reads, and forgets what happened since the last time.
    pub(super) fn take(&self) -> Snapshot {
        let answered = |counters: &Counters| {
            let slowest = counters.answered.swap(0, Ordering::Relaxed).checked_sub(1)?;
            Some(slowest as f64 / 1e9)
        };
        Snapshot {
            streams: self.streams.waiting.load(Ordering::Relaxed),
            wholes: self.wholes.waiting.load(Ordering::Relaxed),
            bytes: self.waiting_bytes.load(Ordering::Relaxed),
            moved: self.moved.swap(false, Ordering::Relaxed),
            answered_stream: answered(&self.streams),
            answered_whole: answered(&self.wholes),
        }
    }

    fn of(&self, kind: AnswerKind) -> &Counters {
        match kind {
            AnswerKind::Stream => &self.streams,
            AnswerKind::Whole => &self.wholes,
        }
    }
}

/// A request that waits for the first byte of its answer; over when it is dropped.
pub(super) struct Waiting {
    worker: Arc<Worker>,
    kind: AnswerKind,
    bytes: usize,
}

// ===== impl Waiting =====

impl Waiting {
    pub fn begin(worker: &Arc<Worker>, kind: AnswerKind, bytes: usize) -> Self {
        worker.progress.of(kind).waiting.fetch_add(1, Ordering::Relaxed);
        worker.progress.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { worker: worker.clone(), kind, bytes }
    }

    /// The answer to the request, sent at `begun`, begins.
    pub fn answered(&self, begun: Moment) {
        let slowness = if self.bytes < LONG_PROMPT_BYTES {
            0
        } else {
            Moment::now().since(begun).as_nanos() as u64 / self.bytes as u64
        };
        self.worker.progress.of(self.kind).answered.fetch_max(1 + slowness, Ordering::Relaxed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.worker.progress.of(self.kind).waiting.fetch_sub(1, Ordering::Relaxed);
        self.worker.progress.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
