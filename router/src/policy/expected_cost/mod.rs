//! `expected_cost`: the worker that will have the first token soonest, counting what the choice costs the others.
//!
//! For every worker the time to the first token is estimated: prompts that are ahead, plus the part of this prompt that the worker
//! does not hold, in bytes, at the speed that the worker has shown. To that comes what the request does to others: prefill
//! that the fleet could have saved is charged several times, since it delays those behind and evicts what they would have hit, but
//! the less the more popular the prefix is, since a copy of that will be used; and a worker that has lately done more prefill than others is
//! a worse home for more of it. The sum is in seconds; the least wins.
//!
//! So a conversation stays where it is, and a prefix that many share spreads as soon as its worker's extra work has cost as much as a
//! copy of it would. No threshold is set by hand: speed, queues and cache sizes are learnt from the time to the
//! first byte of answers.

mod capacity;
mod ledger;
mod popularity;
mod speed;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;

use self::capacity::Capacity;
use self::ledger::Ledger;
use self::popularity::Popularity;
use self::speed::{Curve, Factor};
use super::{Ahead, Assignment, Choice, Entry, Policy, Query, total_load};
use crate::config::RouterConfig;
use crate::fleet::{Worker, WorkerId};
use crate::moment::Moment;
use crate::prefix::{Matches, PrefixIndex};

pub(super) const ENTRY: Entry = Entry { name: "expected_cost", build: |config| Box::new(ExpectedCost::new(config)) };

/// What a worker's recent prefill counts, a second of it against a second of waiting.
const BALANCE: f64 = 0.375;
/// How often prefill is charged, on top of the wait that it means for the request itself, that would not be needed where the prefix is:
/// it delays those behind and evicts what they would have hit. For a prefix that was hit n times lately, 1/(n + 1) of it: a copy of
/// that will be used.
const OTHERS: f64 = 16.0;

pub struct ExpectedCost {
    index: PrefixIndex,
    state: Mutex<State>,
}

/// What was learnt and what is under way. One lock for all workers: it is held for a few additions a worker.
struct State {
    /// Time to first byte of answers that stream.
    streams: Curve,
    /// Of answers that come whole: only their growth with the prompt means anything.
    wholes: Curve,
    /// Of prefixes that requests shared with earlier ones.
    popularity: Popularity,
    /// By worker id.
    workers: Vec<WorkerState>,
}

#[derive(Default)]
struct WorkerState {
    ledger: Ledger,
    factor: Factor,
    capacity: Capacity,
}

/// A worker as a candidate for one request.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    worker: &'a Arc<Worker>,
    held_bytes: usize,
    ahead: Ahead,
    seconds: f64,
}

// ===== impl ExpectedCost =====

impl ExpectedCost {
    pub fn new(config: &RouterConfig) -> Self {
        let state = State {
            streams: Curve::default(),
            wholes: Curve::default(),
            popularity: Popularity::default(),
            workers: Vec::new(),
        };
        Self { index: PrefixIndex::new(config.max_tree_size), state: Mutex::new(state) }
    }
}

impl Policy for ExpectedCost {
    /// Reasons: `prefix` (no worker holds more), `spread` (another one holds more, but is busier), `cold` (nobody holds anything).
    fn choose<'a>(&self, query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let matches = self.index.matches(query.key);
        let available = || workers.iter().filter(|worker| worker.is_available());
        let most_held = available().map(|worker| matches.bytes(worker.id())).max()?;
        let prefix = query.key.hash_of_beginning(most_held);
        let mut state = self.state.lock();
        let others = OTHERS / (1.0 + state.popularity.hit(prefix));
        let mut best: Option<Candidate<'a>> = None;
        let mut ties = 1;
        for worker in available() {
            let candidate = state.candidate(worker, &query, &matches, others);
            match best.as_ref().map_or(std::cmp::Ordering::Less, |best| candidate.order(best)) {
                std::cmp::Ordering::Less => ties = 1,
                std::cmp::Ordering::Equal => ties += 1,
                std::cmp::Ordering::Greater => continue,
            }
            if ties == 1 || fastrand::usize(..ties) == 0 {
                best = Some(candidate);
            }
        }
        let Candidate { worker, held_bytes, ahead, .. } = best?;
        let reason = match (most_held, held_bytes) {
            (0, _) => "cold",
            (most, held) if held < most => "spread",
            _ => "prefix",
        };
        Some(Choice { worker, reason, held_bytes, ahead })
    }

    fn assigned(&self, query: Query<'_>, assignment: &Assignment) {
        self.index.insert(query.key, assignment.worker);
        self.state.lock().assigned(assignment);
    }

    fn answered(&self, assignment: &Assignment, now: Moment) {
        let cached = self.index.bytes(assignment.worker);
        let limit = self.state.lock().answered(assignment, cached, now);
        if let Some(bytes) = limit {
            self.index.set_limit(assignment.worker, bytes);
        }
    }

    fn ended(&self, assignment: &Assignment, answered: bool, now: Moment) {
        if !answered {
            self.state.lock().worker(assignment.worker).ledger.settle(assignment, now);
        }
    }

    fn forget(&self, worker: WorkerId) {
        self.index.forget(worker);
        *self.state.lock().worker(worker) = WorkerState::default();
    }

    fn maintain(&self) {
        self.index.trim();
    }
}

// ===== impl State =====

impl State {
    fn worker(&mut self, id: WorkerId) -> &mut WorkerState {
        let index = usize::from(id);
        if index >= self.workers.len() {
            self.workers.resize_with(index + 1, WorkerState::default);
        }
        &mut self.workers[index]
    }

    /// Seconds that a byte of prefill takes on a worker of ordinary speed.
    fn per_byte(&self) -> f64 {
        if self.streams.is_known() || !self.wholes.is_known() {
            self.streams.per_byte()
        } else {
            self.wholes.per_byte()
        }
    }

    fn candidate<'a>(
        &mut self,
        worker: &'a Arc<Worker>,
        query: &Query<'_>,
        matches: &Matches,
        others: f64,
    ) -> Candidate<'a> {
        let (per_byte, per_stream) = (self.per_byte(), self.streams.per_stream());
        let horizon = self.streams.horizon();
        let state = self.worker(worker.id());
        let factor = state.factor.at(query.now);
        let held_bytes = matches.bytes(worker.id());
        let ahead = state.ledger.ahead(per_byte * factor, total_load(worker), query.now);
        let uncached = query.key.bytes().saturating_sub(held_bytes) as f64;
        let wait = factor * (per_byte * ahead.bytes + per_stream * ahead.streams);
        let seconds = wait
            + factor * per_byte * uncached * (1.0 + others)
            + BALANCE * per_byte * state.ledger.recent.at(horizon, query.now);
        Candidate { worker, held_bytes, ahead, seconds }
    }

    fn assigned(&mut self, assignment: &Assignment) {
        self.streams.saw_key(assignment.key_bytes as f64);
        let (per_byte, horizon) = (self.per_byte(), self.streams.horizon());
        let state = self.worker(assignment.worker);
        let factor = state.factor.at(assignment.begun);
        state.ledger.add(assignment, factor, per_byte, horizon);
    }

    /// Learns from the time that an answer took to begin. The worker's new limit in the prefix index, if it changed.
    fn answered(&mut self, assignment: &Assignment, cached: usize, now: Moment) -> Option<usize> {
        let seconds = now.since(assignment.begun).as_secs_f64();
        let index = usize::from(assignment.worker);
        self.worker(assignment.worker).ledger.settle(assignment, now);
        let work = speed::Work::of(assignment);
        let factor = self.workers[index].factor.at(now);
        if !assignment.stream {
            self.wholes.learn(&work, seconds / factor);
            return None;
        }
        let verdict = capacity::judge(&self.streams, factor, assignment, seconds);
        let WorkerState { factor, capacity, .. } = &mut self.workers[index];
        let work =
            if verdict == capacity::Verdict::Missed { work.with_bytes(assignment.held_bytes as f64) } else { work };
        let expected = self.streams.seconds(&work);
        self.streams.learn(&work, seconds / factor.at(now));
        if self.streams.is_known() {
            factor.learn(expected, seconds, self.streams.typical(), now);
        }
        capacity.learn(verdict, assignment, cached)
    }
}

// ===== impl Candidate =====

impl Candidate<'_> {
    /// Cheaper first; of equally cheap ones the one that holds more.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.seconds.total_cmp(&other.seconds).then(other.held_bytes.cmp(&self.held_bytes))
    }
}
