//! The address of a worker: parsed once, normalised, with the forms that requests need made in advance.

use std::fmt;

use http::HeaderValue;
use url::{Host, Url};

/// `http://host:port`: lower-case host, explicit port unless 80, nothing after it. Equal addresses are equal texts.
#[derive(Clone, Debug)]
pub struct WorkerUrl {
    text: String,
    /// What `connect` takes: no brackets around an IPv6 address.
    host: String,
    port: u16,
    host_header: HeaderValue,
    text_header: HeaderValue,
}

impl WorkerUrl {
    /// Parses `http://host:port` or `host:port`; the error names the text and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let invalid = |reason: &str| Err(format!("invalid worker URL \"{trimmed}\": {reason}"));
        let complete = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
        let url = match Url::parse(&complete) {
            Ok(url) => url,
            Err(error) => return invalid(&format!("{error}; expected http://HOST:PORT")),
        };
        match url.scheme() {
            "http" => {}
            "https" => return invalid("https workers are not supported; use http://HOST:PORT"),
            other => return invalid(&format!("unknown scheme {other}; expected http://HOST:PORT")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("user name and password are not supported");
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return invalid("nothing may follow the port; expected http://HOST:PORT");
        }
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return invalid("no host; expected http://HOST:PORT"),
        };
        let port = url.port_or_known_default().expect("http has a known port");
        if port == 0 {
            return invalid("port 0 cannot be connected to");
        }
        let text = url.as_str().trim_end_matches('/').to_owned();
        let header = |value: &str| HeaderValue::from_str(value).expect("a parsed URL is printable ASCII");
        Ok(Self { host_header: header(&text["http://".len()..]), text_header: header(&text), text, host, port })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port as `TcpStream::connect` takes them.
    pub fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The `Host` header of requests to this worker.
    pub fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// The whole URL as a header value.
    pub fn text_header(&self) -> &HeaderValue {
        &self.text_header
    }
}

impl PartialEq for WorkerUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for WorkerUrl {}

impl fmt::Display for WorkerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_equal() {
        for text in ["http://localhost:30001", "HTTP://LocalHost:30001/", " localhost:30001 ", "localhost:30001/"] {
            assert_eq!(WorkerUrl::parse(text).unwrap().as_str(), "http://localhost:30001", "{text}");
        }
        assert_eq!(WorkerUrl::parse("worker").unwrap().address(), ("worker", 80));
        assert_eq!(WorkerUrl::parse("http://[::1]:9").unwrap().address(), ("::1", 9));
        assert_eq!(WorkerUrl::parse("http://[::1]:9").unwrap().host_header(), "[::1]:9");
    }

    #[test]
    fn what_is_no_worker_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty host"),
            ("https://a:1", "https workers are not supported"),
            ("ftp://a:1", "unknown scheme ftp"),
            ("http://a:99999", "invalid port number"),
            ("http://a:0", "port 0"),
            ("http://a:1/v1", "nothing may follow the port"),
            ("http://a:1?x=1", "nothing may follow the port"),
            ("http://me:secret@a:1", "user name"),
            ("http://a b:1", "invalid"),
        ] {
            let error = WorkerUrl::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(error.contains(&format!("\"{text}\"")), "{text}: {error}");
        }
    }
}
