//! A router on a runtime of its own, for programs that are not asynchronous.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Runtime};

use crate::config::RouterConfig;
use crate::logging;
use crate::server::Router;

/// A router that serves on background threads until `stop`.
pub struct BackgroundRouter {
    runtime: Runtime,
    router: Router,
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
        let runtime = builder.thread_name("radixfleet-router").enable_all().build()?;
        let router = runtime.block_on(Router::start(config))?;
        Ok(Self { runtime, router, stopped: Arc::default() })
    }

    pub fn port(&self) -> u16 {
        self.router.port()
    }

    pub fn url(&self) -> String {
        self.router.url()
    }

    /// A handle that learns when the router has stopped.
    pub fn stopped(&self) -> Arc<Stopped> {
        self.stopped.clone()
    }

    /// Waits, on the router's threads, for what `future` waits for.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
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
