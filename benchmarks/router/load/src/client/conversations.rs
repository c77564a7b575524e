//! Conversations: turns that repeat all that was said, with pauses for thought; prompts of their own or shared by many.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use clap::Args;
use fastrand::Rng;
use serde_json::Value;

use super::channel::Channel;
use super::meter::Meter;
use super::request::{Request, message};
use super::streams::Stamps;
use super::text::{Zipf, words};
use super::{announce, loopback};
use crate::clock::{now_ns, sleep_until};

#[derive(Args, Clone)]
pub struct Options {
    /// The router; or the workers, and then each conversation stays with one of them
    #[arg(long, value_parser = loopback, num_args = 1.., required = true)]
    targets: Vec<SocketAddr>,
    #[arg(long, default_value_t = 200)]
    conversations: usize,
    #[arg(long, default_value_t = 8)]
    turns: usize,
    /// Conversations begin at random over this time
    #[arg(long, default_value_t = 4.0)]
    arrival_seconds: f64,
    /// Mean of the exponentially distributed pause before a next turn
    #[arg(long, default_value_t = 250.0)]
    think_ms: f64,
    /// Length of the text that a conversation begins with
    #[arg(long, default_value_t = 8192)]
    first_bytes: usize,
    /// Conversations begin with one of so many texts, chosen under Zipf's law; 0: each has its own
    #[arg(long, default_value_t = 0)]
    shared_texts: usize,
    /// What the client adds in each turn
    #[arg(long, default_value_t = 400)]
    turn_bytes: usize,
    /// Chunks of each answer
    #[arg(long, default_value_t = 8)]
    answer_chunks: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

struct Plan {
    target: SocketAddr,
    starts_after_ns: u64,
    first_text: Rc<str>,
    rng: Rng,
}

/// The latencies of the result are times to the first token.
pub async fn run(options: Options) -> io::Result<Value> {
    let meter = Rc::new(Meter::default());
    let plans = plan(&options);
    announce("measuring");
    meter.start();
    let start = now_ns();
    let mut tasks = tokio::task::JoinSet::new();
    for plan in plans {
        let (options, meter) = (options.clone(), meter.clone());
        tasks.spawn_local(async move {
            sleep_until(start + plan.starts_after_ns).await;
            if let Err(error) = converse(plan, &options, &meter).await {
                meter.fail(error);
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    meter.stop();
    announce("measured");
    Ok(meter.result())
}

fn plan(options: &Options) -> Vec<Plan> {
    let mut rng = Rng::with_seed(options.seed);
    let shared: Vec<Rc<str>> = (0..options.shared_texts).map(|_| words(&mut rng, options.first_bytes).into()).collect();
    let zipf = Zipf::new(options.shared_texts.max(1), 1.0);
    (0..options.conversations)
        .map(|index| {
            let mut own = Rng::with_seed(rng.u64(..));
            let first_text = match shared.is_empty() {
                true => words(&mut own, options.first_bytes).into(),
                false => shared[zipf.draw(&mut own)].clone(),
            };
            let starts_after_ns = (own.f64() * options.arrival_seconds * 1e9) as u64;
            Plan { target: options.targets[index % options.targets.len()], starts_after_ns, first_text, rng: own }
        })
        .collect()
}

async fn converse(mut plan: Plan, options: &Options, meter: &Meter) -> io::Result<()> {
    let mut messages = message("system", &plan.first_text);
    let mut channel = Channel::http1(plan.target).await?;
    for turn in 0..options.turns {
        if turn > 0 {
            let pause_ms = -options.think_ms * (1.0 - plan.rng.f64()).ln();
            sleep_until(now_ns() + (pause_ms * 1e6) as u64).await;
        }
        messages = format!("{messages},{}", message("user", &words(&mut plan.rng, options.turn_bytes)));
        let request = Request::chat(&messages, true, options.answer_chunks);
        let (began, mut stamps, mut answer) = (now_ns(), Stamps::default(), String::new());
        let answered = channel.exchange(&request, |data| {
            stamps.scan(data, |stamp| {
                if answer.is_empty() {
                    meter.record_since(began);
                }
                answer.push_str(&format!("@{stamp:016}"));
            });
        });
        let answered = answered.await?;
        if answered.status != 200 || answer.is_empty() {
            return Err(io::Error::other(format!("status {} without a token", answered.status)));
        }
        messages = format!("{messages},{}", message("assistant", &answer));
        if !answered.reusable {
            channel = Channel::http1(plan.target).await?;
        }
    }
    Ok(())
}
