//! Who is there: one immutable snapshot of the workers, and the way in and out of it.

mod breaker;
mod condition;
mod inquiry;
mod load;
mod models;
mod monitor;
mod placement;
mod probe;
mod progress;
mod silence;
mod snapshot;
mod status;
mod url;
mod worker;

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tracing::{info, warn};

use self::breaker::BreakerSettings;
pub use self::breaker::BreakerState;
pub use self::condition::Health;
use self::inquiry::Inquirer;
pub use self::load::LoadGuard;
pub use self::placement::Placement;
use self::probe::{ProbeSettings, Prober};
pub use self::progress::AnswerKind;
use self::snapshot::Snapshot;
pub use self::status::WorkerStatus;
pub use self::url::WorkerUrl;
pub use self::worker::{Worker, WorkerId};
use crate::config::{RouterConfig, seconds};
use crate::metrics::Decisions;
use crate::moment::Moment;
use crate::policy::{self, Assignment, Policy, Query};
use crate::prefix::Key;

/// The workers, the policy that chooses among them, and the probes that watch them.
pub struct Fleet {
    /// What requests look at: no lock, and never changed in place.
    snapshot: ArcSwap<Snapshot>,
    /// Ids in use, by index; also serialises changes of the snapshot.
    ids: Mutex<Vec<bool>>,
    policy: Arc<dyn Policy>,
    policy_name: String,
    decisions: Decisions,
    settings: Settings,
    itself: Weak<Fleet>,
}

struct Settings {
    probes: ProbeSettings,
    breaker: BreakerSettings,
    inquirer: Inquirer,
    check_timeout: Duration,
    load_interval: Duration,
    drain_timeout: Duration,
}

/// What decides which workers can take a request, and which of them does.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The model that the request asks for.
    pub model: Option<&'a str>,
    pub key: &'a Key,
    /// What keeps a client's requests together, where the policy asks for it.
    pub affinity: Option<&'a [u8]>,
    /// The answer comes in pieces as it is generated.
    pub stream: bool,
    /// What one worker keeps and no other: that one is asked, whatever the policy.
    pub home: Option<&'a [u8]>,
}

/// Why no worker takes a request.
#[derive(Debug, PartialEq)]
pub enum Unassigned {
    /// Every worker has said what it serves, and it is something else. Holds what they serve.
    UnknownModel(Vec<String>),
    /// None is available.
    NoWorker,
}

// ===== impl Fleet: requests =====

impl Fleet {
    /// An empty fleet with the policy that `config` names; `config` has been validated.
    pub fn new(config: &RouterConfig) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            snapshot: ArcSwap::default(),
            ids: Mutex::default(),
            policy: policy::build(config).into(),
            policy_name: config.policy.clone(),
            decisions: Decisions::default(),
            settings: Settings {
                probes: ProbeSettings::from(config),
                breaker: BreakerSettings::from(config),
                inquirer: Inquirer::new(config.worker_authorization()),
                check_timeout: seconds(config.health_check_timeout_secs),
                load_interval: seconds(config.load_poll_interval_secs),
                drain_timeout: seconds(config.drain_timeout_secs),
            },
            itself: itself.clone(),
        })
    }

    /// All workers that have not been removed.
    pub fn workers(&self) -> Arc<Vec<Arc<Worker>>> {
        self.snapshot.load().workers().clone()
    }

    pub fn has_healthy_worker(&self) -> bool {
        self.snapshot.load().workers().iter().any(|worker| worker.is_available())
    }

    /// Every model that some worker names, once, with that worker's entry of `/v1/models`; in the order of names.
    pub fn models(&self) -> Vec<(String, Value)> {
        self.snapshot.load().models()
    }

    /// True when some worker names the model.
    pub fn serves(&self, model: &str) -> bool {
        self.snapshot.load().serves(model)
    }

    /// Chooses a worker for a request and counts the request in.
    pub fn assign(&self, wanted: Wanted<'_>) -> Result<Placement, Unassigned> {
        self.assign_among(wanted, None)
    }

    /// As `assign`, to a worker that `may_be_asked`: for a request that has been at some already.
    pub fn assign_again(
        &self,
        wanted: Wanted<'_>,
        may_be_asked: impl Fn(&Worker) -> bool,
    ) -> Result<Placement, Unassigned> {
        self.assign_among(wanted, Some(&may_be_asked))
    }

    fn assign_among(
        &self,
        wanted: Wanted<'_>,
        filter: Option<&dyn Fn(&Worker) -> bool>,
    ) -> Result<Placement, Unassigned> {
        loop {
            let snapshot = self.snapshot.load();
            let Some(group) = snapshot.group(wanted.model) else {
                return Err(Unassigned::UnknownModel(snapshot.models().into_iter().map(|(name, _)| name).collect()));
            };
            let filtered: Vec<Arc<Worker>>;
            let group = match filter {
                None => group,
                Some(filter) => {
                    filtered = group.iter().filter(|worker| filter(worker)).cloned().collect();
                    &filtered
                }
            };
            let Wanted { key, affinity, stream, .. } = wanted;
            let query = Query { key, affinity, stream, now: Moment::now() };
            let choice = match wanted.home {
                Some(name) => policy::home(name, group),
                None => self.policy.choose(query, group),
            };
            let choice = choice.ok_or(Unassigned::NoWorker)?;
            // A worker that is not available any more refuses, and will not be chosen again.
            if let Some(guard) = choice.worker.begin() {
                let assignment = Assignment::new(&query, &choice);
                self.policy.assigned(query, &assignment);
                self.decisions.count(choice.reason);
                choice.worker.counters.routed(assignment.key_bytes, assignment.held_bytes);
                return Ok(Placement::new(guard, self.policy.clone(), assignment, choice.reason));
            }
        }
    }

    /// True when a worker that is `wanted` could take a request for `model` now.
    pub fn has_available(&self, model: Option<&str>, wanted: impl Fn(&Worker) -> bool) -> bool {
        let snapshot = self.snapshot.load();
        let group = snapshot.group(model).unwrap_or_default();
        group.iter().any(|worker| worker.is_available() && wanted(worker))
    }

    /// A worker's cache is gone, as when nobody listens at its address any more.
    pub fn forget(&self, worker: &Worker) {
        self.policy.forget(worker.id());
    }

    /// What the workers hold in their caches is gone: the policy starts from nothing.
    pub fn forget_prefixes(&self) {
        for worker in self.workers().iter() {
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
}

// ===== impl Fleet: workers =====

impl Fleet {
    /// Adds a worker and begins to probe it; it gets requests once it answers. Must be called on the runtime.
    pub fn add(&self, url: WorkerUrl) -> Result<Arc<Worker>, String> {
        let mut ids = self.ids.lock();
        let workers = self.workers();
        if workers.iter().any(|worker| *worker.url() == url) {
            return Err(format!("worker {url} is in the fleet already"));
        }
        let free = ids.iter().position(|used| !used).unwrap_or(ids.len());
        let id = WorkerId::try_from(free).map_err(|_| format!("the fleet is full: {free} workers"))?;
        if ids.is_empty() {
            self.start_monitor();
        }
        if free == ids.len() {
            ids.push(true);
        } else {
            ids[free] = true;
        }
        let worker = Arc::new(Worker::new(id, url).with_breaker(self.settings.breaker));
        self.snapshot.store(Arc::new(Snapshot::new(workers.iter().chain([&worker]).cloned().collect())));
        info!(worker = %worker.url(), "worker added");
        let inquirer = self.settings.inquirer.clone();
        let prober = Prober::new(worker.clone(), self.itself.clone(), self.settings.probes.clone(), inquirer.clone());
        tokio::spawn(prober.watch());
        tokio::spawn(load::poll(worker.clone(), inquirer, self.settings.load_interval));
        Ok(worker)
    }

    fn start_monitor(&self) {
        let (inquirer, timeout) = (self.settings.inquirer.clone(), self.settings.check_timeout);
        tokio::spawn(monitor::watch(self.itself.clone(), inquirer, timeout));
    }

    /// Takes a worker out: it gets no new request, its running ones end, then every trace of it goes.
    pub fn remove(&self, url: &WorkerUrl) -> Result<(), String> {
        let _ids = self.ids.lock();
        let workers = self.workers();
        let Some(leaving) = workers.iter().find(|worker| worker.url() == url) else {
            return Err(format!("worker {url} is not in the fleet"));
        };
        let staying = workers.iter().filter(|worker| !Arc::ptr_eq(worker, leaving)).cloned().collect();
        self.snapshot.store(Arc::new(Snapshot::new(staying)));
        leaving.start_draining();
        info!(worker = %url, running = leaving.load(), "worker removed");
        tokio::spawn(drain(self.itself.clone(), leaving.clone(), self.settings.drain_timeout));
        Ok(())
    }

    /// Some worker serves other models than before.
    fn regroup(&self) {
        let _ids = self.ids.lock();
        self.snapshot.store(Arc::new(Snapshot::new(self.workers().to_vec())));
    }

    /// Ends all probes, for the end of the router.
    pub fn close(&self) {
        for worker in self.snapshot.swap(Arc::default()).workers().iter() {
            worker.start_draining();
        }
    }

    fn retire(&self, id: WorkerId) {
        self.policy.forget(id);
        self.ids.lock()[usize::from(id)] = false;
    }
}

/// Waits for the requests of a worker that leaves, and drops those that take too long; then its id is free.
async fn drain(fleet: Weak<Fleet>, worker: Arc<Worker>, timeout: Duration) {
    if tokio::time::timeout(timeout, worker.wait_until_drained()).await.is_err() {
        let running = worker.load();
        warn!(worker = %worker.url(), running, "dropping what a removed worker did not end in time (--drain-timeout-secs)");
        worker.cut_off();
        if let Some(fleet) = fleet.upgrade() {
            fleet.forget(&worker);
        }
        // A client that does not read holds its place, and with it the id, for as long as it likes.
        worker.wait_until_drained().await;
    }
    if let Some(fleet) = fleet.upgrade() {
        fleet.retire(worker.id());
    }
}

#[cfg(test)]
mod tests;
