//! What the router is measured with: mock workers and a load generator, each on one thread, for 127.0.0.1 only.

mod client;
mod clock;
mod http1;
mod worker;

use clap::{Parser, Subcommand};
use tokio::task::LocalSet;

/// Files (sockets) that 10,000 streams and their answers need at once.
const OPEN_FILES: libc::rlim_t = 65_536;

#[derive(Parser)]
#[command(version, about = "Mock workers and load for the benchmarks of the router")]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve as several inference workers, until the process is ended
    MockWorker(worker::Options),
    /// Put load on a server, and print what came of it as JSON
    #[command(subcommand)]
    Load(client::Load),
}

fn main() -> std::io::Result<()> {
    let role = Arguments::parse().role;
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match role {
            Role::MockWorker(options) => worker::run(options).await,
            Role::Load(load) => client::run(load).await,
        }
    })
}

/// Raises the limit of open files as far as it may go; a load that needs more then fails with the system's own words.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct that outlives them.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < OPEN_FILES {
            limit.rlim_cur = limit.rlim_max.min(OPEN_FILES);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
