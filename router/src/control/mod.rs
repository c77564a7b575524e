//! The routes that the router answers itself.

mod cache;
mod everywhere;
mod health;
mod load;
mod metrics;
mod models;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::Uri;

use crate::admission::Admission;
use crate::config::{RouterConfig, seconds};
use crate::discovery::{http_api, rest_api};
use crate::error::RouterError;
use crate::fleet::Fleet;

/// What control routes need.
#[derive(Clone)]
pub struct Control {
    pub fleet: Arc<Fleet>,
    pub admission: Arc<Admission>,
    pub startup_timeout: Duration,
    /// How long a worker may take over what a client asks of all of them.
    pub request_timeout: Duration,
    /// Set when the router begins to shut down.
    pub stopping: Arc<AtomicBool>,
}

// ===== impl Control =====

impl Control {
    pub fn new(fleet: Arc<Fleet>, admission: Arc<Admission>, config: &RouterConfig) -> Self {
        Self {
            fleet,
            admission,
            startup_timeout: seconds(config.worker_startup_timeout_secs),
            request_timeout: seconds(config.request_timeout_secs),
            stopping: Arc::default(),
        }
    }

    pub fn routes(self) -> Router {
        Router::new()
            .route("/health", only("GET", get(health::health)))
            .route("/readiness", only("GET", get(health::health)))
            .route("/liveness", only("GET", get(health::liveness)))
            .route("/get_load", only("GET", get(load::get_load)))
            .route("/v1/models", only("GET", get(models::list)))
            .route("/v1/models/{*id}", only("GET", get(models::show)))
            .route("/flush_cache", only("GET, POST", get(cache::flush_cache).post(cache::flush_cache)))
            .route("/metrics", only("GET", get(metrics::metrics)))
            .route("/abort_request", only("POST", post(everywhere::ask_all)))
            .route("/update_weights_from_disk", only("POST", post(everywhere::ask_all)))
            .route("/update_weights", only("POST", post(everywhere::ask_all)))
            .route("/release_memory_occupation", only("GET, POST", get(everywhere::ask_all).post(everywhere::ask_all)))
            .route("/resume_memory_occupation", only("GET, POST", get(everywhere::ask_all).post(everywhere::ask_all)))
            .route("/start_profile", only("GET, POST", get(everywhere::ask_all).post(everywhere::ask_all)))
            .route("/stop_profile", only("GET, POST", get(everywhere::ask_all).post(everywhere::ask_all)))
            .route("/add_worker", only("POST", post(http_api::add_worker)))
            .route("/remove_worker", only("POST", post(http_api::remove_worker)))
            .route("/list_workers", only("GET", get(http_api::list_workers)))
            .route("/workers", only("GET, POST", get(rest_api::list).post(rest_api::create)))
            .route("/workers/{id}", only("GET, DELETE", get(rest_api::show).delete(rest_api::delete)))
            .fallback(|uri: Uri| async move { RouterError::UnknownPath(uri.path().to_owned()) })
            .with_state(self)
    }
}

/// A route that tells a client with another method which ones it knows.
fn only(allowed: &'static str, methods: MethodRouter<Control>) -> MethodRouter<Control> {
    methods.fallback(move |_: State<Control>| async move { RouterError::WrongMethod(allowed) })
}

impl IntoResponse for RouterError {
    fn into_response(self) -> Response {
        self.response().map(axum::body::Body::new)
    }
}
