//! The router as one static binary.

use std::process::ExitCode;
use std::time::Duration;

use radixfleet_router::{BackgroundRouter, RouterConfig};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long answers may go on after Ctrl-C or SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

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
    let stopped = router.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        println!("Router is ready at {} (Ctrl-C stops it)", router.url());
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok::<(), std::io::Error>(())
    });
    if let Err(error) = stopped {
        eprintln!("error: cannot wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    router.stop(GRACE);
    ExitCode::SUCCESS
}
