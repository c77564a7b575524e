//! Streams that are open at the same time: how late their chunks are, or that nobody reads them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use super::channel::Channel;
use super::meter::Meter;
use super::request::{Request, message};
use super::{announce, loopback};
use crate::clock::now_ns;

/// Streams that open at the same time; more wait for their turn.
const OPENING_AT_ONCE: usize = 64;

/// More chunks than any run can take.
const ENDLESS: u32 = 1_000_000_000;

/// How long the streams stay open after the phase that counts, so that the router's memory can be read.
const LINGER: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct Options {
    #[arg(long, value_parser = loopback)]
    target: SocketAddr,
    #[arg(long, default_value_t = 128)]
    count: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long all streams together may take to open
    #[arg(long, default_value_t = 60.0)]
    open_within_seconds: f64,
    /// Read nothing of the answers but their heads
    #[arg(long)]
    unread: bool,
    /// So many connections of HTTP/2 carry the streams; 0 for HTTP/1.1
    #[arg(long, default_value_t = 0)]
    http2_connections: usize,
}

struct Run {
    meter: Meter,
    opening: Semaphore,
    open: Cell<usize>,
    changed: Notify,
}

pub async fn run(options: Options) -> io::Result<Value> {
    let run = Rc::new(Run {
        meter: Meter::default(),
        opening: Semaphore::new(OPENING_AT_ONCE),
        open: Cell::new(0),
        changed: Notify::new(),
    });
    let mut http2 = Vec::new();
    for _ in 0..options.http2_connections {
        http2.extend(Channel::http2(options.target, options.count.div_ceil(options.http2_connections)).await?);
    }
    for _ in 0..options.count {
        tokio::task::spawn_local(keep_open(http2.pop(), options.target, options.unread, run.clone()));
    }
    let all_open = async {
        while run.open.get() < options.count {
            run.changed.notified().await;
        }
    };
    // Fewer than asked for are reported as such.
    let _ = tokio::time::timeout(Duration::from_secs_f64(options.open_within_seconds), all_open).await;
    let opened = run.open.get();
    announce("measuring");
    run.meter.start();
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    run.meter.stop();
    announce("measured");
    tokio::time::sleep(LINGER).await;
    let mut result = run.meter.result();
    result["opened"] = json!(opened);
    Ok(result)
}

async fn keep_open(channel: Option<Channel>, target: SocketAddr, unread: bool, run: Rc<Run>) {
    let opened = run.opening.acquire().await.expect("never closed");
    let mut permit = Some(opened);
    let request = Request::chat(&message("user", "Tell me a long story."), true, ENDLESS);
    let mut on_open = || {
        if permit.take().is_some() {
            run.open.set(run.open.get() + 1);
            run.changed.notify_one();
        }
    };
    let exchange = async {
        let mut channel = match channel {
            Some(channel) => channel,
            None => Channel::http1(target).await?,
        };
        if unread {
            let status = channel.begin(&request).await?;
            on_open();
            std::future::pending::<()>().await;
            return Ok(status);
        }
        let mut stamps = Stamps::default();
        let answered = channel.exchange(&request, |data| {
            on_open();
            stamps.scan(data, |sent_ns| run.meter.record(now_ns().saturating_sub(sent_ns)));
        });
        Ok::<_, io::Error>(answered.await?.status)
    };
    match exchange.await {
        Ok(status) => run.meter.fail(format!("a stream without end ended, status {status}")),
        Err(error) => run.meter.fail(error),
    }
}

/// Finds the timestamps in a stream's bytes, however those are cut: a mark, then sixteen digits.
#[derive(Default)]
pub struct Stamps {
    digits_left: u8,
    value: u64,
}

impl Stamps {
    pub fn scan(&mut self, data: &[u8], mut found: impl FnMut(u64)) {
        for &byte in data {
            if byte == b'@' {
                (self.digits_left, self.value) = (16, 0);
            } else if self.digits_left > 0 {
                self.value = self.value * 10 + u64::from(byte.wrapping_sub(b'0') % 10);
                self.digits_left -= 1;
                if self.digits_left == 0 {
                    found(self.value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_found_wherever_the_bytes_are_cut() {
        let bytes = br#"data: {"content":"@0000000000000042"} data: {"content":"@1234567890123456"}"#;
        for cut in 0..bytes.len() {
            let (mut stamps, mut found) = (Stamps::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                stamps.scan(part, |stamp| found.push(stamp));
            }
            assert_eq!(found, [42, 1_234_567_890_123_456], "cut at {cut}");
        }
    }
}
