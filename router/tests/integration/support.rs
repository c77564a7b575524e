//! A small worker, a small client, and a router between them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use radixfleet_router::{Router, RouterConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Handler = dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync;

// ===== The worker =====

/// What a worker was asked, what the router itself wants to know left out.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An HTTP server that records what it is asked and answers with the test's own function.
pub struct TestWorker {
    pub url: String,
    pub address: SocketAddr,
    seen: Arc<Seen>,
    handler: Arc<Handler>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    asked: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    in_progress: AtomicUsize,
    sick: AtomicBool,
    /// The worker takes connections and requests, and answers none of them.
    stopped: AtomicBool,
    /// What it answers to the router's own questions, by path; 404 to the others.
    facts: Mutex<HashMap<String, (StatusCode, String)>>,
    /// The paths that the router asked for on its own account, `/health` left out.
    inquiries: Mutex<Vec<String>>,
}

impl TestWorker {
    /// A healthy worker on a free port.
    pub async fn start<F, R>(handler: F) -> Self
    where
        F: Fn(Request<Bytes>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |request| Box::pin(handler(request)));
        Self::listen("127.0.0.1:0".parse().unwrap(), handler).await
    }

    /// A worker that answers everything with its own URL.
    pub async fn naming_itself() -> Self {
        Self::start(|request| async move { text(request.headers()["host"].to_str().unwrap().to_owned()) }).await
    }

    async fn listen(address: SocketAddr, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let accepting = tokio::spawn(accept(listener, seen.clone(), handler.clone()));
        Self { url: format!("http://{address}"), address, seen, handler, accepting }
    }

    /// The same worker again, on the same port, after `kill`.
    pub async fn restart(&mut self) {
        let facts = self.seen.facts.lock().clone();
        *self = Self::listen(self.address, self.handler.clone()).await;
        *self.seen.facts.lock() = facts;
    }

    /// Ends it as a crash does: nobody listens any more, and every connection breaks.
    pub async fn kill(&mut self) {
        self.accepting.abort();
        // Aborted, it drops the listener and all connections; waiting for it makes sure that this has happened.
        let _ = (&mut self.accepting).await;
    }

    /// Whether `/health` answers 200 or 500.
    pub fn set_healthy(&self, healthy: bool) {
        self.seen.sick.store(!healthy, Ordering::SeqCst);
    }

    /// Whether it answers anything at all, `/health` among it: a process that was stopped does not.
    pub fn set_stopped(&self, stopped: bool) {
        self.seen.stopped.store(stopped, Ordering::SeqCst);
    }

    /// What it answers when the router asks for `path` on its own account.
    pub fn set_fact(&self, path: &str, status: StatusCode, body: impl Into<String>) {
        self.seen.facts.lock().insert(path.to_owned(), (status, body.into()));
    }

    /// `/v1/models` with these models.
    pub fn set_models(&self, names: &[&str]) {
        let cards: Vec<_> = names.iter().map(|name| serde_json::json!({"id": name, "object": "model"})).collect();
        let list = serde_json::json!({"object": "list", "data": cards});
        self.set_fact("/v1/models", StatusCode::OK, list.to_string());
    }

    /// How often the router asked for `path` on its own account.
    pub fn inquiries(&self, path: &str) -> usize {
        self.seen.inquiries.lock().iter().filter(|asked| *asked == path).count()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.seen.asked.lock().clone()
    }

    /// Connections on which something else than `/health` was asked.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Requests whose answer has not ended.
    pub fn in_progress(&self) -> usize {
        self.seen.in_progress.load(Ordering::SeqCst)
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>, handler: Arc<Handler>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let (seen, handler, first) = (seen.clone(), handler.clone(), Arc::new(AtomicBool::new(true)));
        let service = service_fn(move |request| answer(request, seen.clone(), handler.clone(), first.clone()));
        connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Seen>,
    handler: Arc<Handler>,
    first: Arc<AtomicBool>,
) -> Result<Answer, hyper::Error> {
    while seen.stopped.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if request.uri().path() == "/health" {
        let status = if seen.sick.load(Ordering::SeqCst) { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        return Ok(with_status(status, ""));
    }
    if is_inquiry(request.headers()) {
        seen.inquiries.lock().push(request.uri().path().to_owned());
        let fact = seen.facts.lock().get(request.uri().path()).cloned();
        let (status, body) = fact.unwrap_or((StatusCode::NOT_FOUND, String::new()));
        return Ok(with_status(status, body));
    }
    if first.swap(false, Ordering::SeqCst) {
        seen.connections.fetch_add(1, Ordering::SeqCst);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    seen.asked.lock().push(Asked {
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
        body: body.clone(),
    });
    let running = Running::new(seen);
    let response = handler(Request::from_parts(parts, body)).await;
    // The guard lives in the body: it goes when the answer has ended or the connection has closed.
    Ok(response.map(|body| {
        body.map_frame(move |frame| {
            let _running = &running;
            frame
        })
        .boxed_unsync()
    }))
}

/// True for what the router asks on its own account.
fn is_inquiry(headers: &HeaderMap) -> bool {
    headers.get("user-agent").is_some_and(|agent| agent.as_bytes().starts_with(b"radixfleet-router/"))
}

/// Counts a request for as long as it is in progress.
struct Running(Arc<Seen>);

impl Running {
    fn new(seen: Arc<Seen>) -> Self {
        seen.in_progress.fetch_add(1, Ordering::SeqCst);
        Self(seen)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::SeqCst);
    }
}

pub fn text(body: impl Into<Bytes>) -> Answer {
    with_status(StatusCode::OK, body)
}

pub fn with_status(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let length = body.len();
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert("content-length", length.into());
    response
}

/// A chunked answer, and what feeds it; it ends when the feed is dropped.
pub fn chunked(content_type: &'static str) -> (mpsc::UnboundedSender<Bytes>, Answer) {
    let (feed, chunks) = mpsc::unbounded_channel::<Bytes>();
    let chunks = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (Ok(Frame::data(chunk)), chunks))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert("content-type", content_type.parse().unwrap());
    (feed, response)
}

// ===== The client =====

/// An answer that is being read; dropping it closes the client's connection.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Incoming,
    _connection: Connection,
}

/// Dropping it closes the socket.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reply {
    /// The rest of the body; an error if it breaks off.
    pub async fn bytes(self) -> Result<Bytes, hyper::Error> {
        Ok(self.body.collect().await?.to_bytes())
    }

    pub async fn text(self) -> String {
        String::from_utf8(self.bytes().await.unwrap().to_vec()).unwrap()
    }

    pub async fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The next chunk; `None` at the end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        let frame = self.body.frame().await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    pub fn worker(&self) -> &str {
        self.headers["x-radixfleet-worker"].to_str().unwrap()
    }
}

/// Sends one request over a connection of its own.
pub async fn send(url: &str, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
    let address = url.strip_prefix("http://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = Connection(tokio::spawn(async {
        // The exchange itself gets the error.
        let _ = driver.await;
    }));
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok(Reply { status: parts.status, headers: parts.headers, body, _connection: connection })
}

pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "router").body(Full::new(body.into())).unwrap()
}

pub async fn post(url: &str, path: &str, body: impl Into<Bytes>) -> Reply {
    send(url, request(Method::POST, path, body)).await.unwrap()
}

pub async fn get(url: &str, path: &str) -> Reply {
    send(url, request(Method::GET, path, "")).await.unwrap()
}

/// A generation with the given prompt.
pub async fn generate(url: &str, prompt: &str) -> Reply {
    post(url, "/generate", serde_json::json!({"text": prompt}).to_string()).await
}

// ===== The router =====

/// Options for tests: a free port, no metrics, and quick to notice what happens to workers.
pub fn config(workers: &[&TestWorker]) -> RouterConfig {
    RouterConfig {
        port: 0,
        prometheus_port: 0,
        worker_urls: workers.iter().map(|worker| worker.url.clone()).collect(),
        health_check_interval_secs: 0.1,
        health_check_max_backoff_secs: 0.1,
        ..RouterConfig::default()
    }
}

/// A router whose workers are all healthy.
pub async fn router(config: RouterConfig) -> Router {
    let router = Router::start(config).await.unwrap();
    eventually("all workers are healthy", || router.fleet().workers().iter().all(|worker| worker.is_available())).await;
    router
}

/// The load of every worker, in the order of the fleet.
pub fn loads(router: &Router) -> Vec<usize> {
    router.fleet().workers().iter().map(|worker| worker.load()).collect()
}

/// Waits until `condition` holds; panics if it never does.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("did not happen: {what}");
}

pub async fn idle(router: &Router) {
    eventually("every worker's load is zero", || loads(router).iter().all(|load| *load == 0)).await;
}
