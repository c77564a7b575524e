//! The machine's monotonic clock: one scale for the load, the workers and the Python program that runs them.

use std::time::Duration;

/// Nanoseconds of CLOCK_MONOTONIC, as Python's `time.monotonic_ns()`.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the struct that outlives it; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until `now_ns()` has reached `moment` (to the millisecond, as tokio's timers do).
pub async fn sleep_until(moment: u64) {
    let left = moment.saturating_sub(now_ns());
    if left > 0 {
        tokio::time::sleep(Duration::from_nanos(left)).await;
    }
}
