//! Who is there: one immutable snapshot of the workers, and the way in and out of it.

mod placement;
mod probe;
mod url;
mod worker;

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::info;

pub use self::placement::Placement;
use self::probe::ProbeSettings;
pub use self::url::WorkerUrl;
pub use self::worker::{Health, LoadGuard, Worker, WorkerId};
use crate::config::RouterConfig;
use crate::metrics::Decisions;
use crate::moment::Moment;
use crate::policy::{self, Assignment, Policy, Query};
use crate::prefix::Key;

/// The workers, the policy that chooses among them, and the probes that watch them.
pub struct Fleet {
    /// What requests look at: no lock, and never changed in place.
    snapshot: ArcSwap<Vec<Arc<Worker>>>,
    /// Ids in use, by index; also serialises changes of the snapshot.
    ids: Mutex<Vec<bool>>,
    policy: Arc<dyn Policy>,
    policy_name: String,
    decisions: Decisions,
    probes: ProbeSettings,
    itself: Weak<Fleet>,
}

impl Fleet {
    /// An empty fleet with the policy that `config` names; `config` has been validated.
    pub fn new(config: &RouterConfig) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            snapshot: ArcSwap::default(),
            ids: Mutex::default(),
            policy: policy::build(config).into(),
            policy_name: config.policy.clone(),
            decisions: Decisions::default(),
            probes: ProbeSettings::from(config),
            itself: itself.clone(),
        })
    }

    /// All workers that have not been removed.
    pub fn workers(&self) -> Arc<Vec<Arc<Worker>>> {
        self.snapshot.load_full()
    }

    pub fn has_healthy_worker(&self) -> bool {
        self.snapshot.load().iter().any(|worker| worker.is_available())
    }

    /// Chooses a worker for a request with routing key `key` and counts the request in; `None` without an available worker.
    /// `affinity` is what keeps a client's requests together, where the policy asks for it.
    pub fn assign(&self, key: &Key, affinity: Option<&[u8]>) -> Option<Placement> {
        loop {
            let workers = self.snapshot.load();
            let query = Query { key, affinity, now: Moment::now() };
            let choice = self.policy.choose(query, &workers)?;
            // A worker that began to drain since the snapshot was taken refuses; the next snapshot does not have it.
            if let Some(guard) = choice.worker.begin() {
                let assignment = Assignment {
                    worker: choice.worker.id(),
                    key_bytes: key.bytes(),
                    held_bytes: choice.held_bytes,
                    begun: query.now,
                };
                self.policy.assigned(query, &assignment);
                self.decisions.count(choice.reason);
                choice.worker.counters.routed(assignment.key_bytes, assignment.held_bytes);
                return Some(Placement::new(guard, self.policy.clone(), assignment, choice.reason));
            }
        }
    }

    /// Adds a worker and begins to probe it; it gets requests once it answers. Must be called on the runtime.
    pub fn add(&self, url: WorkerUrl) -> Result<Arc<Worker>, String> {
        let mut ids = self.ids.lock();
        let workers = self.snapshot.load();
        if workers.iter().any(|worker| *worker.url() == url) {
            return Err(format!("worker {url} is in the fleet already"));
        }
        let free = ids.iter().position(|used| !used).unwrap_or(ids.len());
        let id = WorkerId::try_from(free).map_err(|_| format!("the fleet is full: {free} workers"))?;
        if free == ids.len() {
            ids.push(true);
        } else {
            ids[free] = true;
        }
        let worker = Arc::new(Worker::new(id, url));
        self.snapshot.store(Arc::new(workers.iter().chain([&worker]).cloned().collect()));
        info!(worker = %worker.url(), "worker added");
        tokio::spawn(probe::watch(worker.clone(), self.probes));
        Ok(worker)
    }

    /// Takes a worker out: it gets no new request, its running ones end, then every trace of it goes.
    pub fn remove(&self, url: &WorkerUrl) -> Result<(), String> {
        let _ids = self.ids.lock();
        let workers = self.snapshot.load();
        let Some(leaving) = workers.iter().find(|worker| worker.url() == url) else {
            return Err(format!("worker {url} is not in the fleet"));
        };
        self.snapshot.store(Arc::new(workers.iter().filter(|worker| !Arc::ptr_eq(worker, leaving)).cloned().collect()));
        leaving.start_draining();
        info!(worker = %url, running = leaving.load(), "worker removed");
        let (fleet, worker) = (self.itself.clone(), leaving.clone());
        tokio::spawn(async move {
            worker.wait_until_drained().await;
            if let Some(fleet) = fleet.upgrade() {
                fleet.retire(worker.id());
            }
        });
        Ok(())
    }

    /// What the workers hold in their caches is gone: the policy starts from nothing.
    pub fn forget_prefixes(&self) {
        for worker in self.snapshot.load().iter() {
            self.policy.forget(worker.id());
        }
    }

    pub fn policy_name(&self) -> &str {
        &self.policy_name
    }

    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Memory of the policy's prefix index, if it has one.
    pub fn index_bytes(&self) -> Option<usize> {
        self.policy.index_bytes()
    }

    /// The policy's regular housekeeping; may take a while, so not on a thread that serves.
    pub fn maintain(&self) {
        self.policy.maintain();
    }

    /// Ends all probes, for the end of the router.
    pub fn close(&self) {
        for worker in self.snapshot.swap(Arc::default()).iter() {
            worker.start_draining();
        }
    }

    fn retire(&self, id: WorkerId) {
        self.policy.forget(id);
        self.ids.lock()[usize::from(id)] = false;
    }
}

#[cfg(test)]
mod tests;
