//! What a scrape gets: counters as they are, gauges as the fleet is now.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::labels::{ROUTES, STATUSES};
use super::{Counter, Metrics, ModelMetrics, RouteMetrics};
use crate::admission::Admission;
use crate::fleet::{BreakerState, Fleet, Health, Worker, WorkerStatus};

/// All metrics as text, in the OpenMetrics format.
pub struct Exposition(Registry);

impl Exposition {
    pub fn new(metrics: Arc<Metrics>, fleet: Arc<Fleet>, admission: Arc<Admission>) -> Self {
        let mut registry = Registry::with_prefix("radixfleet_router");
        registry.register_collector(Box::new(Sources { metrics, fleet, admission }));
        Self(registry)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("writing to a string cannot fail");
        text
    }
}

struct Sources {
    metrics: Arc<Metrics>,
    fleet: Arc<Fleet>,
    admission: Arc<Admission>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sources")
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        self.requests(&mut families)?;
        self.routing(&mut families)?;
        self.workers(&mut families)
    }
}

// ===== impl Sources =====

impl Sources {
    fn requests(&self, families: &mut Families<'_>) -> fmt::Result {
        let models = self.metrics.models.load();
        let routes: Vec<(Labels, &RouteMetrics)> = models.iter().flat_map(|model| used_routes(model)).collect();
        let answers = routes.iter().flat_map(|(labels, route)| {
            let answers = STATUSES.iter().zip(&route.answers).filter(|(_, count)| count.get() > 0);
            answers.map(|(status, count)| ([labels.as_slice(), &[("status", *status)]].concat(), count.get()))
        });
        families.counters("requests", "Requests that have ended, by class of the status", answers)?;
        families.histograms(
            "request_duration_seconds",
            "From the arrival of a request to the end of its answer",
            routes.iter().map(|(labels, route)| (labels.clone(), &route.duration)),
        )?;
        families.histograms(
            "time_to_first_token_seconds",
            "From the arrival of a request to the first chunk of its streamed answer",
            routes.iter().map(|(labels, route)| (labels.clone(), &route.time_to_first_token)),
        )?;
        families.histograms(
            "inter_chunk_seconds",
            "Between two chunks of a streamed answer",
            models.iter().map(|model| (vec![("model", &*model.name)], &model.chunk_interval)),
        )?;
        let gauge = |value: usize| [(Labels::new(), value as f64)];
        families.gauges("requests_in_progress", "Requests being answered", gauge(self.metrics.in_progress.get()))?;
        families.gauges("queued_requests", "Requests that wait for admission", gauge(self.admission.waiting()))?;
        families.gauges("connections", "Open connections of clients", gauge(self.metrics.connections.get()))
    }

    fn routing(&self, families: &mut Families<'_>) -> fmt::Result {
        let counter = |counter: &Counter| [(Labels::new(), counter.get())];
        families.counters("rejected_requests", "Requests refused admission", counter(&self.metrics.rejected))?;
        families.counters("retries", "Attempts after the first to get an answer", counter(&self.metrics.retries))?;
        families.counters(
            "broken_answers",
            "Answers that a worker broke off in the middle",
            counter(&self.metrics.broken_answers),
        )?;
        let policy = self.fleet.policy_name();
        let decisions = self.fleet.decisions().by_reason();
        families.counters(
            "decisions",
            "Choices of a worker, by reason",
            decisions.map(|(reason, count)| (vec![("policy", policy), ("reason", reason)], count)),
        )?;
        let bytes = self.fleet.index_bytes().map(|bytes| (Labels::new(), bytes as f64));
        families.gauges("prefix_index_bytes", "Memory of the prefix index", bytes)
    }

    fn workers(&self, families: &mut Families<'_>) -> fmt::Result {
        let workers = self.fleet.workers();
        let states: Vec<WorkerStatus> = workers.iter().map(|worker| worker.status()).collect();
        let mut gauges = |name, help, value: fn(&WorkerStatus) -> Option<f64>| {
            let samples = states.iter().filter_map(|state| Some((vec![("worker", &*state.url)], value(state)?)));
            families.gauges(name, help, samples)
        };
        gauges("worker_load", "Requests in progress on a worker", |state| Some(state.load as f64))?;
        gauges("worker_reported_load", "Load that a worker reports itself", |state| state.reported_load)?;
        gauges("worker_healthy", "1 while a worker answers its health checks", |state| {
            Some(f64::from(state.health == Health::Healthy))
        })?;
        gauges("worker_available", "1 while a worker may be given requests", |state| Some(f64::from(state.available)))?;
        gauges("worker_suspect", "1 from when a worker was found to hang until it has answered again", |state| {
            Some(f64::from(state.suspect))
        })?;
        gauges("worker_circuit_breaker", "0 closed, 1 half-open, 2 open", |state| {
            Some(match state.circuit_breaker {
                BreakerState::Closed => 0.0,
                BreakerState::HalfOpen => 1.0,
                BreakerState::Open => 2.0,
            })
        })?;
        let mut counters = |name, help, value: fn(&Worker) -> &Counter| {
            families.counters(name, help, workers.iter().map(|worker| (labels(worker), value(worker).get())))
        };
        counters("worker_requests", "Requests sent to a worker", |worker| &worker.counters.requests)?;
        counters("worker_prompt_bytes", "Prompt text sent to a worker", |worker| &worker.counters.prompt_bytes)?;
        counters("worker_cached_prompt_bytes", "The part that the worker probably had in its cache", |worker| {
            &worker.counters.cached_bytes
        })
    }
}

fn labels(worker: &Worker) -> Labels<'_> {
    vec![("worker", worker.url().as_str())]
}

/// The routes on which the model was asked for.
fn used_routes(model: &ModelMetrics) -> impl Iterator<Item = (Labels<'_>, &RouteMetrics)> {
    let used = ROUTES.iter().zip(&model.routes).filter(|(_, route)| route.answers.iter().any(|count| count.get() > 0));
    used.map(|(route, metrics)| (vec![("route", *route), ("model", &*model.name)], metrics))
}

// ===== Families =====

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, count)| {
            if labels.is_empty() {
                return family.encode_counter::<NoLabelSet, _, u64>(&count, None);
            }
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)
        })
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            if labels.is_empty() {
                return family.encode_gauge(&value);
            }
            family.encode_family(&labels)?.encode_gauge(&value)
        })
    }

    /// Those without an observation are left out.
    fn histograms<'l, 'h>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, &'h Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            let (sum, count, buckets) = histogram.read();
            if count > 0 {
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
