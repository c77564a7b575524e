//! One worker: its address, how many requests it has in progress, and whether it may be given more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::breaker::BreakerSettings;
use super::condition::{Condition, Health};
use super::load::{LoadGuard, ReportedLoad};
use super::models::Models;
use super::progress::Progress;
use super::url::WorkerUrl;
use crate::config::RouterConfig;
use crate::metrics::WorkerCounters;
use crate::moment::Moment;
use crate::upstream::Pool;

/// A small integer that names a worker while it is in the fleet; used again only after nothing refers to it any more.
pub type WorkerId = u16;

/// What keeps a worker from being given requests, as bits.
pub(super) const UNHEALTHY: u8 = 1;
pub(super) const OPEN: u8 = 2;
const DRAINING: u8 = 4;
/// Not an obstacle by itself: the breaker wants to be asked.
pub(super) const HALF_OPEN: u8 = 8;

pub struct Worker {
    id: WorkerId,
    url: WorkerUrl,
    pub(crate) pool: Pool,
    pub(crate) counters: WorkerCounters,
    load: AtomicUsize,
    /// What requests look at; the rest of what it stands for is in `condition`.
    obstacles: AtomicU8,
    /// The breaker would forget failures at a success: known here, so that the usual success takes no lock.
    pub(super) has_failed: AtomicBool,
    pub(super) condition: Mutex<Condition>,
    pub(crate) progress: Progress,
    pub(super) models: ArcSwap<Models>,
    pub(super) reported: ReportedLoad,
    /// Wakes the prober: the health changed under it, or the worker left the fleet.
    pub(super) attention: Notify,
    /// Wakes who waits for the worker to become healthy.
    pub(super) recovered: Notify,
    /// Wakes requests that wait for an answer: none is to be expected.
    pub(super) given_up: Notify,
    /// Wakes who waits for the last request of a draining worker.
    drained: Notify,
    /// Wakes the answers that still run when the time to drain is over.
    cut_off: Arc<Notify>,
    is_cut_off: AtomicBool,
}

// ===== impl Worker =====

impl Worker {
    /// With the breaker of the default options.
    pub(crate) fn new(id: WorkerId, url: WorkerUrl) -> Self {
        let breaker = BreakerSettings::from(&RouterConfig::default());
        Self {
            id,
            url,
            pool: Pool::default(),
            counters: WorkerCounters::default(),
            load: AtomicUsize::new(0),
            obstacles: AtomicU8::new(UNHEALTHY),
            has_failed: AtomicBool::new(false),
            condition: Mutex::new(Condition::new(breaker, Moment::now())),
            progress: Progress::default(),
            models: ArcSwap::default(),
            reported: ReportedLoad::default(),
            attention: Notify::new(),
            recovered: Notify::new(),
            given_up: Notify::new(),
            drained: Notify::new(),
            cut_off: Arc::default(),
            is_cut_off: AtomicBool::new(false),
        }
    }

    pub(super) fn with_breaker(mut self, settings: BreakerSettings) -> Self {
        self.condition = Mutex::new(Condition::new(settings, Moment::now()));
        self
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

    /// What the worker itself says about its load, where it has `/get_load` and answered lately.
    pub fn reported_load(&self) -> Option<f64> {
        self.reported.get()
    }

    /// Requests in progress that are not this router's, as far as the worker reports them.
    pub fn load_elsewhere(&self) -> f64 {
        self.reported.elsewhere()
    }

    pub fn health(&self) -> Health {
        self.condition.lock().health()
    }

    /// True when it may be given new requests: healthy, not leaving, and its circuit breaker permits it.
    pub fn is_available(&self) -> bool {
        self.obstacles.load(Ordering::Relaxed) & !HALF_OPEN == 0
    }

    pub fn is_draining(&self) -> bool {
        self.obstacles.load(Ordering::SeqCst) & DRAINING != 0
    }

    /// Counts one request in, unless the worker is not available. A drain that began before is seen here; one that begins
    /// after sees the load: both orders are sequentially consistent.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<LoadGuard> {
        self.load.fetch_add(1, Ordering::SeqCst);
        let mut guard = LoadGuard::new(self.clone());
        match self.obstacles.load(Ordering::SeqCst) {
            0 => Some(guard),
            HALF_OPEN if self.begin_trial() => {
                guard.set_on_trial();
                Some(guard)
            }
            _ => None,
        }
    }

    /// Takes one request off the load.
    pub(super) fn end(&self) {
        let before = self.load.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.is_draining() {
            self.drained.notify_one();
        }
    }

    /// Shows `UNHEALTHY`, `OPEN` and `HALF_OPEN` as in `bits` to requests. Only with the condition locked.
    pub(super) fn show(&self, bits: u8) {
        const SHOWN: u8 = UNHEALTHY | OPEN | HALF_OPEN;
        // The lock makes this the only writer of these bits; the other one is never taken back.
        self.obstacles.fetch_or(bits, Ordering::SeqCst);
        self.obstacles.fetch_and(bits | !SHOWN, Ordering::SeqCst);
    }

    /// Ends the giving of new requests, and the probing.
    pub(super) fn start_draining(&self) {
        self.obstacles.fetch_or(DRAINING, Ordering::SeqCst);
        self.attention.notify_one();
        self.recovered.notify_waiters();
    }

    /// Returns when the worker is healthy; false if it leaves the fleet before.
    pub(crate) async fn wait_until_healthy(&self) -> bool {
        loop {
            let recovered = self.recovered.notified();
            if self.is_draining() {
                return false;
            }
            if self.health() == Health::Healthy {
                return true;
            }
            recovered.await;
        }
    }

    /// Returns when the worker becomes healthy the next time, or leaves the fleet.
    pub(super) async fn wait_for_recovery(&self) {
        let recovered = self.recovered.notified();
        if !self.is_draining() {
            recovered.await;
        }
    }

    /// Returns when a draining worker has no request in progress.
    pub(super) async fn wait_until_drained(&self) {
        while self.load.load(Ordering::SeqCst) > 0 {
            self.drained.notified().await;
        }
    }

    /// Ends the answers that are still running; requests that it has not begun to answer go elsewhere.
    pub(super) fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::SeqCst);
        self.cut_off.notify_waiters();
        self.given_up.notify_waiters();
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::SeqCst)
    }

    /// What `cut_off` wakes.
    pub(super) fn cut_off_signal(&self) -> tokio::sync::futures::OwnedNotified {
        self.cut_off.clone().notified_owned()
    }
}
