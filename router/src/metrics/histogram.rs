//! A histogram of durations that many threads write to without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds, for whole requests and first tokens.
const REQUEST_BOUNDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Upper bounds in seconds, for what lies between two chunks: finest where tokens of large models come.
const CHUNK_BOUNDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0,
    2.5, 10.0,
];

pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what is above all of them. The number of observations is their sum.
    counts: Box<[AtomicU64]>,
    /// Microseconds, of which 64 bits are enough: ten thousand streams take sixty years to fill them.
    sum: AtomicU64,
}

impl Histogram {
    pub fn of_requests() -> Self {
        Self::new(REQUEST_BOUNDS)
    }

    pub fn of_chunks() -> Self {
        Self::new(CHUNK_BOUNDS)
    }

    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((duration.as_nanos() as u64 + 500) / 1000, Ordering::Relaxed);
    }

    /// Sum in seconds, number of observations, and how many lie in each bucket, by upper bound.
    pub fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (self.sum.load(Ordering::Relaxed) as f64 / 1e6, count, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_under_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::of_requests();
        for (millis, bound) in [(0, 0.001), (1, 0.001), (2, 0.0025), (10, 0.01), (11, 0.025), (600_000, 600.0)] {
            let before: u64 = count_under(&histogram, bound);
            histogram.observe(Duration::from_millis(millis));
            assert_eq!(count_under(&histogram, bound), before + 1, "{millis} ms");
        }
        histogram.observe(Duration::from_secs(601));
        assert_eq!(count_under(&histogram, f64::INFINITY), 1);
        let (sum, count, _) = histogram.read();
        assert_eq!((sum, count), (1201.024, 7));
    }

    fn count_under(histogram: &Histogram, bound: f64) -> u64 {
        histogram.read().2.iter().find(|(upper, _)| *upper == bound).unwrap().1
    }
}
