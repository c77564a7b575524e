//! A real API server, from the folder that `KUBEBUILDER_ASSETS` names: etcd and kube-apiserver, with files of their own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

/// Of the group system:masters: may do everything.
pub const ADMIN_TOKEN: &str = "admin-token";
/// Of a user that may do what it is given.
pub const ROUTER_TOKEN: &str = "router-token";
pub const ROUTER_USER: &str = "router";

/// Ends both programs, and removes their files, when it is dropped.
pub struct Envtest {
    assets: PathBuf,
    folder: PathBuf,
    pub port: u16,
    etcd_url: String,
    _etcd: Program,
    api_server: Option<Program>,
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Envtest {
    fn drop(&mut self) {
        self.api_server = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Envtest {
    /// Starts both; `None` where `KUBEBUILDER_ASSETS` is not set.
    pub async fn start() -> Option<Self> {
        let assets = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
        let folder = std::env::temp_dir().join(format!("radixfleet-envtest-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&folder).unwrap();
        write_credentials(&folder);
        let etcd_url = format!("http://127.0.0.1:{}", free_port());
        let mut etcd = Command::new(assets.join("etcd"));
        etcd.arg("--data-dir").arg(folder.join("etcd"));
        etcd.args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url]);
        etcd.args(["--listen-peer-urls", &format!("http://127.0.0.1:{}", free_port()), "--unsafe-no-fsync"]);
        let etcd = run(etcd, &folder.join("etcd.log"));
        let mut server = Self { assets, folder, port: free_port(), etcd_url, _etcd: etcd, api_server: None };
        server.restart().await;
        Some(server)
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Ends the API server; etcd keeps what it knew.
    pub fn kill(&mut self) {
        self.api_server = None;
    }

    /// Starts the API server, on the same port as before; returns when it listens.
    pub async fn restart(&mut self) {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command.args([
            format!("--etcd-servers={}", self.etcd_url),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://127.0.0.1/".to_owned(),
            format!("--service-account-signing-key-file={}", file("service-account.key")),
            format!("--service-account-key-file={}", file("service-account.pub")),
        ]);
        let mut program = run(command, &self.folder.join("kube-apiserver.log"));
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if let Some(status) = program.0.try_wait().unwrap() {
                let log = std::fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap();
                panic!("kube-apiserver ended with {status}:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.api_server = Some(program);
    }
}

fn write_credentials(folder: &Path) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let tokens =
        format!("{ADMIN_TOKEN},admin,1,\"system:masters\"\n{ROUTER_TOKEN},{ROUTER_USER},2,\"system:authenticated\"\n");
    std::fs::write(folder.join("service-account.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("service-account.pub"), key.public_key_pem()).unwrap();
    std::fs::write(folder.join("tokens.csv"), tokens).unwrap();
}

fn run(mut command: Command, log: &Path) -> Program {
    let log = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let started = command.spawn();
    Program(started.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display())))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
