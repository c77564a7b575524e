//! HTTP/1.1 as the router needs it (RFC 9112): heads, body framing, and a client's connection.
//!
//! Bytes on their way from one socket to the other stay in a buffer that belongs to the thread: an open stream that has
//! nothing to say holds no buffer at all, and a chunk is read, framed anew in place, and written without being copied.

pub mod body;
pub mod buffer;
pub mod client;
pub mod connection;
pub mod decoder;
pub mod framing;
pub mod head;
