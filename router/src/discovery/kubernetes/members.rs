//! The pods that are to be workers, and those of them that are in the fleet.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Pod;
use tracing::debug;

use super::pod::ready_worker;
use crate::fleet::{Fleet, Worker, WorkerUrl};

/// Keeps the fleet's discovered workers equal to the ready pods. Pods are told apart by uid: another pod at an address that is
/// used again is another worker.
pub struct Members {
    fleet: Arc<Fleet>,
    port: u16,
    /// By uid: the pods that are ready.
    ready: BTreeMap<String, WorkerUrl>,
    /// By uid: the pods whose worker was added here. One that somebody removed by hand stays out for as long as its pod is ready.
    joined: HashMap<String, Joined>,
}

struct Joined {
    url: WorkerUrl,
    worker: Weak<Worker>,
}

// ===== impl Members =====

impl Members {
    pub fn new(fleet: Arc<Fleet>, port: u16) -> Self {
        Self { fleet, port, ready: BTreeMap::new(), joined: HashMap::new() }
    }

    /// These are all pods that there are.
    pub fn replace(&mut self, pods: &[Pod]) {
        self.ready.clear();
        for pod in pods {
            self.note(pod);
        }
        self.reconcile();
    }

    /// The pod is new or has changed.
    pub fn apply(&mut self, pod: &Pod) {
        self.note(pod);
        self.reconcile();
    }

    /// The pod is gone, or the selector does not match it any more.
    pub fn delete(&mut self, pod: &Pod) {
        self.ready.remove(uid(pod));
        self.reconcile();
    }

    fn note(&mut self, pod: &Pod) {
        match ready_worker(pod, self.port) {
            Some(url) => self.ready.insert(uid(pod).to_owned(), url),
            None => self.ready.remove(uid(pod)),
        };
    }

    /// Removals come first: an address may have passed from one pod to another.
    fn reconcile(&mut self) {
        let (fleet, ready) = (&self.fleet, &self.ready);
        self.joined.retain(|uid, joined| {
            let stays = ready.get(uid) == Some(&joined.url);
            if !stays {
                joined.leave(fleet);
            }
            stays
        });
        for (uid, url) in ready {
            if self.joined.contains_key(uid) {
                continue;
            }
            match fleet.add(url.clone()) {
                Ok(worker) => {
                    let joined = Joined { url: url.clone(), worker: Arc::downgrade(&worker) };
                    self.joined.insert(uid.clone(), joined);
                }
                // Added by hand, it is not ours to remove.
                Err(reason) => debug!(pod_uid = uid, reason, "pod not added"),
            }
        }
    }
}

impl Joined {
    /// Removes the worker from the fleet, unless somebody did so before, and perhaps added another one with its address.
    fn leave(&self, fleet: &Fleet) {
        let ours = |worker: &Arc<Worker>| std::ptr::eq(Arc::as_ptr(worker), self.worker.as_ptr());
        if fleet.workers().iter().any(ours) {
            // An error says that somebody was faster.
            let _ = fleet.remove(&self.url);
        }
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::RouterConfig;

    fn pod(uid: &str, address: &str) -> Pod {
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"phase": "Running", "podIP": address, "conditions": conditions});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "status": status})).unwrap()
    }

    fn terminating(uid: &str, address: &str) -> Pod {
        let mut pod = pod(uid, address);
        pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        pod
    }

    fn members() -> (Arc<Fleet>, Members) {
        let fleet = Fleet::new(&RouterConfig::default());
        (fleet.clone(), Members::new(fleet, 8000))
    }

    fn urls(fleet: &Fleet) -> Vec<String> {
        let mut urls: Vec<String> = fleet.workers().iter().map(|worker| worker.url().to_string()).collect();
        urls.sort();
        urls
    }

    #[tokio::test]
    async fn pods_come_and_go() {
        let (fleet, mut members) = members();
        members.replace(&[pod("a", "10.0.0.1"), pod("b", "10.0.0.2"), terminating("c", "10.0.0.3")]);
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]);
        members.apply(&terminating("a", "10.0.0.1"));
        assert_eq!(urls(&fleet), ["http://10.0.0.2:8000"]);
        members.apply(&pod("d", "fd00::4"));
        members.delete(&pod("b", "10.0.0.2"));
        assert_eq!(urls(&fleet), ["http://[fd00::4]:8000"]);
        members.replace(&[]);
        assert!(urls(&fleet).is_empty());
    }

    #[tokio::test]
    async fn what_has_not_changed_stays_the_same_worker() {
        let (fleet, mut members) = members();
        members.replace(&[pod("a", "10.0.0.1")]);
        let before = fleet.workers()[0].clone();
        members.apply(&pod("a", "10.0.0.1"));
        members.replace(&[pod("a", "10.0.0.1")]);
        assert!(Arc::ptr_eq(&before, &fleet.workers()[0]));
    }

    #[tokio::test]
    async fn another_pod_at_the_same_address_is_another_worker() {
        let (fleet, mut members) = members();
        members.replace(&[pod("a", "10.0.0.1")]);
        let before = fleet.workers()[0].clone();
        members.replace(&[pod("b", "10.0.0.1")]);
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000"]);
        assert!(!Arc::ptr_eq(&before, &fleet.workers()[0]));
        assert!(before.is_draining());
        members.delete(&pod("a", "10.0.0.1"));
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000"]);
        members.apply(&pod("b", "10.0.0.9"));
        assert_eq!(urls(&fleet), ["http://10.0.0.9:8000"]);
    }

    #[tokio::test]
    async fn workers_added_by_hand_are_left_alone() {
        let (fleet, mut members) = members();
        let by_hand = WorkerUrl::parse("http://10.0.0.1:8000").unwrap();
        fleet.add(by_hand.clone()).unwrap();
        members.replace(&[pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]);
        members.replace(&[]);
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000"]);
    }

    #[tokio::test]
    async fn a_pod_removed_by_hand_stays_out_until_it_was_not_ready() {
        let (fleet, mut members) = members();
        let url = WorkerUrl::parse("http://10.0.0.1:8000").unwrap();
        members.replace(&[pod("a", "10.0.0.1")]);
        fleet.remove(&url).unwrap();
        members.replace(&[pod("a", "10.0.0.1")]);
        assert!(urls(&fleet).is_empty());
        fleet.add(url).unwrap();
        members.delete(&pod("a", "10.0.0.1"));
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000"], "the one that was added by hand stays");
        members.replace(&[]);
        fleet.remove(&WorkerUrl::parse("http://10.0.0.1:8000").unwrap()).unwrap();
        members.apply(&pod("a", "10.0.0.1"));
        assert_eq!(urls(&fleet), ["http://10.0.0.1:8000"]);
    }
}
