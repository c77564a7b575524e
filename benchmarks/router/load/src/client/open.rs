//! Open loop: requests at a fixed rate, each with a time after which the client gives up.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::channel::Channel;
use super::meter::Meter;
use super::request::{Kind, Requests};
use super::{announce, loopback};
use crate::clock::{now_ns, sleep_until};

#[derive(Args)]
pub struct Options {
    #[arg(long, value_parser = loopback)]
    target: SocketAddr,
    /// Requests per second
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// tiny, chat, or the bytes of prompts that are all distinct
    #[arg(long, default_value = "tiny")]
    body: Kind,
    #[arg(long, default_value_t = 0.5)]
    warm_up_seconds: f64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// A request that is not answered after this has failed
    #[arg(long, default_value_t = 5.0)]
    patience_seconds: f64,
}

#[derive(Default)]
struct Run {
    meter: Meter,
    idle: RefCell<Vec<Channel>>,
    /// When each request that failed began.
    failed_ns: RefCell<Vec<u64>>,
}

pub async fn run(options: Options) -> io::Result<Value> {
    let run = Rc::new(Run::default());
    let mut requests = Requests::new(options.body, 0);
    let interval = (1e9 / options.rate) as u64;
    let start = now_ns();
    let measure_from = start + (options.warm_up_seconds * 1e9) as u64;
    let end = measure_from + (options.seconds * 1e9) as u64;
    let mut tasks = tokio::task::JoinSet::new();
    let mut at = start;
    while at < end {
        sleep_until(at).await;
        if at >= measure_from && !run.meter.is_on() {
            announce("measuring");
            run.meter.start();
        }
        tasks.spawn_local(ask(options.target, requests.next().clone(), options.patience_seconds, run.clone()));
        at += interval;
        while tasks.try_join_next().is_some() {}
    }
    announce("measured");
    while tasks.join_next().await.is_some() {}
    run.meter.stop();
    let mut result = run.meter.result();
    result["sent"] = json!((end - measure_from) / interval);
    result["failed_ns"] = json!(*run.failed_ns.borrow());
    Ok(result)
}

async fn ask(target: SocketAddr, request: super::request::Request, patience_seconds: f64, run: Rc<Run>) {
    let began = now_ns();
    let patience = Duration::from_secs_f64(patience_seconds);
    let failure = match tokio::time::timeout(patience, exchange(target, &request, &run)).await {
        Ok(Ok(200)) => return run.meter.record_since(began),
        Ok(Ok(status)) => format!("status {status}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer in {patience_seconds} s"),
    };
    run.meter.fail(failure);
    run.failed_ns.borrow_mut().push(began);
}

async fn exchange(target: SocketAddr, request: &super::request::Request, run: &Run) -> io::Result<u16> {
    let idle = run.idle.borrow_mut().pop();
    let mut channel = match idle {
        Some(channel) => channel,
        None => Channel::http1(target).await?,
    };
    let answered = channel.exchange(request, |_| {}).await?;
    if answered.reusable {
        run.idle.borrow_mut().push(channel);
    }
    Ok(answered.status)
}
