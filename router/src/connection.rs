//! A client's connection: HTTP/1.1, or HTTP/2 with prior knowledge.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::body::{Body, RequestBody};

/// The most bytes of an answer that wait for a client that does not read, and of request heads.
const BUFFER_BYTES: usize = 64 << 10;

/// Serves a connection until it ends; `graceful` ends it between two requests, `aborted` at once.
pub fn spawn<I, S, A>(stream: I, answer: S, graceful: &GracefulShutdown, mut aborted: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<RequestBody>) -> A + Send + 'static,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).max_buf_size(BUFFER_BYTES);
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request: Request<_>| answer(request.map(RequestBody::Hyper)));
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        tokio::select! {
            // An error is a client that went away or does not speak HTTP: nothing to do, and nothing to log.
            _ = connection => {}
            _ = aborted.changed() => {}
        }
    });
}
