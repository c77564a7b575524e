//! Finds workers that hang: silent for longer than what the fleet does lately explains. Without a clock or a worker of its own.
//!
//! A worker is silent while requests wait for its first byte and nothing at all comes from it, neither their first bytes nor pieces of
//! other answers. Silences that ended by themselves are the measure, over the last minute or two: how long, and how long for each byte that
//! was to be prefilled. One that lasts for a multiple of both is no longer explained by a long prompt.

use std::time::Duration;

use super::progress::{AnswerKind, LONG_PROMPT_BYTES, SecondsPerByte, Snapshot};
use crate::moment::Moment;

/// No silence shorter than this says anything.
const SHORTEST: Duration = Duration::from_millis(1000);

/// How many times longer than the longest explained silence it has to be.
const MULTIPLE: u32 = 4;

/// While nothing has been measured: a thousand tokens a second, which is slow.
const SLOW: SecondsPerByte = 1.0 / 4096.0;

/// There must have been answers this often lately, to compare with.
const EVIDENCE: u32 = 5;

/// The measure forgets what is between one and two of these old.
const PERIOD: Duration = Duration::from_secs(60);

/// One worker's silence in progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Silence {
    pub kind: AnswerKind,
    begun: Moment,
    /// Bytes that were to be prefilled when it began. Requests that came later do not explain why the earlier ones wait.
    bytes: usize,
    /// Grows when the worker is found alive, so that it is not asked all the time.
    patience: u32,
}

impl Silence {
    /// What `snapshot` makes of the silence `before`.
    pub fn next(before: Option<Self>, snapshot: &Snapshot, now: Moment) -> Option<Self> {
        let kind = if snapshot.streams > 0 { AnswerKind::Stream } else { AnswerKind::Whole };
        let is_waited_for = snapshot.streams + snapshot.wholes > 0;
        is_waited_for.then(|| match before {
            Some(silence) if !snapshot.moved && silence.kind == kind => silence,
            // A first token is sooner to be expected than a whole answer; but the wait for it begins only now.
            _ => Self { kind, begun: now, bytes: snapshot.bytes, patience: 1 },
        })
    }

    pub fn lasts(&self, now: Moment) -> Duration {
        now.since(self.begun)
    }

    /// True when `measure` does not explain that it lasts until `now`.
    pub fn is_unexplained(&self, now: Moment, measure: &Measure) -> bool {
        measure.limit(self.kind, self.bytes).is_some_and(|limit| self.lasts(now) > limit * self.patience)
    }

    pub fn is_excused(&self) -> bool {
        self.patience > 1
    }

    /// The worker was found to be alive: only a much longer silence would speak against that.
    pub fn excuse(&mut self) {
        self.patience = self.patience.saturating_mul(2).min(1024);
    }
}

/// What the workers did lately: their silences that ended by themselves, and how fast answers began.
#[derive(Default)]
pub(super) struct Measure {
    streams: Recent,
    wholes: Recent,
}

/// Of one kind of answer: this period and the one before.
#[derive(Clone, Copy, Default)]
struct Recent {
    begun: Option<Moment>,
    periods: [Period; 2],
}

#[derive(Clone, Copy, Default)]
struct Period {
    answers: u32,
    longest: Duration,
    slowest_silence: SecondsPerByte,
    slowest_answer: SecondsPerByte,
}

// ===== impl Measure =====

impl Measure {
    /// Takes in what one worker did since the last time; `silence` is what it was in before.
    pub fn observe(&mut self, silence: Option<Silence>, snapshot: &Snapshot, now: Moment) {
        if let Some(silence) = silence.filter(|_| snapshot.moved) {
            let period = self.period(silence.kind, now);
            let lasted = silence.lasts(now);
            // What a long prompt explains is no measure for short ones.
            if silence.bytes >= LONG_PROMPT_BYTES {
                period.slowest_silence = period.slowest_silence.max(lasted.as_secs_f64() / silence.bytes as f64);
            } else {
                period.longest = period.longest.max(lasted);
            }
        }
        for (kind, answered) in
            [(AnswerKind::Stream, snapshot.answered_stream), (AnswerKind::Whole, snapshot.answered_whole)]
        {
            if let Some(seconds_per_byte) = answered {
                let period = self.period(kind, now);
                period.answers = period.answers.saturating_add(1);
                period.slowest_answer = period.slowest_answer.max(seconds_per_byte);
            }
        }
    }

    fn period(&mut self, kind: AnswerKind, now: Moment) -> &mut Period {
        let recent = match kind {
            AnswerKind::Stream => &mut self.streams,
            AnswerKind::Whole => &mut self.wholes,
        };
        if recent.begun.is_none_or(|begun| now.since(begun) > PERIOD) {
            *recent = Recent { begun: Some(now), periods: [Period::default(), recent.periods[0]] };
        }
        &mut recent.periods[0]
    }

    /// How long a silence with so many bytes to prefill may last; `None` without enough to compare with.
    fn limit(&self, kind: AnswerKind, bytes: usize) -> Option<Duration> {
        let [now, before] = match kind {
            AnswerKind::Stream => self.streams.periods,
            AnswerKind::Whole => self.wholes.periods,
        };
        if now.answers + before.answers < EVIDENCE {
            return None;
        }
        // An answer's time to first byte has also the wait for others in it, so it is the second choice.
        let silence = now.slowest_silence.max(before.slowest_silence);
        let answer = now.slowest_answer.max(before.slowest_answer);
        let seconds_per_byte = [silence, answer].into_iter().find(|measured| *measured > 0.0).unwrap_or(SLOW);
        let long = if bytes < LONG_PROMPT_BYTES { 0.0 } else { bytes as f64 * seconds_per_byte };
        let explained = now.longest.max(before.longest) + Duration::from_secs_f64(long);
        Some(SHORTEST.max(explained * MULTIPLE))
    }
}

#[cfg(test)]
#[path = "silence_tests.rs"]
mod tests;
