//! What measuring costs: a request, and a chunk of a stream.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, StatusCode};
use radixfleet_router::metrics::{Decisions, Metrics};

fn metrics(criterion: &mut Criterion) {
    let metrics = Metrics::new(None);
    let request = Request::builder().uri("/v1/chat/completions").body(()).unwrap();
    let mut group = criterion.benchmark_group("metrics");
    group.bench_function("request", |bencher| {
        bencher.iter(|| {
            let mut observation = metrics.begin(black_box(&request));
            observation.names_model("llama", |name| name == "llama");
            observation.hand_over().has_status(StatusCode::OK);
        });
    });
    let mut observation = metrics.begin(&request);
    group.bench_function("chunk", |bencher| bencher.iter(|| observation.has_chunk()));
    let decisions = Decisions::default();
    group.bench_function("decision", |bencher| bencher.iter(|| decisions.count(black_box("prefix"))));
    group.finish();
}

criterion_group!(benches, metrics);
criterion_main!(benches);
