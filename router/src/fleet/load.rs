//! A worker's load: the requests that the router has in progress there, and what the worker itself reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;
use tracing::debug;

use super::inquiry::{Inquirer, Reply};
use super::worker::Worker;

/// How long a worker may take to report its load.
const TIMEOUT: Duration = Duration::from_secs(1);

/// One request in progress on a worker: counts down when it is dropped, so that no way out of a request can forget to.
pub struct LoadGuard {
    worker: Arc<Worker>,
    /// The worker's breaker waits for this request's outcome.
    on_trial: bool,
}

impl LoadGuard {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker, on_trial: false }
    }

    pub(super) fn set_on_trial(&mut self) {
        self.on_trial = true;
    }

    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// True until the outcome is known of a request that the breaker let through on trial.
    pub(super) fn is_on_trial(&self) -> bool {
        self.on_trial
    }

    pub(super) fn succeeded(&mut self) {
        self.worker.succeeded(std::mem::take(&mut self.on_trial));
    }

    pub(super) fn failed(&mut self, reason: &str) {
        self.worker.failed(std::mem::take(&mut self.on_trial), reason);
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.on_trial {
            self.worker.abandon_trial();
        }
        self.worker.end();
    }
}

/// The last load that a worker reported.
pub(super) struct ReportedLoad {
    load: AtomicU64,
    /// How much of it was not this router's.
    elsewhere: AtomicU64,
}

impl Default for ReportedLoad {
    fn default() -> Self {
        Self { load: AtomicU64::new(f64::NAN.to_bits()), elsewhere: AtomicU64::new(0) }
    }
}

impl ReportedLoad {
    pub fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.load.load(Ordering::Relaxed))).filter(|load| !load.is_nan())
    }

    pub fn elsewhere(&self) -> f64 {
        f64::from_bits(self.elsewhere.load(Ordering::Relaxed))
    }

    /// Notes what a worker with `own` requests of this router reports.
    fn set(&self, load: Option<f64>, own: usize) {
        self.load.store(load.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
        let elsewhere = (load.unwrap_or(0.0) - own as f64).max(0.0);
        self.elsewhere.store(elsewhere.to_bits(), Ordering::Relaxed);
    }
}

/// Asks a worker's `/get_load` for as long as the worker has it; after a restart it is asked again.
pub(super) async fn poll(worker: Arc<Worker>, inquirer: Inquirer, interval: Duration) {
    while worker.wait_until_healthy().await {
        match inquirer.get(&worker, "/get_load", TIMEOUT).await {
            Reply::Ok(body) => worker.reported.set(parse(&body), worker.load()),
            Reply::Missing => {
                worker.reported.set(None, 0);
                debug!(worker = %worker.url(), "the worker has no /get_load");
                worker.wait_for_recovery().await;
            }
            Reply::Failed(_) => worker.reported.set(None, 0),
        }
        sleep(interval.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
    }
}

/// The load in a worker's answer. SGLang has `{"load": 3}`, later `[{"dp_rank": 0, "num_reqs": 3, "num_waiting_reqs": 1, "num_tokens": 900}]`
/// with one entry for each data-parallel rank: the requests in progress, summed over the ranks.
fn parse(body: &[u8]) -> Option<f64> {
    fn load(value: &Value) -> Option<f64> {
        match value {
            Value::Number(number) => number.as_f64(),
            Value::Array(ranks) => ranks.iter().map(load).try_fold(0.0, |sum, load| Some(sum + load?)),
            Value::Object(fields) => ["load", "num_reqs"].iter().find_map(|name| fields.get(*name)).and_then(load),
            _ => None,
        }
    }
    let load = load(&serde_json::from_slice(body).ok()?)?;
    (load >= 0.0).then_some(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_form_of_a_load_is_understood() {
        for (body, load) in [
            (r#"{"load": 3}"#, Some(3.0)),
            (r#"{"load": 2.5, "more": {}}"#, Some(2.5)),
            (r#"[{"dp_rank": 0, "num_reqs": 3, "num_waiting_reqs": 1}, {"dp_rank": 1, "num_reqs": 4}]"#, Some(7.0)),
            ("7", Some(7.0)),
            ("[]", Some(0.0)),
            (r#"{"load": -1}"#, None),
            (r#"{"load": "high"}"#, None),
            (r#"[{"dp_rank": 0}]"#, None),
            ("busy", None),
        ] {
            assert_eq!(parse(body.as_bytes()), load, "{body}");
        }
    }
}
