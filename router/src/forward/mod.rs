//! The life of one request: read, choose, send, stream, account, retry.
//!
//! Until a worker has begun to answer, a request can be sent again, and is: to the same worker when a connection broke (at most
//! `--max-worker-retries` attempts, then the worker counts as unhealthy), to another one at once when a connection could not be opened;
//! `--max-total-retries` bounds both together. A worker's answer, whatever its status, is the answer: 429 and 503 say that a worker is
//! busy, which the client should know, and are passed on like any other.

mod headers;
mod read;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version};
use tracing::{debug, error};

pub use self::headers::{REQUEST_ID, request_id};
pub use self::read::read_body;
pub use self::stream::Stream;
use self::stream::{Record, is_event_stream};
use crate::admission::Admission;
use crate::body::{Body, RequestBody};
use crate::config::{RouterConfig, seconds};
use crate::error::RouterError;
use crate::fleet::{Fleet, Placement, Worker};
use crate::metrics::Observation;
use crate::prefix::Key;
use crate::prompt;
use crate::upstream::{Answer, Connection};

/// Sends requests on to workers.
pub struct Forwarder {
    fleet: Arc<Fleet>,
    admission: Arc<Admission>,
    max_payload_bytes: usize,
    max_worker_attempts: u32,
    max_retries: u32,
    connect_timeout: Duration,
    answer_timeout: Duration,
}

/// Why an attempt brought no answer.
enum Failure {
    /// No connection could be opened: the worker is not there.
    Connect(io::Error),
    /// The connection broke before the answer began.
    Broken(io::Error),
    /// The worker took the request and was silent for too long.
    Silent,
    /// The router is out of sockets, which is no worker's fault.
    Exhausted(io::Error),
}

// ===== impl Forwarder =====

impl Forwarder {
    pub fn new(fleet: Arc<Fleet>, admission: Arc<Admission>, config: &RouterConfig) -> Self {
        Self {
            fleet,
            admission,
            max_payload_bytes: config.max_payload_size,
            max_worker_attempts: config.max_worker_retries,
            max_retries: config.max_total_retries,
            connect_timeout: seconds(config.connect_timeout_secs),
            answer_timeout: seconds(config.request_timeout_secs),
        }
    }

    /// Answers one request of a client with a worker's answer. Dropping the future or the response ends the worker's exchange.
    pub async fn forward(
        &self,
        request: Request<RequestBody>,
        id: &HeaderValue,
        observation: &mut Observation,
    ) -> Result<Response<Body>, RouterError> {
        let (parts, body) = request.into_parts();
        let body = read_body(body, self.max_payload_bytes).await?;
        // With the body read, the connection notices when a client that waits goes away.
        let permit = self.admission.admit().await?;
        let prompt::Scanned { key, model, .. } = prompt::scan(&body, None);
        if let Some(model) = model {
            observation.names_model(&model, |_| false);
        }
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = headers::origin_form(&parts.uri);
        *outgoing.headers_mut() = headers::towards_worker(parts.headers, id);
        observation.propagate(outgoing.headers_mut());
        let (response, placement) = self.exchange(&outgoing, &key, observation).await?;
        observation.answered_by(&placement, response.status());
        let (mut parts, answer) = response.into_parts();
        // The version belongs to the connection with the worker.
        parts.version = Version::default();
        headers::towards_client(&mut parts.headers, placement.worker().url().text_header());
        let record = Record::new(id, outgoing.uri(), parts.status, observation.hand_over());
        let stream = Stream::new(is_event_stream(&parts.headers), answer, placement, permit, record);
        Ok(Response::from_parts(parts, Body::Worker(Box::new(stream))))
    }

    /// Tries until a worker answers.
    async fn exchange(
        &self,
        request: &Request<Bytes>,
        key: &Key,
        observation: &Observation,
    ) -> Result<(Response<Answer>, Placement), RouterError> {
        let mut retries = 0;
        loop {
            let Some(placement) = self.fleet.assign(key, None) else {
                return Err(RouterError::NoHealthyWorker { workers: self.fleet.workers().len() });
            };
            let worker = placement.worker();
            let mut attempts = 0;
            while worker.is_available() {
                let failure = match self.attempt(worker, request).await {
                    Ok(response) => return Ok((response, placement)),
                    Err(failure) => failure,
                };
                attempts += 1;
                let reason = self.blame(worker, failure, attempts)?;
                debug!(worker = %worker.url(), reason, attempts, retries, "attempt failed");
                if retries == self.max_retries {
                    return Err(RouterError::WorkersFailed(format!(
                        "no worker answered after {retries} retries (--max-total-retries); the last: {}: {reason}",
                        worker.url()
                    )));
                }
                retries += 1;
                observation.is_retried();
            }
        }
    }

    /// One attempt on one worker: over an idle connection if there is one, else over a new one. That the worker has closed an idle
    /// connection does not count as a failure.
    async fn attempt(&self, worker: &Worker, request: &Request<Bytes>) -> Result<Response<Answer>, Failure> {
        if let Some(connection) = worker.pool.take() {
            match self.send(connection, request, worker).await {
                Err(Failure::Broken(error)) => debug!(worker = %worker.url(), %error, "idle connection was stale"),
                answered => return answered,
            }
        }
        let connection = Connection::open(worker.url(), self.connect_timeout).await.map_err(Failure::opening)?;
        self.send(connection, request, worker).await
    }

    async fn send(
        &self,
        connection: Connection,
        request: &Request<Bytes>,
        worker: &Worker,
    ) -> Result<Response<Answer>, Failure> {
        match tokio::time::timeout(self.answer_timeout, connection.send(request, worker.url())).await {
            Ok(answered) => answered.map_err(Failure::Broken),
            Err(_) => Err(Failure::Silent),
        }
    }

    /// Holds a failure against the worker as far as it is to blame. `Err` if trying again would not help; else the reason.
    fn blame(&self, worker: &Worker, failure: Failure, attempts: u32) -> Result<String, RouterError> {
        match failure {
            Failure::Connect(error) => {
                let reason = format!("cannot connect: {error}");
                worker.mark_unhealthy(&reason);
                Ok(reason)
            }
            Failure::Broken(error) => {
                let reason = format!("connection broke before the answer: {error}");
                if attempts >= self.max_worker_attempts {
                    worker.mark_unhealthy(&reason);
                }
                Ok(reason)
            }
            Failure::Silent => Err(RouterError::TimedOut {
                worker: worker.url().to_string(),
                seconds: self.answer_timeout.as_secs_f64(),
            }),
            Failure::Exhausted(error) => {
                error!(%error, "cannot open connections");
                Err(RouterError::Exhausted(format!("the router cannot open connections: {error}")))
            }
        }
    }
}

// ===== impl Failure =====

impl Failure {
    fn opening(error: io::Error) -> Self {
        /// `ENFILE` and `EMFILE`: too many open files in the system, or in this process.
        const TOO_MANY_FILES: [i32; 2] = [23, 24];
        let local = error.kind() == io::ErrorKind::AddrNotAvailable
            || error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code));
        if local { Self::Exhausted(error) } else { Self::Connect(error) }
    }
}
