//! Mock workers: several ports of one process and one thread, fast enough never to be what is measured.

mod answer;
mod connection;
mod control;
mod engine;
mod port;
mod prefix_cache;
mod prompt;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use engine::{Engine, Prefill};

#[derive(Args)]
pub struct Options {
    /// Ports of the workers; 0 takes a free one
    #[arg(long, value_name = "PORT", num_args = 1.., default_values_t = [0u16])]
    ports: Vec<u16>,

    /// Port for GET /stats, POST /settings and POST /mode; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    control_port: u16,
}

/// What all workers of the process do. Setting it anew empties caches and counts.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Pause between two chunks of a stream; 0 sends as fast as the client reads.
    chunk_interval_us: u64,
    /// A model of prefill and of a prefix cache; without it every answer begins at once.
    prefill: Option<Prefill>,
}

/// What one worker does to its clients.
#[derive(Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Serve,
    /// Every generation is answered with 500.
    Errors,
    /// Connections are accepted and requests read; nothing is ever answered.
    Hang,
    /// As `Hang`, but /health and the like are answered.
    HangGeneration,
    /// The port refuses connections, and those that were open are gone.
    Down,
}

/// Counts since the last settings.
#[derive(Clone, Copy, Default, Serialize)]
struct Stats {
    /// Generations that arrived.
    requests: u64,
    /// When the first generation after the last change of mode arrived, on CLOCK_MONOTONIC; 0 for none yet.
    first_request_ns: u64,
    /// Bytes of prompts, of those what the worker's cache held, and what an unbounded cache shared by all workers would have held.
    prompt_bytes: u64,
    hit_bytes: u64,
    ideal_hit_bytes: u64,
}

struct Worker {
    mode: watch::Sender<Mode>,
    stats: Cell<Stats>,
    engine: RefCell<Rc<Engine>>,
}

struct Workers {
    settings: Cell<Settings>,
    all: Vec<Rc<Worker>>,
}

impl Worker {
    fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn set_mode(&self, mode: Mode) {
        self.count(|stats| stats.first_request_ns = 0);
        self.mode.send_replace(mode);
    }
}

impl Workers {
    fn new(count: usize) -> Self {
        let worker = || Worker {
            mode: watch::Sender::new(Mode::Serve),
            stats: Cell::default(),
            engine: RefCell::new(Rc::new(Engine::new(None, Rc::default()))),
        };
        Self { settings: Cell::default(), all: (0..count).map(|_| Rc::new(worker())).collect() }
    }

    fn set(&self, settings: Settings) {
        let unbounded: Rc<RefCell<HashSet<u64>>> = Rc::default();
        self.settings.set(settings);
        for worker in &self.all {
            worker.stats.set(Stats::default());
            worker.engine.replace(Rc::new(Engine::new(settings.prefill, unbounded.clone())));
        }
    }
}

/// Serves until the process is ended. One line of JSON says which ports were taken.
pub async fn run(options: Options) -> io::Result<()> {
    let workers = Rc::new(Workers::new(options.ports.len()));
    let mut ports = Vec::new();
    for (index, &port) in options.ports.iter().enumerate() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        ports.push(listener.local_addr()?.port());
        tokio::task::spawn_local(port::serve(listener, workers.clone(), index));
    }
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, options.control_port)).await?;
    let control_port = control.local_addr()?.port();
    println!("{}", serde_json::json!({"ports": ports, "control_port": control_port}));
    control::serve(control, workers).await
}
