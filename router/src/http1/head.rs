//! Heads of messages: parsed without copying their values, and written.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};

/// The longest head, and so the most bytes of a connection that wait to be understood.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// The most header lines in a head.
pub const MAX_HEADERS: usize = 128;

/// Why a request's head is refused.
#[derive(Debug, PartialEq)]
pub enum HeadError {
    Invalid(String),
    TooLarge,
}

/// The places of a header's name and value in a head.
type HeaderRanges = [(Range<usize>, Range<usize>); MAX_HEADERS];

// ===== Parsing =====

/// Takes the head of a request off the beginning of `input`; `None` while it is not complete.
pub fn parse_request(input: &mut BytesMut) -> Result<Option<Request<()>>, HeadError> {
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(error) => return Err(HeadError::Invalid(format!("malformed request head: {error}"))),
    };
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let target = range_in(input, parsed.path.unwrap_or_default().as_bytes());
    let version = version(parsed.version);
    let mut ranges = [const { (0..0, 0..0) }; MAX_HEADERS];
    let count = locate(input, parsed.headers, &mut ranges);

    let head = input.split_to(length).freeze();
    let mut request = Request::new(());
    *request.method_mut() = method.map_err(|_| HeadError::Invalid("malformed method".to_owned()))?;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice(target))
        .map_err(|error| HeadError::Invalid(format!("malformed request target: {error}")))?;
    *request.version_mut() = version;
    *request.headers_mut() = collect(&head, &ranges[..count]).map_err(HeadError::Invalid)?;
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || hosts == 0 && version == Version::HTTP_11 {
        return Err(HeadError::Invalid("a request must have one Host header".to_owned()));
    }
    Ok(Some(request))
}

/// Takes the head of a response off the beginning of `input`; `None` while it is not complete.
pub fn parse_response(input: &mut BytesMut) -> io::Result<Option<Response<()>>> {
    let mut headers = [MaybeUninit::uninit(); MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let result = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut headers);
    let length = match result {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(_) => return Err(invalid("a head that is too long".to_owned())),
        Err(error) => return Err(invalid(error.to_string())),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|error| invalid(error.to_string()))?;
    let version = version(parsed.version);
    let mut ranges = [const { (0..0, 0..0) }; MAX_HEADERS];
    let count = locate(input, parsed.headers, &mut ranges);

    let head = input.split_to(length).freeze();
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = collect(&head, &ranges[..count]).map_err(invalid)?;
    Ok(Some(response))
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

fn locate(input: &[u8], headers: &[httparse::Header<'_>], ranges: &mut HeaderRanges) -> usize {
    for (range, header) in ranges.iter_mut().zip(headers) {
        *range = (range_in(input, header.name.as_bytes()), range_in(input, header.value));
    }
    headers.len()
}

fn collect(head: &Bytes, ranges: &[(Range<usize>, Range<usize>)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(ranges.len());
    for (name, value) in ranges {
        let name = HeaderName::from_bytes(&head[name.clone()]).map_err(|error| error.to_string())?;
        let value = HeaderValue::from_maybe_shared(head.slice(value.clone()));
        let value = value.map_err(|_| format!("the value of the header {name} is invalid"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed response head: {reason}"))
}

// ===== Writing =====

/// The head of a request to the worker with the `Host` header `host`.
pub fn write_request(request: &Request<Bytes>, host: &HeaderValue) -> BytesMut {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = BytesMut::with_capacity(128 + target.len() + size_of_headers(request.headers()));
    for part in [request.method().as_str(), " ", target, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    write_header(&mut head, HOST.as_str(), host.as_bytes());
    write_headers(&mut head, request.headers());
    let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if has_body || !request.body().is_empty() {
        write_length(&mut head, request.body().len() as u64);
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// How an answer's body is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transfer {
    /// Not at all: the head is all there is, and tells the length of what is left out.
    HeadOnly,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What the head of a response says about the connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Persistence {
    /// Nothing: it lives on.
    Implied,
    /// It lives on, which an HTTP/1.0 client is told.
    KeepAlive,
    Close,
}

/// The head of a response to a client.
pub fn write_response(response: &Response<()>, transfer: Transfer, persistence: Persistence) -> BytesMut {
    let status = response.status();
    let headers = response.headers();
    let mut head = BytesMut::with_capacity(160 + size_of_headers(headers));
    for part in ["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    write_headers(&mut head, headers);
    match transfer {
        Transfer::HeadOnly if status == StatusCode::NO_CONTENT => {}
        Transfer::HeadOnly => {
            if let Some(length) = headers.get(CONTENT_LENGTH) {
                write_header(&mut head, CONTENT_LENGTH.as_str(), length.as_bytes());
            }
        }
        Transfer::Length(length) => write_length(&mut head, length),
        Transfer::Chunked => write_header(&mut head, TRANSFER_ENCODING.as_str(), b"chunked"),
        Transfer::UntilClose => {}
    }
    match persistence {
        Persistence::Implied => {}
        Persistence::KeepAlive => write_header(&mut head, CONNECTION.as_str(), b"keep-alive"),
        Persistence::Close => write_header(&mut head, CONNECTION.as_str(), b"close"),
    }
    if !headers.contains_key(DATE) {
        DATE_TEXT.with_borrow_mut(|date| write_header(&mut head, DATE.as_str(), date.now().as_bytes()));
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// All headers but those that say how the message is framed, which whoever sends it decides.
fn write_headers(head: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        if ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name) {
            write_header(head, name.as_str(), value.as_bytes());
        }
    }
}

fn write_header(head: &mut BytesMut, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

fn write_length(head: &mut BytesMut, length: u64) {
    write!(head, "{CONTENT_LENGTH}: {length}\r\n").expect("the buffer grows as needed");
}

fn size_of_headers(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The time as a `Date` header has it, made anew once a second.
struct DateText {
    text: String,
    expires: SystemTime,
}

thread_local! {
    static DATE_TEXT: RefCell<DateText> =
        const { RefCell::new(DateText { text: String::new(), expires: SystemTime::UNIX_EPOCH }) };
}

impl DateText {
    fn now(&mut self) -> &str {
        let now = SystemTime::now();
        // A clock that was set back counts as a new second, too.
        if now >= self.expires || now + SECOND < self.expires {
            self.text = httpdate::fmt_http_date(now);
            self.expires = now + SECOND;
        }
        &self.text
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str) -> Result<Option<Request<()>>, HeadError> {
        parse_request(&mut BytesMut::from(head))
    }

    #[test]
    fn a_head_is_taken_off_and_the_rest_is_left() {
        let whole = "\r\nPOST /v1/x?y=1 HTTP/1.1\r\nHost: r\r\nX-A:  1 \r\nx-a: 2\r\nx-empty:\r\n\r\nbody";
        for end in 0..whole.len() - "body".len() {
            assert_eq!(
                parse_request(&mut BytesMut::from(&whole[..end])).map(|head| head.is_some()),
                Ok(false),
                "{end}"
            );
        }
        let mut input = BytesMut::from(whole);
        let head = parse_request(&mut input).unwrap().unwrap();
        assert_eq!((head.method(), head.uri().to_string().as_str()), (&Method::POST, "/v1/x?y=1"));
        assert_eq!(head.headers().get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(head.headers()["x-empty"], "");
        assert_eq!(input, "body");
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n",
            "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /\u{7f} HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "G{T / HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            assert!(matches!(request(head), Err(HeadError::Invalid(_))), "{head:?}: {:?}", request(head));
        }
        assert!(request("GET / HTTP/1.0\r\n\r\n").unwrap().is_some());
    }

    #[test]
    fn heads_are_bounded() {
        let line = format!("GET /{} HTTP/1.1\r\nhost: a\r\n", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(request(&line).unwrap_err(), HeadError::TooLarge);
        assert_eq!(request(&format!("{line}\r\n")).unwrap_err(), HeadError::TooLarge);
        let lines = "x: 1\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(request(&format!("GET / HTTP/1.1\r\n{lines}\r\n")).unwrap_err(), HeadError::TooLarge);
        assert!(parse_response(&mut BytesMut::from(&*format!("HTTP/1.1 200 OK\r\n{lines}\r\n"))).is_err());
    }

    #[test]
    fn an_answer_s_head_is_parsed_strictly() {
        let mut input = BytesMut::from("HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nabc");
        let head = parse_response(&mut input).unwrap().unwrap();
        assert_eq!(
            (head.status(), &head.headers()["content-length"]),
            (StatusCode::OK, &HeaderValue::from_static("3"))
        );
        assert_eq!(input, "abc");
        for head in [
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 \r\n\r\n",
            "ICY 200\r\n\r\n",
        ] {
            assert!(parse_response(&mut BytesMut::from(head)).is_err(), "{head:?}");
        }
    }

    #[test]
    fn framing_is_written_by_whoever_sends() {
        let mut request = Request::post("http://client.example/v1/x?y").body(Bytes::from_static(b"ab")).unwrap();
        for (name, value) in
            [("content-length", "9"), ("transfer-encoding", "chunked"), ("connection", "x"), ("a", "b")]
        {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        let head = write_request(&request, &HeaderValue::from_static("worker:1"));
        assert_eq!(
            str::from_utf8(&head).unwrap(),
            "POST /v1/x?y HTTP/1.1\r\nhost: worker:1\r\na: b\r\ncontent-length: 2\r\n\r\n"
        );
        let get = Request::get("/").body(Bytes::new()).unwrap();
        assert_eq!(write_request(&get, &HeaderValue::from_static("w")), "GET / HTTP/1.1\r\nhost: w\r\n\r\n");

        let response = Response::builder().header("content-length", "5").header("date", "now").body(()).unwrap();
        for (transfer, persistence, expected) in [
            (Transfer::HeadOnly, Persistence::Implied, "content-length: 5\r\n"),
            (Transfer::Length(7), Persistence::KeepAlive, "content-length: 7\r\nconnection: keep-alive\r\n"),
            (Transfer::Chunked, Persistence::Implied, "transfer-encoding: chunked\r\n"),
            (Transfer::UntilClose, Persistence::Close, "connection: close\r\n"),
        ] {
            let head = write_response(&response, transfer, persistence);
            assert_eq!(str::from_utf8(&head).unwrap(), format!("HTTP/1.1 200 OK\r\ndate: now\r\n{expected}\r\n"));
        }
        let dated = write_response(&Response::new(()), Transfer::Length(0), Persistence::Implied);
        assert!(str::from_utf8(&dated).unwrap().contains("\r\ndate: "));
    }
}
