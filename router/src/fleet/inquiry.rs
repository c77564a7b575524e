//! The router's own questions to a worker: short, on a connection of their own, and known by their user agent.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Request, StatusCode};

use super::worker::Worker;
use crate::upstream::fetch;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("radixfleet-router/", env!("CARGO_PKG_VERSION")));

/// Asks with the key that workers want.
#[derive(Clone)]
pub(super) struct Inquirer {
    authorization: Option<HeaderValue>,
}

/// What a worker said.
pub(super) enum Reply {
    /// 200, and the body.
    Ok(Bytes),
    /// It does not know the path, or does not let the router ask.
    Missing,
    Failed(io::Error),
}

// ===== impl Inquirer =====

impl Inquirer {
    /// `authorization` is the header's value, where workers want one.
    pub fn new(authorization: Option<HeaderValue>) -> Self {
        Self { authorization }
    }

    /// One `GET`, on a fresh connection, which also shows that the worker still accepts.
    pub async fn get(&self, worker: &Worker, path: &str, timeout: Duration) -> Reply {
        let mut request = Request::get(path).header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = match request.body(Bytes::new()) {
            Ok(request) => request,
            Err(error) => return Reply::Failed(io::Error::other(error)),
        };
        match fetch(&request, worker.url(), timeout).await {
            Ok(response) => match response.status() {
                StatusCode::OK => Reply::Ok(response.into_body()),
                StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED => Reply::Missing,
                status => Reply::Failed(io::Error::other(format!("status {status}"))),
            },
            Err(error) => Reply::Failed(error),
        }
    }
}
