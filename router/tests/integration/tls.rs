//! HTTPS towards clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use radixfleet_router::{Router, RouterConfig};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// A folder with a certificate for `localhost` and its key; gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("radixfleet-tls-{}-{:x}", std::process::id(), fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Puts a new certificate into place.
    fn renew(&self) -> CertificateDer<'static> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.path("cert.pem"), cert.pem()).unwrap();
        std::fs::write(self.path("key.pem"), signing_key.serialize_pem()).unwrap();
        cert.der().clone()
    }

    fn path(&self, name: &str) -> String {
        Path::join(&self.0, name).to_str().unwrap().to_owned()
    }

    fn config(&self, workers: &[&TestWorker]) -> RouterConfig {
        RouterConfig {
            tls_cert_path: Some(self.path("cert.pem")),
            tls_key_path: Some(self.path("key.pem")),
            ..config(workers)
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing else is in it; what cannot be removed the system removes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A connection over which `certificate` was shown, with the protocol that was agreed on.
async fn connect(
    router: &Router,
    certificate: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = rustls::crypto::ring::default_provider().into();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", router.port())).await?;
    TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

#[tokio::test]
async fn http_1_and_http_2_are_agreed_on_and_bodies_come_through_whole() {
    let folder = Folder::new();
    let certificate = folder.renew();
    let worker = TestWorker::start(|request| async move { text(request.into_body()) }).await;
    let router = router(folder.config(&[&worker])).await;
    assert_eq!(router.url(), format!("https://127.0.0.1:{}", router.port()));
    let body = Bytes::from(vec![b'x'; 3_000_000]);
    for protocol in ["http/1.1", "h2"] {
        let stream = connect(&router, &certificate, protocol.as_bytes()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let answer = if protocol == "h2" {
            let request = Request::post(format!("{}/generate", router.url())).body(Full::new(body.clone())).unwrap();
            let (mut sender, driver) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(driver);
            sender.send_request(request).await.unwrap()
        } else {
            let request = request(Method::POST, "/generate", body.clone());
            let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(driver);
            sender.send_request(request).await.unwrap()
        };
        let (status, answer) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
        assert_eq!(status, StatusCode::OK, "{protocol}");
        assert!(answer == body, "{protocol}: {} bytes", answer.len());
    }
    idle(&router).await;
}

#[tokio::test]
async fn events_are_not_held_back() {
    let folder = Folder::new();
    let certificate = folder.renew();
    let (feed, answer) = chunked("text/event-stream");
    let answer = parking_lot::Mutex::new(Some(answer));
    let worker = TestWorker::start(move |_| std::future::ready(answer.lock().take().unwrap())).await;
    let router = router(folder.config(&[&worker])).await;
    let mut stream = connect(&router, &certificate, b"http/1.1").await.unwrap();
    stream.write_all(b"POST /generate HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
    let mut arrived = Vec::new();
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        feed.send(event.clone().into()).unwrap();
        // The next event is not there before this one has arrived.
        while !arrived.windows(event.len()).any(|part| part == event.as_bytes()) {
            assert!(stream.read_buf(&mut arrived).await.unwrap() > 0);
        }
    }
    drop(feed);
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_a_broken_one_is_not() {
    let folder = Folder::new();
    let first = folder.renew();
    let router = router(folder.config(&[])).await;
    assert!(connect(&router, &first, b"http/1.1").await.is_ok());
    // A key that does not belong to the certificate: what was there stays. That it has been looked at shows in what comes after it.
    std::fs::write(folder.path("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(connect(&router, &first, b"http/1.1").await.is_ok());
    let second = folder.renew();
    while connect(&router, &second, b"http/1.1").await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(connect(&router, &first, b"http/1.1").await.is_err(), "the old one is not shown any more");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    folder.renew();
    let start =
        async || Router::start(folder.config(&[])).await.err().expect("no router without a certificate").to_string();
    std::fs::write(folder.path("key.pem"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let key = folder.path("key.pem");
    assert!(start().await.starts_with(&format!("--tls-key-path {key}: cannot be used with the certificate")));
    std::fs::write(folder.path("key.pem"), "no key").unwrap();
    assert!(start().await.starts_with(&format!("--tls-key-path {key}: no private key")));
    std::fs::write(folder.path("cert.pem"), "no certificate").unwrap();
    let certificate = folder.path("cert.pem");
    assert!(start().await.starts_with(&format!("--tls-cert-path {certificate}: no certificate in it")));
    std::fs::remove_file(&certificate).unwrap();
    assert!(start().await.starts_with(&format!("--tls-cert-path {certificate}: No such file")));
}

#[tokio::test]
async fn who_does_not_shake_hands_is_let_go() {
    let folder = Folder::new();
    let certificate = folder.renew();
    let router = router(RouterConfig { header_timeout_secs: 0.1, ..folder.config(&[]) }).await;
    let mut silent = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
    let mut plain = TcpStream::connect(("127.0.0.1", router.port())).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Closed or reset, and nothing of HTTP in it.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert!(connect(&router, &certificate, b"http/1.1").await.is_ok());
}
