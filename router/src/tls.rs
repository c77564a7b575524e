//! TLS towards clients: the certificate, taken anew when its files change, and the handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{info, warn};

use crate::config::{RouterConfig, seconds};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What clients are shown, and how they are let in.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
}

impl Tls {
    /// With the certificate of `config`, and the task that reloads it; `None` without one.
    pub fn start(config: &RouterConfig) -> io::Result<Option<(Self, JoinHandle<()>)>> {
        let (Some(certificate), Some(key)) = (&config.tls_cert_path, &config.tls_key_path) else { return Ok(None) };
        let paths = Paths { certificate: certificate.into(), key: key.into() };
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        let files = paths.read().map_err(invalid)?;
        let current = Arc::new(Current(ArcSwap::from_pointee(files.parse(&paths).map_err(invalid)?)));
        let mut server = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let reloading = tokio::spawn(reload(current, paths, files));
        Ok(Some((Self { acceptor, handshake_timeout: seconds(config.header_timeout_secs) }, reloading)))
    }

    /// An error is a client that went away, was too slow, or does not speak TLS.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        tokio::time::timeout(self.handshake_timeout, self.acceptor.accept(stream)).await?
    }
}

/// The certificate that the next handshake shows.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Looks at the files for ever. What cannot be used is told once, and changes nothing.
async fn reload(current: Arc<Current>, paths: Paths, files: Files) {
    let mut seen = Ok(files);
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let read = {
            let paths = paths.clone();
            // Files may lie on a file system that takes its time.
            tokio::task::spawn_blocking(move || paths.read()).await.unwrap_or_else(|error| Err(error.to_string()))
        };
        if read == seen {
            continue;
        }
        match read.as_ref().map_err(Clone::clone).and_then(|files| files.parse(&paths)) {
            Ok(certified) => {
                current.0.store(Arc::new(certified));
                info!(path = %paths.certificate.display(), "certificate reloaded");
            }
            Err(reason) => warn!(reason, "new certificate cannot be used; the one before stays"),
        }
        seen = read;
    }
}

#[derive(Clone)]
struct Paths {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the files hold, in PEM.
#[derive(PartialEq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Paths {
    fn read(&self) -> Result<Files, String> {
        let read = |option: &str, path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("{option} {}: {error}", path.display()))
        };
        Ok(Files { certificate: read("--tls-cert-path", &self.certificate)?, key: read("--tls-key-path", &self.key)? })
    }
}

impl Files {
    /// The chain with its key; an error if they do not belong together.
    fn parse(&self, paths: &Paths) -> Result<CertifiedKey, String> {
        let certificate = |reason: String| format!("--tls-cert-path {}: {reason}", paths.certificate.display());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| certificate(error.to_string()))?;
        if chain.is_empty() {
            return Err(certificate("no certificate in it; expected a chain in PEM".to_owned()));
        }
        let wrong_key = |reason: String| format!("--tls-key-path {}: {reason}", paths.key.display());
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| wrong_key(format!("no private key in PEM that can be read: {error}")))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| wrong_key(format!("cannot be used with the certificate: {error}")))
    }
}
