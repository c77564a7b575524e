//! One span a request, exported with OTLP to a collector. Never on the way of a request: a span that cannot be queued is dropped.

mod export;
mod traceparent;

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::HeaderName;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use self::export::traces_url;
use self::traceparent::TraceParent;
use crate::config::RouterConfig;
use crate::fleet::Placement;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The most spans that wait for the collector.
const QUEUE_LENGTH: usize = 4096;

/// Where requests are traced.
pub struct Spans {
    queue: mpsc::Sender<SpanData>,
}

/// A request while it is being answered.
pub struct Span {
    trace: TraceId,
    id: SpanId,
    /// The client's span, if it sent one.
    parent: Option<SpanId>,
    begun: SystemTime,
    worker: Option<String>,
    reason: &'static str,
    first_token: Option<Duration>,
}

// ===== impl Spans =====

impl Spans {
    /// Begins to export to where `config` says; `None` where it says nothing. Must be called on the runtime. The task ends when
    /// this has been dropped and the last spans have been sent.
    pub fn start(config: &RouterConfig) -> std::io::Result<Option<(Self, JoinHandle<()>)>> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let (queue, spans) = mpsc::channel(QUEUE_LENGTH);
        let exporting = export::start(endpoint, spans)?;
        Ok(Some((Self { queue }, exporting)))
    }

    /// A span for a request with these headers, unless its client says that the trace is not sampled.
    pub fn begin(&self, headers: &HeaderMap) -> Option<Box<Span>> {
        let client = headers.get(TRACEPARENT).and_then(|value| TraceParent::parse(value.as_bytes()));
        if client.as_ref().is_some_and(|client| !client.is_sampled) {
            return None;
        }
        Some(Box::new(Span {
            trace: client.as_ref().map_or_else(traceparent::new_trace, |client| client.trace),
            id: traceparent::new_span(),
            parent: client.map(|client| client.span),
            begun: SystemTime::now(),
            worker: None,
            reason: "",
            first_token: None,
        }))
    }

    /// The request has ended: with `status`, or with none because the client left.
    pub fn end(&self, span: Span, route: &'static str, model: &str, status: u16) {
        // Full, the collector cannot keep up, or is away, of which the log tells.
        let _ = self.queue.try_send(span.data(route, model, status));
    }
}

// ===== impl Span =====

impl Span {
    /// Says to the worker that this is the parent of what it traces.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        let header = TraceParent { trace: self.trace, span: self.id, is_sampled: true }.header();
        headers.insert(TRACEPARENT, header);
    }

    pub fn answered_by(&mut self, placement: &Placement) {
        self.worker = Some(placement.worker().url().to_string());
        self.reason = placement.reason();
    }

    pub fn has_first_token(&mut self, after: Duration) {
        self.first_token = Some(after);
    }

    fn data(self, route: &'static str, model: &str, status: u16) -> SpanData {
        let mut attributes = vec![KeyValue::new("http.route", route)];
        if !model.is_empty() {
            attributes.push(KeyValue::new("gen_ai.request.model", model.to_owned()));
        }
        if status > 0 {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(worker) = self.worker {
            attributes.push(KeyValue::new("radixfleet.worker", worker));
            attributes.push(KeyValue::new("radixfleet.policy.reason", self.reason));
        }
        if let Some(after) = self.first_token {
            attributes.push(KeyValue::new("radixfleet.time_to_first_token", after.as_secs_f64()));
        }
        let failed = match status {
            0 => Status::error("the client left"),
            500.. => Status::error(""),
            _ => Status::Unset,
        };
        SpanData {
            span_context: SpanContext::new(self.trace, self.id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: SpanKind::Server,
            name: route.into(),
            start_time: self.begun,
            end_time: SystemTime::now(),
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: failed,
            instrumentation_scope: InstrumentationScope::builder("radixfleet-router")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}
