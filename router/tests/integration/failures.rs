//! Workers that die, hang or refuse: what had not begun to be answered is answered by somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::StatusCode;
use radixfleet_router::fleet::BreakerState;
use radixfleet_router::{Router, RouterConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::support::*;

/// A worker that is healthy, and closes every connection on which it is asked something: before the answer if `answers` is false,
/// else after it and without a word.
async fn closing(answers: bool) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let Ok(read) = stream.read(&mut request).await else { continue };
            let text = String::from_utf8_lossy(&request[..read]);
            let (is_probe, is_inquiry) = (text.starts_with("GET /health "), text.contains("radixfleet-router/"));
            if is_inquiry && !is_probe {
                continue;
            }
            if !is_probe {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            if is_probe || answers {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    });
    (url, asked)
}

fn is_available(router: &Router, url: &str) -> bool {
    router.fleet().workers().iter().any(|worker| worker.url().as_str() == url && worker.is_available())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_worker_costs_no_client_an_error() {
    // Answers are held back until the kill, so that it hits requests that have not begun to be answered.
    let gate = Arc::new(Notify::new());
    let open = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for _ in 0..2 {
        let (gate, open) = (gate.clone(), open.clone());
        let handler = move |_| {
            let (gate, open) = (gate.clone(), open.clone());
            async move {
                let opened = gate.notified();
                if open.load(Ordering::SeqCst) == 0 {
                    opened.await;
                }
                text("answered")
            }
        };
        workers.push(TestWorker::start(handler).await);
    }
    let mut doomed = workers.pop().unwrap();
    let survivor = workers.pop().unwrap();
    let policy = "round_robin".to_owned();
    let router = router(RouterConfig { policy, ..config(&[&survivor, &doomed]) }).await;
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..40 {
        let url = router.url();
        requests.spawn(async move { generate(&url, &format!("prompt {number}")).await.text().await });
    }
    eventually("both work", || survivor.in_progress() == 20 && doomed.in_progress() == 20).await;
    doomed.kill().await;
    eventually("all are with the survivor", || survivor.in_progress() == 40).await;
    open.store(1, Ordering::SeqCst);
    gate.notify_waiters();
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap(), "answered");
    }
    assert!(!is_available(&router, &doomed.url));
    idle(&router).await;
}

#[tokio::test]
async fn a_worker_that_comes_back_is_used_again() {
    let (mut first, second) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    let policy = "round_robin".to_owned();
    let router = router(RouterConfig { policy, ..config(&[&first, &second]) }).await;
    first.kill().await;
    for _ in 0..10 {
        assert_eq!(generate(&router.url(), "x").await.worker(), second.url);
    }
    assert!(!is_available(&router, &first.url));
    first.restart().await;
    eventually("it is taken back", || is_available(&router, &first.url)).await;
    let served = [generate(&router.url(), "x").await, generate(&router.url(), "x").await];
    assert!(served.iter().any(|reply| reply.worker() == first.url));
}

#[tokio::test]
async fn a_worker_that_comes_up_late_is_used() {
    let mut worker = TestWorker::naming_itself().await;
    worker.kill().await;
    let router = Router::start(config(&[&worker])).await.unwrap();
    let reply = get(&router.url(), "/health").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let reply = generate(&router.url(), "too early").await;
    assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "no healthy worker: none of the 1 in the fleet answers /health; retry later");
    worker.restart().await;
    eventually("it is healthy", || is_available(&router, &worker.url)).await;
    assert_eq!(get(&router.url(), "/health").await.status, StatusCode::OK);
    assert_eq!(generate(&router.url(), "now").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_worker_that_fails_its_checks_gets_no_requests_until_it_passes() {
    let (first, second) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    let router = router(config(&[&first, &second])).await;
    first.set_healthy(false);
    eventually("it is out", || !is_available(&router, &first.url)).await;
    for _ in 0..10 {
        assert_eq!(generate(&router.url(), "x").await.worker(), second.url);
    }
    first.set_healthy(true);
    eventually("it is back", || is_available(&router, &first.url)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_connection_that_the_worker_closed_costs_nothing() {
    let (url, asked) = closing(true).await;
    // No retry is allowed: a stale connection is not a failure.
    let limits = RouterConfig { max_total_retries: 0, max_worker_retries: 1, ..config(&[]) };
    let router = router(RouterConfig { worker_urls: vec![url.clone()], ..limits }).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let url = router.url();
        clients.spawn(async move {
            for _ in 0..50 {
                let reply = generate(&url, "x").await;
                assert_eq!(reply.status, StatusCode::OK);
                assert_eq!(reply.text().await, "ok");
            }
        });
    }
    clients.join_all().await;
    assert_eq!(asked.load(Ordering::SeqCst), 200);
    assert!(is_available(&router, &url));
    idle(&router).await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_tried_elsewhere_until_the_breaker_opens() {
    let (url, asked) = closing(false).await;
    let good = TestWorker::naming_itself().await;
    // The time-out is long, so that the breaker stays open for the rest of the test.
    let breaker = RouterConfig { cb_failure_threshold: 3, cb_timeout_duration_secs: 1e6, ..config(&[&good]) };
    let urls = vec![url.clone(), good.url.clone()];
    let policy = "round_robin".to_owned();
    let router = router(RouterConfig { worker_urls: urls, policy, ..breaker }).await;
    for _ in 0..10 {
        assert_eq!(generate(&router.url(), "x").await.worker(), good.url);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    assert!(!is_available(&router, &url));
    idle(&router).await;
}

#[tokio::test]
async fn the_only_worker_is_asked_again_as_often_as_the_options_say() {
    let (url, asked) = closing(false).await;
    let limits = RouterConfig { max_worker_retries: 3, max_total_retries: 6, ..config(&[]) };
    let router = router(RouterConfig { worker_urls: vec![url], ..limits }).await;
    assert_eq!(generate(&router.url(), "x").await.status, StatusCode::BAD_GATEWAY);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    idle(&router).await;
}

#[tokio::test]
async fn retries_end_with_an_error_that_says_so() {
    let (url, asked) = closing(false).await;
    let limits =
        RouterConfig { max_worker_retries: 100, max_total_retries: 6, disable_circuit_breaker: true, ..config(&[]) };
    let router = router(RouterConfig { worker_urls: vec![url.clone()], ..limits }).await;
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("no worker answered after 6 retries (--max-total-retries 6, --max-worker-retries 100)")
            && message.contains(&format!("the last: {url}: connection broke before the answer")),
        "{message}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 7);
    idle(&router).await;
}

#[tokio::test]
async fn a_refused_connection_goes_elsewhere_and_a_fleet_of_them_is_unavailable() {
    let mut workers = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    let router = router(config(&[&workers[0], &workers[1]])).await;
    for worker in &mut workers {
        worker.kill().await;
    }
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(workers.iter().all(|worker| !is_available(&router, &worker.url)));
    idle(&router).await;
}

#[tokio::test]
async fn a_worker_that_never_answers_is_given_up_after_the_time_out() {
    let worker = TestWorker::start(|_| std::future::pending()).await;
    let router = router(RouterConfig { request_timeout_secs: 0.2, ..config(&[&worker]) }).await;
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, format!("worker {} did not begin to answer within 0.2 s (--request-timeout-secs)", worker.url));
    eventually("the worker is told", || worker.in_progress() == 0).await;
    idle(&router).await;
}

#[tokio::test]
async fn a_fleet_without_workers_says_how_to_add_one() {
    let router = Router::start(config(&[])).await.unwrap();
    let reply = generate(&router.url(), "x").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    let message = reply.json().await["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "no worker: add one with POST /add_worker?url=…");
}

/// A worker that answers with this status, and says so in its body.
async fn always(status: StatusCode) -> TestWorker {
    TestWorker::start(move |_| async move {
        let mut answer = with_status(status, format!("the worker says {}", status.as_u16()));
        answer.headers_mut().insert("retry-after", "7".parse().unwrap());
        answer
    })
    .await
}

async fn taking_turns(workers: &[&TestWorker]) -> Router {
    let slow = RouterConfig { cb_timeout_duration_secs: 1e6, cb_failure_threshold: 3, ..config(workers) };
    router(RouterConfig { policy: "round_robin".to_owned(), ..slow }).await
}

fn breaker(router: &Router, worker: &TestWorker) -> BreakerState {
    let workers = router.fleet().workers();
    workers.iter().find(|candidate| candidate.url().as_str() == worker.url).unwrap().status().circuit_breaker
}

#[tokio::test]
async fn a_worker_that_fails_is_left_for_another_until_its_breaker_opens() {
    for status in [500, 502] {
        let failing = always(StatusCode::from_u16(status).unwrap()).await;
        let good = TestWorker::naming_itself().await;
        let router = taking_turns(&[&failing, &good]).await;
        for _ in 0..10 {
            assert_eq!(generate(&router.url(), "x").await.worker(), good.url);
        }
        assert_eq!((failing.asked().len(), breaker(&router, &failing)), (3, BreakerState::Open), "{status}");
        idle(&router).await;
    }
}

#[tokio::test]
async fn other_answers_are_passed_on_and_count_against_nobody() {
    for status in [400, 404, 501, 504, 505] {
        let failing = always(StatusCode::from_u16(status).unwrap()).await;
        let router = taking_turns(&[&failing]).await;
        for _ in 0..5 {
            assert_eq!(generate(&router.url(), "x").await.status.as_u16(), status);
        }
        assert_eq!((failing.asked().len(), breaker(&router, &failing)), (5, BreakerState::Closed));
    }
}

#[tokio::test]
async fn a_request_that_every_worker_fails_gets_the_last_answer_and_is_itself_to_blame() {
    let workers = [always(StatusCode::INTERNAL_SERVER_ERROR).await, always(StatusCode::INTERNAL_SERVER_ERROR).await];
    let router = taking_turns(&[&workers[0], &workers[1]]).await;
    for _ in 0..6 {
        let reply = generate(&router.url(), "x").await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(reply.text().await, "the worker says 500");
    }
    for worker in &workers {
        assert_eq!((worker.asked().len(), breaker(&router, worker)), (6, BreakerState::Closed), "asked once each");
    }
    idle(&router).await;
}

#[tokio::test]
async fn the_only_worker_that_fails_is_spared_when_its_breaker_opens() {
    let failing = always(StatusCode::INTERNAL_SERVER_ERROR).await;
    let router = taking_turns(&[&failing]).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(generate(&router.url(), "x").await.status.as_u16());
    }
    assert_eq!(statuses, [500, 500, 500, 503, 503]);
}

#[tokio::test]
async fn a_busy_worker_is_left_for_another_and_not_punished() {
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let (busy, idle_one) = (always(status).await, TestWorker::naming_itself().await);
        let router = taking_turns(&[&busy, &idle_one]).await;
        for _ in 0..10 {
            assert_eq!(generate(&router.url(), "x").await.worker(), idle_one.url);
        }
        assert!(busy.asked().len() >= 4 && breaker(&router, &busy) == BreakerState::Closed);
        idle(&router).await;
    }
}

#[tokio::test]
async fn when_all_are_busy_the_client_is_told_when_to_come_back() {
    let workers = [always(StatusCode::TOO_MANY_REQUESTS).await, always(StatusCode::TOO_MANY_REQUESTS).await];
    let router = taking_turns(&[&workers[0], &workers[1]]).await;
    let reply = generate(&router.url(), "x").await;
    assert_eq!((reply.status, reply.headers["retry-after"].to_str().unwrap()), (StatusCode::TOO_MANY_REQUESTS, "7"));
    assert_eq!(reply.text().await, "the worker says 429");
    assert!(workers.iter().all(|worker| worker.asked().len() == 1), "each was asked once");
    idle(&router).await;
}

#[tokio::test]
async fn a_half_open_breaker_lets_one_request_at_a_time_decide() {
    let gate = Arc::new(Notify::new());
    let (opening, broken) = (gate.clone(), Arc::new(AtomicBool::new(true)));
    let switch = broken.clone();
    let recovering = TestWorker::start(move |_| {
        let (gate, broken) = (opening.clone(), switch.clone());
        async move {
            if broken.load(Ordering::SeqCst) {
                return with_status(StatusCode::INTERNAL_SERVER_ERROR, "");
            }
            gate.notified().await;
            text("well again")
        }
    })
    .await;
    let good = TestWorker::naming_itself().await;
    let quick =
        RouterConfig { cb_timeout_duration_secs: 0.05, cb_failure_threshold: 3, ..config(&[&recovering, &good]) };
    let router = router(RouterConfig { policy: "round_robin".to_owned(), cb_success_threshold: 2, ..quick }).await;
    while breaker(&router, &recovering) != BreakerState::Open {
        assert_eq!(generate(&router.url(), "x").await.worker(), good.url);
    }
    broken.store(false, Ordering::SeqCst);
    eventually("it is half-open", || breaker(&router, &recovering) == BreakerState::HalfOpen).await;
    let before = recovering.asked().len();
    for trial in 1..=2 {
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let url = router.url();
            requests.spawn(async move { generate(&url, "x").await.status });
        }
        eventually("one is on trial", || recovering.asked().len() == before + trial).await;
        while requests.len() > 1 {
            assert_eq!(requests.join_next().await.unwrap().unwrap(), StatusCode::OK);
        }
        assert_eq!(recovering.asked().len(), before + trial, "the others went elsewhere");
        gate.notify_one();
        assert_eq!(requests.join_next().await.unwrap().unwrap(), StatusCode::OK);
    }
    assert_eq!(breaker(&router, &recovering), BreakerState::Closed);
}

#[tokio::test]
async fn a_worker_that_comes_and_goes_costs_no_client_an_error() {
    let (steady, mut flapping) = (TestWorker::naming_itself().await, TestWorker::naming_itself().await);
    let router =
        Arc::new(router(RouterConfig { policy: "round_robin".to_owned(), ..config(&[&steady, &flapping]) }).await);
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (router, over) = (router.clone(), over.clone());
        clients.spawn(async move {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(generate(&router.url(), "x").await.status, StatusCode::OK);
            }
        });
    }
    for _ in 0..3 {
        flapping.kill().await;
        eventually("it is out", || !is_available(&router, &flapping.url)).await;
        flapping.restart().await;
        eventually("it is back", || !flapping.asked().is_empty()).await;
    }
    over.store(true, Ordering::SeqCst);
    clients.join_all().await;
    idle(&router).await;
}

#[tokio::test]
async fn a_fleet_that_was_down_serves_again() {
    let mut workers = [TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    let router = router(config(&[&workers[0], &workers[1]])).await;
    for worker in &mut workers {
        worker.kill().await;
    }
    eventually("all are out", || !router.fleet().has_healthy_worker()).await;
    assert_eq!(generate(&router.url(), "x").await.status, StatusCode::SERVICE_UNAVAILABLE);
    for worker in &mut workers {
        worker.restart().await;
    }
    eventually("all are back", || workers.iter().all(|worker| is_available(&router, &worker.url))).await;
    for _ in 0..10 {
        assert_eq!(generate(&router.url(), "x").await.status, StatusCode::OK);
    }
}

/// A worker that sends the head of a stream of events at once, and then nothing more, before it breaks the connection.
async fn heads_only() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let Ok(read) = stream.read(&mut request).await else { continue };
            let head: &[u8] = if String::from_utf8_lossy(&request[..read]).contains("radixfleet-router/") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            };
            stream.write_all(head).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn a_stream_that_ends_before_its_first_event_is_answered_by_another_worker() {
    let (url, good) = (heads_only().await, TestWorker::naming_itself().await);
    let urls = vec![url, good.url.clone()];
    let base = RouterConfig { policy: "round_robin".to_owned(), ..config(&[]) };
    let router = router(RouterConfig { worker_urls: urls, ..base }).await;
    for _ in 0..4 {
        assert_eq!(generate(&router.url(), "x").await.worker(), good.url);
    }
}

#[tokio::test]
async fn what_keeps_something_is_sent_once() {
    let (url, asked) = closing(false).await;
    let good = TestWorker::naming_itself().await;
    let urls = vec![url, good.url.clone()];
    let base = RouterConfig { policy: "round_robin".to_owned(), ..config(&[]) };
    let router = router(RouterConfig { worker_urls: urls, ..base }).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let reply = post(&router.url(), "/v1/uploads", "content").await;
        statuses.push(reply.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, asked.load(Ordering::SeqCst), good.asked().len()), (vec![200, 502], 1, 1));
}
