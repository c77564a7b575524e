//! The load generator: one subcommand for each shape of load. Events and the result are lines of JSON on stdout.

mod channel;
mod closed;
mod conversations;
mod meter;
mod open;
mod request;
mod streams;
mod text;

use std::io;
use std::net::SocketAddr;

use clap::Subcommand;

#[derive(Subcommand)]
pub enum Load {
    /// Each connection sends its next request when the last was answered
    Closed(closed::Options),
    /// Requests at a fixed rate, whatever becomes of them
    Open(open::Options),
    /// Streams that are open at the same time, read or not
    Streams(streams::Options),
    /// Conversations with pauses for thought, prompts that share beginnings
    Conversations(conversations::Options),
}

pub async fn run(load: Load) -> io::Result<()> {
    let result = match load {
        Load::Closed(options) => closed::run(options).await?,
        Load::Open(options) => open::run(options).await?,
        Load::Streams(options) => streams::run(options).await?,
        Load::Conversations(options) => conversations::run(options).await?,
    };
    println!("{result}");
    Ok(())
}

/// Tells the program that runs this one that a phase begins, so that it can look at the router's CPU and memory.
fn announce(event: &str) {
    println!("{}", serde_json::json!({"event": event, "at_ns": crate::clock::now_ns()}));
}

/// An address of this machine; load is never sent to another.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}; give 127.0.0.1:PORT"))?;
    if address.ip().is_loopback() { Ok(address) } else { Err("load goes to 127.0.0.1 only".to_owned()) }
}
