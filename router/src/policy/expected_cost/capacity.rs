//! How much of a worker's part of the prefix index is still in the worker's cache.
//!
//! A worker does not say what it evicts. But a prompt that it should hold, and answers as late as if it had to compute all of it, tells:
//! then the index keeps more than the cache does, and the worker's part is made smaller. While all goes as expected it grows slowly,
//! so that it hovers around the true size and the index evicts about what the worker evicts.

use super::speed::{Curve, Work};
use crate::policy::Assignment;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The prompt's prefix was there, as expected.
    Held,
    /// It was not.
    Missed,
    /// The time to first byte cannot tell.
    Unclear,
}

/// What the worker's cache seems to hold, in bytes of routing keys.
#[derive(Default)]
pub(super) struct Capacity {
    /// `None` until something was missed.
    limit: Option<f64>,
    /// Bytes that came to the worker since the limit was lowered.
    since_lowered: f64,
}

/// Growth of the limit for each byte that comes, while prompts are held as expected.
const GROWTH: f64 = 0.2;
/// What is left of the limit after a miss.
const LOWERED: f64 = 0.98;

/// Whether an answer that began after `seconds` had the prefix that it should have had.
pub(super) fn judge(curve: &Curve, factor: f64, assignment: &Assignment, seconds: f64) -> Verdict {
    let work = Work::of(assignment);
    let hit = factor * curve.seconds(&work);
    let held = factor * curve.per_byte() * assignment.held_bytes as f64;
    // Only where a miss would at least double the time does it stand out from what else may happen.
    if !curve.is_known() || held < hit {
        return Verdict::Unclear;
    }
    match seconds - hit {
        late if late < 0.25 * held => Verdict::Held,
        late if (0.6..1.6).contains(&(late / held)) => Verdict::Missed,
        _ => Verdict::Unclear,
    }
}

// ===== impl Capacity =====

impl Capacity {
    /// The new limit, if it changed. `cached` is what the index has for the worker.
    pub fn learn(&mut self, verdict: Verdict, assignment: &Assignment, cached: usize) -> Option<usize> {
        self.since_lowered += assignment.uncached_bytes();
        let before = self.limit.unwrap_or(f64::INFINITY).min(cached as f64);
        let limit = match verdict {
            Verdict::Held => self.limit? + GROWTH * assignment.uncached_bytes(),
            // What the last reduction evicted must show first.
            Verdict::Missed if self.limit.is_none() || self.since_lowered > (1.0 - LOWERED) * before => {
                self.since_lowered = 0.0;
                LOWERED * before
            }
            _ => return None,
        };
        let limit = limit.max(2.0 * assignment.key_bytes as f64);
        self.limit = Some(limit);
        Some(limit as usize)
    }
}
