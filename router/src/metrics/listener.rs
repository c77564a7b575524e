//! Where Prometheus scrapes: `GET /metrics` on a port of its own, which need not be open to clients.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::exposition::Exposition;
use crate::config::RouterConfig;

/// The most scrapers that are served at a time.
const MAX_CONNECTIONS: usize = 64;

/// The pause after a connection could not be accepted, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound port that nobody answers at yet.
pub struct Listener(TcpListener);

impl Listener {
    /// Binds where `config` says; `None` where it wants no metrics. The error names the port and what to do.
    pub async fn bind(config: &RouterConfig) -> io::Result<Option<Self>> {
        let (host, port) = (config.prometheus_host.as_str(), config.prometheus_port);
        if port == 0 {
            return Ok(None);
        }
        let bound = TcpListener::bind((host, port)).await.map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "the port is taken by another program; choose another one with --prometheus-port, or 0 for no metrics"
                        .to_owned()
                }
                _ => error.to_string(),
            };
            io::Error::new(error.kind(), format!("cannot serve metrics on {host}:{port}: {reason}"))
        })?;
        Ok(Some(Self(bound)))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers scrapes until the task is aborted.
    pub fn serve(self, exposition: Exposition) -> JoinHandle<()> {
        let exposition = Arc::new(exposition);
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.len() >= MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                // What cannot be accepted is a scrape that comes again.
                let Ok((stream, _)) = self.0.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let exposition = exposition.clone();
                let service = service_fn(move |request| answer(request, exposition.clone()));
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new());
                connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
                while connections.try_join_next().is_some() {}
            }
        })
    }
}

async fn answer(request: Request<Incoming>, exposition: Arc<Exposition>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = Full::new(Bytes::from(exposition.text()));
        }
        (_, "/metrics") => {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}
