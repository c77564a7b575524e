//! The fleet as a resource: `GET` and `POST /workers`, `GET` and `DELETE /workers/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use http::StatusCode;
use http::header::LOCATION;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::error::RouterError;
use crate::fleet::{Worker, WorkerId, WorkerStatus, WorkerUrl};

/// The body of `POST /workers`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWorker {
    url: String,
}

#[derive(Serialize)]
pub struct Workers {
    workers: Vec<WorkerStatus>,
}

pub async fn list(State(control): State<Control>) -> Json<Workers> {
    Json(Workers { workers: control.fleet.workers().iter().map(|worker| worker.status()).collect() })
}

/// Adds a worker and answers at once: 202, for it gets requests only when it has become healthy.
pub async fn create(
    State(control): State<Control>,
    body: Result<Bytes, BytesRejection>,
) -> Result<impl IntoResponse, RouterError> {
    let body = body.map_err(|error| RouterError::BadRequest(error.body_text()))?;
    let new: NewWorker = serde_json::from_slice(&body).map_err(|error| {
        RouterError::BadRequest(format!("the body is not {{\"url\": \"http://HOST:PORT\"}}: {error}"))
    })?;
    let url = WorkerUrl::parse(&new.url).map_err(RouterError::BadRequest)?;
    let worker = control.fleet.add(url).map_err(RouterError::Conflict)?;
    let location = [(LOCATION, format!("/workers/{}", worker.id()))];
    Ok((StatusCode::ACCEPTED, location, Json(worker.status())))
}

pub async fn show(State(control): State<Control>, Path(id): Path<String>) -> Result<Json<WorkerStatus>, RouterError> {
    Ok(Json(find(&control, &id)?.status()))
}

/// Takes a worker out and answers at once: 202, for the requests that it is answering end first.
pub async fn delete(State(control): State<Control>, Path(id): Path<String>) -> Result<impl IntoResponse, RouterError> {
    let worker = find(&control, &id)?;
    // An error says that somebody else was faster.
    control.fleet.remove(worker.url()).map_err(RouterError::NotFound)?;
    Ok((StatusCode::ACCEPTED, Json(worker.status())))
}

fn find(control: &Control, id: &str) -> Result<Arc<Worker>, RouterError> {
    let workers = control.fleet.workers();
    let found = id.parse().ok().and_then(|id: WorkerId| workers.iter().find(|worker| worker.id() == id));
    found.cloned().ok_or_else(|| RouterError::NotFound(format!("no worker has the id {id}; GET /workers lists them")))
}
