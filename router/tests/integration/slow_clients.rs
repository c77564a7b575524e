//! Clients that are slow on purpose hold nothing for long.

use radixfleet_router::{Router, RouterConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::*;

/// What the router sends to a client that says `text` and then nothing, until it closes the connection.
async fn answer_to(router: &Router, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let router = Router::start(RouterConfig { header_timeout_secs: 0.05, ..config(&[]) }).await.unwrap();
    let answer = answer_to(&router, "GET /health HTTP/1.1\r\nhost: r\r\nx-slow").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("(--header-timeout-secs)"), "{answer}");
}

#[tokio::test]
async fn a_head_that_comes_in_drops_gets_no_longer_than_one_that_does_not_come() {
    let router = Router::start(RouterConfig { header_timeout_secs: 0.2, ..config(&[]) }).await.unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let drip = async {
        while writer.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let mut status = [0; 12];
    tokio::select! {
        () = drip => panic!("closed without an answer"),
        read = reader.read_exact(&mut status) => assert!(read.is_ok()),
    }
    assert_eq!(&status, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_body_that_stops_is_given_up_and_reaches_no_worker() {
    let worker = TestWorker::naming_itself().await;
    let router = router(RouterConfig { body_timeout_secs: 0.05, ..config(&[&worker]) }).await;
    for framing in ["content-length: 9\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"] {
        let answer = answer_to(&router, &format!("POST /generate HTTP/1.1\r\nhost: r\r\n{framing}")).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("for 0.05 s (--body-timeout-secs)"), "{answer}");
    }
    assert!(worker.asked().is_empty());
}

#[tokio::test]
async fn a_connection_between_two_requests_is_closed_after_a_while() {
    let worker = TestWorker::naming_itself().await;
    let router = router(RouterConfig { idle_timeout_secs: 0.05, ..config(&[&worker]) }).await;
    assert_eq!(answer_to(&router, "").await, "");
    let answer = answer_to(&router, "GET /health HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("OK"), "{answer}");
}

#[tokio::test]
async fn an_http_2_client_that_does_not_answer_pings_is_gone() {
    let times = RouterConfig { idle_timeout_secs: 0.05, header_timeout_secs: 0.05, ..config(&[]) };
    let router = Router::start(times).await.unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    let no_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &no_settings].concat()).await.unwrap();
    let mut frames = Vec::new();
    stream.read_to_end(&mut frames).await.unwrap();
    assert!(frames.len() > no_settings.len(), "the router spoke HTTP/2 before it closed the connection");
}
