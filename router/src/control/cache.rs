//! `GET` and `POST /flush_cache`: every worker forgets what it has cached, and so does the router.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, StatusCode};

use super::Control;
use super::everywhere::{Told, ask};
use crate::error::{RouterError, error_json};

/// How long a worker may take to flush its cache.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// Flushes the cache of every healthy worker, and what the router believes to be in it.
pub async fn flush_cache(State(control): State<Control>, headers: HeaderMap) -> Result<Response, RouterError> {
    let request = Request::post("/flush_cache").body(Bytes::new()).expect("the parts are valid");
    let told = ask(&control, request, &headers, FLUSH_TIMEOUT).await?;
    control.fleet.forget_prefixes();
    let failures: Vec<String> = told.iter().filter_map(failure).collect();
    if failures.is_empty() {
        return Ok(format!("Cache flushed on {} workers.\n", told.len()).into_response());
    }
    let message = format!("cache not flushed on {} of {} workers: {}", failures.len(), told.len(), failures.join("; "));
    let kind = [(CONTENT_TYPE, "application/json")];
    Ok((StatusCode::BAD_GATEWAY, kind, error_json(StatusCode::BAD_GATEWAY, &message)).into_response())
}

/// What a worker said instead of 200, if it did.
fn failure((worker, answer): &Told) -> Option<String> {
    match answer {
        Ok(answer) if answer.status() == StatusCode::OK => None,
        Ok(answer) => Some(format!("{}: status {}", worker.url(), answer.status())),
        Err(error) => Some(format!("{}: {error}", worker.url())),
    }
}
