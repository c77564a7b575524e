//! Reading a request's body: at most so many bytes, and without a copy when it arrives in one piece.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::body::RequestBody;
use crate::error::RouterError;

/// The most bytes that are reserved for a body before any of it has arrived.
const MAX_RESERVED_BYTES: u64 = 1 << 20;

/// The whole body, if it has at most `limit` bytes and its client never pauses for longer than `pause`.
pub async fn read_body(mut body: RequestBody, limit: usize, pause: Duration) -> Result<Bytes, RouterError> {
    let announced = body.length().unwrap_or(0);
    if announced > limit as u64 {
        return Err(RouterError::BodyTooLarge { limit });
    }
    if let RequestBody::Whole(body) = body {
        return Ok(body);
    }
    let mut whole = BytesMut::with_capacity(announced.min(MAX_RESERVED_BYTES) as usize);
    let mut patience = pin!(tokio::time::sleep(pause));
    loop {
        let more = tokio::select! {
            biased;
            more = poll_fn(|context| body.poll_append(&mut whole, context)) => more,
            () = patience.as_mut() => return Err(RouterError::BodyTimedOut { seconds: pause.as_secs_f64() }),
        };
        match more.map_err(|error| RouterError::BadRequest(format!("the request body broke off: {error}")))? {
            true if whole.len() > limit => return Err(RouterError::BodyTooLarge { limit }),
            true => patience.as_mut().reset(Instant::now() + pause),
            false => return Ok(whole.freeze()),
        }
    }
}
