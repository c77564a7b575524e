//! Answers that come in pieces: in order, at once, no faster than the client reads, and not cut silently.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use radixfleet_router::RouterConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc::UnboundedSender;

use crate::support::*;

/// A worker whose answers are fed by the test.
async fn fed(content_type: &'static str) -> (TestWorker, Arc<Mutex<Vec<UnboundedSender<Bytes>>>>) {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let shared = feeds.clone();
    let worker = TestWorker::start(move |_| {
        let (feed, answer) = chunked(content_type);
        shared.lock().push(feed);
        async { answer }
    })
    .await;
    (worker, feeds)
}

#[tokio::test]
async fn every_chunk_arrives_before_the_next_one_is_sent() {
    let (worker, feeds) = fed("text/event-stream").await;
    let router = router(config(&[&worker])).await;
    let mut reply = post(&router.url(), "/v1/chat/completions", r#"{"stream": true}"#).await;
    let feed = feeds.lock().pop().unwrap();
    assert_eq!(loads(&router), [1]);
    for number in 0..50 {
        let chunk = Bytes::from(format!("data: {{\"é\": {number}}}\n\n"));
        feed.send(chunk.clone()).unwrap();
        assert_eq!(reply.chunk().await.unwrap().unwrap(), chunk);
    }
    drop(feed);
    assert!(reply.chunk().await.is_none());
    idle(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_does_not_read_holds_the_worker_back() {
    const BODY: usize = 64 << 20;
    /// Found in no head.
    const FILL: u8 = 0xff;
    /// What the router and the system's buffers around it may hold; those of worker and client are made small.
    const HELD: usize = 4 << 20;
    let produced = Arc::new(AtomicUsize::new(0));
    let url = flooding(FILL, BODY, produced.clone()).await;
    let router = router(RouterConfig { worker_urls: vec![url], ..config(&[]) }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client = socket.connect(([127, 0, 0, 1], router.port()).into()).await.unwrap();
    client.write_all(b"GET /v1/flood HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await.unwrap();
    // Until nothing moves any more.
    let mut before = 0;
    while before == 0 || before != produced.load(Ordering::SeqCst) {
        before = produced.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < HELD, "{before} bytes were taken for a client that reads nothing");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.iter().filter(|byte| **byte == FILL).count(), BODY);
    idle(&router).await;
}

/// A worker that answers `/v1/flood` with `body` bytes as fast as they are taken, and counts them; anything else with an empty 200.
async fn flooding(fill: u8, body: usize, produced: Arc<AtomicUsize>) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket.set_send_buffer_size(16 << 10).unwrap();
    let listener = socket.listen(16).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let produced = produced.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let length = if request[..read].starts_with(b"GET /v1/flood ") { body } else { 0 };
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![fill; 16 << 10];
                for _ in 0..length / piece.len() {
                    stream.write_all(&piece).await.unwrap();
                    produced.fetch_add(piece.len(), Ordering::SeqCst);
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_stream_at_the_worker() {
    let (worker, feeds) = fed("text/event-stream").await;
    let router = router(config(&[&worker])).await;
    let mut reply = generate(&router.url(), "stop").await;
    let feed = feeds.lock().pop().unwrap();
    feed.send("data: 1\n\n".into()).unwrap();
    reply.chunk().await.unwrap().unwrap();
    assert_eq!((worker.in_progress(), loads(&router)), (1, vec![1]));
    drop(reply);
    // The worker sends nothing more, so that nothing but the closed connection can tell it.
    eventually("the worker notices", || worker.in_progress() == 0).await;
    idle(&router).await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_ends_the_request_at_the_worker() {
    let worker = TestWorker::start(|_| std::future::pending()).await;
    let router = router(config(&[&worker])).await;
    let url = router.url();
    let waiting = tokio::spawn(async move { generate(&url, "never").await.status });
    eventually("the worker has the request", || worker.in_progress() == 1).await;
    assert_eq!(loads(&router), [1]);
    waiting.abort();
    eventually("the worker notices", || worker.in_progress() == 0).await;
    idle(&router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_disconnect_storm_leaves_no_load_behind() {
    let worker = TestWorker::start(|_| async {
        let (feed, answer) = chunked("text/event-stream");
        tokio::spawn(async move {
            for number in 0..3 {
                tokio::task::yield_now().await;
                // Refused when the client has gone.
                let _ = feed.send(format!("data: {number}\n\n").into());
            }
            feed.closed().await;
        });
        answer
    })
    .await;
    let router = Arc::new(router(config(&[&worker])).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..200_u64 {
        let router = router.clone();
        clients.spawn(async move {
            let mut random = fastrand::Rng::with_seed(client);
            // Some go away before the answer, some in it.
            let url = router.url();
            let asking = generate(&url, "storm");
            if random.bool() {
                let pause = Duration::from_micros(random.u64(0..3000));
                let _ = tokio::time::timeout(pause, asking).await;
                return;
            }
            let mut reply = asking.await;
            // Events that arrive together may come in one chunk.
            let (events, mut seen) = (random.usize(0..4), String::new());
            while seen.matches("\n\n").count() < events {
                seen.push_str(str::from_utf8(&reply.chunk().await.unwrap().unwrap()).unwrap());
            }
        });
    }
    clients.join_all().await;
    eventually("the worker has nothing to do", || worker.in_progress() == 0).await;
    idle(&router).await;
}

/// A worker that answers everything but `/health` with these bytes and then breaks the connection off.
async fn breaking_off(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let is_probe = request[..read].starts_with(b"GET /health");
            let answer = if is_probe { "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" } else { answer };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}

#[tokio::test]
async fn an_event_stream_that_breaks_off_ends_with_an_error_event() {
    for (sent, expected) in
        [("e\r\ndata: {\"a\":1}\n\r\n1\r\n\n\r\n", "data: {\"a\":1}\n\n"), ("7\r\ndata: {\r\n", "data: {\n\n")]
    {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
        let url = breaking_off(format!("{head}{sent}").leak()).await;
        let router = router(RouterConfig { worker_urls: vec![url], ..config(&[]) }).await;
        let reply = generate(&router.url(), "x").await;
        assert_eq!(reply.status, StatusCode::OK);
        let body = reply.text().await;
        let event = body.strip_prefix(expected).unwrap_or_else(|| panic!("{body:?} begins with {expected:?}"));
        let event = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(event).unwrap();
        assert_eq!(error["error"]["message"], "the worker broke off in the middle of this answer");
        assert_eq!(error["error"]["code"], "bad_gateway");
        idle(&router).await;
    }
}

#[tokio::test]
async fn any_other_answer_that_breaks_off_is_seen_to_be_cut() {
    for head in ["content-type: application/json\r\ncontent-length: 100", "transfer-encoding: chunked"] {
        let body = if head.contains("chunked") { "3\r\n{\"a\r\n" } else { "{\"a" };
        let url = breaking_off(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").leak()).await;
        let router = router(RouterConfig { worker_urls: vec![url], ..config(&[]) }).await;
        // Whether the head was sent before the worker broke off is a matter of time.
        let cut = match send(&router.url(), request(Method::POST, "/generate", "{}")).await {
            Ok(reply) => reply.bytes().await.is_err(),
            Err(_) => true,
        };
        assert!(cut, "{head}");
        idle(&router).await;
    }
}
