//! Connections to one worker: HTTP/1.1, kept alive, driven by the request that uses them.
//!
//! A connection has no task of its own. The request (and later the response body) reads its socket, which saves two wake-ups
//! across threads a chunk, and closes it at once when the request is dropped because its client went away.

mod answer;
mod pool;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use self::answer::Answer;
pub use self::pool::Pool;
use crate::fleet::WorkerUrl;
use crate::http1::decoder::Decoder;
use crate::http1::{buffer, framing, head};

/// The largest body that is copied behind its head, which costs less than writing from two places.
const MAX_COPIED_BYTES: usize = 4 << 10;

/// The most bytes of an answer that the router reads for itself.
const MAX_FETCHED_BYTES: usize = 16 << 20;

/// One open connection.
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects without delay of small segments; an error of kind `TimedOut` after `timeout`.
    pub async fn open(url: &WorkerUrl, timeout: Duration) -> io::Result<Self> {
        let stream = match tokio::time::timeout(timeout, TcpStream::connect(url.address())).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "connecting timed out")),
        };
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Sends `request` to the worker of `url` and waits until its answer begins.
    pub async fn send(mut self, request: &Request<Bytes>, url: &WorkerUrl) -> io::Result<Response<Answer>> {
        let mut head = head::write_request(request, url.host_header());
        let mut body = request.body().clone();
        if body.len() <= MAX_COPIED_BYTES {
            head.extend_from_slice(&body);
            body.clear();
        }
        let mut outgoing = head.chain(body);
        let mut input = BytesMut::new();
        let mut response = poll_fn(|context| self.poll_exchange(&mut outgoing, &mut input, context)).await?;

        let (status, version, headers) = (response.status(), response.version(), response.headers());
        let body = framing::of_response(request.method(), status, version, headers)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        // A worker that answered before it had the whole request would take the rest for the next one.
        let is_reusable = !outgoing.has_remaining() && framing::keeps_alive(version, headers);
        if body == Decoder::CHUNKED {
            // A length beside it says nothing, and must not reach the client.
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        Ok(response.map(|()| Answer::new(self, body, input, is_reusable)))
    }

    /// Writes the request and reads the head of the final response, at the same time.
    fn poll_exchange(
        &mut self,
        outgoing: &mut impl Buf,
        input: &mut BytesMut,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Response<()>>> {
        let written = self.poll_write(outgoing, context);
        loop {
            while let Some(response) = head::parse_response(input)? {
                // What comes before the final response, such as 103 Early Hints, is dropped; nobody asked for another protocol.
                match response.status() {
                    StatusCode::SWITCHING_PROTOCOLS => return Poll::Ready(Err(unexpected("101 Switching Protocols"))),
                    status if status.is_informational() => {}
                    _ => return Poll::Ready(Ok(response)),
                }
            }
            match buffer::with(|buffer| buffer.poll_append(input, &mut self.stream, context)) {
                Poll::Ready(Ok(0)) => {
                    written?;
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the worker closed the connection without an answer",
                    )));
                }
                Poll::Ready(read) => {
                    read?;
                }
                // A worker that refuses to read on may have said why; one that has not will not.
                Poll::Pending => {
                    written?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Writes as much as the socket takes.
    fn poll_write(&mut self, outgoing: &mut impl Buf, context: &mut Context<'_>) -> io::Result<()> {
        while outgoing.has_remaining() {
            let stream = Pin::new(&mut self.stream);
            let written = if outgoing.chunk().len() == outgoing.remaining() {
                stream.poll_write(context, outgoing.chunk())
            } else {
                let mut slices = [IoSlice::new(&[]); 2];
                let count = outgoing.chunks_vectored(&mut slices);
                stream.poll_write_vectored(context, &slices[..count])
            };
            match written {
                Poll::Ready(written) => outgoing.advance(written?),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// True when the worker has not closed it and no exchange is in progress. Takes the last task's waker off it.
    fn is_idle(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut unexpected = [0];
        Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut unexpected)).is_pending()
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer: {what}"))
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
