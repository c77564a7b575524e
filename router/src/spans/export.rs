//! Sends spans to the collector in batches.

use std::io;
use std::time::{Duration, Instant};

use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use url::Url;

/// The most spans in one message.
const BATCH: usize = 512;

/// How long a span may wait for others.
const DELAY: Duration = Duration::from_secs(1);

/// How long the collector may take; then the batch is lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two warnings that spans are lost.
const LOG_INTERVAL: Duration = Duration::from_secs(600);

/// Exports what comes out of `spans` to the collector at `endpoint`, until nobody can send any more.
pub fn start(endpoint: &str, spans: mpsc::Receiver<SpanData>) -> io::Result<JoinHandle<()>> {
    let url = traces_url(endpoint).map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    let exporter = SpanExporter::builder().with_http().with_endpoint(url.as_str()).with_timeout(TIMEOUT).build();
    let mut exporter = exporter
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("--otlp-endpoint {endpoint}: {error}")))?;
    exporter.set_resource(&Resource::builder().with_service_name("radixfleet-router").build());
    Ok(tokio::spawn(export(exporter, spans, url)))
}

/// Where the collector takes traces: `/v1/traces`, where the option names no path.
pub fn traces_url(endpoint: &str) -> Result<Url, String> {
    let mut url = Url::parse(endpoint).map_err(|error| format!("--otlp-endpoint {endpoint}: {error}"))?;
    if url.scheme() != "http" || !url.has_host() {
        return Err(format!("--otlp-endpoint {endpoint}: expected http://HOST:PORT (OTLP over HTTP, such as :4318)"));
    }
    if url.path() == "/" {
        url.set_path("/v1/traces");
    }
    Ok(url)
}

async fn export(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, url: Url) {
    let mut lost_since: Option<Instant> = None;
    loop {
        let mut batch = Vec::new();
        if spans.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        let more = async { while batch.len() < BATCH && spans.recv_many(&mut batch, BATCH).await > 0 {} };
        // Not all that fits came in time: what did is sent.
        let _ = timeout(DELAY, more).await;
        match timeout(TIMEOUT, exporter.export(batch)).await.map_err(|_| "no answer in time".to_owned()) {
            Ok(Ok(())) => {
                if lost_since.take().is_some() {
                    info!(%url, "spans are exported again");
                }
            }
            Ok(Err(error)) => lost(&mut lost_since, &url, &error.to_string()),
            Err(reason) => lost(&mut lost_since, &url, &reason),
        }
        if lost_since.is_some() {
            sleep(DELAY).await;
        }
    }
}

fn lost(since: &mut Option<Instant>, url: &Url, reason: &str) {
    if since.is_none_or(|told| told.elapsed() >= LOG_INTERVAL) {
        warn!(%url, reason, "spans are lost: the collector does not take them");
        *since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_is_a_collectors() {
        assert_eq!(traces_url("http://collector:4318").unwrap().as_str(), "http://collector:4318/v1/traces");
        assert_eq!(traces_url("http://collector/custom").unwrap().as_str(), "http://collector/custom");
        for endpoint in ["collector:4318", "https://collector", "grpc://collector:4317", "", "/v1/traces"] {
            assert!(traces_url(endpoint).unwrap_err().starts_with("--otlp-endpoint "), "{endpoint}");
        }
    }
}
