//! Access to the Kubernetes API: from a kubeconfig, or with the service account of the pod that the router runs in.

use std::error::Error;
use std::io;

use kube::config::KubeConfigOptions;
use kube::{Client, Config};

/// A client of the cluster that `$KUBECONFIG`, `~/.kube/config` or the pod's service account names, in this order. Connects to
/// nothing yet: an error says that none of them can be used.
pub async fn connect() -> io::Result<Client> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(kubeconfig) => Config::incluster().map_err(|in_cluster| {
            unusable(&format!("{}; and no service account of a pod: {}", reason(&kubeconfig), reason(&in_cluster)))
        })?,
    };
    // Whoever watches tries again at a pace of its own.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| unusable(&reason(&error)))
}

fn unusable(reason: &str) -> io::Error {
    let text = format!("--service-discovery: no way to the Kubernetes API: {reason}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// What went wrong, in one line, with the causes that say something new.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
        return format!("{} (status {})", status.message, status.code);
    }
    let mut text = first_line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = first_line(error);
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

fn first_line(error: &dyn Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
