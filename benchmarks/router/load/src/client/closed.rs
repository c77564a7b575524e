//! Closed loop: as many requests at once as there are connections, each after the last was answered.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::channel::Channel;
use super::meter::Meter;
use super::request::{Kind, Requests};
use super::{announce, loopback};
use crate::clock::now_ns;

/// After a failure, so that a server that is down is not asked without end.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(10);

#[derive(Args)]
pub struct Options {
    #[arg(long, value_parser = loopback)]
    target: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// tiny, chat, or the bytes of prompts that are all distinct
    #[arg(long, default_value = "tiny")]
    body: Kind,
    #[arg(long, default_value_t = 0.5)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// End the phase that counts after so many requests, if they come before its seconds are over
    #[arg(long, default_value_t = u64::MAX)]
    requests: u64,
    /// So many connections of HTTP/2 carry the requests; 0 for HTTP/1.1
    #[arg(long, default_value_t = 0)]
    http2_connections: usize,
}

struct Run {
    meter: Meter,
    /// Requests that may still begin.
    left: Cell<u64>,
}

pub async fn run(options: Options) -> io::Result<Value> {
    let run = Rc::new(Run { meter: Meter::default(), left: Cell::new(u64::MAX) });
    for (index, channel) in channels(&options).await?.into_iter().enumerate() {
        tokio::task::spawn_local(keep_asking(channel, options.target, Requests::new(options.body, index), run.clone()));
    }
    tokio::time::sleep(Duration::from_secs_f64(options.warm_up_seconds)).await;
    announce("measuring");
    run.left.set(options.requests);
    run.meter.start();
    let end = now_ns() + (options.seconds * 1e9) as u64;
    while now_ns() < end && run.left.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.meter.stop();
    run.left.set(0);
    announce("measured");
    Ok(run.meter.result())
}

async fn channels(options: &Options) -> io::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for index in 0..options.http2_connections {
        let streams = options.connections.div_ceil(options.http2_connections);
        let left = options.connections.saturating_sub(index * streams);
        channels.extend(Channel::http2(options.target, streams.min(left)).await?);
    }
    while channels.len() < options.connections {
        channels.push(Channel::http1(options.target).await?);
    }
    Ok(channels)
}

async fn keep_asking(mut channel: Channel, target: SocketAddr, mut requests: Requests, run: Rc<Run>) {
    while run.left.get() > 0 {
        run.left.set(run.left.get() - 1);
        let began = now_ns();
        let reusable = match channel.exchange(requests.next(), |_| {}).await {
            Ok(answered) if answered.status == 200 => {
                run.meter.record_since(began);
                answered.reusable
            }
            Ok(answered) => {
                run.meter.fail(format!("status {}", answered.status));
                answered.reusable
            }
            Err(error) => {
                run.meter.fail(error);
                false
            }
        };
        if !reusable {
            channel = match Channel::http1(target).await {
                Ok(channel) => channel,
                Err(_) => {
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                    continue;
                }
            };
        }
    }
}
