//! Bytes go through as they are.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use radixfleet_router::RouterConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

#[tokio::test]
async fn bodies_reach_the_worker_byte_for_byte() {
    let worker = TestWorker::start(|request| async move { text(request.into_body()) }).await;
    let router = router(config(&[&worker])).await;
    let bodies: [&[u8]; 7] = [
        r#"{"text": "Grüße, 世界 🦀", "unknown": {"deep": [1, 2.50, -0]}, "text_": null}"#.as_bytes(),
        br#"{ "messages" : [ {"role":"user","content":"a\u00e9\n\"b\""} ] , "extra":1e400 }"#,
        b"{\"text\": \"broken",
        b"\xff\xfe no UTF-8 \x00",
        b"",
        b"[]",
        &[b'x'; 3_000_000],
    ];
    for body in bodies {
        for path in ["/generate", "/v1/chat/completions"] {
            let reply = post(&router.url(), path, body.to_vec()).await;
            assert_eq!(reply.status, StatusCode::OK);
            assert_eq!(reply.bytes().await.unwrap(), body);
            assert_eq!(worker.asked().last().unwrap().body, body);
        }
    }
    idle(&router).await;
}

#[tokio::test]
async fn method_path_query_and_headers_reach_the_worker() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    let mut request = request(Method::PUT, "/v1/files/a%20b?limit=2&after=%C3%A9", "content");
    for (name, value) in [("authorization", "Bearer key"), ("x-trace", "7"), ("connection", "x-hop"), ("x-hop", "1")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    send(&router.url(), request).await.unwrap();
    let asked = worker.asked().pop().unwrap();
    assert_eq!((asked.method, asked.uri.to_string().as_str()), (Method::PUT, "/v1/files/a%20b?limit=2&after=%C3%A9"));
    assert_eq!(asked.headers["authorization"], "Bearer key");
    assert_eq!(asked.headers["x-trace"], "7");
    assert_eq!(asked.headers["host"], worker.address.to_string());
    assert_eq!(asked.headers["content-length"], "7");
    assert!(!asked.headers.contains_key("x-hop") && !asked.headers.contains_key("connection"));
}

#[tokio::test]
async fn status_headers_and_body_of_the_answer_reach_the_client() {
    let worker = TestWorker::start(|request| async move {
        let status = request.uri().query().unwrap().parse::<u16>().unwrap();
        let mut answer = with_status(StatusCode::from_u16(status).unwrap(), r#"{"error": {"message": "no"}}"#);
        answer.headers_mut().insert("retry-after", HeaderValue::from_static("17"));
        answer.headers_mut().insert("content-type", HeaderValue::from_static("application/x-own"));
        answer
    })
    .await;
    let router = router(config(&[&worker])).await;
    for status in [200, 201, 400, 404, 422, 429, 500, 503] {
        let reply = post(&router.url(), &format!("/v1/completions?{status}"), "{}").await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.headers["retry-after"], "17");
        assert_eq!(reply.headers["content-type"], "application/x-own");
        assert_eq!(reply.worker(), worker.url);
        assert_eq!(reply.text().await, r#"{"error": {"message": "no"}}"#);
    }
    assert_eq!(worker.asked().len(), 8, "an answer is an answer: nothing was tried again");
    assert!(router.fleet().has_healthy_worker());
    idle(&router).await;
}

#[tokio::test]
async fn a_request_id_is_passed_on_and_returned() {
    let worker = TestWorker::naming_itself().await;
    let router = router(config(&[&worker])).await;
    let mut own = request(Method::POST, "/generate", "{}");
    own.headers_mut().insert("x-request-id", HeaderValue::from_static("mine-1"));
    let reply = send(&router.url(), own).await.unwrap();
    assert_eq!(reply.headers["x-request-id"], "mine-1");
    assert_eq!(worker.asked()[0].headers["x-request-id"], "mine-1");

    let reply = post(&router.url(), "/generate", "{}").await;
    assert_eq!(reply.headers["x-request-id"], worker.asked()[1].headers["x-request-id"]);
    assert_eq!(reply.headers["x-request-id"].len(), 32);
    assert!(get(&router.url(), "/nowhere").await.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_worker_is_asked_for_information() {
    let worker = TestWorker::start(|request| async move { text(request.uri().path().to_owned()) }).await;
    let router = router(config(&[&worker])).await;
    for path in ["/get_model_info", "/get_server_info", "/health_generate"] {
        assert_eq!(get(&router.url(), path).await.text().await, path);
    }
    let head = send(&router.url(), request(Method::HEAD, "/get_model_info", "")).await.unwrap();
    assert_eq!((head.status, &head.headers["content-length"]), (StatusCode::OK, &HeaderValue::from_static("15")));
    idle(&router).await;
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    let worker = TestWorker::naming_itself().await;
    let router = router(RouterConfig { max_payload_size: 1000, ..config(&[&worker]) }).await;
    assert_eq!(post(&router.url(), "/generate", vec![b'x'; 1000]).await.status, StatusCode::OK);

    let reply = post(&router.url(), "/generate", vec![b'x'; 1001]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    let error = reply.json().await;
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert_eq!(error["error"]["message"], "the request body is larger than 1000 bytes (--max-payload-size)");

    // Larger than all buffers on the way: the answer must not get lost while the client still sends.
    let reply = post(&router.url(), "/generate", vec![b'x'; 20_000_000]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);

    // Without a length in front.
    let mut stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    let head = "POST /generate HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    stream.write_all(format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(worker.asked().len(), 1);
}

#[tokio::test]
async fn requests_one_after_another_share_one_connection_to_the_worker() {
    let worker = TestWorker::start(|request| async move {
        let (feed, answer) = chunked("text/plain");
        feed.send(request.into_body()).unwrap();
        feed.send("end".into()).unwrap();
        answer
    })
    .await;
    let router = router(config(&[&worker])).await;
    for _ in 0..20 {
        assert_eq!(post(&router.url(), "/generate", "body").await.text().await, "bodyend");
        idle(&router).await;
    }
    assert_eq!((worker.asked().len(), worker.connections()), (20, 1));
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_understood() {
    let worker = TestWorker::start(|request| async move { text(request.into_body()) }).await;
    let router = router(config(&[&worker])).await;
    let stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(driver);
    let request = Request::post(format!("{}/v1/completions", router.url())).body(Full::new(Bytes::from("{}"))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    driving.abort();
}

#[tokio::test]
async fn an_answer_without_a_length_ends_where_the_worker_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold but true").await.unwrap();
        }
    });
    let router = router(RouterConfig { worker_urls: vec![url], ..config(&[]) }).await;
    for _ in 0..3 {
        assert_eq!(generate(&router.url(), "x").await.text().await, "old but true");
    }
    idle(&router).await;
}

#[tokio::test]
async fn an_http_2_client_that_does_not_read_holds_back_only_itself() {
    const BODY: usize = 32 << 20;
    let worker = TestWorker::start(|request| async move {
        let length = if request.uri().path() == "/v1/large" { BODY } else { 2 };
        text(vec![b'x'; length])
    })
    .await;
    let router = router(config(&[&worker])).await;
    let stream = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(driver);
    let ask = |path| Request::post(format!("{}{path}", router.url())).body(Full::new(Bytes::from("{}"))).unwrap();
    let large = sender.send_request(ask("/v1/large")).await.unwrap();
    for _ in 0..20 {
        let small = sender.send_request(ask("/v1/small")).await.unwrap();
        assert_eq!(small.into_body().collect().await.unwrap().to_bytes(), "xx");
    }
    assert_eq!(loads(&router), [1], "the large answer waits for its reader");
    assert_eq!(large.into_body().collect().await.unwrap().to_bytes().len(), BODY);
    idle(&router).await;
    driving.abort();
}
