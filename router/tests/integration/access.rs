//! Who gets in, and when: keys, and places among the running requests.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use radixfleet_router::RouterConfig;
use radixfleet_router::secret::Secret;
use tokio::sync::Semaphore;

use crate::support::*;

fn with_key(method: Method, path: &str, key: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = request(method, path, "{}");
    request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    request
}

#[tokio::test]
async fn clients_and_administrators_need_their_keys() {
    let worker = TestWorker::naming_itself().await;
    let keys = RouterConfig {
        api_key: vec![Secret::from("client"), Secret::from("other")],
        admin_api_key: Some(Secret::from("admin")),
        ..config(&[&worker])
    };
    let router = router(keys).await;
    let url = router.url();
    assert_eq!(get(&url, "/health").await.status, StatusCode::OK);
    let (post, get) = (Method::POST, Method::GET);
    let added = format!("/add_worker?url={}", worker.url);
    for (method, path, key, status) in [
        (&post, "/generate", "client", 200),
        (&post, "/v1/completions", "other", 200),
        (&post, "/v1/completions", "admin", 401),
        (&post, "/generate", "clien", 401),
        (&get, "/health_generate", "client", 200),
        (&get, "/health_generate", "", 401),
        (&get, "/list_workers", "admin", 200),
        (&get, "/list_workers", "client", 401),
        (&post, "/flush_cache", "client", 401),
        (&post, added.as_str(), "client", 401),
        (&post, added.as_str(), "admin", 400),
    ] {
        let reply = send(&url, with_key(method.clone(), path, key)).await.unwrap();
        assert_eq!(reply.status, status, "{path} with {key}");
    }
    let asked = worker.asked();
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("authorization")), "a client's key is not passed on");
}

#[tokio::test]
async fn a_missing_key_is_told_in_the_openai_shape() {
    let router = router(RouterConfig { api_key: vec![Secret::from("client")], ..config(&[]) }).await;
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    assert!(reply.headers.contains_key("x-request-id"));
    let error = &reply.json().await["error"];
    assert_eq!((&error["type"], &error["code"]), (&"authentication_error".into(), &"invalid_api_key".into()));
    assert!(error["message"].as_str().unwrap().contains("(--api-key)"));
}

#[tokio::test]
async fn workers_get_the_key_that_is_theirs() {
    let worker = TestWorker::naming_itself().await;
    let router = router(RouterConfig { worker_api_key: Some(Secret::from("inside")), ..config(&[&worker]) }).await;
    send(&router.url(), with_key(Method::POST, "/generate", "client")).await.unwrap();
    get(&router.url(), "/get_server_info").await;
    post(&router.url(), "/flush_cache", "").await;
    let asked = worker.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.headers["authorization"] == "Bearer inside"), "{asked:?}");
}

/// A worker that answers a request when it gets a permit.
async fn gated() -> (TestWorker, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let worker = TestWorker::start(move |request| {
        let opened = opened.clone();
        async move {
            opened.acquire().await.unwrap().forget();
            text(request.into_body())
        }
    })
    .await;
    (worker, gate)
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_and_beyond_the_queue_are_refused() {
    let (worker, gate) = gated().await;
    let limits = RouterConfig { max_concurrent_requests: 1, queue_size: 1, ..config(&[&worker]) };
    let router = router(limits).await;
    let url = router.url();
    let (first_url, second_url) = (url.clone(), url.clone());
    let first = tokio::spawn(async move { post(&first_url, "/generate", "first").await.text().await });
    eventually("the first is at the worker", || worker.in_progress() == 1).await;
    let second = tokio::spawn(async move { post(&second_url, "/generate", "second").await.text().await });
    while get(&url, "/get_load").await.json().await["waiting"] != 1 {
        tokio::task::yield_now().await;
    }
    let third = post(&url, "/generate", "third").await;
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(third.headers["retry-after"], "1");
    let error = &third.json().await["error"];
    assert_eq!((&error["type"], &error["code"]), (&"rate_limit_error".into(), &"rate_limit_exceeded".into()));
    assert_eq!(worker.asked().len(), 1, "the second still waits");
    gate.add_permits(2);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("first".to_owned(), "second".to_owned()));
}

#[tokio::test]
async fn a_stream_keeps_its_place_until_it_ends() {
    let (feed, answer) = chunked("text/event-stream");
    let answer = parking_lot::Mutex::new(Some(answer));
    let worker = TestWorker::start(move |_| {
        let answer = answer.lock().take().unwrap_or_else(|| text("next"));
        async move { answer }
    })
    .await;
    let limits = RouterConfig { max_concurrent_requests: 1, queue_size: 0, ..config(&[&worker]) };
    let router = router(limits).await;
    feed.send("data: 1\n\n".into()).unwrap();
    let mut streaming = generate(&router.url(), "x").await;
    assert_eq!(streaming.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    assert_eq!(generate(&router.url(), "x").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(get(&router.url(), "/get_server_info").await.status, StatusCode::OK, "questions need no place");
    drop(feed);
    assert!(streaming.chunk().await.is_none());
    while generate(&router.url(), "x").await.status != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_stops_waiting_leaves_the_queue() {
    let (worker, gate) = gated().await;
    let limits = RouterConfig { max_concurrent_requests: 1, queue_size: 10, ..config(&[&worker]) };
    let router = router(limits).await;
    let url = router.url();
    let waiting = async |count: usize| {
        while get(&url, "/get_load").await.json().await["waiting"] != count {
            tokio::task::yield_now().await;
        }
    };
    let clients: Vec<_> = (0..3)
        .map(|index| {
            let url = url.clone();
            tokio::spawn(async move { post(&url, "/generate", index.to_string()).await.text().await })
        })
        .collect();
    waiting(2).await;
    let running = worker.asked()[0].body.clone();
    for (index, client) in clients.iter().enumerate() {
        if running != index.to_string() {
            client.abort();
        }
    }
    waiting(0).await;
    gate.add_permits(3);
    idle(&router).await;
    assert_eq!(worker.asked().len(), 1, "who went away was never sent on");
}

#[tokio::test]
async fn a_queue_that_does_not_move_is_given_up() {
    let (worker, _gate) = gated().await;
    let limits = RouterConfig { max_concurrent_requests: 1, queue_timeout_secs: 0.05, ..config(&[&worker]) };
    let router = router(limits).await;
    let url = router.url();
    let running = tokio::spawn(async move { post(&url, "/generate", "first").await });
    eventually("the first is at the worker", || worker.in_progress() == 1).await;
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("within 0.05 s (--queue-timeout-secs)"), "{message}");
    running.abort();
}
