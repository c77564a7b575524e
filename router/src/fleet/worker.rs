//! One worker: its address, its health, how many requests it has in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::url::WorkerUrl;
use crate::metrics::WorkerCounters;
use crate::upstream::Pool;

/// A small integer that names a worker while it is in the fleet; used again only after nothing refers to it any more.
pub type WorkerId = u16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Has not answered /health yet.
    Starting,
    Healthy,
    /// Has answered before, and does not now.
    Unhealthy,
}

pub struct Worker {
    id: WorkerId,
    url: WorkerUrl,
    pub(crate) pool: Pool,
    pub(crate) counters: WorkerCounters,
    load: AtomicUsize,
    health: AtomicU8,
    draining: AtomicBool,
    /// Wakes the prober: the health changed under it, or the worker left the fleet.
    attention: Notify,
    /// Wakes who waits for the worker to become healthy.
    recovered: Notify,
    /// Wakes who waits for the last request of a draining worker.
    drained: Notify,
}

// ===== impl Worker =====

impl Worker {
    pub(crate) fn new(id: WorkerId, url: WorkerUrl) -> Self {
        Self {
            id,
            url,
            pool: Pool::default(),
            counters: WorkerCounters::default(),
            load: AtomicUsize::new(0),
            health: AtomicU8::new(Health::Starting as u8),
            draining: AtomicBool::new(false),
            attention: Notify::new(),
            recovered: Notify::new(),
            drained: Notify::new(),
        }
    }

    pub fn id(&self) -> WorkerId {
        self.id
    }

    pub fn url(&self) -> &WorkerUrl {
        &self.url
    }

    /// Requests in progress: from the choice of the worker to the last byte of its answer.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Starting,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// True when it may be given new requests.
    pub fn is_available(&self) -> bool {
        self.health() == Health::Healthy && !self.is_draining()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Counts one request in, unless the worker is draining. A drain that began before is seen here; one that begins
    /// after sees the load: both orders are sequentially consistent.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<LoadGuard> {
        self.load.fetch_add(1, Ordering::SeqCst);
        let guard = LoadGuard { worker: self.clone() };
        (!self.is_draining()).then_some(guard)
    }

    pub(crate) fn mark_healthy(&self) {
        let before = self.health.swap(Health::Healthy as u8, Ordering::AcqRel);
        if before != Health::Healthy as u8 {
            info!(worker = %self.url, "worker is healthy");
            self.recovered.notify_waiters();
        }
    }

    /// Takes a healthy worker out of service until the prober finds it well again.
    pub(crate) fn mark_unhealthy(&self, reason: &str) {
        let (healthy, unhealthy) = (Health::Healthy as u8, Health::Unhealthy as u8);
        if self.health.compare_exchange(healthy, unhealthy, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            warn!(worker = %self.url, reason, "worker is unhealthy");
            self.pool.clear();
            self.attention.notify_one();
        }
    }

    /// Ends the giving of new requests, and the probing.
    pub(super) fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.attention.notify_one();
    }

    pub(super) async fn attention(&self) {
        self.attention.notified().await;
    }

    /// Returns when the worker is healthy.
    pub(crate) async fn wait_until_healthy(&self) {
        loop {
            let recovered = self.recovered.notified();
            if self.health() == Health::Healthy {
                return;
            }
            recovered.await;
        }
    }

    /// Returns when a draining worker has no request in progress.
    pub(super) async fn wait_until_drained(&self) {
        while self.load.load(Ordering::SeqCst) > 0 {
            self.drained.notified().await;
        }
    }
}

/// One request in progress on a worker: counts down when it is dropped, so that no way out of a request can forget to.
pub struct LoadGuard {
    worker: Arc<Worker>,
}

impl LoadGuard {
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let before = self.worker.load.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.worker.is_draining() {
            self.worker.drained.notify_one();
        }
    }
}
