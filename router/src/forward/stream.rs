//! The body of a worker's answer on its way to the client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tracing::{debug, warn};

use super::stall::Stall;
use crate::admission::Permit;
use crate::body::BodyError;
use crate::error::error_json;
use crate::fleet::Placement;
use crate::http1::buffer::{self, Buffer, Piece};
use crate::metrics::Observation;
use crate::upstream::Answer;

/// Hands chunks through as they arrive, and reads no further than the client takes them. Owns the request's place in the worker's
/// load, and the connection: complete, it goes back to the pool; dropped before, it is closed, which tells the worker to stop.
pub struct Stream {
    /// `None` once the answer has ended, well or not.
    exchange: Option<(Answer, Placement)>,
    /// A server-sent event stream without a length: an error can still be told inside it.
    is_events: bool,
    /// The last two bytes sent, to know whether an event is complete.
    tail: [u8; 2],
    /// Where the answer's pauses have a limit.
    stall: Option<Stall>,
    record: Record,
    /// One of the places of `--max-concurrent-requests`.
    _permit: Permit,
}

/// What the log and the metrics say about the request.
///
/// An open stream has one: it owns its texts, so that it keeps nothing else of the request alive.
pub struct Record {
    id: Box<str>,
    path: Box<str>,
    status: StatusCode,
    bytes: u64,
    observation: Observation,
}

/// How a client is told that its answer ends in the middle.
#[derive(Clone, Copy)]
struct Cut {
    status: StatusCode,
    message: &'static str,
}

const BROKEN: Cut =
    Cut { status: StatusCode::BAD_GATEWAY, message: "the worker broke off in the middle of this answer" };

impl Record {
    pub fn new(id: &HeaderValue, target: &Uri, status: StatusCode, observation: Observation) -> Self {
        let (id, path) = (id.to_str().unwrap_or_default().into(), target.path().into());
        Self { id, path, status, bytes: 0, observation }
    }
}

/// True for server-sent events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

impl Stream {
    /// Takes over the answer of a worker; `is_events` says that it is a stream of server-sent events. A pause that is longer than
    /// `longest_pause` ends it.
    pub fn new(
        is_events: bool,
        answer: Answer,
        placement: Placement,
        permit: Permit,
        record: Record,
        longest_pause: Option<Duration>,
    ) -> Self {
        let is_events = is_events && answer.length().is_none();
        let stall = longest_pause.map(Stall::new);
        Self { exchange: Some((answer, placement)), is_events, tail: *b"\n\n", stall, record, _permit: permit }
    }

    /// Nothing has come: ready, with the reason, when nothing is waited for any more.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Cut> {
        let Some((_, placement)) = &mut self.exchange else { return Poll::Pending };
        if placement.poll_cut_off(context).is_ready() {
            return Poll::Ready(Cut {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "the worker of this answer was removed",
            });
        }
        if let Some(stall) = &mut self.stall
            && stall.poll(context).is_ready()
        {
            placement.failed("an answer paused for too long (--stream-idle-timeout-secs)");
            return Poll::Ready(Cut { status: StatusCode::GATEWAY_TIMEOUT, message: "the answer paused for too long" });
        }
        Poll::Pending
    }

    /// The worker's part is over: the load goes down, and a connection in order goes back to the pool.
    fn end(&mut self) {
        let Some((answer, placement)) = self.exchange.take() else { return };
        let worker = placement.worker();
        let complete = answer.is_complete();
        if let Some(connection) = answer.into_connection() {
            worker.pool.put(connection);
        }
        debug!(
            request_id = &*self.record.id,
            worker = %worker.url(),
            path = &*self.record.path,
            status = self.record.status.as_u16(),
            bytes = self.record.bytes,
            seconds = self.record.observation.elapsed().as_secs_f64(),
            complete,
            "request"
        );
    }

    /// The next piece of the answer, read into `buffer`; `None` at the end.
    pub fn poll_piece(
        &mut self,
        buffer: &mut Buffer,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Piece>, BodyError>> {
        let Some((answer, _)) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        let (polled, is_last) = (answer.poll_piece(buffer, context), answer.is_complete());
        if polled.is_pending()
            && let Poll::Ready(cut) = self.poll_end(context)
        {
            let event = self.break_off(cut, io::Error::other(cut.message));
            return Poll::Ready(event.map(|event| Some(0..buffer.fill(event.as_bytes()))));
        }
        Poll::Ready(match ready!(polled) {
            Ok(Some(piece)) => {
                self.count(buffer.piece(piece.clone()));
                if is_last {
                    self.end();
                }
                Ok(Some(piece))
            }
            Ok(None) => {
                self.end();
                Ok(None)
            }
            Err(error) => self.break_off(BROKEN, error).map(|event| Some(0..buffer.fill(event.as_bytes()))),
        })
    }

    /// The answer ends in the middle: an event that says so, where the client can understand one.
    fn break_off(&mut self, cut: Cut, error: io::Error) -> Result<String, BodyError> {
        if let Some((_, placement)) = &self.exchange {
            warn!(
                request_id = &*self.record.id,
                worker = %placement.worker().url(),
                %error,
                "answer broken off in the middle"
            );
        }
        self.record.observation.is_broken_off();
        self.end();
        if !self.is_events {
            return Err(error.into());
        }
        let message = error_json(cut.status, cut.message);
        let separator = if self.tail == *b"\n\n" { "" } else { "\n\n" };
        Ok(format!("{separator}data: {message}\n\n"))
    }

    fn count(&mut self, data: &[u8]) {
        if let Some((_, placement)) = &mut self.exchange {
            placement.moved();
            if self.record.status.is_success() {
                placement.answered();
            }
        }
        if let Some(stall) = &mut self.stall {
            stall.moved();
        }
        if self.is_events {
            self.record.observation.has_chunk();
        }
        self.record.bytes += data.len() as u64;
        match *data {
            [.., before, last] => self.tail = [before, last],
            [only] => self.tail = [self.tail[1], only],
            [] => {}
        }
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        buffer::with(|buffer| {
            let piece = ready!(this.poll_piece(buffer, context)).transpose();
            Poll::Ready(piece.map(|piece| piece.map(|piece| Frame::data(Bytes::copy_from_slice(buffer.piece(piece))))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.as_ref().is_none_or(|(answer, _)| answer.is_complete())
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.exchange.as_ref().map_or(Some(0), |(answer, _)| answer.length());
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
    }
}
