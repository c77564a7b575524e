//! What the router counts and measures: requests, decisions, chunks, and at a scrape the state of the fleet.
//!
//! On the path of a request there are only atomics: no lock, no allocation. What a request is counted under is found once, when it
//! begins. Gauges are read from the fleet at a scrape. No label is unbounded: routes and reasons are fixed lists, models are those
//! that workers report, and a worker's samples go with the worker.

mod exposition;
mod histogram;
mod labels;
mod listener;
mod observation;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use http::Request;

pub use self::exposition::Exposition;
use self::histogram::Histogram;
use self::labels::{ROUTES, STATUSES};
pub use self::listener::Listener;
pub use self::observation::Observation;
use crate::error::RouterError;
use crate::spans::Spans;

/// The label of requests that name a model that no worker reports.
const OTHER: &str = "other";

/// The most models that have samples of their own.
const MAX_MODELS: usize = 256;

/// The most reasons of one policy.
const MAX_REASONS: usize = 16;

/// Everything that is not kept by the fleet itself.
pub struct Metrics {
    /// The first is for requests that name no model, the second for those of `OTHER`.
    models: ArcSwap<Vec<Arc<ModelMetrics>>>,
    pub connections: Gauge,
    in_progress: Gauge,
    rejected: Counter,
    retries: Counter,
    broken_answers: Counter,
    spans: Option<Spans>,
}

/// What is counted under one model.
struct ModelMetrics {
    name: Box<str>,
    /// By index in `ROUTES`.
    routes: Vec<RouteMetrics>,
    /// Between two chunks of a stream.
    chunk_interval: Histogram,
}

/// What is counted under one route and one model.
struct RouteMetrics {
    /// By index in `STATUSES`.
    answers: [Counter; STATUSES.len()],
    duration: Histogram,
    time_to_first_token: Histogram,
}

// ===== impl Metrics =====

impl Metrics {
    /// `spans` are where requests are traced, if they are.
    pub fn new(spans: Option<Spans>) -> Arc<Self> {
        Arc::new(Self {
            models: ArcSwap::from_pointee(vec![ModelMetrics::named(""), ModelMetrics::named(OTHER)]),
            connections: Gauge::default(),
            in_progress: Gauge::default(),
            rejected: Counter::default(),
            retries: Counter::default(),
            broken_answers: Counter::default(),
            spans,
        })
    }

    /// A request begins. It is counted when the observation is dropped.
    pub fn begin<B>(self: &Arc<Self>, request: &Request<B>) -> Observation {
        let span = self.spans.as_ref().and_then(|spans| spans.begin(request.headers()));
        let model = self.models.load()[0].clone();
        Observation::new(self.clone(), labels::route_index(request.uri().path()), model, span)
    }

    /// The router answers a request with an error of its own.
    pub fn failed(&self, error: &RouterError) {
        if let RouterError::RateLimited(_) = error {
            self.rejected.add(1);
        }
    }

    /// Where a request for `name` is counted. `is_served` says whether a worker reports a model of that name.
    fn model(&self, name: &str, is_served: impl FnOnce(&str) -> bool) -> Arc<ModelMetrics> {
        let models = self.models.load();
        if let Some(known) = models[1..].iter().find(|model| *model.name == *name) {
            return known.clone();
        }
        if models.len() == MAX_MODELS || !is_served(name) {
            return models[1].clone();
        }
        // The first request for this model: whoever comes second finds what the first has made.
        let new = ModelMetrics::named(name);
        self.models.rcu(|models| {
            let known = models.iter().any(|model| *model.name == *name);
            models.iter().chain((!known).then_some(&new)).cloned().collect::<Vec<_>>()
        });
        let models = self.models.load();
        models.iter().find(|model| *model.name == *name).unwrap_or(&models[1]).clone()
    }
}

impl ModelMetrics {
    fn named(name: &str) -> Arc<Self> {
        let route = || RouteMetrics {
            answers: Default::default(),
            duration: Histogram::of_requests(),
            time_to_first_token: Histogram::of_requests(),
        };
        let routes = ROUTES.iter().map(|_| route()).collect();
        Arc::new(Self { name: name.into(), routes, chunk_interval: Histogram::of_chunks() })
    }
}

// ===== Building blocks =====

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many of something there are now.
#[derive(Debug, Default, Clone)]
pub struct Gauge(Arc<AtomicUsize>);

/// One of what a gauge counts, until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Gauge {
    pub fn count(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A policy's decisions by reason. Reasons are words in the source, so there are few.
#[derive(Debug, Default)]
pub struct Decisions {
    reasons: [(OnceLock<&'static str>, Counter); MAX_REASONS],
}

impl Decisions {
    /// Counts one decision. More reasons than there is room for are counted under the last.
    pub fn count(&self, reason: &'static str) {
        let place = self.reasons.iter().find(|(name, _)| *name.get_or_init(|| reason) == reason);
        place.unwrap_or(&self.reasons[MAX_REASONS - 1]).1.add(1);
    }

    pub fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.reasons.iter().filter_map(|(name, count)| Some((*name.get()?, count.get())))
    }
}

/// What is counted for one worker; goes with the worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    requests: Counter,
    prompt_bytes: Counter,
    cached_bytes: Counter,
}

impl WorkerCounters {
    /// A request went to the worker: `prompt_bytes` of routing key, of which the worker probably holds `cached_bytes`.
    pub fn routed(&self, prompt_bytes: usize, cached_bytes: usize) {
        self.requests.add(1);
        self.prompt_bytes.add(prompt_bytes as u64);
        self.cached_bytes.add(cached_bytes as u64);
    }
}

#[cfg(test)]
mod tests;
