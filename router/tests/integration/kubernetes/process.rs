//! The router as a process: its way to the API server is a kubeconfig, TLS and a token.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::cluster::Cluster;
use crate::support::{TestWorker, generate};

const BINARY: &str = env!("CARGO_BIN_EXE_radixfleet-router");

/// Removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("radixfleet-kubeconfig-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ended when it is dropped.
struct RouterProcess(Child);

impl Drop for RouterProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Accepts TLS, and hands what is inside on to `to`.
async fn tls_front(to: SocketAddr, folder: &Path) -> (SocketAddr, JoinHandle<()>) {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("ca.pem"), cert.pem()).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let mut near = acceptor.accept(near).await.unwrap();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, accepting)
}

fn write_kubeconfig(folder: &Path, server: SocketAddr) -> PathBuf {
    let (path, authority) = (folder.join("config"), folder.join("ca.pem"));
    let text = format!(
        "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: 'https://{server}', certificate-authority: '{}'}}}}]
users: [{{name: test, user: {{token: secret}}}}]
",
        authority.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Starts the router; returns its URL when it listens.
async fn start_router(kubeconfig: &Path, worker_port: u16) -> (RouterProcess, String) {
    let mut command = Command::new(BINARY);
    command.env("KUBECONFIG", kubeconfig).stdout(Stdio::piped());
    command.args(["--port", "0", "--prometheus-port", "0", "--service-discovery", "--selector", "app=worker"]);
    command.args(["--service-discovery-port", &worker_port.to_string()]);
    let mut process = RouterProcess(command.spawn().unwrap());
    let stdout = process.0.stdout.take().unwrap();
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        line
    });
    let line = line.await.unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://"));
    (process, url.unwrap_or_else(|| panic!("no URL: {line}")).to_owned())
}

#[tokio::test]
async fn a_pod_found_through_a_kubeconfig_answers_requests() {
    let (cluster, worker, folder) = (Cluster::small().await, TestWorker::naming_itself().await, Folder::new());
    cluster.create("default", "worker", "worker").await;
    cluster.run("default", "worker", "127.0.0.1", true).await;
    let (api_server, front) = tls_front(cluster.small_server().0.address, &folder.0).await;
    let kubeconfig = write_kubeconfig(&folder.0, api_server);
    let (_process, url) = start_router(&kubeconfig, worker.address.port()).await;
    let mut reply = generate(&url, "hello").await;
    while reply.status == http::StatusCode::SERVICE_UNAVAILABLE {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        reply = generate(&url, "hello").await;
    }
    assert_eq!(reply.text().await, worker.address.to_string());
    let asked = cluster.small_server().0.asked();
    assert_eq!(asked.last().unwrap().headers["authorization"], "Bearer secret");
    front.abort();
}

#[test]
fn without_a_way_to_the_api_server_the_router_does_not_start() {
    let folder = Folder::new();
    let broken = folder.0.join("config");
    std::fs::write(&broken, "clusters: 7").unwrap();
    for (kubeconfig, reason) in [(&broken, "failed to parse kubeconfig"), (&folder.0.join("missing"), "No such file")] {
        let mut command = Command::new(BINARY);
        command.env("KUBECONFIG", kubeconfig).env_remove("KUBERNETES_SERVICE_HOST");
        command.args(["--port", "0", "--prometheus-port", "0", "--service-discovery", "--selector", "app=worker"]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.starts_with("error: --service-discovery: no way to the Kubernetes API: "), "{stderr}");
        assert!(stderr.contains(reason) && stderr.lines().count() == 1, "{stderr}");
    }
}
