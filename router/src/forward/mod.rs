//! The life of one request: read, choose, send, stream, account, retry.

mod affinity;
mod attempt;
mod headers;
mod home;
mod read;
mod retry;
mod stall;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, Version};

use self::affinity::Affinity;
use self::attempt::Outgoing;
pub use self::headers::{REQUEST_ID, WORKER, origin_form, request_id};
pub use self::read::read_body;
use self::retry::Retry;
pub use self::stream::Stream;
use self::stream::{Record, is_event_stream};
use crate::admission::{Admission, Permit};
use crate::body::{Body, RequestBody};
use crate::config::{RouterConfig, seconds};
use crate::error::RouterError;
use crate::fleet::{AnswerKind, Fleet, Wanted};
use crate::metrics::Observation;

/// Sends requests on to workers.
pub struct Forwarder {
    fleet: Arc<Fleet>,
    retry: Retry,
    affinity: Affinity,
    admission: Arc<Admission>,
    max_payload_bytes: usize,
    /// The longest pause of an answer; `None` where it may be of any length.
    longest_pause: Option<Duration>,
    /// The longest that a client may pause within a body.
    body_pause: Duration,
}

// ===== impl Forwarder =====

impl Forwarder {
    pub fn new(fleet: Arc<Fleet>, admission: Arc<Admission>, config: &RouterConfig) -> Self {
        Self {
            retry: Retry::new(fleet.clone(), config),
            affinity: Affinity::new(config),
            fleet,
            admission,
            max_payload_bytes: config.max_payload_size,
            longest_pause: Some(seconds(config.stream_idle_timeout_secs)).filter(|pause| !pause.is_zero()),
            body_pause: seconds(config.body_timeout_secs),
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
        let mut body = read_body(body, self.max_payload_bytes, self.body_pause).await?;
        let path = parts.uri.path();
        if path == "/open_session" {
            body = home::named_session(body);
        }
        // With the body read, the connection notices when a client that waits goes away. Questions are answered at any time.
        let permit = if parts.method.is_safe() { Permit::none() } else { self.admission.admit().await? };
        let (affinity, scanned) = self.affinity.find(&parts.headers, &body);
        let model = scanned.model.as_deref().map(str::to_owned);
        let stream = scanned.stream;
        let kind = if stream { AnswerKind::Stream } else { AnswerKind::Whole };
        let home = home::home(path, &scanned).map(Box::<[u8]>::from);
        let key = scanned.key;
        if let Some(model) = &model {
            observation.names_model(model, |model| self.fleet.serves(model));
        }
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = headers::origin_form(&parts.uri);
        *request.headers_mut() = headers::towards_worker(parts.headers, id);
        observation.propagate(request.headers_mut());
        let outgoing = Outgoing { request, model, kind };
        let wanted = Wanted {
            model: outgoing.model.as_deref(),
            key: &key,
            affinity: affinity.as_deref(),
            stream,
            home: home.as_deref(),
        };
        let (response, placement) = self.retry.answer(&outgoing, wanted, observation).await?;
        observation.answered_by(&placement, response.status());
        let (mut parts, answer) = response.into_parts();
        // The version belongs to the connection with the worker.
        parts.version = Version::default();
        headers::towards_client(&mut parts.headers, placement.worker().url().text_header());
        let record = Record::new(id, outgoing.request.uri(), parts.status, observation.hand_over());
        let is_events = is_event_stream(&parts.headers);
        let stream = Stream::new(is_events, answer, placement, permit, record, self.longest_pause);
        Ok(Response::from_parts(parts, Body::Worker(Box::new(stream))))
    }
}
