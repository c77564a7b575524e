//! The listener, the routes, and the end: graceful for as long as it may be.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router as ControlRoutes;
use http::{HeaderValue, Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tower_service::Service;
use tracing::{debug, info, warn};

use crate::admission::Admission;
use crate::auth::{Access, Keys};
use crate::body::{Body, RequestBody, complete};
use crate::config::{RouterConfig, seconds};
use crate::connection::{self, Timeouts};
use crate::control::Control;
use crate::discovery;
use crate::error::RouterError;
use crate::fleet::Fleet;
use crate::forward::{self, Forwarder};
use crate::metrics::{self, Exposition, Metrics, Observation};
use crate::spans::Spans;
use crate::tls::Tls;

/// How long the listener rests after it could not accept, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the collector of traces may take at the end.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// A router that listens and serves on the runtime it was started on.
pub struct Router {
    address: SocketAddr,
    url: String,
    fleet: Arc<Fleet>,
    stopping: Arc<AtomicBool>,
    /// Carries how long running answers may go on.
    stop: oneshot::Sender<Duration>,
    serving: JoinHandle<()>,
    /// What changes the fleet and the certificate meanwhile.
    background: Vec<JoinHandle<()>>,
    scrapes: Option<JoinHandle<()>>,
    exporting: Option<JoinHandle<()>>,
}

impl Router {
    /// Binds and begins to serve; workers of `config` that are not up yet are waited for in the background.
    pub async fn start(config: RouterConfig) -> io::Result<Self> {
        let urls = config.urls().map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let listener = bind(&config.host, config.port).await?;
        let address = listener.local_addr()?;
        let (tls, reloading) = Tls::start(&config)?.unzip();
        let scrapes = metrics::Listener::bind(&config).await?;
        let (spans, exporting) = Spans::start(&config)?.unzip();
        let metrics = Metrics::new(spans);
        let fleet = Fleet::new(&config);
        discovery::add_listed(&fleet, urls);
        let pods = discovery::kubernetes::start(&config, &fleet).await?;
        let admission = Arc::new(Admission::new(&config));
        let control = Control::new(fleet.clone(), admission.clone(), &config);
        let exposition = Exposition::new(metrics.clone(), fleet.clone(), admission.clone());
        let scrapes = scrapes.map(|listener| listener.serve(exposition));
        let stopping = control.stopping.clone();
        let app = App {
            keys: Arc::new(Keys::new(&config)),
            forwarder: Arc::new(Forwarder::new(fleet.clone(), admission, &config)),
            control: control.routes(),
            metrics,
        };
        let (stop, stopped) = oneshot::channel();
        let url = url_of(if tls.is_some() { "https" } else { "http" }, &config.host, address.port());
        let door = Door {
            listener,
            tls,
            timeouts: Timeouts { head: seconds(config.header_timeout_secs), idle: seconds(config.idle_timeout_secs) },
        };
        let serving = tokio::spawn(door.serve(app, stopped));
        let maintenance = tokio::spawn(maintain(fleet.clone(), seconds(config.eviction_interval)));
        let background = [Some(maintenance), pods, reloading].into_iter().flatten().collect();
        let router = Self { address, url, fleet, stopping, stop, serving, background, scrapes, exporting };
        info!(url = router.url, policy = config.policy, "router listens");
        Ok(router)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where a client on the same machine finds the router, with the port that was taken.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// Stops accepting, gives running answers up to `timeout`, then drops them.
    pub async fn stop(self, timeout: Duration) {
        info!(grace_seconds = timeout.as_secs_f64(), "shutting down");
        self.stopping.store(true, Ordering::Relaxed);
        self.background.iter().for_each(JoinHandle::abort);
        // The receiver lives as long as the task that is waited for next.
        let _ = self.stop.send(timeout);
        if let Err(error) = self.serving.await {
            warn!(%error, "the listener ended badly");
        }
        self.scrapes.as_ref().inspect(|scrapes| scrapes.abort());
        self.fleet.close();
        if let Some(exporting) = self.exporting {
            // A collector that does not take the last spans in time has lost them.
            let _ = tokio::time::timeout(LAST_SPANS, exporting).await;
        }
        info!("router stopped");
    }
}

/// The URL under which a client on the same machine finds a listener on `host` and `port`.
fn url_of(scheme: &str, host: &str, port: u16) -> String {
    match host {
        "0.0.0.0" | "" => format!("{scheme}://127.0.0.1:{port}"),
        "::" => format!("{scheme}://[::1]:{port}"),
        host if host.contains(':') => format!("{scheme}://[{host}]:{port}"),
        host => format!("{scheme}://{host}:{port}"),
    }
}

async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((host, port)).await.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "the port is taken by another program; choose another one with --port".to_owned()
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {host}:{port}: {reason}"))
    })
}

/// Where clients come in.
struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
    timeouts: Timeouts,
}

impl Door {
    /// Accepts until told to stop, then waits for the connections that are still open.
    async fn serve(self, app: App, mut stopped: oneshot::Receiver<Duration>) {
        let (closing, is_closing) = watch::channel(false);
        let mut connections = JoinSet::new();
        let timeout = loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.let_in(stream, app.clone(), is_closing.clone(), &mut connections),
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Whatever ended a connection is its client's business: nothing to do, and nothing to log.
                Some(_) = connections.join_next() => {}
                // Dropped without a word, as when the runtime ends, it means at once.
                timeout = &mut stopped => break timeout.unwrap_or_default(),
            }
        };
        drop(self.listener);
        closing.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(timeout, ended).await.is_err() {
            warn!("dropping connections that did not end in time");
        }
    }

    fn let_in(
        &self,
        stream: TcpStream,
        app: App,
        closing: watch::Receiver<bool>,
        connections: &mut JoinSet<io::Result<()>>,
    ) {
        connection::prepare(&stream);
        let open = app.metrics.connections.count();
        let answer = move |request| {
            let _counted = &open;
            app.clone().answer(request)
        };
        let timeouts = self.timeouts;
        match self.tls.clone() {
            Some(tls) => connections.spawn(async move {
                // Boxed, so that the handshake's state goes when it is over.
                let stream = Box::pin(tls.accept(stream)).await?;
                connection::serve(stream, answer, closing, timeouts).await
            }),
            None => connections.spawn(connection::serve(stream, answer, closing, timeouts)),
        };
    }
}

/// Regular housekeeping of the policy, on a thread where it disturbs nobody.
async fn maintain(fleet: Arc<Fleet>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let fleet = fleet.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || fleet.maintain()).await {
            warn!(%error, "maintenance failed");
        }
    }
}

/// What answers requests.
#[derive(Clone)]
struct App {
    keys: Arc<Keys>,
    forwarder: Arc<Forwarder>,
    control: ControlRoutes,
    metrics: Arc<Metrics>,
}

/// Who answers a path.
#[derive(Debug, PartialEq)]
enum Route {
    /// A worker.
    Forward,
    /// A worker, but not with this method.
    WrongMethod(&'static str),
    /// The router.
    Control,
}

impl App {
    async fn answer(self, request: Request<RequestBody>) -> Result<Response<Body>, Infallible> {
        let id = forward::request_id(request.headers());
        let mut observation = self.metrics.begin(&request);
        let mut response = self.route(request, &id, &mut observation).await.unwrap_or_else(|error| {
            log_failure(&id, &error);
            self.metrics.failed(&error);
            complete(error.response())
        });
        observation.has_status(response.status());
        response.headers_mut().insert(forward::REQUEST_ID, id);
        Ok(response)
    }

    async fn route(
        &self,
        mut request: Request<RequestBody>,
        id: &HeaderValue,
        observation: &mut Observation,
    ) -> Result<Response<Body>, RouterError> {
        let path = request.uri().path();
        self.keys.check(Access::of(path), request.headers())?;
        match route(request.method(), path) {
            Route::Forward => {
                self.keys.replace(request.headers_mut());
                self.forwarder.forward(request, id, observation).await
            }
            Route::WrongMethod(allowed) => Err(RouterError::WrongMethod(allowed)),
            Route::Control => {
                self.keys.replace(request.headers_mut());
                let Ok(response) = self.control.clone().call(request).await;
                Ok(response.map(Body::Control))
            }
        }
    }
}

/// What a worker did not answer is worth a warning; what the client got wrong, or a fleet that is down and has been reported so, is not.
fn log_failure(id: &HeaderValue, error: &RouterError) {
    let request_id = id.to_str().unwrap_or_default();
    match error {
        RouterError::WorkersFailed(_) | RouterError::TimedOut { .. } => warn!(request_id, ?error, "request failed"),
        _ => debug!(request_id, ?error, "request failed"),
    }
}

fn route(method: &Method, path: &str) -> Route {
    match path {
        "/generate" | "/encode" | "/classify" if [Method::POST, Method::PUT].contains(method) => Route::Forward,
        "/generate" | "/encode" | "/classify" => Route::WrongMethod("POST, PUT"),
        "/open_session" | "/close_session" | "/rerank" | "/score" | "/function_call" | "/separate_reasoning" => {
            if method == Method::POST {
                Route::Forward
            } else {
                Route::WrongMethod("POST")
            }
        }
        "/get_weights_by_name" if [Method::GET, Method::POST].contains(method) => Route::Forward,
        "/get_weights_by_name" => Route::WrongMethod("GET, POST"),
        "/get_model_info" | "/get_server_info" | "/health_generate" if [Method::GET, Method::HEAD].contains(method) => {
            Route::Forward
        }
        "/get_model_info" | "/get_server_info" | "/health_generate" => Route::WrongMethod("GET"),
        path if path == "/v1/models" || path.starts_with("/v1/models/") => Route::Control,
        path if path.starts_with("/v1/") => Route::Forward,
        _ => Route::Control,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_who_answers_them() {
        let (get, post) = (Method::GET, Method::POST);
        for (method, path) in [
            (&post, "/generate"),
            (&post, "/v1/chat/completions"),
            (&post, "/v1/embeddings"),
            (&get, "/v1/modelsets"),
            (&Method::DELETE, "/v1/files/7"),
            (&Method::PUT, "/encode"),
            (&post, "/open_session"),
            (&post, "/function_call"),
            (&post, "/separate_reasoning"),
            (&get, "/get_weights_by_name"),
            (&get, "/get_model_info"),
            (&get, "/get_server_info"),
        ] {
            assert_eq!(route(method, path), Route::Forward, "{method} {path}");
        }
        assert_eq!(route(&get, "/generate"), Route::WrongMethod("POST, PUT"));
        assert_eq!(route(&post, "/get_model_info"), Route::WrongMethod("GET"));
        assert_eq!(route(&get, "/open_session"), Route::WrongMethod("POST"));
        assert_eq!(route(&get, "/function_call"), Route::WrongMethod("POST"));
        for path in [
            "/health",
            "/metrics",
            "/abort_request",
            "/add_worker",
            "/v1/models",
            "/v1/models/a/b",
            "/v2/x",
            "/v1",
            "/",
        ] {
            assert_eq!(route(&get, path), Route::Control, "{path}");
        }
    }

    #[test]
    fn urls_can_be_opened_on_this_machine() {
        assert_eq!(url_of("http", "0.0.0.0", 1), "http://127.0.0.1:1");
        assert_eq!(url_of("http", "::", 1), "http://[::1]:1");
        assert_eq!(url_of("https", "fe80::1", 1), "https://[fe80::1]:1");
        assert_eq!(url_of("http", "localhost", 1), "http://localhost:1");
    }
}
