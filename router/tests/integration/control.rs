//! What the router answers itself, how it starts, and how it stops.

use std::time::Duration;

use http::{Method, StatusCode};
use radixfleet_router::Router;
use tokio::net::TcpStream;

use crate::support::*;

#[tokio::test]
async fn health_says_whether_the_router_can_serve() {
    let mut worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    assert_eq!(get(&router.url(), "/health").await.status, StatusCode::OK);
    worker.kill().await;
    eventually("the worker is noticed to be gone", || !router.fleet().has_healthy_worker()).await;
    let reply = get(&router.url(), "/health").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(reply.json().await["error"]["type"], "service_unavailable_error");
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_told_in_the_openai_shape() {
    let router = Router::start(config(&[])).await.unwrap();
    let reply = get(&router.url(), "/v2/chat").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let error = &reply.json().await["error"];
    assert_eq!((&error["message"], &error["code"]), (&"the router has no path /v2/chat".into(), &"unknown_url".into()));
    assert!(error["param"].is_null() && error["type"] == "not_found_error");
    for (method, path, allowed) in [
        (Method::GET, "/generate", "POST, PUT"),
        (Method::POST, "/health", "GET"),
        (Method::GET, "/add_worker?url=x", "POST"),
        (Method::DELETE, "/list_workers", "GET"),
        (Method::PUT, "/flush_cache", "GET, POST"),
        (Method::POST, "/get_model_info", "GET"),
    ] {
        let reply = send(&router.url(), request(method, path, "")).await.unwrap();
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(reply.headers["allow"], allowed, "{path}");
        assert_eq!(reply.json().await["error"]["message"], format!("method not allowed; use {allowed}"));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_line() {
    let first = Router::start(config(&[])).await.unwrap();
    let mut second = config(&[]);
    second.port = first.port();
    let Err(error) = Router::start(second).await else { panic!("the port was taken twice") };
    let expected = format!(
        "cannot listen on 127.0.0.1:{}: the port is taken by another program; choose another one with --port",
        first.port()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn stopping_lets_answers_end_that_end_in_time() {
    let (feed, answer) = chunked("text/plain");
    let answer = parking_lot::Mutex::new(Some(answer));
    let worker = TestWorker::start(move |_| std::future::ready(answer.lock().take().unwrap())).await;
    let router = router(config(&[&worker])).await;
    let (url, port) = (router.url(), router.port());
    let reply = generate(&url, "x").await;
    let stopping = tokio::spawn(router.stop(Duration::from_secs(60)));
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    feed.send("the end".into()).unwrap();
    drop(feed);
    assert_eq!(reply.text().await, "the end");
    stopping.await.unwrap();
}

#[tokio::test]
async fn stopping_drops_answers_that_take_longer() {
    let worker = TestWorker::start(|_| std::future::pending()).await;
    let router = router(config(&[&worker])).await;
    let url = router.url();
    let waiting = tokio::spawn(async move { send(&url, request(Method::POST, "/generate", "{}")).await.is_err() });
    eventually("the request is at the worker", || worker.in_progress() == 1).await;
    router.stop(Duration::from_millis(50)).await;
    assert!(waiting.await.unwrap(), "the client sees that there is no answer");
    eventually("the worker is told", || worker.in_progress() == 0).await;
}

#[tokio::test]
async fn the_fleets_load_can_be_asked_for() {
    let worker = TestWorker::start(|_| std::future::pending()).await;
    let router = router(config(&[&worker])).await;
    let url = router.url();
    let waiting = tokio::spawn(async move { post(&url, "/generate", "{}").await });
    eventually("the request is at the worker", || worker.in_progress() == 1).await;
    let load = get(&router.url(), "/get_load").await.json().await;
    let expected = serde_json::json!({"load": 1, "waiting": 0, "workers": [{"url": worker.url, "load": 1}]});
    assert_eq!(load, expected);
    waiting.abort();
}

#[tokio::test]
async fn a_router_without_workers_is_alive_and_not_ready() {
    let router = Router::start(config(&[])).await.unwrap();
    assert_eq!(get(&router.url(), "/liveness").await.status, StatusCode::OK);
    assert_eq!(get(&router.url(), "/readiness").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn models_are_those_of_all_workers() {
    let workers = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    workers[0].set_models(&["org/chat", "small"]);
    workers[1].set_models(&["small", "big"]);
    let router = router(config(&[&workers[0], &workers[1]])).await;
    let url = router.url();
    let list = get(&url, "/v1/models").await.json().await;
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert_eq!((&list["object"], names), (&"list".into(), vec!["big", "org/chat", "small"]));
    for path in ["/v1/models/org/chat", "/v1/models/org%2Fchat"] {
        assert_eq!(get(&url, path).await.json().await["id"], "org/chat");
    }
    let unknown = get(&url, "/v1/models/huge").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let error = unknown.json().await["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&"not_found_error".into(), &"model_not_found".into()));
    let deleted = send(&url, request(Method::DELETE, "/v1/models/small", "")).await.unwrap();
    assert_eq!(deleted.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn without_a_worker_there_are_no_models_to_list() {
    let router = Router::start(config(&[])).await.unwrap();
    assert_eq!(get(&router.url(), "/v1/models").await.status, StatusCode::SERVICE_UNAVAILABLE);
}
