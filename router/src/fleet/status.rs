//! What is known of a worker, for whoever asks the router about it.

use serde::Serialize;

use super::breaker::BreakerState;
use super::condition::Health;
use super::worker::{Worker, WorkerId};
use crate::moment::Moment;

#[derive(Clone, Debug, Serialize)]
pub struct WorkerStatus {
    pub id: WorkerId,
    pub url: String,
    pub health: Health,
    /// True when it may be given requests now.
    pub available: bool,
    /// True while the requests of a removed worker end.
    pub draining: bool,
    /// True from when it was found to hang until it has answered again.
    pub suspect: bool,
    pub circuit_breaker: BreakerState,
    /// Requests in progress.
    pub load: usize,
    /// What the worker itself reports at `/get_load`.
    pub reported_load: Option<f64>,
    /// Names of the models that it serves; none for a worker that does not say.
    pub models: Vec<String>,
    /// Checks and requests that failed since the last one that did not.
    pub consecutive_failures: u32,
    pub last_error: Option<String>,
    /// Since its health or its circuit breaker changed.
    pub seconds_in_this_state: f64,
}

impl Worker {
    pub fn status(&self) -> WorkerStatus {
        let models = self.models.load().names().map(str::to_owned).collect();
        let (available, draining, suspect) = (self.is_available(), self.is_draining(), self.is_suspect());
        let condition = self.condition.lock();
        WorkerStatus {
            id: self.id(),
            url: self.url().to_string(),
            health: condition.health(),
            available,
            draining,
            suspect,
            circuit_breaker: condition.breaker.state(),
            load: self.load(),
            reported_load: self.reported_load(),
            models,
            consecutive_failures: condition.failures,
            last_error: condition.last_error.clone(),
            seconds_in_this_state: Moment::now().since(condition.since).as_secs_f64(),
        }
    }
}
