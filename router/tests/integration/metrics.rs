//! What Prometheus finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use radixfleet_router::{Router, RouterConfig};
use serde_json::json;

use crate::support::*;

/// A router with metrics, and where they are.
async fn observed(workers: &[&TestWorker]) -> (Router, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let router = router(RouterConfig { prometheus_port: port, ..config(workers) }).await;
    (router, format!("http://127.0.0.1:{port}"))
}

async fn scrape(metrics: &str) -> String {
    let reply = get(metrics, "/metrics").await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = reply.text().await;
    assert!(text.ends_with("# EOF\n"));
    text
}

/// The value of `radixfleet_router_{sample}`.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("radixfleet_router_")?.strip_prefix(sample));
    line.map(|value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn requests_are_counted_by_route_model_and_status() {
    let worker = TestWorker::naming_itself().await;
    let (router, metrics) = observed(&[&worker]).await;
    generate(&router.url(), "x").await.text().await;
    let body = json!({"model": "made up", "prompt": "x"}).to_string();
    post(&router.url(), "/v1/completions", body).await.text().await;
    get(&router.url(), "/no/such/path").await.text().await;
    get(&router.url(), "/health").await.text().await;
    idle(&router).await;
    let text = scrape(&metrics).await;
    for sample in [
        r#"requests_total{route="/generate",model="",status="2xx"}"#,
        r#"requests_total{route="/v1/completions",model="other",status="2xx"}"#,
        r#"requests_total{route="other",model="",status="4xx"}"#,
        r#"requests_total{route="/health",model="",status="2xx"}"#,
        r#"request_duration_seconds_count{route="/generate",model=""}"#,
        r#"request_duration_seconds_bucket{le="+Inf",route="/generate",model=""}"#,
    ] {
        assert_eq!(value(&text, sample), Some(1.0), "{sample}\n{text}");
    }
    assert!(!text.contains("made up") && !text.contains("/no/such/path"), "{text}");
    assert_eq!(value(&text, "requests_in_progress"), Some(0.0));
    assert!(value(&text, "prefix_index_bytes").unwrap() > 0.0);
    let reasons = text.lines().filter(|line| line.starts_with("radixfleet_router_decisions_total{policy="));
    let decisions: f64 = reasons.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum();
    assert_eq!(decisions, 2.0, "{text}");
}

#[tokio::test]
async fn models_that_a_worker_reports_have_their_own_samples() {
    let worker = TestWorker::naming_itself().await;
    worker.set_models(&["llama"]);
    let (router, metrics) = observed(&[&worker]).await;
    eventually("the model is known", || router.fleet().serves("llama")).await;
    let body = json!({"model": "llama", "prompt": "x"}).to_string();
    post(&router.url(), "/v1/completions", body).await.text().await;
    idle(&router).await;
    let text = scrape(&metrics).await;
    let sample = r#"requests_total{route="/v1/completions",model="llama",status="2xx"}"#;
    assert_eq!(value(&text, sample), Some(1.0), "{text}");
    let breaker = format!("worker_circuit_breaker{{worker=\"{}\"}}", worker.url);
    assert_eq!(value(&text, &breaker), Some(0.0), "{text}");
}

#[tokio::test]
async fn streams_are_timed_by_their_chunks() {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let shared = feeds.clone();
    let worker = TestWorker::start(move |_| {
        let (feed, answer) = chunked("text/event-stream");
        shared.lock().push(feed);
        async { answer }
    })
    .await;
    let (router, metrics) = observed(&[&worker]).await;
    let mut reply = generate(&router.url(), "x").await;
    let feed = feeds.lock().pop().unwrap();
    for chunk in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        feed.send(Bytes::from(chunk)).unwrap();
        assert_eq!(reply.chunk().await.unwrap().unwrap(), chunk);
    }
    let text = scrape(&metrics).await;
    assert_eq!(value(&text, "requests_in_progress"), Some(1.0));
    assert_eq!(value(&text, &format!("worker_load{{worker=\"{}\"}}", worker.url)), Some(1.0));
    assert!(value(&text, "connections").unwrap() >= 1.0);
    drop(feed);
    reply.text().await;
    idle(&router).await;
    let text = scrape(&metrics).await;
    for (sample, expected) in [
        (r#"time_to_first_token_seconds_count{route="/generate",model=""}"#, 1.0),
        (r#"inter_chunk_seconds_count{model=""}"#, 2.0),
        ("requests_in_progress", 0.0),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}\n{text}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_and_a_worker_that_breaks_off_are_counted() {
    let mut worker = TestWorker::start(|request| async move {
        if request.uri().path() == "/encode" {
            std::future::pending::<()>().await;
        }
        let (feed, answer) = chunked("text/event-stream");
        feed.send(Bytes::from("data: 1\n\n")).unwrap();
        // Kept open, the answer does not end by itself.
        std::mem::forget(feed);
        answer
    })
    .await;
    let (router, metrics) = observed(&[&worker]).await;
    let url = router.url();
    let leaving = tokio::spawn(async move { post(&url, "/encode", "{}").await.status });
    eventually("the worker has the request", || worker.in_progress() == 1).await;
    leaving.abort();
    idle(&router).await;
    let mut reply = generate(&router.url(), "x").await;
    reply.chunk().await.unwrap().unwrap();
    worker.kill().await;
    assert!(reply.text().await.contains("broke off"));
    let text = scrape(&metrics).await;
    assert_eq!(value(&text, r#"requests_total{route="/encode",model="",status="aborted"}"#), Some(1.0), "{text}");
    assert_eq!(value(&text, "broken_answers_total"), Some(1.0), "{text}");
}

#[tokio::test]
async fn a_worker_that_leaves_takes_its_samples_along() {
    let (stays, leaves) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    let (router, metrics) = observed(&[&stays, &leaves]).await;
    let text = scrape(&metrics).await;
    for sample in ["worker_load", "worker_healthy", "worker_available", "worker_suspect", "worker_requests_total"] {
        assert!(value(&text, &format!("{sample}{{worker=\"{}\"}}", leaves.url)).is_some(), "{sample}\n{text}");
    }
    post(&router.url(), &format!("/remove_worker?url={}", leaves.url), "").await;
    generate(&router.url(), "x").await.text().await;
    let text = scrape(&metrics).await;
    assert!(!text.contains(&leaves.url));
    assert_eq!(value(&text, &format!("worker_requests_total{{worker=\"{}\"}}", stays.url)), Some(1.0), "{text}");
}

#[tokio::test]
async fn only_metrics_are_served_there() {
    let (_router, metrics) = observed(&[]).await;
    assert_eq!(get(&metrics, "/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&metrics, "/add_worker").await.status, StatusCode::NOT_FOUND);
    assert_eq!(post(&metrics, "/metrics", "").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_metric_is_documented_and_no_other() {
    let (_router, metrics) = observed(&[]).await;
    let types = scrape(&metrics).await;
    let exposed: BTreeSet<(String, String)> = types
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE radixfleet_router_")?.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let guide = include_str!("../../../docs/router.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `radixfleet_router_")?.split_once("` | "));
    let documented: BTreeSet<(String, String)> = rows
        .filter_map(|(name, rest)| Some((name, rest.split_once(" | ")?.0)))
        .filter(|(_, kind)| ["counter", "gauge", "histogram"].contains(kind))
        .map(|(name, kind)| (name.trim_end_matches("_total").to_owned(), kind.to_owned()))
        .collect();
    assert_eq!(exposed, documented);
}
