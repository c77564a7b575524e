//! Kubernetes discovery: the ready pods that a label selector matches are workers.
//!
//! List, watch from there, and when the watch ends, for whatever reason, list again. A resumed watch would save a list every few
//! minutes, and miss what changed when the API server comes back with another history (a restored etcd); a list cannot.

mod client;
mod members;
mod pod;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::task::JoinHandle;
use tracing::instrument::WithSubscriber;
use tracing::{Dispatch, debug, info, warn};

use self::client::reason;
use self::members::Members;
use crate::config::RouterConfig;
use crate::fleet::Fleet;

/// The pause before the first list after a watch that lasted; it doubles with every one that did not.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// A watch that lasted this long was a good one.
const GOOD_WATCH: Duration = Duration::from_secs(10);

/// The pause between two log lines about the same trouble.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// How long the API server may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For a list, and for the first line of a watch's answer.
    pub answer: Duration,
    /// For a whole watch: then the pods are listed again, so that a connection that died silently hides changes no longer than that.
    pub watch: Duration,
    /// The longest pause between two tries.
    pub max_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { answer: Duration::from_secs(15), watch: Duration::from_secs(120), max_pause: Duration::from_secs(5) }
    }
}

/// Begins to watch pods where `config` asks for it. The API server may come up later; an error says that there is no way to it.
pub async fn start(config: &RouterConfig, fleet: &Arc<Fleet>) -> io::Result<Option<JoinHandle<()>>> {
    if !config.service_discovery {
        return Ok(None);
    }
    let client = client::connect().await?;
    let watch = PodWatch::new(client, config, fleet.clone(), Timing::default());
    Ok(Some(tokio::spawn(watch.run())))
}

/// Keeps the fleet equal to the pods of a cluster. Needs get, list and watch on pods.
pub struct PodWatch {
    pods: Api<Pod>,
    selector: String,
    members: Members,
    timing: Timing,
    trouble: Trouble,
}

// ===== impl PodWatch =====

impl PodWatch {
    /// For the pods that a validated `config` selects.
    pub fn new(client: Client, config: &RouterConfig, fleet: Arc<Fleet>, timing: Timing) -> Self {
        let pods = match &config.service_discovery_namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let selector = config.label_selector().expect("the selector is validated");
        let members = Members::new(fleet, config.service_discovery_port);
        Self { pods, selector, members, timing, trouble: Trouble::default() }
    }

    /// Runs until it is dropped. While the API server does not answer, the fleet stays as it is.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            match self.list_and_watch().await {
                Ok(()) => self.trouble.ended(),
                Err(reason) => self.trouble.happened(&reason),
            }
            pause = if begun.elapsed() >= GOOD_WATCH { FIRST_PAUSE } else { (pause * 2).min(self.timing.max_pause) };
            // Many routers that lost the same API server do not come back in step.
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// Returns when the watch has ended: well after its time, or with the reason.
    async fn list_and_watch(&mut self) -> Result<(), String> {
        let parameters = ListParams::default().labels(&self.selector);
        let list = answer(self.timing.answer, "list", self.pods.list(&parameters)).await?;
        self.members.replace(&list.items);
        let version = list.metadata.resource_version.ok_or("the list of pods has no resourceVersion")?;
        let seconds = self.timing.watch.as_secs().max(1) as u32;
        let parameters = WatchParams::default().labels(&self.selector).timeout(seconds);
        let events = answer(self.timing.answer, "watch", self.pods.watch(&parameters, &version)).await?;
        // The server ends the watch in time; where it does not, the connection is dead.
        let followed = tokio::time::timeout(self.timing.watch + FIRST_PAUSE, self.follow(events));
        followed.await.unwrap_or(Ok(()))
    }

    async fn follow(&mut self, events: impl Stream<Item = kube::Result<WatchEvent<Pod>>>) -> Result<(), String> {
        let mut events = std::pin::pin!(events);
        while let Some(event) = quietly(events.next()).await {
            match event.map_err(|error| reason(&error))? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.members.apply(&pod),
                WatchEvent::Deleted(pod) => self.members.delete(&pod),
                WatchEvent::Bookmark(_) => {}
                // 410 Gone: the server has forgotten what changed since the list. That happens.
                WatchEvent::Error(status) if status.code == 410 => return Ok(()),
                WatchEvent::Error(status) => return Err(format!("{} (status {})", status.message, status.code)),
            }
            self.trouble.ended();
        }
        Ok(())
    }
}

async fn answer<T>(limit: Duration, what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(limit, quietly(call)).await {
        Ok(answered) => answered.map_err(|error| reason(&error)),
        Err(_) => Err(format!("no answer to a {what} of pods within {} s", limit.as_secs_f64())),
    }
}

/// Without kube's own log lines: it reports every failure as an error, over and over. We say what went wrong once in a while.
fn quietly<F: Future>(call: F) -> impl Future<Output = F::Output> {
    call.with_subscriber(Dispatch::none())
}

/// Trouble with the API server, told when it begins, once a minute, and when it ends.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
}

impl Trouble {
    fn happened(&mut self, reason: &str) {
        if self.told.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
            warn!(reason, "cannot watch pods; the fleet stays as it is, and the Kubernetes API is asked again");
            self.told = Some(Instant::now());
        } else {
            debug!(reason, "cannot watch pods");
        }
    }

    fn ended(&mut self) {
        if self.told.take().is_some() {
            info!("pods are watched again");
        }
    }
}
