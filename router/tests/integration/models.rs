//! Several models behind one router: who is asked for which, and what the router knows of its workers' load.

use http::StatusCode;
use radixfleet_router::{Router, RouterConfig};
use serde_json::json;

use crate::support::*;

async fn serving(models: &[&str]) -> TestWorker {
    let worker = TestWorker::naming_itself().await;
    worker.set_models(models);
    worker
}

async fn chat(router: &Router, model: &str) -> Reply {
    post(&router.url(), "/v1/chat/completions", json!({"model": model, "messages": []}).to_string()).await
}

fn names(router: &Router) -> Vec<String> {
    router.fleet().models().into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_request_goes_to_a_worker_of_its_model() {
    let workers = [serving(&["llama"]).await, serving(&["qwen"]).await, serving(&["llama", "llama-sql"]).await];
    let router = router(config(&[&workers[0], &workers[1], &workers[2]])).await;
    assert_eq!(names(&router), ["llama", "llama-sql", "qwen"]);
    for _ in 0..6 {
        assert_eq!(chat(&router, "qwen").await.worker(), workers[1].url);
        assert_eq!(chat(&router, "llama-sql").await.worker(), workers[2].url);
        assert_ne!(chat(&router, "llama").await.worker(), workers[1].url);
    }
    let reply = chat(&router, "gpt").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    let error = &reply.json().await["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("model_not_found"), &json!("not_found_error")));
    assert_eq!(error["message"], "the model \"gpt\" does not exist; the workers serve llama, llama-sql, qwen");
    assert_eq!(generate(&router.url(), "no model named").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_model_whose_workers_are_down_is_unavailable_and_not_unknown() {
    let (llama, mut qwen) = (serving(&["llama"]).await, serving(&["qwen"]).await);
    let router = router(config(&[&llama, &qwen])).await;
    qwen.kill().await;
    for _ in 0..3 {
        assert_eq!(chat(&router, "qwen").await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(chat(&router, "llama").await.status, StatusCode::OK);
}

#[tokio::test]
async fn workers_of_one_model_get_every_name() {
    let workers = [serving(&["llama"]).await, serving(&["llama"]).await, TestWorker::naming_itself().await];
    let router = router(config(&[&workers[0], &workers[1], &workers[2]])).await;
    assert_eq!(names(&router), ["llama"]);
    assert_eq!(chat(&router, "an adapter that the worker knows").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_worker_that_comes_back_with_another_model_is_asked_for_that_one() {
    let (staying, mut changing) = (serving(&["llama"]).await, serving(&["qwen"]).await);
    let router = router(config(&[&staying, &changing])).await;
    changing.kill().await;
    eventually("it is gone", || router.fleet().workers().iter().any(|worker| !worker.is_available())).await;
    changing.set_models(&["gemma"]);
    changing.restart().await;
    eventually("it is back", || names(&router) == ["gemma", "llama"]).await;
    eventually("it is healthy", || router.fleet().workers().iter().all(|worker| worker.is_available())).await;
    assert_eq!(chat(&router, "gemma").await.worker(), changing.url);
    assert_eq!(chat(&router, "qwen").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_worker_without_the_list_is_known_by_its_model_path() {
    let worker = TestWorker::naming_itself().await;
    let info = json!({"model_path": "/models/llama", "is_generation": true});
    worker.set_fact("/get_model_info", StatusCode::OK, info.to_string());
    let router = router(config(&[&worker])).await;
    assert_eq!(names(&router), ["/models/llama"]);
}

#[tokio::test]
async fn the_load_that_workers_report_is_known_and_none_is_asked_for_what_it_lacks() {
    let (reporting, silent) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    reporting.set_fact("/get_load", StatusCode::OK, r#"{"load": 7}"#);
    let router = router(RouterConfig { load_poll_interval_secs: 0.02, ..config(&[&reporting, &silent]) }).await;
    let load = |worker: &TestWorker| {
        let workers = router.fleet().workers();
        workers.iter().find(|candidate| candidate.url().as_str() == worker.url).unwrap().reported_load()
    };
    eventually("the load is known", || load(&reporting) == Some(7.0)).await;
    reporting.set_fact("/get_load", StatusCode::OK, r#"[{"num_reqs": 1}, {"num_reqs": 2}]"#);
    eventually("it is followed", || load(&reporting) == Some(3.0)).await;
    eventually("the other was asked", || silent.inquiries("/get_load") == 1).await;
    let before = reporting.inquiries("/get_load");
    eventually("time has passed", || reporting.inquiries("/get_load") > before + 5).await;
    assert_eq!((load(&silent), silent.inquiries("/get_load")), (None, 1));
    reporting.set_fact("/get_load", StatusCode::INTERNAL_SERVER_ERROR, "");
    eventually("an old load is not kept", || load(&reporting).is_none()).await;
}
