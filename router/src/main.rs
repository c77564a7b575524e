//! The router as one static binary.

use std::io;
use std::process::ExitCode;

use radixfleet_router::background::QUICK_GRACE;
use radixfleet_router::{BackgroundRouter, RouterConfig};
use tokio::signal::unix::{self, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let config = RouterConfig::from_args("radixfleet-router", &args).unwrap_or_else(|error| error.exit());
    let router = match BackgroundRouter::start(config) {
        Ok(router) => router,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match router.block_on(Signals::install()) {
        Ok(mut signals) => {
            println!("Router is ready at {} (Ctrl-C stops it)", router.url());
            let grace = match router.block_on(signals.next()) {
                Signal::Interrupt => QUICK_GRACE,
                Signal::Terminate => router.shutdown_grace(),
            };
            router.spawn(async move {
                let signal = signals.next().await;
                std::process::exit(signal.exit_code());
            });
            router.stop(grace);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: cannot wait for signals: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What ends the router.
enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    /// What shells report of a process that a signal ended.
    fn exit_code(&self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// From now on signals are waited for and do not kill. Must be called on the runtime.
    async fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}
