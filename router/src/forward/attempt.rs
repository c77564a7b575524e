//! One attempt: a request sent to one worker, until the worker begins to answer.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use crate::config::{RouterConfig, seconds};
use crate::fleet::{AnswerKind, Fleet, Placement, Worker};
use crate::upstream::{Answer, Connection};

/// Most answers begin within this time. Only who waits longer looks whether the worker hangs.
const USUAL_WAIT: Duration = Duration::from_millis(250);

/// How long the head of a stream is held back for its first piece. Some workers send the head when they take the request, long before they
/// have a token; as long as it has not been passed on, another worker can answer.
const HEAD_HELD: Duration = Duration::from_secs(3);

/// A request on its way to a worker, as often as needed.
pub(super) struct Outgoing {
    pub request: Request<Bytes>,
    pub model: Option<String>,
    pub kind: AnswerKind,
}

/// Why an attempt brought no answer.
pub(super) enum Failure {
    /// No connection could be opened: the worker is not there.
    Connect(io::Error),
    /// The connection broke before the answer began.
    Broken(io::Error),
    /// The worker took the request and was silent for too long.
    Silent,
    /// The worker hangs, is unhealthy or has left, and another one is there.
    GivenUp,
    /// The router is out of sockets, which is no worker's fault.
    Exhausted(io::Error),
}

/// What every attempt has to keep to.
pub(super) struct Limits {
    connect: Duration,
    first_byte: Duration,
}

impl From<&RouterConfig> for Limits {
    fn from(config: &RouterConfig) -> Self {
        Self { connect: seconds(config.connect_timeout_secs), first_byte: seconds(config.worker_ttfb_timeout_secs) }
    }
}

// ===== impl Limits =====

impl Limits {
    /// Sends the request and waits for the answer's first byte, at the latest until `deadline`.
    pub async fn attempt(
        &self,
        outgoing: &Outgoing,
        placement: &Placement,
        fleet: &Fleet,
        deadline: Instant,
    ) -> Result<Response<Answer>, Failure> {
        let worker = placement.worker();
        let deadline = deadline.min(Instant::now() + self.first_byte);
        let mut exchange = pin!(self.exchange(outgoing, worker));
        let usual = USUAL_WAIT.min(deadline - Instant::now());
        if let Ok(outcome) = timeout(usual, &mut exchange).await {
            return outcome;
        }
        tokio::select! {
            biased;
            outcome = exchange => outcome,
            () = sleep_until(deadline) => Err(Failure::Silent),
            () = given_up(outgoing, worker, fleet) => Err(Failure::GivenUp),
        }
    }

    /// Over an idle connection if there is one, else over a new one. That the worker has closed an idle connection is no failure; but since
    /// it cannot be told from one that closed after it began to work, what must not be done twice takes a new connection.
    async fn exchange(&self, outgoing: &Outgoing, worker: &Worker) -> Result<Response<Answer>, Failure> {
        if outgoing.is_repeatable()
            && let Some(connection) = worker.pool.take()
        {
            match send(connection, outgoing, worker).await {
                Err(Failure::Broken(error)) => debug!(worker = %worker.url(), %error, "idle connection was stale"),
                answered => return answered,
            }
        }
        let connection = Connection::open(worker.url(), self.connect).await.map_err(Failure::opening)?;
        send(connection, outgoing, worker).await
    }
}

/// Until the answer begins.
async fn send(connection: Connection, outgoing: &Outgoing, worker: &Worker) -> Result<Response<Answer>, Failure> {
    let mut response = connection.send(&outgoing.request, worker.url()).await.map_err(Failure::Broken)?;
    if response.status().is_success()
        && response.body().length().is_none()
        && let Ok(begun) = timeout(HEAD_HELD, response.body_mut().begin()).await
    {
        begun.map_err(Failure::Broken)?;
    }
    Ok(response)
}

/// Returns when there is no use in waiting for this worker, but in asking another one.
async fn given_up(outgoing: &Outgoing, worker: &Worker, fleet: &Fleet) {
    if !outgoing.is_repeatable() {
        return std::future::pending().await;
    }
    loop {
        worker.wait_until_given_up().await;
        if fleet.has_available(outgoing.model.as_deref(), |other| other.id() != worker.id()) {
            return;
        }
        sleep(USUAL_WAIT).await;
    }
}

// ===== impl Outgoing =====

impl Outgoing {
    /// True when it does no harm that two workers do it: reading, and everything that generates or computes from the request alone.
    /// What keeps something, such as an upload, is sent once.
    pub fn is_repeatable(&self) -> bool {
        const COMPUTING: [&str; 21] = [
            "/generate",
            "/encode",
            "/classify",
            "/rerank",
            "/score",
            "/function_call",
            "/separate_reasoning",
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/v1/embeddings",
            "/v1/rerank",
            "/v1/score",
            "/v1/classify",
            "/v1/moderations",
            "/v1/tokenize",
            "/v1/detokenize",
            "/v1/audio/transcriptions",
            "/v1/audio/translations",
            "/v1/audio/speech",
        ];
        let (method, path) = (self.request.method(), self.request.uri().path());
        method.is_safe() || [Method::POST, Method::PUT].contains(method) && COMPUTING.contains(&path)
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
