//! Silences in simulated time: which ones the fleet's recent ones explain.

use super::*;

const TICK: Duration = Duration::from_millis(100);

fn at(milliseconds: u64) -> Moment {
    Moment::after(Duration::from_millis(milliseconds))
}

/// One worker as the monitor sees it.
#[derive(Default)]
struct Watched {
    silence: Option<Silence>,
    now: Duration,
}

impl Watched {
    fn see(&mut self, measure: &mut Measure, snapshot: Snapshot) -> Option<Silence> {
        self.now += TICK;
        let now = Moment::after(self.now);
        measure.observe(self.silence, &snapshot, now);
        self.silence = Silence::next(self.silence, &snapshot, now);
        self.silence
    }

    /// How long it is silent with these requests waiting until that is unexplained; `None` for over ten minutes.
    fn patience(&mut self, measure: &mut Measure, waiting: Snapshot) -> Option<Duration> {
        (0..6000).find_map(|_| {
            let silence = self.see(measure, waiting)?;
            let now = Moment::after(self.now);
            silence.is_unexplained(now, measure).then(|| silence.lasts(now))
        })
    }
}

fn streams(count: usize, bytes: usize) -> Snapshot {
    Snapshot { streams: count, bytes, ..Snapshot::default() }
}

/// A fleet that answers streams whose silence lasts `ticks` ticks with `bytes` to prefill.
fn measured(ticks: usize, bytes: usize) -> Measure {
    let (mut measure, mut worker) = (Measure::default(), Watched::default());
    for _ in 0..EVIDENCE {
        for _ in 0..ticks {
            worker.see(&mut measure, streams(1, bytes));
        }
        let seconds = TICK.as_secs_f64() * ticks as f64;
        let slowness = if bytes < LONG_PROMPT_BYTES { 0.0 } else { seconds / bytes as f64 };
        worker.see(&mut measure, Snapshot { moved: true, answered_stream: Some(slowness), ..Snapshot::default() });
    }
    measure
}

#[test]
fn a_worker_that_hangs_among_quick_ones_is_found_after_a_second() {
    let mut measure = measured(1, 100);
    let found = Watched::default().patience(&mut measure, streams(3, 300)).unwrap();
    assert!(found > SHORTEST && found <= SHORTEST + TICK, "{found:?}");
}

#[test]
fn without_answers_to_compare_with_nobody_is_suspect() {
    assert_eq!(Watched::default().patience(&mut Measure::default(), streams(3, 300)), None);
    // Streams say nothing about answers in one piece.
    let wholes = Snapshot { wholes: 3, ..Snapshot::default() };
    assert_eq!(Watched::default().patience(&mut measured(1, 100), wholes), None);
}

#[test]
fn a_single_long_prompt_explains_a_long_silence() {
    // Nothing long was measured: a thousand tokens a second must be allowed for.
    let mut measure = measured(1, 100);
    let found = Watched::default().patience(&mut measure, streams(1, 256 << 10)).unwrap();
    assert!(found > Duration::from_secs(256), "{found:?}");
    // Measured, 32 KB in 0.4 s: then eight times as much may take eight times as long, and a multiple of that.
    let mut measure = measured(4, 32 << 10);
    let found = Watched::default().patience(&mut measure, streams(1, 256 << 10)).unwrap();
    assert!(
        found > Duration::from_secs_f64(3.2 * 3.9) && found < Duration::from_secs_f64(3.2 * 4.1 + 0.5),
        "{found:?}"
    );
}

#[test]
fn a_fleet_that_is_slow_with_short_prompts_makes_nobody_suspect_early() {
    let mut measure = measured(20, 100);
    let found = Watched::default().patience(&mut measure, streams(1, 100)).unwrap();
    assert!(found > Duration::from_secs(8), "{found:?}");
}

#[test]
fn any_progress_ends_a_silence() {
    let (mut measure, mut worker) = (measured(1, 100), Watched::default());
    for _ in 0..100 {
        for _ in 0..9 {
            let silence = worker.see(&mut measure, streams(5, 500)).unwrap();
            assert!(!silence.is_unexplained(Moment::after(worker.now), &measure));
        }
        worker.see(&mut measure, Snapshot { moved: true, ..streams(5, 500) });
    }
    assert_eq!(worker.see(&mut measure, Snapshot::default()), None, "nobody waits: not silent");
}

#[test]
fn requests_that_come_later_do_not_excuse_a_silence() {
    let (mut measure, mut worker) = (measured(4, 32 << 10), Watched::default());
    worker.see(&mut measure, streams(1, 5000));
    let found = worker.patience(&mut measure, streams(100, 50 << 20)).unwrap();
    assert!(found <= SHORTEST + TICK, "{found:?}");
}

#[test]
fn an_excused_silence_may_last_longer_and_old_measures_are_forgotten() {
    let mut measure = measured(1, 100);
    let mut silence = Silence::next(None, &streams(1, 1), at(10_000)).unwrap();
    assert!(silence.is_unexplained(at(11_100), &measure));
    silence.excuse();
    assert!(!silence.is_unexplained(at(11_900), &measure));
    assert!(silence.is_unexplained(at(12_100), &measure));
    for minute in 1..4 {
        let answered = Snapshot { answered_whole: Some(0.0), answered_stream: Some(0.0), ..Snapshot::default() };
        measure.observe(None, &answered, at(minute * 61_000));
    }
    assert_eq!(measure.limit(AnswerKind::Stream, 0), None, "two answers in the last periods are no evidence");
}
