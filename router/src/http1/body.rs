//! The body of a client's request while it arrives.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use super::client::Client;
use super::decoder::Decoder;

/// The least room that is made for a body whose length is known.
const MIN_READ_BYTES: u64 = 64 << 10;

/// The most room that is made for a body before any of it has arrived.
const MAX_RESERVED_BYTES: u64 = 1 << 20;

/// Where a connection that a body has borrowed comes back to.
pub type Home = Arc<Mutex<Option<Returned>>>;

/// A connection after a request's body.
pub struct Returned {
    pub client: Client,
    /// False if the body was dropped before its end, so that the rest of it is still to come.
    pub is_complete: bool,
}

/// Reads from the connection itself, which it borrows until its end or until it is dropped.
pub struct Arriving {
    client: Option<Client>,
    body: Decoder,
    home: Home,
    /// The client waits for a word before it sends anything.
    expects_continue: bool,
}

impl Arriving {
    pub fn new(client: Client, body: Decoder, home: Home, expects_continue: bool) -> Self {
        Self { client: Some(client), body, home, expects_continue }
    }

    /// The bytes that are left, if the client said how many there are.
    pub fn length(&self) -> Option<u64> {
        self.body.remaining()
    }

    /// Appends what arrives next to `whole`; false at the end.
    pub fn poll_append(&mut self, whole: &mut BytesMut, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(client) = &mut self.client else { return Poll::Ready(Ok(false)) };
        if client.input.is_empty() {
            if std::mem::take(&mut self.expects_continue) {
                client.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            ready!(client.poll_flush(context))?;
            match self.body {
                Decoder::Length(left) => {
                    let count = ready!(read_into(whole, left, client, context))?;
                    self.body = Decoder::length(left - count);
                }
                _ => ready!(client.poll_fill(context))?,
            }
        }
        let decoded = self.body.decode(&mut client.input)?;
        whole.extend_from_slice(&client.input[decoded.data]);
        client.input.advance(decoded.consumed);
        if client.input.is_empty() {
            client.input = BytesMut::new();
        }
        if self.body.is_ended() {
            self.give_back();
        }
        Poll::Ready(Ok(true))
    }

    fn give_back(&mut self) {
        if let Some(client) = self.client.take() {
            *self.home.lock() = Some(Returned { client, is_complete: self.body.is_ended() });
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Reads at most `left` bytes straight to where they belong. Room is made as they arrive: a length is only a claim.
fn read_into(whole: &mut BytesMut, left: u64, client: &mut Client, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
    let room = if whole.is_empty() { MAX_RESERVED_BYTES } else { MIN_READ_BYTES.max(whole.len() as u64) };
    if whole.capacity() == whole.len() {
        whole.reserve(left.min(room) as usize);
    }
    let mut target = whole.limit(usize::try_from(left).unwrap_or(usize::MAX));
    match ready!(pin!(client.socket.read_buf(&mut target)).poll(context))? {
        0 => Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed the connection"))),
        count => Poll::Ready(Ok(count as u64)),
    }
}
