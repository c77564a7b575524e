//! Keeps watch over one worker: asks its health check, takes it out of service and back.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::info;

use super::inquiry::{Inquirer, Reply};
use super::models;
use super::worker::Worker;
use super::{Fleet, Health};
use crate::config::{RouterConfig, seconds};
use crate::moment::Moment;

/// The first pause after a worker went out of service; later ones double.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause while a worker has not come up yet, so that it is used at once when it does.
const STARTING_BACKOFF: Duration = Duration::from_millis(250);

/// A worker that goes out of service this soon after it came back is flapping.
const FLAPPING: Duration = Duration::from_secs(30);

/// The most checks in a row that a flapping worker has to pass, 0.1 s apart.
const MAX_SUCCESSES: u32 = 8;

/// How often a healthy worker is asked for its models.
const MODELS_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(super) struct ProbeSettings {
    path: String,
    interval: Duration,
    timeout: Duration,
    max_backoff: Duration,
    /// Failed checks in a row that make a healthy worker unhealthy.
    failures: u32,
    /// Checks in a row that an unhealthy worker has to pass.
    successes: u32,
}

impl From<&RouterConfig> for ProbeSettings {
    fn from(config: &RouterConfig) -> Self {
        Self {
            path: config.health_check_endpoint.clone(),
            interval: seconds(config.health_check_interval_secs),
            timeout: seconds(config.health_check_timeout_secs),
            max_backoff: seconds(config.health_check_max_backoff_secs),
            failures: config.health_failure_threshold,
            successes: config.health_success_threshold,
        }
    }
}

/// The checks of one worker.
pub(super) struct Prober {
    worker: Arc<Worker>,
    fleet: Weak<Fleet>,
    settings: ProbeSettings,
    inquirer: Inquirer,
    failures: u32,
    successes: u32,
    /// Checks to pass before it is taken back.
    needed: u32,
    backoff: Duration,
    recovered: Option<Moment>,
    models_learned: Option<Moment>,
}

impl Prober {
    pub fn new(worker: Arc<Worker>, fleet: Weak<Fleet>, settings: ProbeSettings, inquirer: Inquirer) -> Self {
        Self {
            worker,
            fleet,
            settings,
            inquirer,
            failures: 0,
            successes: 0,
            needed: 1,
            backoff: FIRST_BACKOFF,
            recovered: None,
            models_learned: None,
        }
    }

    /// Checks until the worker leaves the fleet.
    pub async fn watch(mut self) {
        while !self.worker.is_draining() {
            let was_healthy = self.worker.health() == Health::Healthy;
            let outcome = match self.inquirer.get(&self.worker, &self.settings.path, self.settings.timeout).await {
                Reply::Ok(_) => Ok(()),
                Reply::Missing => Err(io::Error::other("it does not know the path, or wants another key")),
                Reply::Failed(error) => Err(error),
            };
            match outcome {
                Ok(()) => self.passed(was_healthy).await,
                Err(error) => self.failed(&error),
            }
            self.worker.pool.prune();
            self.pause().await;
        }
    }

    async fn passed(&mut self, was_healthy: bool) {
        self.failures = 0;
        self.successes += 1;
        // Unhealthy meanwhile, by what requests saw: then this check began too early to count.
        if was_healthy && self.worker.health() == Health::Healthy {
            self.learn_models(MODELS_INTERVAL).await;
            return self.worker.mark_healthy();
        }
        if !was_healthy && self.successes >= self.needed {
            // What it serves must be known before it gets requests.
            self.learn_models(Duration::ZERO).await;
            self.recovered = Some(Moment::now());
            self.backoff = FIRST_BACKOFF;
            self.worker.mark_healthy();
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.successes = 0;
        self.failures += 1;
        let reason = format!("{}: {error}", self.settings.path);
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        match self.worker.health() {
            Health::Healthy if refused || self.failures >= self.settings.failures => {
                self.worker.mark_unhealthy(&reason)
            }
            Health::Starting if self.failures == 1 => {
                info!(worker = %self.worker.url(), %reason, "waiting for worker");
                self.worker.note_error(&reason);
            }
            _ => self.worker.note_error(&reason),
        }
        if refused && let Some(fleet) = self.fleet.upgrade() {
            fleet.forget(&self.worker);
        }
    }

    async fn learn_models(&mut self, older: Duration) {
        let now = Moment::now();
        if self.models_learned.is_some_and(|learned| now.since(learned) < older) {
            return;
        }
        self.models_learned = Some(now);
        if models::learn(&self.worker, &self.inquirer).await
            && let Some(fleet) = self.fleet.upgrade()
        {
            fleet.regroup();
        }
    }

    async fn pause(&mut self) {
        let health = self.worker.health();
        if health == Health::Unhealthy
            && let Some(recovered) = self.recovered.take()
        {
            self.has_gone_out(Moment::now().since(recovered));
        }
        let pause = match health {
            Health::Healthy => self.settings.interval,
            _ if self.successes > 0 => FIRST_BACKOFF,
            Health::Starting => self.backoff.min(STARTING_BACKOFF),
            Health::Unhealthy => self.backoff,
        };
        if health != Health::Healthy {
            self.backoff = (self.backoff * 2).min(self.settings.max_backoff);
        }
        // Spread, so that many workers are not asked at once.
        let pause = pause.min(if health == Health::Healthy { pause } else { self.settings.max_backoff });
        tokio::select! {
            () = tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            () = self.worker.attention.notified() => {
                tokio::time::sleep(FIRST_BACKOFF.min(self.settings.max_backoff)).await;
            }
        }
    }

    /// It was in service for so long.
    fn has_gone_out(&mut self, served: Duration) {
        self.successes = 0;
        self.backoff = FIRST_BACKOFF;
        self.needed = if served < FLAPPING {
            (self.needed * 2).min(MAX_SUCCESSES).max(self.settings.successes)
        } else {
            self.settings.successes
        };
    }
}
