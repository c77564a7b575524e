//! How the end of a message's body is found (RFC 9112, section 6.3), and whether the connection lives on after it (section 9.3).

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};

use super::decoder::Decoder;

/// The body of a request. What two servers could understand differently is refused, with the reason.
pub fn of_request(version: Version, headers: &HeaderMap) -> Result<Decoder, &'static str> {
    let length = content_length(headers)?;
    match is_chunked(headers) {
        Some(_) if length.is_some() => Err("both Content-Length and Transfer-Encoding are given"),
        Some(_) if version < Version::HTTP_11 => Err("Transfer-Encoding does not exist in HTTP/1.0"),
        Some(false) => Err("a Transfer-Encoding other than chunked"),
        Some(true) => Ok(Decoder::CHUNKED),
        None => Ok(Decoder::length(length.unwrap_or(0))),
    }
}

/// The body of a worker's answer to a request with `method`.
pub fn of_response(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
) -> Result<Decoder, &'static str> {
    if *method == Method::HEAD || never_has_body(status) {
        return Ok(Decoder::Ended);
    }
    match is_chunked(headers) {
        Some(_) if version < Version::HTTP_11 => Err("Transfer-Encoding does not exist in HTTP/1.0"),
        // It overrides a length, which is not passed on.
        Some(true) => Ok(Decoder::CHUNKED),
        Some(false) => Err("a Transfer-Encoding other than chunked"),
        None => Ok(content_length(headers)?.map_or(Decoder::UntilClose, Decoder::length)),
    }
}

/// True for answers that end with their head.
pub fn never_has_body(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// True unless the sender of these headers closes the connection after the message.
pub fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let has = |option: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|name| name.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    };
    !has("close") && (version >= Version::HTTP_11 || has("keep-alive"))
}

/// Whether a body is chunked and nothing else; `None` without a transfer encoding.
fn is_chunked(headers: &HeaderMap) -> Option<bool> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let first = values.next()?;
    Some(values.next().is_none() && first.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err("more than one Content-Length");
    }
    let digits = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    length.map_or(Err("Content-Length is not a number of bytes"), |length| Ok(Some(length)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut map = HeaderMap::new();
        for (name, value) in lines.iter().copied().map(header) {
            map.append(name, value);
        }
        map
    }

    const LENGTH: &str = "content-length";
    const ENCODING: &str = "transfer-encoding";

    #[test]
    fn a_request_says_where_its_body_ends_or_is_refused() {
        let framing = |lines: &[_]| of_request(Version::HTTP_11, &headers(lines)).ok();
        assert_eq!(framing(&[]), Some(Decoder::Ended));
        assert_eq!(framing(&[(LENGTH, "0")]), Some(Decoder::Ended));
        assert_eq!(framing(&[(LENGTH, "7"), (LENGTH, "7")]), Some(Decoder::Length(7)));
        assert_eq!(framing(&[(ENCODING, "Chunked")]), Some(Decoder::CHUNKED));
        for refused in [
            &[(LENGTH, "7"), (LENGTH, "8")][..],
            &[(LENGTH, "7, 7")],
            &[(LENGTH, "+7")],
            &[(LENGTH, "-7")],
            &[(LENGTH, "")],
            &[(LENGTH, "0x7")],
            &[(LENGTH, "99999999999999999999")],
            &[(LENGTH, "7"), (ENCODING, "chunked")],
            &[(ENCODING, "gzip, chunked")],
            &[(ENCODING, "identity")],
            &[(ENCODING, "xchunked")],
            &[(ENCODING, "chunked"), (ENCODING, "chunked")],
            &[(ENCODING, "")],
        ] {
            assert_eq!(framing(refused), None, "{refused:?}");
        }
        assert!(of_request(Version::HTTP_10, &headers(&[(ENCODING, "chunked")])).is_err());
    }

    #[test]
    fn an_answer_ends_as_its_head_says_or_with_the_connection() {
        let framing = |method, status, lines: &[_]| {
            of_response(&method, StatusCode::from_u16(status).unwrap(), Version::HTTP_11, &headers(lines)).ok()
        };
        let get = Method::GET;
        assert_eq!(framing(get.clone(), 200, &[]), Some(Decoder::UntilClose));
        assert_eq!(framing(get.clone(), 200, &[(LENGTH, "5")]), Some(Decoder::Length(5)));
        assert_eq!(framing(get.clone(), 200, &[(LENGTH, "5"), (ENCODING, "chunked")]), Some(Decoder::CHUNKED));
        assert_eq!(framing(get.clone(), 200, &[(LENGTH, "5"), (LENGTH, "6")]), None);
        assert_eq!(framing(get.clone(), 200, &[(ENCODING, "gzip")]), None);
        for status in [204, 304] {
            assert_eq!(framing(get.clone(), status, &[(ENCODING, "chunked")]), Some(Decoder::Ended));
        }
        assert_eq!(framing(Method::HEAD, 200, &[(LENGTH, "5")]), Some(Decoder::Ended));
    }

    #[test]
    fn a_connection_is_kept_as_version_and_header_say() {
        let kept = |version, value| keeps_alive(version, &headers(&[("connection", value)]));
        assert!(keeps_alive(Version::HTTP_11, &HeaderMap::new()) && !keeps_alive(Version::HTTP_10, &HeaderMap::new()));
        assert!(kept(Version::HTTP_10, "x, Keep-Alive") && kept(Version::HTTP_11, "closed"));
        assert!(!kept(Version::HTTP_11, "keep-alive , CLOSE") && !kept(Version::HTTP_10, "keep-alive, close"));
    }
}
