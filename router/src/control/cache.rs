//! `GET` and `POST /flush_cache`: every worker forgets what it has cached, and so does the router.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};

use super::Control;
use crate::error::{RouterError, error_json};
use crate::fleet::Worker;
use crate::upstream::fetch;

/// How long a worker may take to flush its cache.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Flushes the cache of every healthy worker, and what the router believes to be in it.
pub async fn flush_cache(State(control): State<Control>) -> Response {
    let workers = control.fleet.workers();
    let available: Vec<&Arc<Worker>> = workers.iter().filter(|worker| worker.is_available()).collect();
    if available.is_empty() {
        return RouterError::NoHealthyWorker { workers: workers.len() }.into_response();
    }
    let authorization = control.worker_authorization.as_ref();
    let failures: Vec<String> = join_all(available.iter().map(|worker| flush(worker, authorization)))
        .await
        .into_iter()
        .zip(&available)
        .filter_map(|(flushed, worker)| Some(format!("{}: {}", worker.url(), flushed.err()?)))
        .collect();
    control.fleet.forget_prefixes();
    if failures.is_empty() {
        return format!("Cache flushed on {} workers.\n", available.len()).into_response();
    }
    let message =
        format!("cache not flushed on {} of {} workers: {}", failures.len(), available.len(), failures.join("; "));
    let kind = [(CONTENT_TYPE, "application/json")];
    (StatusCode::BAD_GATEWAY, kind, error_json(StatusCode::BAD_GATEWAY, &message)).into_response()
}

/// `POST /flush_cache` to one worker; the error is what it said instead of 200.
async fn flush(worker: &Worker, authorization: Option<&HeaderValue>) -> Result<(), String> {
    let mut request = Request::post("/flush_cache").body(Bytes::new()).expect("the parts are valid");
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    let response = fetch(&request, worker.url(), FLUSH_TIMEOUT).await.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(format!("status {status}")),
    }
}
