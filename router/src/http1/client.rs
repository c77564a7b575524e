//! A client's connection while HTTP/1.1 is spoken on it: its bytes in, its bytes out.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer;
use super::head::MAX_HEAD_BYTES;

/// How long a client that has got its answer may go on sending a body that nobody reads.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// A stream of bytes in both directions: a TCP connection, or TLS over one.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Holds bytes only while they wait: idle, it has no buffers.
pub struct Client {
    pub socket: Box<dyn Duplex>,
    /// What has arrived and has not been understood yet.
    pub input: BytesMut,
    /// What the socket has not taken yet.
    pub output: BytesMut,
}

impl Client {
    pub fn new(socket: impl Duplex + 'static) -> Self {
        Self { socket: Box::new(socket), input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Waits for more input; an error of kind `UnexpectedEof` if there will be none.
    pub fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = buffer::with(|buffer| buffer.poll_append(&mut self.input, &mut self.socket, context));
        Poll::Ready(match ready!(read)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed the connection")),
            _ => Ok(()),
        })
    }

    /// Returns when the client has gone. What it sends meanwhile (its next requests) is kept up to a bound.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        while self.input.len() < MAX_HEAD_BYTES {
            if let Err(error) = ready!(self.poll_fill(context)) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    }

    /// Writes what waits and then `data`; what the socket does not take of them waits.
    pub fn write(&mut self, data: &[u8], context: &mut Context<'_>) -> io::Result<()> {
        if !self.output.is_empty() {
            // A head, and with it the beginning of the body: together they are one segment.
            self.output.extend_from_slice(data);
            return match self.poll_flush(context) {
                Poll::Ready(flushed) => flushed,
                Poll::Pending => Ok(()),
            };
        }
        let written = match Pin::new(&mut self.socket).poll_write(context, data) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.output.extend_from_slice(&data[written..]);
        Ok(())
    }

    /// Waits until the socket has taken everything.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, &self.output))?;
            self.output.advance(written);
        }
        // Gives the memory back.
        self.output = BytesMut::new();
        Pin::new(&mut self.socket).poll_flush(context)
    }

    /// Closes the connection after an answer. A client that is still sending (`is_sending`) is listened to for a while: closing with
    /// unread bytes would take the answer away from it.
    pub async fn close(mut self, is_sending: bool) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut self.socket).poll_shutdown(context)).await?;
        if is_sending || !self.input.is_empty() {
            let discard = poll_fn(|context| {
                loop {
                    self.input.clear();
                    if let Err(error) = ready!(self.poll_fill(context)) {
                        return Poll::Ready(error);
                    }
                }
            });
            // Whoever is still sending after that time is cut off.
            let _ = tokio::time::timeout(LINGER_TIME, discard).await;
        }
        Ok(())
    }
}
