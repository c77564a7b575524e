//! HTTP/1.1 on the wire: where messages end, what is refused, and that it does not matter how the bytes arrive.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use radixfleet_router::{Router, RouterConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

async fn connect(router: &Router) -> TcpStream {
    TcpStream::connect(("127.0.0.1", router.port())).await.unwrap()
}

/// Everything that the router answers to these bytes until it closes the connection.
async fn answers(router: &Router, request: &[u8]) -> String {
    let mut stream = connect(router).await;
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A router before a worker that answers each connection's only request with these segments, one after the other.
async fn before_worker(segments: Vec<Vec<u8>>) -> Router {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            if request[..read].starts_with(b"GET /health") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                continue;
            }
            for segment in &segments {
                // Refused when the router has seen enough.
                let _ = stream.write_all(segment).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    router(RouterConfig { worker_urls: vec![url], ..config(&[]) }).await
}

#[tokio::test]
async fn a_request_that_two_servers_could_read_differently_reaches_no_worker() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    for head in [
        "host: r\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
        "host: r\r\ncontent-length: 5\r\ncontent-length: 6",
        "host: r\r\ncontent-length: +5",
        "host: r\r\ntransfer-encoding: gzip, chunked",
        "host: r\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity",
        "host: r\r\ntransfer-encoding : chunked",
        "host: r\r\nx: a\r\n b: folded",
        "host: r\r\nhost: s",
        "x: no host",
    ] {
        let request = format!(
            "POST /generate HTTP/1.1\r\n{head}\r\n\r\n0\r\n\r\nGET /get_model_info HTTP/1.1\r\nhost: r\r\n\r\n"
        );
        let answer = answers(&router, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains(r#""type":"invalid_request_error""#), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let chunk = "POST /generate HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n";
    assert!(answers(&router, chunk.as_bytes()).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(worker.asked().len(), 0);
}

#[tokio::test]
async fn heads_are_bounded() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    let request = format!("GET /get_model_info HTTP/1.1\r\nhost: r\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    assert!(answers(&router, request.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    assert!(answers(&router, b"\x16\x03\x01 no HTTP at all\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn requests_in_one_segment_are_answered_in_their_order() {
    let worker = TestWorker::start(|request| async move { text(request.into_body()) }).await;
    let router = router(config(&[&worker])).await;
    let length = "POST /generate HTTP/1.1\r\nhost: r\r\ncontent-length: 5\r\n\r\nfirst";
    let chunked = "\r\nPOST /generate HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nsec\r\n3\r\nond\r\n0\r\nt: r\r\n\r\n";
    let last = "POST /generate HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: 4\r\n\r\nlast";
    let whole = format!("{length}{chunked}{last}");
    let mut rest = answers(&router, whole.as_bytes()).await;
    for body in ["first", "second", "last"] {
        let (_, after) = rest.split_once(&format!("\r\n\r\n{body}")).unwrap_or_else(|| panic!("{body} in {rest:?}"));
        rest = after.to_owned();
    }
    assert_eq!(rest, "");

    // The same, byte by byte.
    let mut stream = connect(&router).await;
    stream.set_nodelay(true).unwrap();
    for byte in whole.as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    assert_eq!(worker.asked().len(), 6);
    idle(&router).await;
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_its_body_is_answered() {
    let worker = TestWorker::start(|request| async move { text(request.into_body()) }).await;
    let router = router(RouterConfig { max_payload_size: 1000, ..config(&[&worker]) }).await;
    let mut stream = connect(&router).await;
    let head = "POST /generate HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: ";
    stream.write_all(format!("{head}4\r\n\r\n").as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nbody"), "{answer}");

    // One that would be refused is not told to go on.
    assert!(answers(&router, format!("{head}1001\r\n\r\n").as_bytes()).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn an_http_1_0_client_gets_what_it_understands() {
    let worker = TestWorker::start(|request| async move {
        if request.uri().path() == "/get_model_info" {
            return text("models");
        }
        let (feed, answer) = chunked("text/plain");
        feed.send("one ".into()).unwrap();
        feed.send("two".into()).unwrap();
        answer
    })
    .await;
    let router = router(config(&[&worker])).await;
    let answer =
        answers(&router, b"POST /generate HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("\r\n\r\none two"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");

    let kept = "GET /get_model_info HTTP/1.0\r\nconnection: keep-alive\r\n\r\n";
    let answer = answers(&router, format!("{kept}GET /get_model_info HTTP/1.0\r\n\r\n").as_bytes()).await;
    assert_eq!(answer.matches("\r\nconnection: keep-alive\r\n").count(), 1, "{answer}");
    assert_eq!(answer.matches("\r\nconnection: close\r\n").count(), 1, "{answer}");
    assert_eq!(answer.matches("\r\n\r\nmodels").count(), 2, "{answer}");
    idle(&router).await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let worker = TestWorker::start(|request| async move {
        match request.uri().query() {
            Some(status) => {
                let mut answer = with_status(StatusCode::from_bytes(status.as_bytes()).unwrap(), "");
                answer.headers_mut().remove("content-length");
                answer
            }
            None => text("a body"),
        }
    })
    .await;
    let router = router(config(&[&worker])).await;
    let mut requests = String::new();
    for (method, path) in [("GET", "?204"), ("GET", "?304"), ("HEAD", ""), ("GET", "")] {
        requests += &format!("{method} /get_model_info{path} HTTP/1.1\r\nhost: r\r\n\r\n");
    }
    requests = requests.replacen(
        "GET /get_model_info HTTP/1.1\r\n",
        "GET /get_model_info HTTP/1.1\r\nconnection: close\r\n",
        1,
    );
    let answer = answers(&router, requests.as_bytes()).await;
    let heads: Vec<&str> = answer.split("\r\n\r\n").collect();
    let [no_content, not_modified, head, whole, "a body"] = heads[..] else { panic!("{answer}") };
    assert!(no_content.starts_with("HTTP/1.1 204 ") && !no_content.contains("content-length"), "{no_content}");
    assert!(not_modified.starts_with("HTTP/1.1 304 ") && !not_modified.contains("transfer-encoding"), "{not_modified}");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\ncontent-length: 6"), "{head}");
    assert!(whole.contains("\r\ncontent-length: 6"), "{whole}");
    idle(&router).await;
    assert_eq!(worker.connections(), 1);
}

#[tokio::test]
async fn an_answer_is_the_same_however_it_arrives() {
    let head = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-own: 1\r\n";
    let chunks = "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5;ext=1\r\nfirst\r\n00A\r\n, second, \r\n4\r\nlast\r\n0\r\ntrailer: x\r\n\r\n";
    let length = "content-length: 19\r\n\r\nfirst, second, last";
    let until_close = "\r\nfirst, second, last";
    let mut random = fastrand::Rng::with_seed(7);
    for body in [chunks, length, until_close] {
        let whole = format!("{head}{body}").into_bytes();
        let by_byte: Vec<Vec<u8>> = whole.iter().map(|byte| vec![*byte]).collect();
        let mut ways = vec![vec![whole.clone()], by_byte];
        for _ in 0..6 {
            let (mut rest, mut segments) = (whole.as_slice(), Vec::new());
            while !rest.is_empty() {
                let (segment, after) = rest.split_at(random.usize(1..=rest.len().min(40)));
                segments.push(segment.to_vec());
                rest = after;
            }
            ways.push(segments);
        }
        for segments in ways {
            let router = before_worker(segments).await;
            let reply = generate(&router.url(), "x").await;
            assert_eq!((reply.status, reply.headers["x-own"].to_str().unwrap()), (StatusCode::OK, "1"));
            assert_eq!(reply.headers.contains_key("content-length"), body == length);
            assert_eq!(reply.text().await, "first, second, last");
            idle(&router).await;
        }
    }
}

#[tokio::test]
async fn what_a_worker_sends_after_its_answer_is_nobody_s() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let router = before_worker(vec![answer.into()]).await;
    for _ in 0..3 {
        assert_eq!(generate(&router.url(), "x").await.text().await, "ok");
        idle(&router).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_the_worker_s_failure() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n",
    ] {
        let router = before_worker(vec![answer.into()]).await;
        let reply = send(&router.url(), request(Method::POST, "/generate", "{}")).await.unwrap();
        assert!(reply.status.is_server_error(), "{answer}: {}", reply.status);
        idle(&router).await;
    }
}

#[tokio::test]
async fn a_worker_may_answer_before_it_has_read_the_request() {
    let refusal = "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nno!";
    let router = before_worker(vec![refusal.into(), Vec::new()]).await;
    let reply =
        send(&router.url(), request(Method::POST, "/generate", Bytes::from(vec![b'x'; 8 << 20]))).await.unwrap();
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    idle(&router).await;
}
