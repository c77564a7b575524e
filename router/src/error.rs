//! The router's own errors, in the OpenAI error shape.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::http1::head::{MAX_HEAD_BYTES, MAX_HEADERS};

/// Why the router answers a request itself, with the words that the client gets.
#[derive(Debug, PartialEq)]
pub enum RouterError {
    /// Malformed input of a control route, or a body that broke off.
    BadRequest(String),
    UnknownPath(String),
    /// Something else than a path that is not there.
    NotFound(String),
    /// What was asked for contradicts what is there.
    Conflict(String),
    /// The methods that the path knows, as in the `Allow` header.
    WrongMethod(&'static str),
    BodyTooLarge {
        limit: usize,
    },
    /// The option whose key the request lacks.
    Unauthorized(&'static str),
    /// Too many requests are running and waiting.
    RateLimited(String),
    /// The head of a request is longer than the router takes.
    HeadTooLarge,
    /// The head of a request took too long to arrive.
    HeadTimedOut,
    BodyTimedOut {
        seconds: f64,
    },
    NoHealthyWorker {
        workers: usize,
    },
    /// No worker serves the model; holds what they do serve.
    UnknownModel {
        model: String,
        known: Vec<String>,
    },
    /// Every try failed before a worker began to answer; holds how the last one did.
    WorkersFailed(String),
    ShuttingDown,
    /// The router itself is short of something, such as sockets.
    Exhausted(String),
    TimedOut {
        worker: String,
        seconds: f64,
    },
}

impl RouterError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::UnknownPath(_) | Self::NotFound(_) | Self::UnknownModel { .. } => StatusCode::NOT_FOUND,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimedOut | Self::BodyTimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NoHealthyWorker { .. } | Self::Exhausted(_) | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::WorkersFailed(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What programs tell it by: OpenAI's name where there is one, else the status's.
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(_) => "invalid_api_key",
            Self::RateLimited(_) => "rate_limit_exceeded",
            Self::UnknownModel { .. } => "model_not_found",
            Self::UnknownPath(_) => "unknown_url",
            _ => code_of(self.status()),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadRequest(reason)
            | Self::NotFound(reason)
            | Self::Conflict(reason)
            | Self::RateLimited(reason)
            | Self::WorkersFailed(reason)
            | Self::Exhausted(reason) => reason.clone(),
            Self::Unauthorized(option) => {
                format!(
                    "the key is missing or wrong: send \"Authorization: Bearer KEY\" with a key of the router ({option})"
                )
            }
            Self::UnknownPath(path) => format!("the router has no path {path}"),
            Self::WrongMethod(allowed) => format!("method not allowed; use {allowed}"),
            Self::BodyTooLarge { limit } => {
                format!("the request body is larger than {limit} bytes (--max-payload-size)")
            }
            Self::HeadTooLarge => {
                format!("the request's head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} header lines")
            }
            Self::HeadTimedOut => "the request's head did not arrive in time (--header-timeout-secs)".to_owned(),
            Self::BodyTimedOut { seconds } => {
                format!("nothing of the request's body arrived for {seconds} s (--body-timeout-secs)")
            }
            Self::NoHealthyWorker { workers: 0 } => "no worker: add one with POST /add_worker?url=…".to_owned(),
            Self::NoHealthyWorker { workers } => {
                format!("no healthy worker: none of the {workers} in the fleet answers /health; retry later")
            }
            Self::ShuttingDown => "the router is shutting down".to_owned(),
            Self::UnknownModel { model, known } => {
                format!("the model \"{model}\" does not exist; the workers serve {}", known.join(", "))
            }
            Self::TimedOut { worker, seconds } => {
                format!("worker {worker} did not begin to answer within {seconds} s (--request-timeout-secs)")
            }
        }
    }

    /// The complete answer.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let body = shape(status, &self.message(), self.code());
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Self::WrongMethod(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if let Self::Unauthorized(_) = self {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// `{"error": {"message", "type", "param", "code"}}` as text.
pub fn error_json(status: StatusCode, message: &str) -> String {
    shape(status, message, code_of(status))
}

/// The names that workers use, too.
fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "invalid_value",
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        StatusCode::REQUEST_TIMEOUT => "request_timeout",
        StatusCode::CONFLICT => "conflict",
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "request_too_large",
        StatusCode::BAD_GATEWAY => "bad_gateway",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        StatusCode::GATEWAY_TIMEOUT => "timeout",
        _ => "internal_error",
    }
}

fn shape(status: StatusCode, message: &str, code: &str) -> String {
    let kind = match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}
