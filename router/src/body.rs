//! Bodies on the client's side: of requests as they arrive, and of responses, made here or handed through from a worker.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::forward::Stream;
use crate::http1::body::Arriving;

/// Why a response breaks off: shown to nobody but the log, since the connection is all that is left to close.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub enum RequestBody {
    /// It was there when the request was.
    Whole(Bytes),
    /// Over an HTTP/1.1 connection.
    Arriving(Box<Arriving>),
    /// Over an HTTP/2 connection.
    Http2(Incoming),
}

impl RequestBody {
    /// The bytes that are left, if the client said how many there are.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Whole(body) => Some(body.len() as u64),
            Self::Arriving(body) => body.length(),
            Self::Http2(body) => body.size_hint().exact(),
        }
    }

    /// Appends what arrives next to `whole`; false at the end.
    pub fn poll_append(&mut self, whole: &mut BytesMut, context: &mut Context<'_>) -> Poll<Result<bool, BodyError>> {
        match self {
            Self::Whole(body) => {
                whole.extend_from_slice(&std::mem::take(body));
                Poll::Ready(Ok(false))
            }
            Self::Arriving(body) => body.poll_append(whole, context).map_err(Into::into),
            Self::Http2(body) => Poll::Ready(match ready!(Pin::new(body).poll_frame(context)?) {
                Some(frame) => {
                    whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                    Ok(true)
                }
                None => Ok(false),
            }),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut data = BytesMut::new();
        while ready!(this.poll_append(&mut data, context)?) && data.is_empty() {}
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of a response.
pub enum Body {
    /// Made by the proxy path itself: its errors.
    Complete(Full<Bytes>),
    /// Made by a control route.
    Control(axum::body::Body),
    Worker(Box<Stream>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Complete(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Control(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Self::Worker(stream) => Pin::new(stream.as_mut()).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Complete(body) => body.is_end_stream(),
            Self::Control(body) => body.is_end_stream(),
            Self::Worker(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Complete(body) => body.size_hint(),
            Self::Control(body) => body.size_hint(),
            Self::Worker(stream) => stream.size_hint(),
        }
    }
}

/// A response that is complete already.
pub fn complete(response: Response<Full<Bytes>>) -> Response<Body> {
    response.map(Body::Complete)
}
