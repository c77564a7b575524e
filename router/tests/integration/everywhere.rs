//! What concerns every worker, and what one worker keeps for itself.

use std::collections::HashSet;

use http::{Method, StatusCode};
use radixfleet_router::RouterConfig;
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn an_abort_reaches_every_worker_and_counts_what_all_ended() {
    let worker = || TestWorker::start(|_| async { text(r#"{"aborted": 2}"#) });
    let (a, b) = (worker().await, worker().await);
    let router = router(config(&[&a, &b])).await;
    let reply = post(&router.url(), "/abort_request", r#"{"rid": "x"}"#).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json().await, json!({"aborted": 4}));
    for worker in [&a, &b] {
        let asked = worker.asked();
        assert_eq!((asked[0].uri.path(), &asked[0].body[..]), ("/abort_request", &br#"{"rid": "x"}"#[..]));
    }
}

#[tokio::test]
async fn one_refusal_is_the_answer_of_all() {
    let good = TestWorker::start(|_| async { text(r#"{"success": true, "message": "done"}"#) }).await;
    let refusal = r#"{"success": false, "message": "no such folder"}"#;
    let bad = TestWorker::start(move |_| async move { with_status(StatusCode::BAD_REQUEST, refusal) }).await;
    let router = router(config(&[&good, &bad])).await;
    let reply = post(&router.url(), "/update_weights_from_disk", r#"{"model_path": "m"}"#).await;
    assert_eq!((reply.status, reply.worker()), (StatusCode::BAD_REQUEST, bad.url.as_str()));
    assert_eq!(reply.json().await["message"], "no such folder");
}

#[tokio::test]
async fn a_scrape_has_the_metrics_of_all_workers() {
    let worker = |value| {
        let text_of = format!(
            "# HELP sglang:running Requests.\n# TYPE sglang:running gauge\nsglang:running{{m=\"x\"}} {value}\n"
        );
        TestWorker::start(move |_| std::future::ready(text(text_of.clone())))
    };
    let (a, b) = (worker(1).await, worker(2).await);
    let mut silent = TestWorker::naming_itself().await;
    let router = router(config(&[&a, &b, &silent])).await;
    silent.kill().await;
    let reply = get(&router.url(), "/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let scraped = reply.text().await;
    let lines: Vec<&str> = scraped.lines().collect();
    let sample = |worker: &TestWorker, value| format!("sglang:running{{worker=\"{}\",m=\"x\"}} {value}", worker.url);
    assert_eq!(lines[..2], ["# HELP sglang:running Requests.", "# TYPE sglang:running gauge"]);
    let (samples, expected) =
        (HashSet::from_iter(lines[2..].iter().map(|line| (*line).to_owned())), [sample(&a, 1), sample(&b, 2)]);
    assert_eq!(samples, HashSet::from(expected));
}

#[tokio::test]
async fn a_fleet_without_metrics_says_how_to_get_them() {
    let worker = TestWorker::start(|_| async { with_status(StatusCode::NOT_FOUND, "") }).await;
    let router = router(config(&[&worker])).await;
    let reply = get(&router.url(), "/metrics").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let error = reply.json().await;
    assert!(error["error"]["message"].as_str().unwrap().contains("--enable-metrics"), "{error}");
}

#[tokio::test]
async fn a_session_stays_on_the_worker_that_opened_it() {
    let worker = || {
        TestWorker::start(|request| async move {
            let fields: Value = serde_json::from_slice(request.body()).unwrap();
            text(fields["session_id"].to_string())
        })
    };
    let workers = [worker().await, worker().await, worker().await];
    let router = router(config(&workers.each_ref())).await;
    let url = router.url();
    let mut homes = HashSet::new();
    for _ in 0..12 {
        let opened = post(&url, "/open_session", r#"{"capacity_of_str_len": 100}"#).await;
        let home = opened.worker().to_owned();
        let session = opened.json().await;
        assert_eq!(session.as_str().unwrap().len(), 32, "the router names a session that has no name");
        for _ in 0..3 {
            let body = json!({"text": "x", "session_params": {"id": session}}).to_string();
            assert_eq!(post(&url, "/generate", body).await.worker(), home);
        }
        assert_eq!(post(&url, "/close_session", json!({"session_id": session}).to_string()).await.worker(), home);
        homes.insert(home);
    }
    assert!(homes.len() > 1, "sessions spread over the fleet");
}

#[tokio::test]
async fn no_other_worker_is_asked_for_a_session_when_its_own_is_busy() {
    let worker = |name: &'static str| {
        TestWorker::start(move |_| async move { with_status(StatusCode::SERVICE_UNAVAILABLE, name) })
    };
    let workers = [worker("a").await, worker("b").await];
    let router = router(config(&workers.each_ref())).await;
    let body = r#"{"text": "x", "session_params": {"id": "s"}}"#;
    assert_eq!(post(&router.url(), "/generate", body).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(workers.iter().map(|worker| worker.asked().len()).sum::<usize>(), 1);
}

#[tokio::test]
async fn files_and_batches_are_kept_by_one_worker() {
    let workers = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    let router = router(config(&workers.each_ref())).await;
    let url = router.url();
    let mut homes = HashSet::new();
    for (method, path) in [
        (Method::POST, "/v1/files"),
        (Method::GET, "/v1/files/file-7/content"),
        (Method::DELETE, "/v1/files/file-7"),
        (Method::POST, "/v1/batches"),
        (Method::GET, "/v1/batches?limit=2"),
    ] {
        homes.insert(send(&url, request(method, path, "")).await.unwrap().worker().to_owned());
    }
    assert_eq!(homes.len(), 1);
}

#[tokio::test]
async fn what_is_stored_is_found_wherever_it_is() {
    let without = || TestWorker::start(|_| async { with_status(StatusCode::NOT_FOUND, r#"{"error": {"code": "x"}}"#) });
    let workers = [without().await, without().await, TestWorker::start(|_| async { text("found") }).await];
    let router = router(RouterConfig { max_total_retries: 0, ..config(&workers.each_ref()) }).await;
    let url = router.url();
    for _ in 0..10 {
        assert_eq!(get(&url, "/v1/responses/resp_1").await.text().await, "found");
        assert_eq!(get(&url, "/v1/files/file-1").await.text().await, "found");
        let body = r#"{"input": "x", "previous_response_id": "resp_1"}"#;
        assert_eq!(post(&url, "/v1/responses", body).await.text().await, "found");
    }
    assert!(router.fleet().workers().iter().all(|worker| worker.is_available()), "not to have it is no failure");
}

#[tokio::test]
async fn a_response_that_nobody_has_is_not_found() {
    let without =
        || TestWorker::start(|_| async { with_status(StatusCode::NOT_FOUND, r#"{"error": {"code": "gone"}}"#) });
    let workers = [without().await, without().await];
    let router = router(config(&workers.each_ref())).await;
    let reply = get(&router.url(), "/v1/responses/resp_1").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.json().await["error"]["code"], "gone");
    assert!(workers.iter().all(|worker| worker.asked().len() == 1), "each was asked once");
}
