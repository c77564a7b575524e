//! `GET /health`, `/readiness` and `/liveness`: cheap, and without a key.

use std::sync::atomic::Ordering;

use axum::extract::State;

use super::Control;
use crate::error::RouterError;

/// 200 when at least one worker can serve, and the router is not about to end.
pub async fn health(State(control): State<Control>) -> Result<&'static str, RouterError> {
    if control.stopping.load(Ordering::Relaxed) {
        return Err(RouterError::ShuttingDown);
    }
    if control.fleet.has_healthy_worker() {
        return Ok("OK");
    }
    Err(RouterError::NoHealthyWorker { workers: control.fleet.workers().len() })
}

/// 200 for as long as the router answers at all: restarting it would not bring a worker back.
pub async fn liveness() -> &'static str {
    "OK"
}
