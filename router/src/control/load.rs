//! `GET /get_load`: how busy the fleet is.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Control;

#[derive(Serialize)]
pub struct FleetLoad {
    /// Requests in progress on all workers.
    load: usize,
    /// Requests that wait for a place (`--max-concurrent-requests`).
    waiting: usize,
    workers: Vec<WorkerLoad>,
}

#[derive(Serialize)]
struct WorkerLoad {
    url: String,
    load: usize,
}

pub async fn get_load(State(control): State<Control>) -> Json<FleetLoad> {
    let workers: Vec<WorkerLoad> = control
        .fleet
        .workers()
        .iter()
        .map(|worker| WorkerLoad { url: worker.url().to_string(), load: worker.load() })
        .collect();
    let load = workers.iter().map(|worker| worker.load).sum();
    Json(FleetLoad { load, waiting: control.admission.waiting(), workers })
}
