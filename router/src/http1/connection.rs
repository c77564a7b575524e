//! A client's HTTP/1.1 connection: one request after another, each answered before the next one is looked at.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::header::EXPECT;
use http::{Method, Request, Response, Version};
use http_body::Body as _;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::body::{Arriving, Home, Returned};
use super::buffer::{self, Buffer, Piece};
use super::client::Client;
use super::decoder::Decoder;
use super::framing;
use super::head::{self, HeadError, Persistence, Transfer};
use crate::body::{Body, RequestBody, complete};
use crate::error::RouterError;

/// What every HTTP/2 connection begins with, up to where it cannot be HTTP/1.1 any more.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// How long a client may take, so that none holds a connection for nothing.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// Between two requests.
    pub idle: Duration,
}

/// What a connection begins its next exchange with.
enum Next {
    Request(Request<()>),
    Refused(RouterError),
    /// The client speaks HTTP/2.
    Http2,
    /// The client has gone, or has been silent for too long, or the router is closing.
    Over,
}

/// Returns once `closing` is true, or nobody is left to make it so.
pub async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Serves requests until the connection ends. Gives it back if the client turns out to speak HTTP/2.
pub async fn serve<S, A>(
    mut client: Client,
    answer: &S,
    mut closing: watch::Receiver<bool>,
    timeouts: Timeouts,
) -> io::Result<Option<Client>>
where
    S: Fn(Request<RequestBody>) -> A,
    A: Future<Output = Result<Response<Body>, Infallible>>,
{
    let mut deadline = Deadline::new(timeouts.idle);
    loop {
        let head = match next(&mut client, &mut deadline, &mut closing, timeouts).await? {
            Next::Request(head) => head,
            Next::Refused(error) => return refuse(client, &error).await.map(|()| None),
            Next::Http2 => return Ok(Some(client)),
            Next::Over => return Ok(None),
        };
        let body = match framing::of_request(head.version(), head.headers()) {
            Ok(body) => body,
            Err(reason) => {
                let error = RouterError::BadRequest(format!("the length of the request body is unclear: {reason}"));
                return refuse(client, &error).await.map(|()| None);
            }
        };
        let mut reply = Reply::to(&head);
        let (place, body) = Place::of(client, &head, body);
        // Boxed, so that what answering takes is given back before the answer is sent.
        let answering = Box::pin(answer(head.map(|()| body)));
        let (returned, response) = wait(place, answering).await?;
        client = returned.client;
        reply.keeps_alive &= returned.is_complete && !*closing.borrow();
        reply.keeps_alive &= reply.transfer(&response) != Transfer::UntilClose;
        send(&mut client, response, reply).await?;
        if !reply.keeps_alive {
            return client.close(!returned.is_complete).await.map(|()| None);
        }
    }
}

/// Answers a request that cannot be understood, and so cannot be followed by another.
async fn refuse(mut client: Client, error: &RouterError) -> io::Result<()> {
    let reply = Reply { version: Version::HTTP_11, is_head: false, keeps_alive: false };
    send(&mut client, complete(error.response()), reply).await?;
    client.close(true).await
}

/// Waits for the head of the next request.
async fn next(
    client: &mut Client,
    deadline: &mut Deadline,
    closing: &mut watch::Receiver<bool>,
    timeouts: Timeouts,
) -> io::Result<Next> {
    let mut is_idle = true;
    deadline.set(timeouts.idle);
    loop {
        if !client.input.is_empty() {
            match head::parse_request(&mut client.input) {
                Ok(Some(head)) => return Ok(Next::Request(head)),
                Ok(None) if std::mem::take(&mut is_idle) => deadline.set(timeouts.head),
                Ok(None) => {}
                Err(_) if client.input.starts_with(HTTP2_PREFACE) => return Ok(Next::Http2),
                Err(HeadError::TooLarge) => return Ok(Next::Refused(RouterError::HeadTooLarge)),
                Err(HeadError::Invalid(reason)) => return Ok(Next::Refused(RouterError::BadRequest(reason))),
            }
        }
        tokio::select! {
            biased;
            filled = poll_fn(|context| client.poll_fill(context)) => match filled {
                Err(error) if is_idle && error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::Over),
                filled => filled?,
            },
            () = closed(closing), if is_idle => return Ok(Next::Over),
            () = deadline.passed() => {
                return Ok(if is_idle { Next::Over } else { Next::Refused(RouterError::HeadTimedOut) });
            }
        }
    }
}

// ===== Waiting for the answer =====

/// Where the connection is while its request is being answered.
enum Place {
    Here(Returned),
    /// With the body of the request.
    Lent(Home),
}

impl Place {
    /// What has arrived of the body goes along with the request; if that is not all of it, the connection goes along, too.
    fn of(mut client: Client, head: &Request<()>, body: Decoder) -> (Self, RequestBody) {
        match body.remaining().and_then(|length| usize::try_from(length).ok()) {
            Some(length) if length <= client.input.len() => {
                let body = client.input.split_to(length).freeze();
                if client.input.is_empty() {
                    client.input = BytesMut::new();
                }
                (Self::Here(Returned { client, is_complete: true }), RequestBody::Whole(body))
            }
            _ => {
                let home = Home::default();
                let expects_continue = head.version() >= Version::HTTP_11
                    && head
                        .headers()
                        .get(EXPECT)
                        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
                let body = Arriving::new(client, body, home.clone(), expects_continue);
                (Self::Lent(home), RequestBody::Arriving(Box::new(body)))
            }
        }
    }

    /// The connection, if it is here or has come back.
    fn returned(&mut self) -> Option<&mut Returned> {
        if let Self::Lent(home) = self {
            let returned = home.lock().take()?;
            *self = Self::Here(returned);
        }
        match self {
            Self::Here(returned) => Some(returned),
            Self::Lent(_) => None,
        }
    }
}

/// Waits for the answer; an error if the client goes away first, which ends the answering.
async fn wait<A>(mut place: Place, mut answering: Pin<Box<A>>) -> io::Result<(Returned, Response<Body>)>
where
    A: Future<Output = Result<Response<Body>, Infallible>>,
{
    let Ok(response) = poll_fn(|context| match answering.as_mut().poll(context) {
        Poll::Ready(answered) => Poll::Ready(Ok(answered)),
        Poll::Pending => match place.returned() {
            Some(returned) => returned.client.poll_gone(context).map(Err),
            None => Poll::Pending,
        },
    })
    .await?;
    drop(answering);
    place.returned();
    match place {
        Place::Here(returned) => Ok((returned, response)),
        Place::Lent(_) => Err(io::Error::other("the request's body outlives its answer")),
    }
}

// ===== Sending the answer =====

/// What the request means for the answer.
#[derive(Clone, Copy)]
struct Reply {
    version: Version,
    is_head: bool,
    keeps_alive: bool,
}

impl Reply {
    fn to(head: &Request<()>) -> Self {
        let version = head.version();
        Self {
            version,
            is_head: head.method() == Method::HEAD,
            keeps_alive: framing::keeps_alive(version, head.headers()),
        }
    }

    fn transfer(&self, response: &Response<Body>) -> Transfer {
        match response.body().size_hint().exact() {
            _ if self.is_head || framing::never_has_body(response.status()) => Transfer::HeadOnly,
            Some(length) => Transfer::Length(length),
            None if self.version >= Version::HTTP_11 => Transfer::Chunked,
            None => Transfer::UntilClose,
        }
    }

    fn persistence(&self) -> Persistence {
        match (self.keeps_alive, self.version) {
            (false, _) => Persistence::Close,
            (true, Version::HTTP_10) => Persistence::KeepAlive,
            (true, _) => Persistence::Implied,
        }
    }
}

/// Sends an answer as its body comes.
async fn send(client: &mut Client, response: Response<Body>, reply: Reply) -> io::Result<()> {
    let transfer = reply.transfer(&response);
    let (parts, body) = response.into_parts();
    client.output = head::write_response(&Response::from_parts(parts, ()), transfer, reply.persistence());
    let mut sending = Sending { body, transfer, is_blocked: false, is_ended: transfer == Transfer::HeadOnly };
    poll_fn(|context| sending.poll(client, context)).await
}

/// An answer on its way. Holds no bytes: what the client does not take stays with the connection, and what it does not take yet is not
/// read from the worker.
struct Sending {
    body: Body,
    transfer: Transfer,
    /// The socket did not take all that there was.
    is_blocked: bool,
    is_ended: bool,
}

impl Sending {
    fn poll(&mut self, client: &mut Client, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_ended {
            if self.is_blocked {
                ready!(client.poll_flush(context))?;
            }
            match buffer::with(|buffer| self.poll_part(client, buffer, context)) {
                Poll::Ready(written) => {
                    written?;
                    self.is_blocked = !client.output.is_empty();
                }
                Poll::Pending => {
                    // The head does not wait for the body.
                    ready!(client.poll_flush(context))?;
                    return client.poll_gone(context).map(Err);
                }
            }
        }
        client.poll_flush(context)
    }

    /// Writes what the body has next, the first time together with the head.
    fn poll_part(
        &mut self,
        client: &mut Client,
        buffer: &mut Buffer,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Body::Worker(stream) = &mut self.body {
            let piece = ready!(stream.poll_piece(buffer, context)).map_err(io::Error::other)?;
            self.is_ended = stream.is_end_stream();
            return Poll::Ready(match piece {
                Some(piece) => self.write(piece, client, buffer, context),
                None => self.write_end(client, context),
            });
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context)).transpose().map_err(io::Error::other)?;
        let Some(frame) = frame else { return Poll::Ready(self.write_end(client, context)) };
        for part in frame.data_ref().map_or(&[][..], |data| data).chunks(buffer::CAPACITY) {
            let piece = 0..buffer.fill(part);
            self.write(piece, client, buffer, context)?;
        }
        Poll::Ready(Ok(()))
    }

    fn write(
        &self,
        piece: Piece,
        client: &mut Client,
        buffer: &mut Buffer,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        let framed = match self.transfer {
            Transfer::Chunked => buffer.as_chunk(piece, self.is_ended),
            _ => buffer.piece(piece),
        };
        client.write(framed, context)
    }

    fn write_end(&mut self, client: &mut Client, context: &mut Context<'_>) -> io::Result<()> {
        self.is_ended = true;
        match self.transfer {
            Transfer::Chunked => client.write(buffer::LAST_CHUNK, context),
            _ => Ok(()),
        }
    }
}

// ===== Time =====

/// A timer that is set for every request and fires for hardly any: setting it later costs nothing.
struct Deadline {
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        let timer = tokio::time::sleep(after);
        Self { at: timer.deadline(), timer: Box::pin(timer) }
    }

    fn set(&mut self, after: Duration) {
        self.at = Instant::now() + after;
        if self.at < self.timer.deadline() {
            self.timer.as_mut().reset(self.at);
        }
    }

    async fn passed(&mut self) {
        loop {
            self.timer.as_mut().await;
            if self.at <= self.timer.deadline() {
                return;
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}
