//! One request, as it is counted and traced.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::{Counted, Metrics, ModelMetrics, labels};
use crate::fleet::Placement;
use crate::moment::Moment;
use crate::spans::Span;

/// Measures from the arrival of a request to the drop of whoever has it last, when it is counted: no way out of a request can
/// forget to.
pub struct Observation(Option<Observed>);

struct Observed {
    metrics: Arc<Metrics>,
    route: usize,
    model: Arc<ModelMetrics>,
    /// 0 until there is one.
    status: u16,
    begun: Moment,
    last_chunk: Option<Moment>,
    span: Option<Box<Span>>,
    _in_progress: Counted,
}

// ===== impl Observation =====

impl Observation {
    pub(super) fn new(metrics: Arc<Metrics>, route: usize, model: Arc<ModelMetrics>, span: Option<Box<Span>>) -> Self {
        let in_progress = metrics.in_progress.count();
        let begun = Moment::now();
        let observed =
            Observed { metrics, route, model, status: 0, begun, last_chunk: None, span, _in_progress: in_progress };
        Self(Some(observed))
    }

    /// The same observation for whoever goes on with the request; what is left here counts nothing.
    pub fn hand_over(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Since the arrival of the request.
    pub fn elapsed(&self) -> Duration {
        self.0.as_ref().map(|observed| Moment::now().since(observed.begun)).unwrap_or_default()
    }

    /// The request names a model; `is_served` says whether a worker reports one of that name.
    pub fn names_model(&mut self, name: &str, is_served: impl FnOnce(&str) -> bool) {
        if let Some(observed) = &mut self.0 {
            observed.model = observed.metrics.model(name, is_served);
        }
    }

    /// Makes the request's span, if it has one, the parent of what the worker traces.
    pub fn propagate(&self, headers: &mut HeaderMap) {
        if let Some(Observed { span: Some(span), .. }) = &self.0 {
            span.propagate(headers);
        }
    }

    /// A worker began to answer.
    pub fn answered_by(&mut self, placement: &Placement, status: StatusCode) {
        self.has_status(status);
        if let Some(Observed { span: Some(span), .. }) = &mut self.0 {
            span.answered_by(placement);
        }
    }

    pub fn has_status(&mut self, status: StatusCode) {
        if let Some(observed) = &mut self.0 {
            observed.status = status.as_u16();
        }
    }

    /// An attempt brought no answer, and there will be another one.
    pub fn is_retried(&self) {
        self.0.iter().for_each(|observed| observed.metrics.retries.add(1));
    }

    /// The worker broke off in the middle of its answer.
    pub fn is_broken_off(&self) {
        self.0.iter().for_each(|observed| observed.metrics.broken_answers.add(1));
    }

    /// A chunk of a stream of tokens arrived.
    pub fn has_chunk(&mut self) {
        let Some(observed) = &mut self.0 else { return };
        let now = Moment::now();
        match observed.last_chunk.replace(now) {
            Some(last) => observed.model.chunk_interval.observe(now.since(last)),
            None => observed.has_first_chunk(now),
        }
    }
}

// ===== impl Observed =====

impl Observed {
    fn has_first_chunk(&mut self, now: Moment) {
        let took = now.since(self.begun);
        self.model.routes[self.route].time_to_first_token.observe(took);
        if let Some(span) = &mut self.span {
            span.has_first_token(took);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let route = &self.model.routes[self.route];
        route.answers[labels::status_index(self.status)].add(1);
        route.duration.observe(Moment::now().since(self.begun));
        if let (Some(span), Some(spans)) = (self.span.take(), &self.metrics.spans) {
            spans.end(*span, labels::ROUTES[self.route], &self.model.name, self.status);
        }
    }
}
