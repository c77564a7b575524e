//! Bodies on the client's side: of requests as they arrive, and of responses, made here or handed through from a worker.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::admission::Permit;
use crate::forward::Stream;

/// Why a response breaks off: shown to nobody but the log, since the connection is all that is left to close.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, while it arrives.
pub enum RequestBody {
    /// Over a connection that hyper serves.
    Hyper(Incoming),
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
        }
    }
}

/// The body of a response.
pub enum Body {
    /// Made by the proxy path itself: its errors.
    Complete(Full<Bytes>),
    /// Made by a control route.
    Control(axum::body::Body),
    Worker(Box<Stream>),
    /// An answer that occupies one of the places of `--max-concurrent-requests`.
    Admitted(Box<(Body, Permit)>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Complete(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Control(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Worker(stream) => Pin::new(stream.as_mut()).poll_frame(context),
            Self::Admitted(admitted) => Pin::new(&mut admitted.0).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Complete(body) => body.is_end_stream(),
            Self::Control(body) => body.is_end_stream(),
            Self::Worker(stream) => stream.is_end_stream(),
            Self::Admitted(admitted) => admitted.0.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Complete(body) => body.size_hint(),
            Self::Control(body) => body.size_hint(),
            Self::Worker(stream) => stream.size_hint(),
            Self::Admitted(admitted) => admitted.0.size_hint(),
        }
    }
}

/// A response that is complete already.
pub fn complete(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(Body::Complete)
}
