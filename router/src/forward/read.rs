//! Reading a request's body: at most so many bytes, and without a copy when it arrives in one piece.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::body::RequestBody;
use crate::error::RouterError;

/// How long a client that sends too much may go on sending before it gets its answer.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The most that is reserved for a body before any of it has arrived.
const MAX_RESERVED_BYTES: u64 = 1 << 20;

/// The whole body, if it has at most `limit` bytes.
pub async fn read_body(mut body: RequestBody, headers: &HeaderMap, limit: usize) -> Result<Bytes, RouterError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        // A client that asked before it sent anything needs no more than a no.
        if headers.contains_key(EXPECT) {
            return Err(RouterError::BodyTooLarge { limit });
        }
        return Err(too_large(body, limit).await);
    }
    let Some(first) = next_data(&mut body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len().max(announced.min(MAX_RESERVED_BYTES) as usize));
    whole.extend_from_slice(&first);
    while let Some(data) = next_data(&mut body).await? {
        if whole.len() + data.len() > limit {
            return Err(too_large(body, limit).await);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn next_data(body: &mut RequestBody) -> Result<Option<Bytes>, RouterError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| RouterError::BadRequest(format!("the request body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Lets the client finish sending, within reason: most clients look for an answer only then, and closing the connection with
/// unread bytes in it would take the answer away from them.
async fn too_large(mut body: RequestBody, limit: usize) -> RouterError {
    let discard = async { while let Some(Ok(_)) = body.frame().await {} };
    // Whoever is still sending after that time gets the answer now.
    let _ = tokio::time::timeout(DISCARD_TIME, discard).await;
    RouterError::BodyTooLarge { limit }
}
