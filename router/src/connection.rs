//! A client's connection: HTTP/1.1, or HTTP/2 for a client that begins with it.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use http::{Request, Response};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::body::{Body, RequestBody};
use crate::http1::client::{Client, Duplex};
pub use crate::http1::connection::Timeouts;
use crate::http1::connection::{closed, serve as serve_http1};

/// The most bytes of an answer that wait for an HTTP/2 client that does not read it.
const HTTP2_SEND_BUFFER_BYTES: usize = 64 << 10;

/// The most bytes that wait in the kernel for a client that does not read, beyond what is on its way already.
const MAX_UNSENT_BYTES: u32 = 128 << 10;

/// Lets small chunks of a stream leave at once, and what a client does not take stay with the worker. Where the system cannot do
/// that, chunks leave later, and more of them wait.
pub fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
}

/// Serves a connection until it ends; once `closing` turns true, until its running requests have been answered.
/// An error is a client that went away or does not speak HTTP.
pub async fn serve<S, A>(
    socket: impl Duplex + 'static,
    answer: S,
    closing: watch::Receiver<bool>,
    timeouts: Timeouts,
) -> io::Result<()>
where
    S: Fn(Request<RequestBody>) -> A,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    match serve_http1(Client::new(socket), &answer, closing.clone(), timeouts).await? {
        // Boxed, so that connections with HTTP/1.1 do not carry its state.
        Some(client) => Box::pin(serve_http2(client, answer, closing, timeouts)).await,
        None => Ok(()),
    }
}

async fn serve_http2<S, A>(
    client: Client,
    answer: S,
    mut closing: watch::Receiver<bool>,
    timeouts: Timeouts,
) -> io::Result<()>
where
    S: Fn(Request<RequestBody>) -> A,
    A: Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_send_buf_size(HTTP2_SEND_BUFFER_BYTES);
    // A client that has been silent is asked whether it is still there.
    builder.keep_alive_interval(timeouts.idle).keep_alive_timeout(timeouts.head);
    let service = service_fn(move |request: Request<_>| answer(request.map(RequestBody::Http2)));
    let socket = Begun { begun: client.input, socket: client.socket };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

/// A socket of which something has been read already.
struct Begun {
    begun: BytesMut,
    socket: Box<dyn Duplex>,
}

impl AsyncRead for Begun {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begun.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, target);
        }
        let count = self.begun.len().min(target.remaining());
        target.put_slice(&self.begun[..count]);
        self.begun.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
