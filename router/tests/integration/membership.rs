//! Workers come and go while the router runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use radixfleet_router::policy;
use radixfleet_router::{Router, RouterConfig};
use serde_json::json;

use crate::support::*;

async fn add(router: &Router, url: &str) -> Reply {
    post(&router.url(), &format!("/add_worker?url={url}"), "").await
}

async fn remove(router: &Router, url: &str) -> Reply {
    post(&router.url(), &format!("/remove_worker?url={url}"), "").await
}

#[tokio::test]
async fn the_documented_texts() {
    let worker = TestWorker::naming_itself().await;
    let router = Router::start(config(&[])).await.unwrap();
    let reply = add(&router, &worker.url).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.text().await, format!("Successfully added worker: {}", worker.url));
    assert_eq!(get(&router.url(), "/list_workers").await.json().await, json!({"urls": [worker.url]}));
    assert_eq!(generate(&router.url(), "at once").await.worker(), worker.url);
    let reply = remove(&router, &worker.url).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.text().await, format!("Successfully removed worker: {}", worker.url));
    assert_eq!(get(&router.url(), "/list_workers").await.json().await, json!({"urls": []}));
    assert_eq!(generate(&router.url(), "x").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn bad_and_repeated_urls_are_refused_with_the_reason() {
    let worker = TestWorker::naming_itself().await;
    let router = router(RouterConfig { worker_startup_timeout_secs: 0.3, ..config(&[&worker]) }).await;
    let spelled_otherwise = format!("{}/", worker.url.to_uppercase());
    for (url, reason) in [
        (worker.url.as_str(), "is in the fleet already"),
        (&spelled_otherwise, "is in the fleet already"),
        ("ftp://127.0.0.1:1", "unknown scheme ftp"),
        ("http://127.0.0.1:99999", "invalid port number"),
        ("", "empty host"),
        (
            "http://127.0.0.1:1",
            "did not become healthy within 0.3 s (--worker-startup-timeout-secs): /health: Connection refused",
        ),
    ] {
        let reply = add(&router, url).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{url}");
        let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(reason), "{url}: {message}");
    }
    let reply = remove(&router, "http://127.0.0.1:2").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json().await["error"]["message"], "worker http://127.0.0.1:2 is not in the fleet");
    let reply = post(&router.url(), "/add_worker", "").await;
    assert_eq!(reply.json().await["error"]["message"], "the query parameter url is missing");
    assert_eq!(get(&router.url(), "/list_workers").await.json().await, json!({"urls": [worker.url]}));
}

#[tokio::test]
async fn adding_waits_until_the_worker_is_healthy() {
    let worker = TestWorker::naming_itself().await;
    worker.set_healthy(false);
    let router = Router::start(config(&[])).await.unwrap();
    let (url, path) = (router.url(), format!("/add_worker?url={}", worker.url));
    let adding = tokio::spawn(async move { post(&url, &path, "").await.status });
    eventually("it is listed", || router.fleet().workers().len() == 1).await;
    assert!(!adding.is_finished());
    worker.set_healthy(true);
    assert_eq!(adding.await.unwrap(), StatusCode::OK);
    assert!(router.fleet().has_healthy_worker());
}

#[tokio::test]
async fn who_stops_waiting_for_a_worker_has_not_added_it() {
    let worker = TestWorker::naming_itself().await;
    worker.set_healthy(false);
    let router = Router::start(config(&[])).await.unwrap();
    let (url, path) = (router.url(), format!("/add_worker?url={}", worker.url));
    let adding = tokio::spawn(async move { post(&url, &path, "").await.status });
    eventually("it is listed", || router.fleet().workers().len() == 1).await;
    adding.abort();
    eventually("it is gone", || router.fleet().workers().is_empty()).await;
}

#[tokio::test]
async fn a_removed_worker_ends_what_it_is_answering() {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let shared = feeds.clone();
    let leaving = TestWorker::start(move |_| {
        let (feed, answer) = chunked("text/event-stream");
        shared.lock().push(feed);
        async { answer }
    })
    .await;
    let staying = TestWorker::naming_itself().await;
    let router = router(config(&[&leaving])).await;
    let mut reply = generate(&router.url(), "a long answer").await;
    add(&router, &staying.url).await;
    assert_eq!(remove(&router, &leaving.url).await.status, StatusCode::OK);
    for _ in 0..10 {
        assert_eq!(generate(&router.url(), "a long answer").await.worker(), staying.url);
    }
    let feed = feeds.lock().pop().unwrap();
    feed.send("data: still here\n\n".into()).unwrap();
    assert_eq!(reply.chunk().await.unwrap().unwrap(), "data: still here\n\n");
    drop(feed);
    assert!(reply.chunk().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn adding_and_removing_under_load_costs_no_request() {
    for policy in policy::names() {
        let steady = TestWorker::naming_itself().await;
        let guests = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
        let router = Arc::new(router(RouterConfig { policy: policy.to_owned(), ..config(&[&steady]) }).await);
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            let (router, over) = (router.clone(), over.clone());
            clients.spawn(async move {
                // Prompts that share nothing, so that cache_aware too spreads them.
                let mut random = fastrand::Rng::with_seed(client);
                let mut answered = 0;
                while !over.load(Ordering::SeqCst) {
                    let reply = generate(&router.url(), &format!("{:016x}", random.u64(..))).await;
                    assert_eq!(reply.status, StatusCode::OK);
                    answered += 1;
                }
                answered
            });
        }
        for _ in 0..15 {
            for guest in &guests {
                assert_eq!(add(&router, &guest.url).await.status, StatusCode::OK);
            }
            for guest in &guests {
                assert_eq!(remove(&router, &guest.url).await.status, StatusCode::OK);
            }
        }
        over.store(true, Ordering::SeqCst);
        let answered: usize = clients.join_all().await.iter().sum();
        let asked: usize = [&steady, &guests[0], &guests[1]].iter().map(|worker| worker.asked().len()).sum();
        assert_eq!(asked, answered, "{policy}: every request was answered by one worker");
        assert!(guests.iter().any(|guest| !guest.asked().is_empty()), "{policy}: guests had work");
        idle(&router).await;
    }
}

#[tokio::test]
async fn flushing_reaches_every_worker() {
    let workers = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    let failing = TestWorker::start(|_| async { with_status(StatusCode::BAD_REQUEST, Bytes::new()) }).await;
    let router = router(config(&[&workers[0], &workers[1]])).await;
    for reply in [post(&router.url(), "/flush_cache", "").await, get(&router.url(), "/flush_cache").await] {
        assert_eq!((reply.status, reply.text().await.as_str()), (StatusCode::OK, "Cache flushed on 2 workers.\n"));
    }
    for worker in &workers {
        let asked: Vec<String> = worker.asked().iter().map(|asked| format!("{} {}", asked.method, asked.uri)).collect();
        assert_eq!(asked, ["POST /flush_cache", "POST /flush_cache"]);
    }
    add(&router, &failing.url).await;
    let reply = post(&router.url(), "/flush_cache", "").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, format!("cache not flushed on 1 of 3 workers: {}: status 400 Bad Request", failing.url));
}

#[tokio::test]
async fn what_a_removed_worker_does_not_end_in_time_ends_with_an_error_event() {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let shared = feeds.clone();
    let leaving = TestWorker::start(move |_| {
        let (feed, answer) = chunked("text/event-stream");
        feed.send("data: begun\n\n".into()).unwrap();
        shared.lock().push(feed);
        async { answer }
    })
    .await;
    let router = router(RouterConfig { drain_timeout_secs: 0.2, ..config(&[&leaving]) }).await;
    let reply = generate(&router.url(), "x").await;
    let worker = router.fleet().workers()[0].clone();
    assert_eq!(remove(&router, &leaving.url).await.status, StatusCode::OK);
    let text = reply.text().await;
    let event = text.strip_prefix("data: begun\n\ndata: ").unwrap_or_else(|| panic!("{text:?}"));
    let error: serde_json::Value = serde_json::from_str(event.trim()).unwrap();
    assert_eq!(error["error"]["message"], "the worker of this answer was removed");
    assert_eq!(worker.load(), 0);
    eventually("the worker is told", || leaving.in_progress() == 0).await;
}

#[tokio::test]
async fn a_request_that_a_removed_worker_has_not_begun_to_answer_goes_to_another() {
    let (leaving, staying) = (TestWorker::start(|_| std::future::pending()).await, TestWorker::naming_itself().await);
    let router = Arc::new(router(RouterConfig { drain_timeout_secs: 0.2, ..config(&[&leaving]) }).await);
    let url = router.url();
    let waiting = tokio::spawn(async move { generate(&url, "x").await.worker().to_owned() });
    eventually("it waits", || leaving.in_progress() == 1).await;
    assert_eq!(add(&router, &staying.url).await.status, StatusCode::OK);
    assert_eq!(remove(&router, &leaving.url).await.status, StatusCode::OK);
    assert_eq!(waiting.await.unwrap(), staying.url);
    idle(&router).await;
}

#[tokio::test]
async fn adding_a_worker_that_fails_its_check_says_why() {
    let worker = TestWorker::naming_itself().await;
    worker.set_healthy(false);
    let router = Router::start(RouterConfig { worker_startup_timeout_secs: 0.3, ..config(&[]) }).await.unwrap();
    let reply = add(&router, &worker.url).await;
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("/health: status 500 Internal Server Error"), "{message}");
}
