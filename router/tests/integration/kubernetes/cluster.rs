//! A cluster whose pods are whatever a test says, and the router's link to it, which can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use radixfleet_router::RouterConfig;
use radixfleet_router::discovery::kubernetes::{PodWatch, Timing};
use radixfleet_router::fleet::Fleet;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::api_server::{self, Shared};
use super::envtest::{ADMIN_TOKEN, Envtest, ROUTER_TOKEN, ROUTER_USER};
use crate::support::{TestWorker, eventually};

pub struct Cluster {
    server: Server,
    admin: Client,
    router: Client,
    pub link: Link,
}

enum Server {
    Small(TestWorker, Shared),
    Real(Envtest),
}

/// Runs a scenario against the small API server, and against a real one where there is one.
pub async fn on_every_server(scenario: impl AsyncFn(&mut Cluster)) {
    scenario(&mut Cluster::small().await).await;
    match Envtest::start().await {
        Some(server) => scenario(&mut Cluster::real(server).await).await,
        None => eprintln!("not run against a real API server: KUBEBUILDER_ASSETS is not set"),
    }
}

// ===== impl Cluster =====

impl Cluster {
    pub async fn small() -> Self {
        let (server, state) = api_server::start().await;
        let link = Link::to(server.address).await;
        let (admin, router) = (client(&server.url, ""), client(&format!("http://{}", link.address), ""));
        Self { server: Server::Small(server, state), admin, router, link }
    }

    async fn real(server: Envtest) -> Self {
        let link = Link::to(SocketAddr::from(([127, 0, 0, 1], server.port))).await;
        let admin = client(&server.url(), ADMIN_TOKEN);
        let router = client(&format!("https://{}", link.address), ROUTER_TOKEN);
        let cluster = Self { server: Server::Real(server), admin, router, link };
        cluster.allow_the_router_what_it_needs().await;
        cluster
    }

    /// The state of the small server, and what it was asked.
    pub fn small_server(&self) -> (&TestWorker, &Shared) {
        match &self.server {
            Server::Small(server, state) => (server, state),
            Server::Real(_) => panic!("this is a real API server"),
        }
    }

    pub async fn kill(&mut self) {
        match &mut self.server {
            Server::Small(server, _) => server.kill().await,
            Server::Real(server) => server.kill(),
        }
    }

    pub async fn restart(&mut self) {
        match &mut self.server {
            Server::Small(server, _) => server.restart().await,
            Server::Real(server) => server.restart().await,
        }
    }

    /// Watches the cluster's pods with label app=worker: those of one namespace, or of all.
    pub fn watch(&self, namespace: Option<&str>, timing: Timing) -> Watching {
        let config = RouterConfig {
            service_discovery: true,
            selector: vec!["app=worker".to_owned()],
            service_discovery_port: 8000,
            service_discovery_namespace: namespace.map(str::to_owned),
            ..RouterConfig::default()
        };
        let fleet = Fleet::new(&config);
        let watch = PodWatch::new(self.router.clone(), &config, fleet.clone(), timing);
        Watching { fleet, task: tokio::spawn(watch.run()) }
    }

    pub async fn create_namespace(&self, name: &str) {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        persist(async || Api::all(self.admin.clone()).create(&PostParams::default(), &namespace).await).await;
    }

    /// A pod on a node, so that it ends only when the node says so; it has no address and is not ready.
    pub async fn create(&self, namespace: &str, name: &str, app: &str) {
        let spec = json!({"nodeName": "node", "containers": [{"name": "worker", "image": "worker"}]});
        let metadata = json!({"name": name, "labels": {"app": app}});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        persist(async || self.pods(namespace).create(&PostParams::default(), &pod).await).await;
    }

    /// The pod runs at `address`, and is ready or not.
    pub async fn run(&self, namespace: &str, name: &str, address: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let conditions = json!([{"type": "Ready", "status": ready}]);
        let status =
            json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": conditions});
        let patch = Patch::Merge(json!({"status": status}));
        persist(async || self.pods(namespace).patch_status(name, &PatchParams::default(), &patch).await).await;
    }

    pub async fn patch(&self, namespace: &str, name: &str, patch: Value) {
        self.pods(namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// The pod is told to end.
    pub async fn terminate(&self, namespace: &str, name: &str) {
        self.pods(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// The pod is gone.
    pub async fn delete(&self, namespace: &str, name: &str) {
        self.pods(namespace).delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// The rights of `k8s/router-rbac.yaml`, and no others.
    async fn allow_the_router_what_it_needs(&self) {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]);
        let metadata = json!({"name": "router"});
        let role = json!({"metadata": metadata, "rules": rules});
        let subjects = json!([{"kind": "User", "name": ROUTER_USER, "apiGroup": "rbac.authorization.k8s.io"}]);
        let to = json!({"kind": "ClusterRole", "name": "router", "apiGroup": "rbac.authorization.k8s.io"});
        let binding = json!({"metadata": metadata, "subjects": subjects, "roleRef": to});
        for (kind, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/{kind}");
            persist(async || {
                let body = serde_json::to_vec(&object).unwrap();
                let request = http::Request::post(&path).header("content-type", "application/json").body(body).unwrap();
                self.admin.request::<Value>(request).await
            })
            .await;
        }
    }
}

/// Repeats a call: a real API server answers before all of it is there.
async fn persist<T>(call: impl AsyncFn() -> kube::Result<T>) -> T {
    for _ in 0..300 {
        if let Ok(answer) = call().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    call().await.unwrap()
}

fn client(url: &str, token: &str) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = (!token.is_empty()).then(|| token.to_owned().into());
    Client::try_from(config).unwrap()
}

// ===== What the router makes of it =====

/// A fleet that follows the pods until it is dropped.
pub struct Watching {
    pub fleet: Arc<Fleet>,
    task: JoinHandle<()>,
}

impl Watching {
    /// Waits until these are the hosts in the fleet.
    pub async fn becomes(&self, hosts: &[&str]) {
        let expected: Vec<String> = hosts.iter().map(|host| format!("http://{host}:8000")).collect();
        eventually(&format!("the fleet is {hosts:?}"), || self.urls() == expected).await;
    }

    /// In the order of their text.
    pub fn urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self.fleet.workers().iter().map(|worker| worker.url().to_string()).collect();
        urls.sort();
        urls
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.task.abort();
        self.fleet.close();
    }
}

// ===== The link =====

/// What lies between the router and the API server.
pub struct Link {
    pub address: SocketAddr,
    to: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    silence: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Link {
    async fn to(to: SocketAddr) -> Self {
        Self::between("127.0.0.1:0".parse().unwrap(), to).await
    }

    async fn between(from: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(from).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, silence) = (Arc::default(), watch::Sender::default());
        let accepting = tokio::spawn(carry(listener, to, Arc::clone(&connections), silence.clone()));
        Self { address, to, connections, silence, accepting }
    }

    /// Breaks all connections and refuses new ones.
    pub async fn cut(&mut self) {
        self.accepting.abort();
        // Aborted, it drops the listener; waiting for it makes sure that this has happened.
        let _ = (&mut self.accepting).await;
        let mut broken = std::mem::take(&mut *self.connections.lock());
        broken.shutdown().await;
    }

    pub async fn restore(&mut self) {
        *self = Self::between(self.address, self.to).await;
    }

    /// The connections that there are carry nothing any more, and stay open; new ones work.
    pub fn go_silent(&self) {
        self.silence.send_replace(());
    }
}

async fn carry(
    listener: TcpListener,
    to: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    silence: watch::Sender<()>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut silence = silence.subscribe();
        connections.lock().spawn(async move {
            let Ok(mut far) = TcpStream::connect(to).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = silence.changed() => std::future::pending().await,
            }
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
