//! Traces: the client's context goes on to the worker, and a collector gets a span a request.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::Full;
use parking_lot::Mutex;
use radixfleet_router::{Router, RouterConfig};

use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A collector and what it was sent.
async fn collector() -> (TestWorker, Arc<Mutex<Vec<u8>>>) {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let shared = sent.clone();
    let server = TestWorker::start(move |request: Request<bytes::Bytes>| {
        assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/traces"));
        shared.lock().extend_from_slice(request.body());
        async { text("") }
    })
    .await;
    (server, sent)
}

async fn traced(worker: &TestWorker, collector: &str) -> Router {
    router(RouterConfig { otlp_endpoint: Some(collector.to_owned()), ..config(&[worker]) }).await
}

/// A generation whose client has the given context; the context that the worker got.
async fn context_at_worker(router: &Router, worker: &TestWorker, context: Option<&str>) -> Option<String> {
    let mut request: Request<Full<_>> = request(Method::POST, "/generate", r#"{"text": "a secret prompt"}"#);
    if let Some(context) = context {
        request.headers_mut().insert("traceparent", context.parse().unwrap());
    }
    send(&router.url(), request).await.unwrap().text().await;
    let headers = worker.asked().pop().unwrap().headers;
    headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digits = (0..hexadecimal.len()).step_by(2);
    digits.map(|index| u8::from_str_radix(&hexadecimal[index..index + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn without_a_collector_the_context_passes_through() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    assert_eq!(context_at_worker(&router, &worker, None).await, None);
    for context in [format!("00-{TRACE}-{SPAN}-01"), "not a context".to_owned()] {
        assert_eq!(context_at_worker(&router, &worker, Some(&context)).await, Some(context));
    }
}

#[tokio::test]
async fn a_span_tells_who_answered_and_why_and_never_the_prompt() {
    let (worker, (collector, sent)) = (TestWorker::naming_itself().await, collector().await);
    let router = traced(&worker, &collector.url).await;
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let context = context_at_worker(&router, &worker, Some(&sampled)).await.unwrap();
    assert!(context.starts_with(&format!("00-{TRACE}-")) && context.ends_with("-01"), "{context}");
    let ours = context.split('-').nth(2).unwrap();
    assert_ne!(ours, SPAN);
    router.stop(Duration::from_secs(10)).await;
    let sent = sent.lock();
    assert!(contains(&sent, &bytes_of(ours)), "what is traced before the end is sent before the end");
    for part in ["radixfleet-router", "http.route", "/generate", "radixfleet.policy.reason", &worker.url] {
        assert!(contains(&sent, part.as_bytes()), "{part}");
    }
    assert!(contains(&sent, &bytes_of(TRACE)) && contains(&sent, &bytes_of(SPAN)));
    assert!(!contains(&sent, b"secret"));
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_is_left_alone() {
    let (worker, (collector, sent)) = (TestWorker::naming_itself().await, collector().await);
    let router = traced(&worker, &collector.url).await;
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    assert_eq!(context_at_worker(&router, &worker, Some(&unsampled)).await.as_ref(), Some(&unsampled));
    let fresh = context_at_worker(&router, &worker, None).await.unwrap();
    let (trace, ours) = (fresh.split('-').nth(1).unwrap(), fresh.split('-').nth(2).unwrap());
    assert_ne!(trace, TRACE);
    eventually("the span arrived", || contains(&sent.lock(), &bytes_of(ours))).await;
    assert!(!contains(&sent.lock(), &bytes_of(TRACE)));
}

#[tokio::test]
async fn a_collector_that_is_away_disturbs_nobody() {
    let (worker, (mut collector, sent)) = (TestWorker::naming_itself().await, collector().await);
    collector.kill().await;
    let router = traced(&worker, &collector.url).await;
    for _ in 0..20 {
        context_at_worker(&router, &worker, None).await.unwrap();
    }
    collector.restart().await;
    let handler_sees = || !sent.lock().is_empty();
    while !handler_sees() {
        context_at_worker(&router, &worker, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
