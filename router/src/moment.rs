//! A point in time, by the process's own monotonic clock or by a simulator's.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since some beginning; only moments of the same clock can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    pub fn now() -> Self {
        Self::after(BEGINNING.elapsed())
    }

    /// `duration` after the clock's beginning.
    pub fn after(duration: Duration) -> Self {
        Self(duration.as_nanos() as u64)
    }

    /// Time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
