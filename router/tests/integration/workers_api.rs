//! `/workers`: the fleet as a resource.

use http::{Method, StatusCode};
use radixfleet_router::Router;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn the_fleet_is_a_resource() {
    let mut late = TestWorker::naming_itself().await;
    late.kill().await;
    let router = Router::start(config(&[])).await.unwrap();
    let url = router.url();
    assert_eq!(get(&url, "/workers").await.json().await, json!({"workers": []}));

    let created = post(&url, "/workers", json!({"url": late.url}).to_string()).await;
    assert_eq!(created.status, StatusCode::ACCEPTED);
    let location = created.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(location, "/workers/0");
    let described = created.json().await;
    assert_eq!((&described["id"], &described["url"]), (&0.into(), &late.url.clone().into()));
    assert_eq!((&described["health"], &described["load"]), (&"starting".into(), &0.into()));

    late.restart().await;
    eventually("the worker has come up", || router.fleet().has_healthy_worker()).await;
    assert_eq!(get(&url, &location).await.json().await["health"], "healthy");
    assert_eq!(generate(&url, "x").await.worker(), late.url);

    let listed = get(&url, "/workers").await.json().await;
    assert_eq!(listed["workers"][0]["url"], late.url);
    let deleted = send(&url, request(Method::DELETE, &location, "")).await.unwrap();
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    assert_eq!(deleted.json().await["draining"], true);
    for method in [Method::GET, Method::DELETE] {
        let gone = send(&url, request(method, &location, "")).await.unwrap();
        assert_eq!(gone.status, StatusCode::NOT_FOUND);
        assert_eq!(gone.json().await["error"]["message"], "no worker has the id 0; GET /workers lists them");
    }
    assert_eq!(get(&url, "/workers").await.json().await, json!({"workers": []}));
}

#[tokio::test]
async fn what_the_fleet_cannot_take_is_refused_with_the_reason() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    let url = router.url();
    for (body, status, reason) in [
        (json!({"url": worker.url}).to_string(), 409, "is in the fleet already"),
        (json!({"url": "ftp://a:1"}).to_string(), 400, "unknown scheme ftp"),
        (json!({"uri": "http://a:1"}).to_string(), 400, "unknown field `uri`"),
        ("{".to_owned(), 400, "the body is not {\"url\": \"http://HOST:PORT\"}"),
        ("x".repeat(3 << 20), 400, "length limit exceeded"),
    ] {
        let reply = post(&url, "/workers", body).await;
        assert_eq!(reply.status, status, "{reason}");
        let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(reason), "{message}");
    }
    for id in ["7", "-1", "x", "99999"] {
        assert_eq!(get(&url, &format!("/workers/{id}")).await.status, StatusCode::NOT_FOUND, "{id}");
    }
    let reply = send(&url, request(Method::PUT, "/workers/0", "")).await.unwrap();
    assert_eq!(
        (reply.status, &reply.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, DELETE".parse().unwrap())
    );
}
