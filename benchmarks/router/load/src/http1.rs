//! As much HTTP/1.1 as both ends of a measurement need: heads, lengths and chunks over one buffered socket.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use memchr::memchr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

const BUFFER_BYTES: usize = 4 << 10;
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 64;

/// One end of a connection. `buffer[start..end]` was read and not yet taken.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// How a body's end is known, and how much of it is still to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What matters of a message's head.
pub struct Head {
    /// The request's path with its query; empty for a response.
    pub path: String,
    /// The response's status; 0 for a request.
    pub status: u16,
    pub framing: Framing,
    pub keep_alive: bool,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0 })
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The head of the next request; None where the connection ended between two.
    pub async fn request_head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(head) = self.parse_request()? {
                return Ok(Some(head));
            }
            if self.fill().await? == 0 {
                return if self.start == self.end { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    pub async fn response_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = self.parse_response()? {
                return Ok(head);
            }
            self.fill_more().await?;
        }
    }

    /// The next part of a body, at least one byte; None at its end.
    pub async fn next_data(&mut self, framing: &mut Framing) -> io::Result<Option<&[u8]>> {
        loop {
            match *framing {
                Framing::Done => return Ok(None),
                Framing::Length(0) => *framing = Framing::Done,
                Framing::ChunkData(0) => *framing = Framing::ChunkEnd,
                Framing::Length(left) | Framing::ChunkData(left) => {
                    if self.start == self.end {
                        self.fill_more().await?;
                    }
                    let taken = left.min((self.end - self.start) as u64);
                    match framing {
                        Framing::Length(left) | Framing::ChunkData(left) => *left -= taken,
                        _ => unreachable!("only these two count"),
                    }
                    return Ok(Some(self.take(taken as usize)));
                }
                Framing::UntilClose => {
                    if self.start == self.end && self.fill().await? == 0 {
                        *framing = Framing::Done;
                        continue;
                    }
                    return Ok(Some(self.take(self.end - self.start)));
                }
                Framing::ChunkSize | Framing::ChunkEnd | Framing::Trailers => {
                    *framing = self.chunk_line(*framing).await?
                }
            }
        }
    }

    /// Reads a body to its end and drops it; a long one is dropped by the kernel, uncopied.
    pub async fn discard(&mut self, mut framing: Framing) -> io::Result<()> {
        if let Framing::Length(left) = framing {
            let here = left.min((self.end - self.start) as u64);
            self.take(here as usize);
            return self.discard_unread(left - here).await;
        }
        while self.next_data(&mut framing).await?.is_some() {}
        Ok(())
    }

    async fn discard_unread(&mut self, mut left: u64) -> io::Result<()> {
        let socket = self.stream.as_raw_fd();
        while left > 0 {
            let dropped = self
                .stream
                .async_io(Interest::READABLE, || {
                    // SAFETY: with MSG_TRUNC a TCP socket drops what it received and writes nothing (tcp(7)).
                    let count = unsafe { libc::recv(socket, std::ptr::null_mut(), left as usize, libc::MSG_TRUNC) };
                    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as u64) }
                })
                .await?;
            if dropped == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            left -= dropped;
        }
        Ok(())
    }

    /// One line between chunks, and what comes after it.
    async fn chunk_line(&mut self, framing: Framing) -> io::Result<Framing> {
        let length = loop {
            match memchr(b'\n', &self.buffer[self.start..self.end]) {
                Some(at) => break at + 1,
                None => self.fill_more().await?,
            };
        };
        let line = self.take(length).trim_ascii();
        match framing {
            Framing::ChunkEnd => Ok(Framing::ChunkSize),
            Framing::Trailers if line.is_empty() => Ok(Framing::Done),
            Framing::Trailers => Ok(Framing::Trailers),
            _ => {
                let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(digits).ok().and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
                match size.ok_or_else(|| invalid("a chunk without a size"))? {
                    0 => Ok(Framing::Trailers),
                    size => Ok(Framing::ChunkData(size)),
                }
            }
        }
    }

    fn parse_request(&mut self) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&self.buffer[self.start..self.end]).map_err(invalid)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let (framing, keep_alive) = framing_of(request.headers, Framing::Done)?;
        let head = Head { path: request.path.unwrap_or_default().to_owned(), status: 0, framing, keep_alive };
        self.take(length);
        Ok(Some(head))
    }

    fn parse_response(&mut self) -> io::Result<Option<Head>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&self.buffer[self.start..self.end]).map_err(invalid)?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let (framing, keep_alive) = framing_of(response.headers, Framing::UntilClose)?;
        let head = Head { path: String::new(), status: response.code.unwrap_or_default(), framing, keep_alive };
        self.take(length);
        Ok(Some(head))
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.start;
        self.start += length;
        &self.buffer[from..from + length]
    }

    async fn fill_more(&mut self) -> io::Result<usize> {
        match self.fill().await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        }
    }

    /// Reads once; 0 at the end of the connection.
    async fn fill(&mut self) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.buffer.len() {
                if self.end >= LARGEST_HEAD {
                    return Err(invalid("a head without an end"));
                }
                self.buffer.resize(self.end * 2, 0);
            }
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        Ok(count)
    }
}

/// The body's framing, `without` where no header says it; and whether the connection may be used again.
fn framing_of(headers: &[httparse::Header<'_>], without: Framing) -> io::Result<(Framing, bool)> {
    let (mut framing, mut keep_alive) = (without, true);
    for header in headers {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.parse().map_err(|_| invalid("a content-length that is no number"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::ChunkSize;
        } else if header.name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep_alive = false;
        }
    }
    Ok((framing, keep_alive))
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A wire whose other end writes `bytes` in pieces of `piece` and closes.
    async fn wire_reading(bytes: &'static [u8], piece: usize) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            for part in bytes.chunks(piece) {
                stream.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Wire::new(TcpStream::connect(address).await.unwrap()).unwrap()
    }

    async fn body(wire: &mut Wire, mut framing: Framing) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(data) = wire.next_data(&mut framing).await.unwrap() {
            whole.extend_from_slice(data);
        }
        whole
    }

    #[tokio::test]
    async fn chunks_and_lengths_are_read_however_they_are_cut() {
        let answers =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nA: b\r\n\r\n\
            HTTP/1.1 503 No\r\nContent-Length: 4\r\nConnection: Close\r\n\r\nbusy";
        for piece in [1, 2, 7, 1000] {
            let mut wire = wire_reading(answers, piece).await;
            let head = wire.response_head().await.unwrap();
            assert_eq!((head.status, head.keep_alive), (200, true));
            assert_eq!(body(&mut wire, head.framing).await, b"hello, world");
            let head = wire.response_head().await.unwrap();
            assert_eq!((head.status, head.keep_alive), (503, false));
            assert_eq!(body(&mut wire, head.framing).await, b"busy");
        }
    }

    #[tokio::test]
    async fn a_discarded_body_leaves_the_next_request() {
        let requests = b"POST /a HTTP/1.1\r\nContent-Length: 12\r\n\r\nabcdefghijklGET /b HTTP/1.1\r\n\r\n";
        for piece in [3, 40, 1000] {
            let mut wire = wire_reading(requests, piece).await;
            let head = wire.request_head().await.unwrap().unwrap();
            assert_eq!((head.path.as_str(), head.framing), ("/a", Framing::Length(12)));
            wire.discard(head.framing).await.unwrap();
            let head = wire.request_head().await.unwrap().unwrap();
            assert_eq!((head.path.as_str(), head.framing), ("/b", Framing::Done));
            assert!(wire.request_head().await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_an_error() {
        let mut wire = wire_reading(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 1000).await;
        let mut framing = wire.response_head().await.unwrap().framing;
        assert_eq!(wire.next_data(&mut framing).await.unwrap(), Some(&b"half"[..]));
        assert_eq!(wire.next_data(&mut framing).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
