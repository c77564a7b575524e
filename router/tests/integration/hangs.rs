//! Workers that take requests and do not answer: found by comparison with the others, spared, and taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use radixfleet_router::fleet::{BreakerState, WorkerStatus};
use radixfleet_router::{Router, RouterConfig};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::*;

/// A worker whose generation hangs while the switch is on; its `/health` answers all the time.
async fn hanging() -> (TestWorker, Arc<AtomicBool>) {
    let hangs = Arc::new(AtomicBool::new(false));
    let switch = hangs.clone();
    let worker = TestWorker::start(move |request| {
        let switch = switch.clone();
        async move {
            while switch.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5)).await;
            }
            text(request.headers()["host"].to_str().unwrap().to_owned())
        }
    })
    .await;
    (worker, hangs)
}

async fn round_robin(workers: &[&TestWorker]) -> Router {
    // The checks are rare: they do not find what these tests are about.
    let rare = RouterConfig { health_check_interval_secs: 1e6, ..config(workers) };
    router(RouterConfig { policy: "round_robin".to_owned(), ..rare }).await
}

fn status(router: &Router, worker: &TestWorker) -> WorkerStatus {
    let workers = router.fleet().workers();
    workers.iter().find(|candidate| candidate.url().as_str() == worker.url).unwrap().status()
}

fn stream_of(prompt: &str) -> String {
    json!({"text": prompt, "stream": true}).to_string()
}

/// Requests one after the other until the fleet has seen enough answers to know how fast they come.
async fn get_to_know(router: &Router, body: &str) {
    for _ in 0..20 {
        assert_eq!(post(&router.url(), "/generate", body.to_owned()).await.status, StatusCode::OK);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Sends this request again and again, and counts in `answered`, until the test is over.
async fn steadily(router: &Router, body: String, clients: &mut JoinSet<usize>, over: &Arc<AtomicBool>) {
    for _ in 0..6 {
        let (url, body, over) = (router.url(), body.clone(), over.clone());
        clients.spawn(async move {
            let mut answered = 0;
            while !over.load(Ordering::SeqCst) {
                let reply = post(&url, "/generate", body.clone()).await;
                assert_eq!(reply.status, StatusCode::OK);
                assert!(reply.text().await.starts_with("127.0.0.1"));
                answered += 1;
                sleep(Duration::from_millis(20)).await;
            }
            answered
        });
    }
}

async fn no_request_fails_while_one_hangs(body: String, stop: impl Fn(bool), sick: &TestWorker, router: &Router) {
    let (mut clients, over) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
    get_to_know(router, &body).await;
    steadily(router, body, &mut clients, &over).await;
    stop(true);
    eventually("the worker is found to hang", || status(router, sick).suspect).await;
    assert!(status(router, sick).last_error.unwrap().starts_with("hangs: requests wait"));
    eventually("its requests have moved", || status(router, sick).load <= 1).await;
    stop(false);
    eventually("it is used again", || status(router, sick).circuit_breaker == BreakerState::Closed).await;
    let before = sick.asked().len();
    eventually("it gets requests", || sick.asked().len() > before + 5).await;
    over.store(true, Ordering::SeqCst);
    assert!(clients.join_all().await.iter().all(|answered| *answered > 0));
    idle(router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_leave_a_worker_whose_generation_hangs() {
    let ((sick, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    let router = round_robin(&[&sick, &well]).await;
    let stop = |stop| hangs.store(stop, Ordering::SeqCst);
    no_request_fails_while_one_hangs(stream_of("x"), stop, &sick, &router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whole_answers_leave_a_worker_whose_generation_hangs() {
    let ((sick, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    let router = round_robin(&[&sick, &well]).await;
    let stop = |stop| hangs.store(stop, Ordering::SeqCst);
    no_request_fails_while_one_hangs(json!({"text": "x"}).to_string(), stop, &sick, &router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_whose_check_wants_a_key_that_the_router_lacks_is_taken_back_too() {
    let ((sick, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    sick.set_fact("/health_generate", StatusCode::UNAUTHORIZED, "");
    let router = round_robin(&[&sick, &well]).await;
    let stop = |stop| hangs.store(stop, Ordering::SeqCst);
    no_request_fails_while_one_hangs(stream_of("x"), stop, &sick, &router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_leave_a_worker_that_was_stopped() {
    let (sick, well) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    let router = round_robin(&[&sick, &well]).await;
    no_request_fails_while_one_hangs(stream_of("x"), |stopped| sick.set_stopped(stopped), &sick, &router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_single_whole_answer_that_takes_long_is_left_where_it_is() {
    let ((slow, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    let router = round_robin(&[&slow, &well]).await;
    let body = json!({"text": "x"}).to_string();
    get_to_know(&router, &body).await;
    let asked = slow.asked().len();
    hangs.store(true, Ordering::SeqCst);
    // Only one of them meets the slow worker: the others answer at once, for longer than a hang takes to be found.
    let url = router.url();
    let long = tokio::spawn(async move {
        let replies = [post(&url, "/generate", "{}").await, post(&url, "/generate", "{}").await];
        replies.into_iter().all(|reply| reply.status == StatusCode::OK)
    });
    eventually("it waits", || slow.in_progress() == 1).await;
    let mut others = 0;
    for _ in 0..60 {
        // Straight to the other one, so that no second request waits at the slow one.
        others += usize::from(generate(&well.url, "x").await.status == StatusCode::OK);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((others, status(&router, &slow).suspect), (60, false));
    hangs.store(false, Ordering::SeqCst);
    assert!(long.await.unwrap());
    assert_eq!(slow.asked().len(), asked + 1, "it was asked once, and answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_passes_the_check_that_generates_is_not_suspect() {
    let ((slow, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    slow.set_fact("/health_generate", StatusCode::OK, "");
    let router = round_robin(&[&slow, &well]).await;
    get_to_know(&router, &stream_of("x")).await;
    hangs.store(true, Ordering::SeqCst);
    let url = router.url();
    let mut long = JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        long.spawn(async move { post(&url, "/generate", stream_of("y")).await.status });
    }
    eventually("two wait", || slow.in_progress() == 2).await;
    for _ in 0..30 {
        assert!(!status(&router, &slow).suspect);
        sleep(Duration::from_millis(100)).await;
    }
    hangs.store(false, Ordering::SeqCst);
    assert!(long.join_all().await.iter().all(|status| *status == StatusCode::OK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_check_that_passes_is_not_believed_against_a_crowd_that_waits() {
    let ((sick, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    sick.set_fact("/health_generate", StatusCode::OK, "");
    let router = round_robin(&[&sick, &well]).await;
    let stop = |stop| hangs.store(stop, Ordering::SeqCst);
    no_request_fails_while_one_hangs(stream_of("x"), stop, &sick, &router).await;
}

#[tokio::test]
async fn where_every_worker_is_silent_nobody_is_suspect() {
    let ((first, hangs), (second, too)) = (hanging().await, hanging().await);
    let router = round_robin(&[&first, &second]).await;
    get_to_know(&router, &stream_of("x")).await;
    hangs.store(true, Ordering::SeqCst);
    too.store(true, Ordering::SeqCst);
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let url = router.url();
        waiting.spawn(async move { post(&url, "/generate", stream_of("x")).await.status });
    }
    eventually("all wait", || first.in_progress() + second.in_progress() == 4).await;
    for _ in 0..30 {
        assert!(!status(&router, &first).suspect && !status(&router, &second).suspect);
        sleep(Duration::from_millis(100)).await;
    }
    hangs.store(false, Ordering::SeqCst);
    too.store(false, Ordering::SeqCst);
    assert!(waiting.join_all().await.iter().all(|status| *status == StatusCode::OK));
}

#[tokio::test]
async fn a_worker_that_does_not_begin_in_time_costs_a_retry() {
    let ((silent, hangs), well) = (hanging().await, TestWorker::naming_itself().await);
    hangs.store(true, Ordering::SeqCst);
    let limits = RouterConfig { worker_ttfb_timeout_secs: 0.1, cb_failure_threshold: 2, ..config(&[&silent, &well]) };
    let router =
        router(RouterConfig { policy: "round_robin".to_owned(), cb_timeout_duration_secs: 1e6, ..limits }).await;
    for _ in 0..6 {
        assert_eq!(generate(&router.url(), "x").await.worker(), well.url);
    }
    assert_eq!((silent.asked().len(), status(&router, &silent).circuit_breaker), (2, BreakerState::Open));
    // What keeps something is not done twice.
    let keeping = request(Method::POST, "/v1/files", "x");
    assert_eq!(send(&router.url(), keeping).await.unwrap().status, StatusCode::OK);
    idle(&router).await;
}

#[tokio::test]
async fn an_answer_that_pauses_for_too_long_ends_with_an_error_event_and_others_go_on() {
    let feeds = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let shared = feeds.clone();
    let worker = TestWorker::start(move |_| {
        let (feed, answer) = chunked("text/event-stream");
        feed.send("data: begun\n\n".into()).unwrap();
        shared.lock().push(feed);
        async { answer }
    })
    .await;
    let router = router(RouterConfig { stream_idle_timeout_secs: 0.5, ..config(&[&worker]) }).await;
    let mut lively = generate(&router.url(), "x").await;
    assert_eq!(lively.chunk().await.unwrap().unwrap(), "data: begun\n\n");
    let stalled = generate(&router.url(), "x").await;
    let feed = feeds.lock().remove(0);
    let ended = tokio::spawn(stalled.text());
    while !ended.is_finished() {
        feed.send("data: more\n\n".into()).unwrap();
        assert_eq!(lively.chunk().await.unwrap().unwrap(), "data: more\n\n");
        sleep(Duration::from_millis(50)).await;
    }
    let text = ended.await.unwrap();
    let event = text.strip_prefix("data: begun\n\ndata: ").unwrap_or_else(|| panic!("{text:?}"));
    let error: serde_json::Value = serde_json::from_str(event.trim()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("paused for too long"), "{error}");
    drop(feed);
    assert!(lively.chunk().await.is_none());
    idle(&router).await;
}
