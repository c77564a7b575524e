//! Keeps watch over one worker: asks its /health, takes it out of service and back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use tracing::info;

use super::worker::{Health, Worker};
use crate::config::{RouterConfig, seconds};
use crate::upstream::fetch;

/// The first pause after a worker went out of service; later ones double.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// The longest pause while a worker has not come up yet, so that it is used at once when it does.
const STARTING_BACKOFF: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeSettings {
    interval: Duration,
    timeout: Duration,
    max_backoff: Duration,
    /// Failed probes in a row that make a healthy worker unhealthy.
    failures: u32,
}

impl From<&RouterConfig> for ProbeSettings {
    fn from(config: &RouterConfig) -> Self {
        Self {
            interval: seconds(config.health_check_interval_secs),
            timeout: seconds(config.health_check_timeout_secs),
            max_backoff: seconds(config.health_check_max_backoff_secs),
            failures: config.health_check_failures,
        }
    }
}

/// Probes until the worker leaves the fleet.
pub(super) async fn watch(worker: Arc<Worker>, settings: ProbeSettings) {
    let mut failures = 0;
    let mut backoff = FIRST_BACKOFF;
    while !worker.is_draining() {
        match probe(&worker, settings.timeout).await {
            Ok(()) => {
                failures = 0;
                backoff = FIRST_BACKOFF;
                worker.mark_healthy();
            }
            Err(reason) => {
                failures += 1;
                if failures == 1 && worker.health() == Health::Starting {
                    info!(worker = %worker.url(), %reason, "waiting for worker");
                }
                if failures >= settings.failures || reason.kind() == io::ErrorKind::ConnectionRefused {
                    worker.mark_unhealthy(&format!("/health: {reason}"));
                }
            }
        }
        worker.pool.prune();
        let pause = match worker.health() {
            Health::Healthy => settings.interval,
            Health::Starting => backoff.min(STARTING_BACKOFF).min(settings.max_backoff),
            Health::Unhealthy => backoff.min(settings.max_backoff),
        };
        if worker.health() != Health::Healthy {
            backoff = (backoff * 2).min(settings.max_backoff);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = worker.attention() => tokio::time::sleep(FIRST_BACKOFF.min(settings.max_backoff)).await,
        }
    }
}

/// One `GET /health` on a fresh connection, which also shows that the worker still accepts.
async fn probe(worker: &Worker, timeout: Duration) -> io::Result<()> {
    let request = Request::get("/health").body(Bytes::new()).expect("the parts are valid");
    let response = fetch(&request, worker.url(), timeout).await?;
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(io::Error::other(format!("status {status}"))),
    }
}
