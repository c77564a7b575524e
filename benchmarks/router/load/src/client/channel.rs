//! A way to the server, HTTP/1.1 or HTTP/2: one request at a time, its answer handed on as it comes.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;

use super::request::Request;
use crate::http1::Wire;

pub enum Channel {
    Http1(Wire),
    /// One of many streams of a connection.
    Http2(SendRequest<Bytes>),
}

/// How an exchange ended.
pub struct Answered {
    pub status: u16,
    /// Whether the channel takes another request.
    pub reusable: bool,
}

impl Channel {
    pub async fn http1(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::Http1(Wire::new(TcpStream::connect(address).await?)?))
    }

    /// Opens a connection of HTTP/2 with prior knowledge, and `streams` channels over it.
    pub async fn http2(address: SocketAddr, streams: usize) -> io::Result<Vec<Self>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // The streams of a connection that ends badly say so themselves.
            let _ = connection.await;
        });
        Ok((0..streams).map(|_| Self::Http2(send.clone())).collect())
    }

    /// Sends a request and reads its answer to the end; `on_data` gets each part of the body as it arrives.
    pub async fn exchange(&mut self, request: &Request, mut on_data: impl FnMut(&[u8])) -> io::Result<Answered> {
        match self {
            Self::Http1(wire) => {
                wire.write(request.http1()).await?;
                let head = wire.response_head().await?;
                let mut framing = head.framing;
                while let Some(data) = wire.next_data(&mut framing).await? {
                    on_data(data);
                }
                Ok(Answered { status: head.status, reusable: head.keep_alive })
            }
            Self::Http2(send) => exchange_http2(send, request, on_data).await.map_err(io::Error::other),
        }
    }

    /// Sends a request and reads nothing of the answer but its head (HTTP/1.1).
    pub async fn begin(&mut self, request: &Request) -> io::Result<u16> {
        match self {
            Self::Http1(wire) => {
                wire.write(request.http1()).await?;
                Ok(wire.response_head().await?.status)
            }
            Self::Http2(_) => Err(io::Error::other("streams that are not read are measured over HTTP/1.1")),
        }
    }
}

async fn exchange_http2(
    send: &mut SendRequest<Bytes>,
    request: &Request,
    mut on_data: impl FnMut(&[u8]),
) -> Result<Answered, h2::Error> {
    let head = http::Request::post(format!("http://127.0.0.1{}", request.path))
        .header("content-type", "application/json")
        .body(())
        .expect("the parts are valid");
    let mut ready = send.clone().ready().await?;
    let (answer, mut body) = ready.send_request(head, false)?;
    body.send_data(Bytes::copy_from_slice(request.body()), true)?;
    let (head, mut body) = answer.await?.into_parts();
    while let Some(data) = body.data().await {
        let data = data?;
        on_data(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(Answered { status: head.status.as_u16(), reusable: true })
}
