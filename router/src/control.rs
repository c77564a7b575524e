//! The routes that the router answers itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, Uri};

use crate::config::{RouterConfig, seconds};
use crate::discovery;
use crate::error::{RouterError, error_json};
use crate::fleet::{Fleet, Worker};
use crate::upstream::fetch;

/// How long a worker may take to flush its cache.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// What control routes need.
#[derive(Clone)]
pub struct Control {
    pub fleet: Arc<Fleet>,
    pub startup_timeout: Duration,
}

impl IntoResponse for RouterError {
    fn into_response(self) -> Response {
        self.response().map(axum::body::Body::new)
    }
}

pub fn routes(fleet: Arc<Fleet>, config: &RouterConfig) -> Router {
    let state = Control { fleet, startup_timeout: seconds(config.worker_startup_timeout_secs) };
    Router::new()
        .route("/health", get(health).fallback(|| async { RouterError::WrongMethod("GET") }))
        .route(
            "/flush_cache",
            get(flush_cache).post(flush_cache).fallback(|| async { RouterError::WrongMethod("GET, POST") }),
        )
        .route("/add_worker", post(discovery::add_worker).fallback(|| async { RouterError::WrongMethod("POST") }))
        .route("/remove_worker", post(discovery::remove_worker).fallback(|| async { RouterError::WrongMethod("POST") }))
        .route("/list_workers", get(discovery::list_workers).fallback(|| async { RouterError::WrongMethod("GET") }))
        .fallback(|uri: Uri| async move { RouterError::UnknownPath(uri.path().to_owned()) })
        .with_state(state)
}

/// 200 when at least one worker can serve.
async fn health(State(control): State<Control>) -> Result<&'static str, RouterError> {
    if control.fleet.has_healthy_worker() {
        return Ok("OK");
    }
    Err(RouterError::NoHealthyWorker { workers: control.fleet.workers().len() })
}

/// Flushes the cache of every healthy worker, and what the router believes to be in it.
async fn flush_cache(State(control): State<Control>) -> Response {
    let workers = control.fleet.workers();
    let available: Vec<&Arc<Worker>> = workers.iter().filter(|worker| worker.is_available()).collect();
    if available.is_empty() {
        return RouterError::NoHealthyWorker { workers: workers.len() }.into_response();
    }
    let failures: Vec<String> = join_all(available.iter().map(|worker| flush(worker)))
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
    let kind = [(http::header::CONTENT_TYPE, "application/json")];
    (StatusCode::BAD_GATEWAY, kind, error_json(StatusCode::BAD_GATEWAY, &message)).into_response()
}

/// `POST /flush_cache` to one worker; the error is what it said instead of 200.
async fn flush(worker: &Worker) -> Result<(), String> {
    let request = Request::post("/flush_cache").body(Bytes::new()).expect("the parts are valid");
    let response = fetch(&request, worker.url(), FLUSH_TIMEOUT).await.map_err(|error| error.to_string())?;
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(format!("status {status}")),
    }
}
