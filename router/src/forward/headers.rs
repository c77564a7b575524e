//! Which headers cross the router, and which belong to one connection only.

use http::Uri;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const WORKER: HeaderName = HeaderName::from_static("x-radixfleet-worker");

/// What RFC 9110, section 7.6.1, and older practice leave to one connection; credentials for a proxy are for this one.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The longest request id that is taken over from a client.
const MAX_ID_BYTES: usize = 128;

/// The client's request id, if it sent a sensible one; else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sensible = |id: &&HeaderValue| (1..=MAX_ID_BYTES).contains(&id.len()) && id.to_str().is_ok();
    headers.get(REQUEST_ID).filter(sensible).cloned().unwrap_or_else(|| {
        let id = format!("{:032x}", fastrand::u128(..));
        HeaderValue::from_str(&id).expect("hexadecimal digits are valid")
    })
}

/// Path and query alone: what a request to a worker begins with, however the client's did.
pub fn origin_form(uri: &Uri) -> Uri {
    Uri::from(uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")))
}

/// The headers of a request to a worker. `Host` and the length are set where the request is sent.
pub fn towards_worker(mut headers: HeaderMap, id: &HeaderValue) -> HeaderMap {
    remove_hop_by_hop(&mut headers);
    headers.remove(HOST);
    headers.remove(CONTENT_LENGTH);
    // The body is here already: there is nothing to wait for.
    headers.remove(EXPECT);
    headers.insert(REQUEST_ID, id.clone());
    join_cookies(&mut headers);
    headers
}

/// An HTTP/2 client may send its cookies in pieces, which HTTP/1.1 knows as one header (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1 {
        let joined =
            HeaderValue::from_bytes(&pieces.join(&b"; "[..])).expect("pieces that are valid are valid together");
        headers.insert(COOKIE, joined);
    }
}

/// The headers of a worker's response on its way to the client.
pub fn towards_client(headers: &mut HeaderMap, worker: &HeaderValue) {
    remove_hop_by_hop(headers);
    headers.insert(WORKER, worker.clone());
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "router:30000"),
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic eDp5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("content-length", "12"),
            ("authorization", "Bearer key"),
            ("x-custom", "kept"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let headers = towards_worker(headers, &HeaderValue::from_static("id-1"));
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "x-custom", "x-request-id"]);
    }

    #[test]
    fn cookies_in_pieces_become_one_header() {
        let pieces = ["a=1", "b=2", "c=3"].map(|piece| (COOKIE, HeaderValue::from_static(piece)));
        let mut headers = HeaderMap::new();
        for (name, value) in pieces {
            headers.append(name, value);
        }
        let headers = towards_worker(headers, &HeaderValue::from_static("id-1"));
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_request_id_is_kept_if_sensible_and_made_if_not() {
        let with = |id: &str| HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap())]);
        assert_eq!(request_id(&with("abc-1")), "abc-1");
        for unusable in ["", "é", &"x".repeat(200)] {
            let id = request_id(&with(unusable));
            assert_eq!(id.len(), 32, "{unusable}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn only_path_and_query_go_to_the_worker() {
        assert_eq!(origin_form(&Uri::from_static("http://a:1/v1/models?x=1")), "/v1/models?x=1");
        assert_eq!(origin_form(&Uri::from_static("/generate")), "/generate");
    }
}
