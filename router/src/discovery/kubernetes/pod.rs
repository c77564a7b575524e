//! What a pod means for the fleet: the address of a worker that may get requests, or nothing.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::fleet::WorkerUrl;

/// Where the pod's worker listens, if the pod is to get requests: it runs, is ready, has an address, and is not terminating.
pub fn ready_worker(pod: &Pod, port: u16) -> Option<WorkerUrl> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() || status.phase.as_deref() != Some("Running") || !is_ready(status) {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    let url = format!("http://{}", SocketAddr::new(address, port));
    Some(WorkerUrl::parse(&url).expect("an address and a port that is not 0 are a worker's URL"))
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ready_pod() -> Value {
        json!({
            "metadata": {"name": "worker-0", "uid": "1"},
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.7",
                "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
            },
        })
    }

    fn url_of(pod: Value) -> Option<String> {
        ready_worker(&serde_json::from_value(pod).unwrap(), 8000).map(|url| url.to_string())
    }

    #[test]
    fn a_ready_pod_is_a_worker_at_its_address() {
        assert_eq!(url_of(ready_pod()).as_deref(), Some("http://10.0.0.7:8000"));
        let mut pod = ready_pod();
        pod["status"]["podIP"] = json!("fd00:0:0:1::17");
        assert_eq!(url_of(pod).as_deref(), Some("http://[fd00:0:0:1::17]:8000"));
    }

    #[test]
    fn a_pod_that_lacks_anything_gets_no_requests() {
        for (pointer, value) in [
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            ("/status/phase", json!("Pending")),
            ("/status/phase", json!("Succeeded")),
            ("/status/phase", json!("Failed")),
            ("/status/phase", Value::Null),
            ("/status/conditions/1/status", json!("False")),
            ("/status/conditions/1/status", json!("Unknown")),
            ("/status/conditions/1/type", json!("ContainersReady")),
            ("/status/conditions", json!([])),
            ("/status/conditions", Value::Null),
            ("/status/podIP", Value::Null),
            ("/status/podIP", json!("")),
            ("/status", Value::Null),
        ] {
            let mut pod = ready_pod();
            match pod.pointer_mut(pointer) {
                Some(place) => *place = value.clone(),
                None => pod["metadata"]["deletionTimestamp"] = value.clone(),
            }
            assert_ne!(pod, ready_pod());
            assert_eq!(url_of(pod), None, "{pointer} {value}");
        }
    }
}
