//! What an option's type alone cannot say about its value, and what options mean once that holds.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use super::RouterConfig;
use crate::fleet::WorkerUrl;
use crate::policy;
use crate::spans;

impl RouterConfig {
    /// What types alone cannot say. The error names the option, its value and what it should be.
    pub fn validate(&self) -> Result<(), String> {
        if !policy::names().contains(&self.policy.as_str()) {
            let known = policy::names().join(", ");
            return Err(format!("--policy {}: unknown; choose from {known}", self.policy));
        }
        if !(0.0..=1.0).contains(&self.cache_threshold) {
            return Err(format!("--cache-threshold {}: must be between 0 and 1", self.cache_threshold));
        }
        if !(self.balance_rel_threshold.is_finite() && self.balance_rel_threshold >= 1.0) {
            return Err(format!("--balance-rel-threshold {}: must be at least 1", self.balance_rel_threshold));
        }
        if !(self.consistent_hash_load_factor.is_finite() && self.consistent_hash_load_factor >= 1.0) {
            return Err(format!(
                "--consistent-hash-load-factor {}: must be at least 1",
                self.consistent_hash_load_factor
            ));
        }
        if let Err(error) = HeaderName::try_from(&self.consistent_hash_header) {
            return Err(format!("--consistent-hash-header \"{}\": {error}", self.consistent_hash_header));
        }
        for (name, seconds) in [
            ("worker-startup-timeout-secs", self.worker_startup_timeout_secs),
            ("health-check-interval-secs", self.health_check_interval_secs),
            ("health-check-timeout-secs", self.health_check_timeout_secs),
            ("health-check-max-backoff-secs", self.health_check_max_backoff_secs),
            ("eviction-interval", self.eviction_interval),
            ("connect-timeout-secs", self.connect_timeout_secs),
            ("request-timeout-secs", self.request_timeout_secs),
            ("queue-timeout-secs", self.queue_timeout_secs),
            ("header-timeout-secs", self.header_timeout_secs),
            ("body-timeout-secs", self.body_timeout_secs),
            ("idle-timeout-secs", self.idle_timeout_secs),
            ("worker-ttfb-timeout-secs", self.worker_ttfb_timeout_secs),
            ("drain-timeout-secs", self.drain_timeout_secs),
            ("load-poll-interval-secs", self.load_poll_interval_secs),
            ("cb-timeout-duration-secs", self.cb_timeout_duration_secs),
            ("cb-window-duration-secs", self.cb_window_duration_secs),
        ] {
            if !(seconds > 0.0 && seconds <= 1e9) {
                return Err(format!("--{name} {seconds}: must be a number of seconds above 0"));
            }
        }
        for (name, count) in [
            ("max-payload-size", self.max_payload_size),
            ("max-tree-size", self.max_tree_size),
            ("max-worker-retries", self.max_worker_retries as usize),
            ("health-failure-threshold", self.health_failure_threshold as usize),
            ("health-success-threshold", self.health_success_threshold as usize),
            ("cb-failure-threshold", self.cb_failure_threshold as usize),
            ("cb-success-threshold", self.cb_success_threshold as usize),
        ] {
            if count == 0 {
                return Err(format!("--{name} 0: must be at least 1"));
            }
        }
        if !(0.0..=1e9).contains(&self.shutdown_grace_secs) {
            return Err(format!("--shutdown-grace-secs {}: must be a number of seconds", self.shutdown_grace_secs));
        }
        if self.tls_cert_path.is_some() != self.tls_key_path.is_some() {
            return Err("--tls-cert-path and --tls-key-path belong together: give both or none".to_owned());
        }
        self.validate_keys()?;
        self.validate_discovery()?;
        self.otlp_endpoint.as_deref().map(spans::traces_url).transpose()?;
        if !(0.0..=1e9).contains(&self.stream_idle_timeout_secs) {
            return Err(format!(
                "--stream-idle-timeout-secs {}: must be 0 or more seconds",
                self.stream_idle_timeout_secs
            ));
        }
        if self.health_check_endpoint.parse::<PathAndQuery>().is_err() || !self.health_check_endpoint.starts_with('/') {
            return Err(format!(
                "--health-check-endpoint {}: must be a path such as /health",
                self.health_check_endpoint
            ));
        }
        self.urls().map(drop)
    }

    /// Keys that no request could carry are mistakes; the error does not show them.
    fn validate_keys(&self) -> Result<(), String> {
        let clients = self.api_key.iter().map(|key| ("api-key", key));
        let admin = self.admin_api_key.iter().map(|key| ("admin-api-key", key));
        let worker = self.worker_api_key.iter().map(|key| ("worker-api-key", key));
        match clients.chain(admin).chain(worker).find(|(_, key)| !key.is_sendable()) {
            Some((name, _)) => Err(format!("--{name}: a key is one or more visible ASCII characters without blanks")),
            None => Ok(()),
        }
    }

    /// The `Authorization` header of everything that is sent to workers, if the router has a key for them.
    pub fn worker_authorization(&self) -> Option<HeaderValue> {
        let key = self.worker_api_key.as_ref()?;
        let bearer = format!("Bearer {}", key.reveal());
        let mut value = HeaderValue::from_str(&bearer).expect("validated: the key can stand in a header");
        value.set_sensitive(true);
        Some(value)
    }

    fn validate_discovery(&self) -> Result<(), String> {
        self.label_selector()?;
        match (self.service_discovery, self.selector.is_empty()) {
            (true, true) => return Err("--service-discovery needs --selector, such as app=worker".to_owned()),
            (false, false) => return Err("--selector is of no use without --service-discovery".to_owned()),
            _ => {}
        }
        if self.service_discovery_port == 0 {
            return Err("--service-discovery-port 0: must be at least 1".to_owned());
        }
        match &self.service_discovery_namespace {
            Some(name) if !is_label(name) => {
                Err(format!("--service-discovery-namespace {name}: not a name of a namespace"))
            }
            _ => Ok(()),
        }
    }

    /// `--selector` as the Kubernetes API takes it; an error for what cannot be the label of a pod.
    pub fn label_selector(&self) -> Result<String, String> {
        let labels = self.selector.iter().flat_map(|text| text.split([',', ' '])).filter(|label| !label.is_empty());
        let labels: Vec<&str> = labels.collect();
        for label in &labels {
            let valid = label.split_once('=').is_some_and(|(key, value)| {
                let (prefix, name) = key.split_once('/').unwrap_or(("prefix", key));
                is_label(name)
                    && !prefix.is_empty()
                    && prefix.split('.').all(is_label)
                    && (value.is_empty() || is_label(value))
            });
            if !valid {
                return Err(format!("--selector {label}: expected KEY=VALUE, such as app=worker"));
            }
        }
        Ok(labels.join(","))
    }

    /// The workers of `--worker-urls`, normalised; an invalid or repeated one is an error.
    pub fn urls(&self) -> Result<Vec<WorkerUrl>, String> {
        let mut urls: Vec<WorkerUrl> = Vec::with_capacity(self.worker_urls.len());
        for text in &self.worker_urls {
            let url = WorkerUrl::parse(text).map_err(|reason| format!("--worker-urls: {reason}"))?;
            if urls.contains(&url) {
                return Err(format!("--worker-urls: {url} is given twice"));
            }
            urls.push(url);
        }
        Ok(urls)
    }
}

/// A Kubernetes name or label: letters, digits, and inside also `-`, `_` and `.`; at most 63.
fn is_label(text: &str) -> bool {
    let outside = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && outside(bytes.first()) && outside(bytes.last()) && bytes.iter().all(inside)
}
