//! A router on a runtime of its own, for programs that are not asynchronous.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Runtime};

use crate::config::{RouterConfig, seconds};
use crate::logging;
use crate::server::Router;

/// How long answers may go on after Ctrl-C: whoever sits at the terminal does not want to wait.
pub const QUICK_GRACE: Duration = Duration::from_secs(1);

/// A router that serves on background threads until `stop`.
pub struct BackgroundRouter {
    runtime: Runtime,
    router: Router,
    shutdown_grace: Duration,
    stopped: Arc<Stopped>,
}

impl BackgroundRouter {
    /// Starts the threads, binds, and returns once the router listens.
    pub fn start(config: RouterConfig) -> io::Result<Self> {
        logging::init(&config);
        let mut builder = Builder::new_multi_thread();
        if config.threads > 0 {
            builder.worker_threads(config.threads);
        }
        let shutdown_grace = seconds(config.shutdown_grace_secs);
        let runtime = builder.thread_name("radixfleet-router").enable_all().build()?;
        let router = runtime.block_on(Router::start(config))?;
        Ok(Self { runtime, router, shutdown_grace, stopped: Arc::default() })
    }

    pub fn port(&self) -> u16 {
        self.router.port()
    }

    pub fn url(&self) -> String {
        self.router.url()
    }

    /// How long answers in progress may go on after a polite request to end (`--shutdown-grace-secs`).
    pub fn shutdown_grace(&self) -> Duration {
        self.shutdown_grace
    }

    /// A handle that learns when the router has stopped.
    pub fn stopped(&self) -> Arc<Stopped> {
        self.stopped.clone()
    }

    /// Waits, on the router's threads, for what `future` waits for.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Runs `future` on the router's threads until it ends or the router has stopped.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// Stops accepting, gives running answers up to `timeout`, then drops them and ends the threads.
    pub fn stop(self, timeout: Duration) {
        self.runtime.block_on(self.router.stop(timeout));
        self.runtime.shutdown_background();
        *self.stopped.flag.lock() = true;
        self.stopped.changed.notify_all();
    }
}

/// Set once, when the router has stopped.
#[derive(Default)]
pub struct Stopped {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Stopped {
    /// Waits up to `timeout`; true when the router has stopped.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut flag = self.flag.lock();
        if !*flag {
            self.changed.wait_for(&mut flag, timeout);
        }
        *flag
    }
}
