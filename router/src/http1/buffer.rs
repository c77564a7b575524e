//! The buffer of a thread, through which bytes go from one socket to another.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// The most bytes that are read at once.
pub const CAPACITY: usize = 64 << 10;

/// The size of a chunk as text (at most `CAPACITY`), and its line end.
const HEADROOM: usize = 8;

/// The end of a chunk's data, and the end of the chunks.
const TAILROOM: usize = CRLF.len() + LAST_CHUNK.len();

const CRLF: &[u8] = b"\r\n";

/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Bytes with room before and after them for the frame of a chunk.
pub struct Buffer {
    bytes: Box<[u8]>,
}

/// A range of the `CAPACITY` bytes of a buffer.
pub type Piece = Range<usize>;

thread_local! {
    static BUFFER: RefCell<Buffer> =
        RefCell::new(Buffer { bytes: vec![0; HEADROOM + CAPACITY + TAILROOM].into_boxed_slice() });
}

/// Lends the thread's buffer, which nobody else is using: what happens in `action` does not wait.
pub fn with<R>(action: impl FnOnce(&mut Buffer) -> R) -> R {
    BUFFER.with_borrow_mut(action)
}

impl Buffer {
    pub fn data(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADROOM..][..CAPACITY]
    }

    pub fn piece(&self, piece: Piece) -> &[u8] {
        &self.bytes[HEADROOM..][piece]
    }

    /// Reads at most `limit` bytes to the beginning; how many came, 0 at the end of the stream.
    pub fn poll_read<R>(&mut self, source: &mut R, limit: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin + ?Sized,
    {
        let mut target = ReadBuf::new(&mut self.data()[..limit]);
        ready!(Pin::new(source).poll_read(context, &mut target))?;
        Poll::Ready(Ok(target.filled().len()))
    }

    /// Reads what is there, up to `CAPACITY` bytes, and appends it to `target`; how much that is, 0 at the end of the stream.
    pub fn poll_append<R>(
        &mut self,
        target: &mut BytesMut,
        source: &mut R,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin + ?Sized,
    {
        let count = ready!(self.poll_read(source, CAPACITY, context))?;
        target.extend_from_slice(&self.data()[..count]);
        Poll::Ready(Ok(count))
    }

    /// Copies as much of `source` to the beginning as there is room for; how much that is.
    pub fn fill(&mut self, source: &[u8]) -> usize {
        let length = source.len().min(CAPACITY);
        self.data()[..length].copy_from_slice(&source[..length]);
        length
    }

    /// The piece as one chunk of a chunked body, the last one if `is_last`. Overwrites what is around the piece.
    pub fn as_chunk(&mut self, piece: Piece, is_last: bool) -> &[u8] {
        let mut size = [0; HEADROOM];
        let mut left = &mut size[..];
        write!(left, "{:x}\r\n", piece.len()).expect("CAPACITY has few digits");
        let size_length = HEADROOM - left.len();
        let (start, end) = (HEADROOM + piece.start, HEADROOM + piece.end);
        self.bytes[start - size_length..start].copy_from_slice(&size[..size_length]);
        let tail: [&[u8]; 2] = [CRLF, if is_last { LAST_CHUNK } else { &[] }];
        let mut position = end;
        for part in tail {
            self.bytes[position..][..part.len()].copy_from_slice(part);
            position += part.len();
        }
        &self.bytes[start - size_length..position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_framed_where_it_lies() {
        with(|buffer| {
            buffer.fill(b"0123456789");
            assert_eq!(buffer.as_chunk(2..9, false), b"7\r\n2345678\r\n");
            assert_eq!(buffer.as_chunk(3..4, true), b"1\r\n3\r\n0\r\n\r\n");
            let whole = vec![b'x'; CAPACITY + 5];
            assert_eq!(buffer.fill(&whole), CAPACITY);
            let chunk = buffer.as_chunk(0..CAPACITY, true);
            assert!(chunk.starts_with(b"10000\r\nxx") && chunk.ends_with(b"xx\r\n0\r\n\r\n"));
            assert_eq!(chunk.len(), 7 + CAPACITY + 7);
        });
    }
}
