//! The body of a worker's answer.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};

use super::Connection;
use crate::http1::buffer::{self, Buffer, Piece};
use crate::http1::decoder::{Decoded, Decoder};

/// The most bytes that are read ahead of what the client has taken.
const READ_AHEAD_BYTES: usize = 32 << 10;

/// An answer as it arrives. Dropped before its end, it closes the connection, which tells the worker to stop.
pub struct Answer {
    connection: Connection,
    body: Decoder,
    /// What came together with the head.
    begun: BytesMut,
    is_reusable: bool,
}

impl Answer {
    pub(super) fn new(connection: Connection, body: Decoder, begun: BytesMut, is_reusable: bool) -> Self {
        Self { connection, body, begun, is_reusable }
    }

    /// Waits until the body begins or ends, and keeps what came.
    pub async fn begin(&mut self) -> io::Result<()> {
        if self.begun.is_empty() && !self.body.is_ended() {
            let (begun, stream) = (&mut self.begun, &mut self.connection.stream);
            let count = poll_fn(|context| buffer::with(|buffer| buffer.poll_append(begun, stream, context))).await?;
            if count == 0 {
                self.is_reusable = false;
                self.body.end()?;
            }
        }
        Ok(())
    }

    /// Reads the next piece of data into `buffer`; `None` at the end.
    pub fn poll_piece(&mut self, buffer: &mut Buffer, context: &mut Context<'_>) -> Poll<io::Result<Option<Piece>>> {
        while !self.body.is_ended() {
            let count = if self.begun.is_empty() {
                ready!(buffer.poll_read(&mut self.connection.stream, READ_AHEAD_BYTES, context))?
            } else {
                self.take_begun(buffer)
            };
            if count == 0 {
                self.is_reusable = false;
                self.body.end()?;
                break;
            }
            let Decoded { data, consumed } = self.body.decode(&mut buffer.data()[..count])?;
            // Nothing may follow an answer that nobody asked for.
            self.is_reusable &= consumed == count;
            if !data.is_empty() {
                return Poll::Ready(Ok(Some(data)));
            }
        }
        Poll::Ready(Ok(None))
    }

    /// The next piece of data, copied; `None` at the end.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        buffer::with(|buffer| {
            let piece = ready!(self.poll_piece(buffer, context));
            Poll::Ready(piece.map(|piece| piece.map(|piece| Bytes::copy_from_slice(buffer.piece(piece)))).transpose())
        })
    }

    fn take_begun(&mut self, buffer: &mut Buffer) -> usize {
        let count = buffer.fill(&self.begun);
        self.begun.advance(count);
        if self.begun.is_empty() {
            // Gives the memory back.
            self.begun = BytesMut::new();
        }
        count
    }

    pub fn is_complete(&self) -> bool {
        self.body.is_ended()
    }

    /// The bytes that are left, where the worker said how many there are.
    pub fn length(&self) -> Option<u64> {
        self.body.remaining()
    }

    /// The connection, if the answer is complete and the worker keeps it open: for the next exchange.
    pub fn into_connection(self) -> Option<Connection> {
        (self.is_complete() && self.is_reusable && self.begun.is_empty()).then_some(self.connection)
    }
}
