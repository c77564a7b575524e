//! What was measured: latencies of the requests that count, and failures.

use std::cell::{Cell, RefCell};

use serde_json::{Value, json};

use crate::clock::now_ns;

#[derive(Default)]
pub struct Meter {
    /// When the phase that counts began; 0 outside of it.
    since_ns: Cell<u64>,
    seconds: Cell<f64>,
    latencies_ns: RefCell<Vec<u64>>,
    failures: Cell<u64>,
    first_failure: RefCell<Option<String>>,
}

impl Meter {
    pub fn start(&self) {
        self.since_ns.set(now_ns());
    }

    pub fn stop(&self) {
        self.seconds.set((now_ns() - self.since_ns.replace(0)) as f64 / 1e9);
    }

    pub fn is_on(&self) -> bool {
        self.since_ns.get() != 0
    }

    /// A latency that ends now. What began before the phase does not count.
    pub fn record_since(&self, began_ns: u64) {
        if self.is_on() && began_ns >= self.since_ns.get() {
            self.record(now_ns() - began_ns);
        }
    }

    pub fn record(&self, latency_ns: u64) {
        if self.is_on() {
            self.latencies_ns.borrow_mut().push(latency_ns);
        }
    }

    pub fn fail(&self, reason: impl ToString) {
        if self.is_on() {
            self.failures.set(self.failures.get() + 1);
        }
        self.first_failure.borrow_mut().get_or_insert_with(|| reason.to_string());
    }

    /// Counts and quantiles, the latter in microseconds.
    pub fn result(&self) -> Value {
        let mut latencies = self.latencies_ns.borrow_mut();
        latencies.sort_unstable();
        let seconds = self.seconds.get();
        let quantile = |share: f64| nearest_rank(&latencies, share).map(|ns| ns as f64 / 1e3);
        json!({
            "count": latencies.len(),
            "seconds": seconds,
            "per_second": latencies.len() as f64 / seconds,
            "failures": self.failures.get(),
            "first_failure": *self.first_failure.borrow(),
            "p50_us": quantile(0.5),
            "p90_us": quantile(0.9),
            "p99_us": quantile(0.99),
            "max_us": quantile(1.0),
        })
    }
}

/// The smallest value that at least `share` of the sorted values do not exceed.
fn nearest_rank(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(nearest_rank(&values, 0.5), Some(100));
        assert_eq!(nearest_rank(&values, 0.99), Some(198));
        assert_eq!(nearest_rank(&values, 1.0), Some(200));
        assert_eq!(nearest_rank(&[7], 0.01), Some(7));
        assert_eq!(nearest_rank(&[], 0.5), None);
    }

    #[test]
    fn only_what_began_in_the_phase_counts() {
        let meter = Meter::default();
        let before = now_ns();
        meter.record_since(before);
        meter.start();
        meter.record_since(before);
        meter.record_since(now_ns());
        meter.fail("broken");
        meter.stop();
        meter.record_since(now_ns());
        let result = meter.result();
        assert_eq!((&result["count"], &result["failures"]), (&json!(1), &json!(1)));
        assert_eq!(result["first_failure"], "broken");
    }
}
