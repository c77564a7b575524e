//! A small Kubernetes API server: pods of a few namespaces, listed, watched, created, patched and deleted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::support::{Answer, TestWorker, chunked, with_status};

/// What the server knows, and how it misbehaves.
#[derive(Default)]
pub struct State {
    pub version: u64,
    /// By namespace and name.
    pods: BTreeMap<(String, String), Value>,
    history: Vec<Change>,
    /// So many watches are told that their version is gone.
    pub gone: usize,
    /// Answers nothing at all.
    pub hangs: bool,
    changed: watch::Sender<()>,
}

/// A pod before and after; nothing before it was created, nothing after it was deleted.
#[derive(Clone)]
struct Change {
    version: u64,
    before: Value,
    after: Value,
}

/// Which pods somebody asked for.
#[derive(Clone)]
struct Wanted {
    namespace: Option<String>,
    labels: Vec<(String, String)>,
}

pub type Shared = Arc<Mutex<State>>;

/// The server, and its state.
pub async fn start() -> (TestWorker, Shared) {
    let state = Shared::default();
    let shared = state.clone();
    let server = TestWorker::start(move |request| answer(request, shared.clone())).await;
    (server, state)
}

async fn answer(request: Request<Bytes>, state: Shared) -> Answer {
    if state.lock().hangs {
        std::future::pending::<()>().await;
    }
    let path = request.uri().path().trim_start_matches("/api/v1/").to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let mut locked = state.lock();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["pods"]) => read(request.uri().query(), None, &mut locked, &state),
        (&Method::GET, ["namespaces", namespace, "pods"]) => {
            read(request.uri().query(), Some((*namespace).to_owned()), &mut locked, &state)
        }
        (&Method::POST, ["namespaces"]) => object(&body),
        (&Method::POST, ["namespaces", namespace, "pods"]) => object(&locked.create(namespace, body)),
        (&Method::PATCH, ["namespaces", namespace, "pods", name, ..]) => object(&locked.patch(namespace, name, &body)),
        (&Method::DELETE, ["namespaces", namespace, "pods", name]) => {
            object(&locked.delete(namespace, name, body["gracePeriodSeconds"] == json!(0)))
        }
        _ => with_status(StatusCode::NOT_FOUND, status(404, "no such path").to_string()),
    }
}

fn object(value: &Value) -> Answer {
    let mut answer = with_status(StatusCode::OK, value.to_string());
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}

fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "code": code})
}

/// A list, or a watch.
fn read(query: Option<&str>, namespace: Option<String>, state: &mut State, shared: &Shared) -> Answer {
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let labels = labels.split(',').filter_map(|label| label.split_once('='));
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let wanted = Wanted { namespace, labels };
    if !query.contains_key("watch") {
        let items: Vec<&Value> = state.pods.values().filter(|pod| wanted.has(pod)).collect();
        let metadata = json!({"resourceVersion": state.version.to_string()});
        return object(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items}));
    }
    let (feed, answer) = chunked("application/json");
    if state.gone > 0 {
        state.gone -= 1;
        send(&feed, "ERROR", &status(410, "too old resource version"));
        return answer;
    }
    let from: u64 = query["resourceVersion"].parse().unwrap();
    let seconds: u64 = query["timeoutSeconds"].parse().unwrap();
    let follow = follow(shared.clone(), state.changed.subscribe(), wanted, from, feed);
    tokio::spawn(tokio::time::timeout(Duration::from_secs(seconds), follow));
    answer
}

/// Tells what happens after version `from`, for as long as somebody listens.
async fn follow(
    state: Shared,
    mut changed: watch::Receiver<()>,
    wanted: Wanted,
    mut from: u64,
    feed: mpsc::UnboundedSender<Bytes>,
) {
    let bookmark = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": from.to_string()}});
    send(&feed, "BOOKMARK", &bookmark);
    while !feed.is_closed() {
        let changes = state.lock().history.iter().filter(|change| change.version > from).cloned().collect::<Vec<_>>();
        for change in changes {
            from = change.version;
            match (wanted.has(&change.before), wanted.has(&change.after)) {
                (false, true) => send(&feed, "ADDED", &change.after),
                (true, true) => send(&feed, "MODIFIED", &change.after),
                (true, false) => send(&feed, "DELETED", &change.before),
                (false, false) => {}
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = feed.closed() => {}
        }
    }
}

fn send(feed: &mpsc::UnboundedSender<Bytes>, kind: &str, object: &Value) {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    // In two chunks: lines and chunks have nothing to do with each other. Who has gone away needs no events.
    let (first, second) = line.split_at(line.len() / 2);
    let _ = feed.send(Bytes::from(first.to_owned()));
    let _ = feed.send(Bytes::from(second.to_owned()));
}

// ===== impl State =====

impl State {
    fn create(&mut self, namespace: &str, mut pod: Value) -> Value {
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(format!("{:032x}", fastrand::u128(..)));
        self.change(Value::Null, pod)
    }

    fn patch(&mut self, namespace: &str, name: &str, patch: &Value) -> Value {
        let before = self.pods[&(namespace.to_owned(), name.to_owned())].clone();
        let mut after = before.clone();
        merge(&mut after, patch);
        self.change(before, after)
    }

    fn delete(&mut self, namespace: &str, name: &str, at_once: bool) -> Value {
        let key = (namespace.to_owned(), name.to_owned());
        let before = self.pods[&key].clone();
        if !at_once {
            let mut after = before.clone();
            after["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return self.change(before, after);
        }
        self.change(before.clone(), Value::Null);
        before
    }

    fn change(&mut self, before: Value, mut after: Value) -> Value {
        self.version += 1;
        let pod = if after.is_null() { &before } else { &after };
        let field = |name: &str| pod["metadata"][name].as_str().unwrap().to_owned();
        let key = (field("namespace"), field("name"));
        if after.is_null() {
            self.pods.remove(&key);
        } else {
            after["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.pods.insert(key, after.clone());
        }
        // A deleted pod is told about as it last was, with the version of its deletion.
        let mut before = before;
        if !before.is_null() {
            before["metadata"]["resourceVersion"] = json!(self.version.to_string());
        }
        self.history.push(Change { version: self.version, before, after: after.clone() });
        self.changed.send_replace(());
        after
    }

    /// Begins another history, as an API server does whose database is lost: nothing is left, and versions begin again.
    pub fn lose_everything(&mut self) {
        (self.version, self.pods, self.history) = Default::default();
    }
}

// ===== impl Wanted =====

impl Wanted {
    fn has(&self, pod: &Value) -> bool {
        let metadata = &pod["metadata"];
        let here = self.namespace.as_ref().is_none_or(|namespace| metadata["namespace"] == json!(namespace));
        !pod.is_null() && here && self.labels.iter().all(|(key, value)| metadata["labels"][key] == json!(value))
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}
