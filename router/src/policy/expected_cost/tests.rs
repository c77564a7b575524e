//! `expected_cost` with simulated workers: one prompt at a time each, first come first served, at a speed of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::fleet::LoadGuard;
use crate::policy::tests::{config, query, workers};
use crate::prefix::Key;

/// Bytes of prompt that a worker caches together.
const BLOCK: usize = 2048;

/// A fleet under simulated time.
struct Fleet {
    policy: ExpectedCost,
    workers: Vec<Arc<Worker>>,
    /// Bytes a second.
    speeds: Vec<f64>,
    free_at: Vec<f64>,
    /// What the workers really hold: blocks with all that is before them, the least recently used first.
    held: Vec<Vec<Vec<u8>>>,
    /// Blocks that a worker can hold.
    capacity: usize,
    answers: Vec<(f64, LoadGuard, Assignment)>,
    now: f64,
}

struct Sent {
    worker: usize,
    held_bytes: usize,
    seconds: f64,
}

impl Fleet {
    fn new(speeds: &[f64]) -> Self {
        fastrand::seed(7);
        let count = speeds.len();
        Self {
            policy: ExpectedCost::new(&config("expected_cost")),
            workers: workers(count as WorkerId),
            speeds: speeds.to_vec(),
            free_at: vec![0.0; count],
            held: vec![Vec::new(); count],
            capacity: usize::MAX,
            answers: Vec::new(),
            now: 0.0,
        }
    }

    /// Lets time pass; answers that are due begin and end.
    fn pass(&mut self, seconds: f64) {
        self.now += seconds;
        self.answers.sort_by(|a, b| a.0.total_cmp(&b.0));
        while self.answers.first().is_some_and(|(at, ..)| *at <= self.now) {
            let (at, guard, assignment) = self.answers.remove(0);
            self.policy.answered(&assignment, moment(at));
            self.policy.ended(&assignment, true, moment(at));
            drop(guard);
        }
    }

    /// Sends a prompt where the policy wants it. `seconds` of the result is the time to the first byte.
    fn send(&mut self, prompt: &[u8]) -> Sent {
        let key = Key::new(prompt);
        let query = Query { now: moment(self.now), ..query(&key) };
        let choice = self.policy.choose(query, &self.workers).unwrap();
        let worker = usize::from(choice.worker.id());
        let guard = choice.worker.begin().unwrap();
        let assignment = Assignment::new(&query, &choice);
        self.policy.assigned(query, &assignment);
        let held = &mut self.held[worker];
        let blocks: Vec<&[u8]> = (1..=prompt.len() / BLOCK).map(|count| &prompt[..count * BLOCK]).collect();
        let hit = blocks.iter().take_while(|block| held.iter().any(|other| other == *block)).count() * BLOCK;
        held.retain(|block| !prompt.starts_with(block));
        held.extend(blocks.into_iter().rev().map(<[u8]>::to_vec));
        held.drain(..held.len().saturating_sub(self.capacity));
        let begin = self.free_at[worker].max(self.now);
        let end = begin + 0.001 + (prompt.len() - hit) as f64 / self.speeds[worker];
        self.free_at[worker] = end;
        self.answers.push((end, guard, assignment));
        Sent { worker, held_bytes: assignment.held_bytes, seconds: end - self.now }
    }
}

fn moment(seconds: f64) -> Moment {
    Moment::after(Duration::from_secs_f64(seconds))
}

/// A prompt of `kib` KiB that shares nothing with one of another name.
fn prompt(name: u32, kib: usize) -> Vec<u8> {
    (0..kib as u32).flat_map(|block| [name.to_le_bytes(), block.to_le_bytes()].concat().repeat(128)).collect()
}

#[test]
fn a_conversation_stays_where_it_is() {
    let mut fleet = Fleet::new(&[1e6; 4]);
    let mut chats: Vec<Vec<u8>> = (0..12).map(|chat| prompt(chat, 8)).collect();
    let mut homes = BTreeMap::new();
    for turn in 0..10 {
        for (chat, text) in chats.iter_mut().enumerate() {
            let sent = fleet.send(text);
            assert_eq!(*homes.entry(chat).or_insert(sent.worker), sent.worker);
            text.extend(prompt(1000 + turn, 1));
            fleet.pass(0.05);
        }
    }
    let mut counts = [0; 4];
    homes.values().for_each(|worker| counts[*worker] += 1);
    assert_eq!(counts, [3; 4]);
}

#[test]
fn a_prefix_that_all_share_spreads_over_the_fleet() {
    let mut fleet = Fleet::new(&[1e6; 8]);
    let shared = prompt(0, 16);
    let mut counts = [0_usize; 8];
    for request in 1..4000 {
        let sent = fleet.send(&[shared.clone(), prompt(request, 2)].concat());
        counts[sent.worker] += 1;
        // Four workers' worth of questions.
        fleet.pass(0.003 / 4.0);
    }
    let mean = counts.iter().sum::<usize>() as f64 / 8.0;
    assert!(counts.iter().all(|count| *count as f64 <= 1.05 * mean), "{counts:?}");
}

#[test]
fn a_slow_worker_is_found_and_given_its_share() {
    let mut fleet = Fleet::new(&[1e6, 1e6, 1e6, 0.25e6]);
    let mut counts = [0; 4];
    for request in 0..3000 {
        let sent = fleet.send(&prompt(request, 8));
        if request >= 500 {
            counts[sent.worker] += 1;
        }
        // 70 % of what the fleet can do.
        fleet.pass(8192.0 / 3.25e6 / 0.7);
    }
    let share = f64::from(counts[3]) / 2500.0;
    assert!((0.03..0.10).contains(&share), "a thirteenth of the speed: {counts:?}");
}

#[test]
fn the_speed_that_it_learns_is_the_speed_that_workers_have() {
    let mut fleet = Fleet::new(&[0.2e6, 0.2e6, 0.1e6]);
    for request in 0..600 {
        fleet.send(&prompt(request, 1 + request as usize % 16));
        fleet.pass(0.03);
    }
    fleet.pass(10.0);
    let state = fleet.policy.state.lock();
    for (worker, speed) in fleet.speeds.iter().enumerate() {
        let learnt = 1.0 / (state.per_byte() * state.workers[worker].factor.at(moment(fleet.now - 10.0)));
        assert!((0.8..1.25).contains(&(learnt / speed)), "worker {worker}: {learnt} for {speed}");
    }
}

#[test]
fn a_cache_smaller_than_the_index_is_noticed() {
    let mut fleet = Fleet::new(&[1e6, 1e6]);
    fleet.capacity = 4 * 16 * 1024 / BLOCK;
    // Believed to be held, and computed all the same; in each half.
    let mut surprises = [0, 0];
    for request in 0..2000 {
        // Sixteen prompts, and room for four on each worker; low numbers come often.
        let name = (f64::from(16).powf(fastrand::f64()) - 1.0) as u32;
        let sent = fleet.send(&prompt(name, 16));
        surprises[request / 1000] += usize::from(sent.held_bytes > 8192 && sent.seconds > 0.012);
        fleet.pass(0.05);
    }
    let misplaced = surprises[1] as f64 / 1000.0;
    assert!(surprises[0] > surprises[1] && misplaced < 0.05, "{surprises:?}");
}

#[test]
fn a_restarted_worker_holds_nothing_and_queues_nothing() {
    let mut fleet = Fleet::new(&[1e6; 2]);
    let text = prompt(0, 8);
    let first = fleet.send(&text);
    fleet.pass(1.0);
    assert_eq!(fleet.send(&text).held_bytes, 8192);
    fleet.policy.forget(first.worker as WorkerId);
    // Its unanswered request ends after the restart, and must not be counted down twice.
    fleet.pass(1.0);
    assert_eq!(fleet.send(&text).held_bytes, 0);
    let state = fleet.policy.state.lock();
    assert!(state.workers.iter().all(|worker| worker.ledger.ahead(1e-6, 0.0, moment(9.0)).bytes <= 8192.0));
}

#[test]
fn requests_that_end_without_an_answer_leave_nothing_behind() {
    let mut fleet = Fleet::new(&[1e6]);
    for name in 0..50 {
        fleet.send(&prompt(name, 8));
    }
    for (_, guard, assignment) in std::mem::take(&mut fleet.answers) {
        fleet.policy.ended(&assignment, false, moment(0.0));
        drop(guard);
    }
    let state = fleet.policy.state.lock();
    assert_eq!(state.workers[0].ledger.ahead(1e-6, 0.0, moment(0.0)).bytes, 0.0);
}

#[test]
fn prefill_that_costs_nothing_keeps_every_figure_finite() {
    fastrand::seed(3);
    let (policy, workers) = (ExpectedCost::new(&config("expected_cost")), workers(4));
    let mut running = std::collections::VecDeque::new();
    let mut chosen = [0; 4];
    for number in 0..20_000_u32 {
        let now = moment(f64::from(number) * 4e-5);
        let text = prompt(number % 997, 1 + number as usize % 3);
        let key = Key::new(&text);
        let query = Query { stream: false, now, ..query(&key) };
        let choice = policy.choose(query, &workers).unwrap();
        let guard = choice.worker.begin().unwrap();
        let assignment = Assignment::new(&query, &choice);
        assert!(assignment.ahead.bytes.is_finite(), "request {number}");
        policy.assigned(query, &assignment);
        chosen[usize::from(assignment.worker)] += 1;
        running.push_back((guard, assignment));
        if running.len() == 64 {
            let (_, assignment) = running.remove(fastrand::usize(..8)).unwrap();
            policy.answered(&assignment, now);
            policy.ended(&assignment, true, now);
        }
    }
    let state = policy.state.lock();
    assert!(state.per_byte() > 0.0 && state.per_byte() < 1e-3, "{}", state.per_byte());
    assert!(chosen.iter().all(|count| *count > 500), "{chosen:?}");
}
