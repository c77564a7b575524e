//! Connections to one worker: HTTP/1.1, kept alive, driven by the request that uses them.
//!
//! A connection has no task of its own. The request (and later the response body) polls it, which saves two wake-ups
//! across threads a chunk, and closes the socket at once when the request is dropped because its client went away.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::fleet::WorkerUrl;

/// The most bytes that are read ahead of what the client has taken.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// The most idle connections that a worker's pool keeps.
const MAX_IDLE: usize = 512;

/// The most bytes of an answer that the router reads for itself.
const MAX_FETCHED_BYTES: usize = 16 << 20;

/// One open connection.
pub struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    closed: bool,
}

impl Connection {
    /// Connects without delay of small segments; an error of kind `TimedOut` after `timeout`.
    pub async fn open(url: &WorkerUrl, timeout: Duration) -> io::Result<Self> {
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(url.address())).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "connecting timed out")),
        };
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().max_buf_size(READ_BUFFER_BYTES).handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(io::Error::other)?;
        Ok(Self { sender, driver: Box::pin(driver), closed: false })
    }

    /// Sends `request` to the worker of `url` and waits until its answer begins.
    pub async fn send(mut self, request: &Request<Bytes>, url: &WorkerUrl) -> io::Result<Response<Answer>> {
        let mut request = request.clone().map(Full::new);
        request.headers_mut().insert(HOST, url.host_header().clone());
        let mut response = pin!(self.sender.send_request(request));
        let response = poll_fn(|context| {
            drive(&mut self.driver, &mut self.closed, context);
            response.as_mut().poll(context)
        })
        .await;
        Ok(response.map_err(io::Error::other)?.map(|incoming| Answer {
            ended: incoming.is_end_stream(),
            incoming,
            connection: self,
        }))
    }

    /// Moves bytes between the socket and the exchange in progress.
    fn drive(&mut self, context: &mut Context<'_>) {
        drive(&mut self.driver, &mut self.closed, context);
    }

    /// True when the worker has not closed it and no exchange is in progress. Takes the last task's waker off it.
    fn is_idle(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.closed && self.sender.is_ready()
    }
}

fn drive(
    driver: &mut Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    closed: &mut bool,
    context: &mut Context<'_>,
) {
    // What went wrong is told to the exchange in progress; for an idle connection it does not matter.
    if !*closed && driver.as_mut().poll(context).is_ready() {
        *closed = true;
    }
}

/// The body of a worker's answer as it arrives. Dropped before its end, it closes the connection, which tells the worker to stop.
pub struct Answer {
    incoming: Incoming,
    connection: Connection,
    ended: bool,
}

impl Answer {
    /// The next piece, which only the caller moves along; `None` at the end.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            // Asking first tells the connection that there is room; then it reads, and what it read is there to take.
            let mut polled = Pin::new(&mut self.incoming).poll_frame(context);
            if polled.is_pending() {
                self.connection.drive(context);
                polled = Pin::new(&mut self.incoming).poll_frame(context);
            }
            match ready!(polled) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.ended = self.incoming.is_end_stream();
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
    }

    pub fn is_complete(&self) -> bool {
        self.ended
    }

    /// The bytes that are left, where the worker said how many there are.
    pub fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The connection, if the answer is complete: for the next exchange.
    pub fn into_connection(self) -> Option<Connection> {
        self.is_complete().then_some(self.connection)
    }
}

/// One exchange on a connection of its own, apart from clients' requests; `timeout` is for all of it.
pub async fn fetch(request: &Request<Bytes>, url: &WorkerUrl, timeout: Duration) -> io::Result<Response<Bytes>> {
    let exchange = async {
        let (head, mut answer) = Connection::open(url, timeout).await?.send(request, url).await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(data) = poll_fn(|context| answer.poll_data(context)).await {
            body.extend_from_slice(&data?);
            if body.len() > MAX_FETCHED_BYTES {
                return Err(io::Error::other(format!("an answer of more than {MAX_FETCHED_BYTES} bytes")));
            }
        }
        Ok(Response::from_parts(head, body.freeze()))
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answered) => answered,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

/// The idle connections of one worker, the most recently used on top, so that a burst's surplus falls idle and is closed.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// An idle connection that was open a moment ago.
    pub fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().pop()?;
            if connection.is_idle() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose exchange is complete; drops one that cannot be used again.
    pub fn put(&self, mut connection: Connection) {
        if connection.is_idle() {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(connection);
            }
        }
    }

    /// Drops the connections that the worker has closed.
    pub fn prune(&self) {
        self.idle.lock().retain_mut(Connection::is_idle);
    }

    /// Drops all idle connections.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut *self.idle.lock());
        drop(dropped);
    }
}
