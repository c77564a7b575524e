//! `POST /add_worker?url=…`, `POST /remove_worker?url=…` and `GET /list_workers`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::RouterError;
use crate::fleet::{Fleet, WorkerUrl};

#[derive(Deserialize)]
pub struct Parameters {
    url: Option<String>,
}

/// The worker that the query names.
fn asked_for(parameters: Result<Query<Parameters>, QueryRejection>) -> Result<WorkerUrl, RouterError> {
    let Query(parameters) = parameters.map_err(|error| RouterError::BadRequest(error.body_text()))?;
    let missing = || RouterError::BadRequest("the query parameter url is missing".to_owned());
    WorkerUrl::parse(&parameters.url.ok_or_else(missing)?).map_err(RouterError::BadRequest)
}

#[derive(Serialize)]
pub struct Workers {
    urls: Vec<String>,
}

/// Adds a worker and answers when it is healthy. One that does not become so in time is taken out again, as it is when
/// whoever asked for it goes away before.
pub async fn add_worker(
    State(control): State<Control>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<String, RouterError> {
    let url = asked_for(parameters)?;
    let worker = control.fleet.add(url.clone()).map_err(RouterError::BadRequest)?;
    let mut pending = Pending { fleet: &control.fleet, url: Some(&url) };
    match tokio::time::timeout(control.startup_timeout, worker.wait_until_healthy()).await {
        Ok(true) => {
            pending.url = None;
            Ok(format!("Successfully added worker: {url}"))
        }
        Ok(false) => {
            pending.url = None;
            Err(RouterError::BadRequest(format!("worker {url} was removed before it became healthy")))
        }
        Err(_) => Err(RouterError::BadRequest(format!(
            "worker {url} did not become healthy within {} s (--worker-startup-timeout-secs): {}",
            control.startup_timeout.as_secs_f64(),
            worker.last_error().unwrap_or_else(|| "it takes too long to answer its check".to_owned())
        ))),
    }
}

/// Takes a worker out of the fleet; the requests that it is answering end first.
pub async fn remove_worker(
    State(control): State<Control>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<String, RouterError> {
    let url = asked_for(parameters)?;
    control.fleet.remove(&url).map_err(RouterError::BadRequest)?;
    Ok(format!("Successfully removed worker: {url}"))
}

pub async fn list_workers(State(control): State<Control>) -> Json<Workers> {
    let urls = control.fleet.workers().iter().map(|worker| worker.url().to_string()).collect();
    Json(Workers { urls })
}

/// A worker that was added and has not answered yet: taken out on drop, unless `url` was taken away.
struct Pending<'a> {
    fleet: &'a Arc<Fleet>,
    url: Option<&'a WorkerUrl>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(url) = self.url {
            // An error says that somebody else has removed it already.
            let _ = self.fleet.remove(url);
        }
    }
}
