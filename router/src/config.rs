//! Every option of the router, once: clap for the command line, serde for Python, validated in one place.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, Serialize};

use crate::fleet::WorkerUrl;
use crate::policy;
use crate::secret::Secret;
use crate::spans;

/// Options of the router. Field names are the long options with underscores; a missing key takes the option's default.
#[derive(Clone, Debug, PartialEq, Parser, Serialize, Deserialize)]
#[command(
    version,
    about = "Route LLM requests to the worker that will answer soonest",
    after_help = "Workers can also be added while the router runs: POST /add_worker?url=http://HOST:PORT"
)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = LISTENING)]
    pub host: String,

    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 30000, help_heading = LISTENING)]
    pub port: u16,

    /// Largest request body that is accepted, in bytes; a larger one is answered with 413
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, help_heading = LISTENING)]
    pub max_payload_size: usize,

    /// Threads that serve requests; 0 takes one for each CPU
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = LISTENING)]
    pub threads: usize,

    /// How long a client may take for a request's head from its first byte on, and for a TLS handshake
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, help_heading = LISTENING)]
    pub header_timeout_secs: f64,

    /// Longest pause of a client within a request's body; then it gets 408
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, help_heading = LISTENING)]
    pub body_timeout_secs: f64,

    /// How long a client's connection may be idle between two requests; then it is closed
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, help_heading = LISTENING)]
    pub idle_timeout_secs: f64,

    /// How long answers in progress may go on after SIGTERM (1 s after Ctrl-C); a second signal ends the router at once
    #[arg(long, value_name = "SECONDS", default_value_t = 25.0, help_heading = LISTENING)]
    pub shutdown_grace_secs: f64,

    /// Requests that may run at the same time on all workers together; 0 for no limit
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = ADMISSION)]
    pub max_concurrent_requests: usize,

    /// Requests that may wait while --max-concurrent-requests are running; one more is answered with 429
    #[arg(long, value_name = "COUNT", default_value_t = 100, help_heading = ADMISSION)]
    pub queue_size: usize,

    /// How long a request may wait for others to end; then it is answered with 429
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, help_heading = ADMISSION)]
    pub queue_timeout_secs: f64,

    /// Key that clients must send as "Authorization: Bearer KEY"; may be repeated, any of the keys will do
    #[arg(long, value_name = "KEY", env = "RADIXFLEET_API_KEY", hide_env_values = true, value_delimiter = ',', help_heading = SECURITY)]
    #[serde(deserialize_with = "one_or_many")]
    pub api_key: Vec<Secret>,

    /// Key for the routes that change the fleet (/workers, /add_worker, /flush_cache, …); without it --api-key guards them
    #[arg(long, value_name = "KEY", env = "RADIXFLEET_ADMIN_API_KEY", hide_env_values = true, help_heading = SECURITY)]
    pub admin_api_key: Option<Secret>,

    /// Key that the router sends to workers, in place of the client's
    #[arg(long, value_name = "KEY", env = "RADIXFLEET_WORKER_API_KEY", hide_env_values = true, help_heading = SECURITY)]
    pub worker_api_key: Option<Secret>,

    /// Certificate chain (PEM) to serve HTTPS with; read again when it changes
    #[arg(long, value_name = "PATH", requires = "tls_key_path", help_heading = SECURITY)]
    pub tls_cert_path: Option<String>,

    /// Private key (PEM) of the certificate; read again when it changes
    #[arg(long, value_name = "PATH", requires = "tls_cert_path", help_heading = SECURITY)]
    pub tls_key_path: Option<String>,

    /// Workers to route to, such as http://10.0.0.1:30001; they may come up later than the router
    #[arg(long, value_name = "URL", num_args = 0.., help_heading = WORKERS)]
    pub worker_urls: Vec<String>,

    /// How long /add_worker waits for the new worker's /health
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, help_heading = WORKERS)]
    pub worker_startup_timeout_secs: f64,

    /// How long the requests of a removed worker may take to end; the rest is dropped, streams with an error event
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, help_heading = WORKERS)]
    pub drain_timeout_secs: f64,

    /// Path that says whether a worker is well, by answering 200
    #[arg(long, value_name = "PATH", default_value = "/health", help_heading = WORKERS)]
    pub health_check_endpoint: String,

    /// Pause between two checks of a healthy worker
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, help_heading = WORKERS)]
    pub health_check_interval_secs: f64,

    /// How long a worker may take to answer a check
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, help_heading = WORKERS)]
    pub health_check_timeout_secs: f64,

    /// Failed checks in a row that make a healthy worker unhealthy; a refused connection always does
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = WORKERS)]
    pub health_failure_threshold: u32,

    /// Passed checks in a row that make an unhealthy worker healthy; more for one that comes and goes
    #[arg(long, value_name = "COUNT", default_value_t = 2, help_heading = WORKERS)]
    pub health_success_threshold: u32,

    /// Longest pause between two checks of a worker that is not healthy; the first is 0.1 s, then it doubles
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, help_heading = WORKERS)]
    pub health_check_max_backoff_secs: f64,

    /// Pause between two looks at the load that a worker itself reports, where it has /get_load
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, help_heading = WORKERS)]
    pub load_poll_interval_secs: f64,

    /// Who decides which worker takes a request
    #[arg(long, value_parser = PossibleValuesParser::new(policy::names()), default_value = "cache_aware", help_heading = ROUTING)]
    pub policy: String,

    /// cache_aware: share of a prompt (0 to 1) that a worker must probably hold to be chosen for it
    #[arg(long, value_name = "RATIO", default_value_t = 0.5, help_heading = ROUTING)]
    pub cache_threshold: f64,

    /// cache_aware: the fleet is imbalanced when max load - min load is above this, and the relative threshold is passed too
    #[arg(long, value_name = "REQUESTS", default_value_t = 32, help_heading = ROUTING)]
    pub balance_abs_threshold: usize,

    /// cache_aware: the fleet is imbalanced when max load > this * min load, and the absolute threshold is passed too
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0001, help_heading = ROUTING)]
    pub balance_rel_threshold: f64,

    /// consistent_hash: request header whose value keeps a client's requests on one worker; it wins over the body field
    #[arg(long, value_name = "NAME", default_value = "x-session-id", help_heading = ROUTING)]
    pub consistent_hash_header: String,

    /// consistent_hash: field at the top of the body with the same effect; without either, the prompt's first 1,024 bytes decide
    #[arg(long, value_name = "NAME", default_value = "user", help_heading = ROUTING)]
    pub consistent_hash_field: String,

    /// consistent_hash: a worker with this many times the mean number of running requests is passed over
    #[arg(long, value_name = "FACTOR", default_value_t = 1.25, help_heading = ROUTING)]
    pub consistent_hash_load_factor: f64,

    /// Pause between two cycles of the prefix index's housekeeping, which gives the memory of evicted prompts back
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, help_heading = ROUTING)]
    pub eviction_interval: f64,

    /// Most that the prefix index notes about one worker's cache, in bytes of prompt text plus 128 for each of its pieces; the memory it takes is less
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 24, help_heading = ROUTING)]
    pub max_tree_size: usize,

    /// Attempts of one request on one worker; made only while no other worker can take the request
    #[arg(long, value_name = "COUNT", default_value_t = 3, help_heading = FAILURES)]
    pub max_worker_retries: u32,

    /// Retries of one request in all
    #[arg(long, value_name = "COUNT", default_value_t = 6, help_heading = FAILURES)]
    pub max_total_retries: u32,

    /// How long opening a connection to a worker may take
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, help_heading = FAILURES)]
    pub connect_timeout_secs: f64,

    /// How long a request may wait until its answer begins, all its attempts together; then the client gets 504
    #[arg(long, value_name = "SECONDS", default_value_t = 1800.0, help_heading = FAILURES)]
    pub request_timeout_secs: f64,

    /// How long one worker may take until it begins to answer a request; then another one is asked. Must allow for the longest prompt, and for
    /// the longest answer that is not streamed. Workers that hang are found much earlier, by comparison with the others
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, help_heading = FAILURES)]
    pub worker_ttfb_timeout_secs: f64,

    /// How long an answer that has begun may pause; then it ends, a stream with an error event. 0 for as long as it likes
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, help_heading = FAILURES)]
    pub stream_idle_timeout_secs: f64,

    /// Never keep requests from a worker because earlier ones failed there
    #[arg(long, help_heading = FAILURES)]
    pub disable_circuit_breaker: bool,

    /// Failures in a row (no connection, time-outs, 500, 502, 504) that open a worker's circuit breaker: it gets no requests
    #[arg(long, value_name = "COUNT", default_value_t = 5, help_heading = FAILURES)]
    pub cb_failure_threshold: u32,

    /// Requests in a row that must succeed, one at a time, to close a circuit breaker that is half-open
    #[arg(long, value_name = "COUNT", default_value_t = 2, help_heading = FAILURES)]
    pub cb_success_threshold: u32,

    /// How long a circuit breaker stays open before it is half-open
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, help_heading = FAILURES)]
    pub cb_timeout_duration_secs: f64,

    /// Failures that do not all come within this time do not open a circuit breaker
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, help_heading = FAILURES)]
    pub cb_window_duration_secs: f64,

    /// Take the ready pods of a Kubernetes cluster as workers; needs --selector, and get, list and watch on pods
    #[arg(long, help_heading = KUBERNETES)]
    pub service_discovery: bool,

    /// Labels that the pods of workers have, all of them: app=worker role=chat, or app=worker,role=chat
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_delimiter = ',', help_heading = KUBERNETES)]
    pub selector: Vec<String>,

    /// Port that the workers in the pods listen on
    #[arg(long, value_name = "PORT", default_value_t = 80, help_heading = KUBERNETES)]
    pub service_discovery_port: u16,

    /// Namespace of the pods; without it those of all namespaces, which takes a ClusterRole instead of a Role
    #[arg(long, value_name = "NAME", help_heading = KUBERNETES)]
    pub service_discovery_namespace: Option<String>,

    /// Address on which Prometheus finds GET /metrics; 0.0.0.0 for every interface
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = OBSERVING)]
    pub prometheus_host: String,

    /// Port on which Prometheus finds GET /metrics; 0 for no metrics
    #[arg(long, value_name = "PORT", default_value_t = 29000, help_heading = OBSERVING)]
    pub prometheus_port: u16,

    /// Collector that gets a span for each request by OTLP over HTTP, such as http://127.0.0.1:4318
    #[arg(long, value_name = "URL", help_heading = OBSERVING)]
    pub otlp_endpoint: Option<String>,

    /// Least important messages that are logged; debug has one line a request
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info, help_heading = LOGGING)]
    pub log_level: LogLevel,

    /// Form of log lines on stderr
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = LOGGING)]
    pub log_format: LogFormat,
}

const LISTENING: &str = "Listening";
const ADMISSION: &str = "Admission";
const SECURITY: &str = "Authentication and TLS";
const WORKERS: &str = "Workers";
const ROUTING: &str = "Routing";
const FAILURES: &str = "Failures";
const KUBERNETES: &str = "Kubernetes";
const OBSERVING: &str = "Metrics and traces";
const LOGGING: &str = "Logging";

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self::parse_from(["radixfleet-router"])
    }
}

impl RouterConfig {
    /// Parses and validates a command line (without the program's name, which is `program`).
    /// The error is clap's: `--help` and `--version` too are "errors" that print to stdout.
    pub fn from_args(program: &str, args: &[String]) -> Result<Self, clap::Error> {
        let mut command = Self::command().name(program.to_owned()).bin_name(program);
        let argv = std::iter::once(program.to_owned()).chain(args.iter().cloned());
        let matches = command.try_get_matches_from_mut(argv)?;
        let config = Self::from_arg_matches(&matches)?;
        match config.validate() {
            Ok(()) => Ok(config),
            Err(reason) => Err(command.error(clap::error::ErrorKind::ValueValidation, reason)),
        }
    }

    /// Parses and validates a JSON object of options; unknown keys are refused.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let config: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let reason = error.inner().to_string();
            // The position within JSON that a program wrote helps nobody.
            let reason = reason.split(" at line ").next().unwrap_or_default();
            match error.path().to_string().as_str() {
                path if path == "." || reason.starts_with("unknown field") => {
                    format!("invalid router configuration: {reason}")
                }
                path => format!("--{}: {reason}", path.replace('_', "-")),
            }
        })?;
        config.validate()?;
        Ok(config)
    }

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

/// A list, or its only element without brackets.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a string or a list of strings")]
    enum OneOrMany {
        One(Secret),
        Many(Vec<Secret>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// A Kubernetes name or label: letters, digits, and inside also `-`, `_` and `.`; at most 63.
fn is_label(text: &str) -> bool {
    let outside = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && outside(bytes.first()) && outside(bytes.last()) && bytes.iter().all(inside)
}

/// An option in seconds as a duration; `validate` has bounded it.
pub fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

/// What another program needs to know about one option to offer it under a name of its own.
#[derive(Debug, Serialize)]
pub struct OptionDescription {
    /// Long name without dashes in front, such as `cache-threshold`.
    pub name: String,
    pub help: String,
    /// Heading under which `--help` shows it.
    pub group: String,
    pub default: Option<String>,
    pub value_name: Option<String>,
    pub choices: Option<Vec<String>>,
    pub takes_value: bool,
    pub multiple: bool,
}

/// All options, in the order of `--help`; `--help` and `--version` themselves left out.
pub fn options() -> Vec<OptionDescription> {
    let mut command = RouterConfig::command();
    command.build();
    let described = command.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"));
    described
        .map(|arg| {
            let choices: Vec<String> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
            let default: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
            OptionDescription {
                name: arg.get_long().expect("every option has a long name").to_owned(),
                help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
                group: arg.get_help_heading().unwrap_or_default().to_owned(),
                default: (!default.is_empty()).then(|| default.join(" ")),
                value_name: arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string),
                choices: (!choices.is_empty()).then_some(choices),
                takes_value: arg.get_action().takes_values(),
                multiple: arg.get_num_args().is_some_and(|range| range.max_values() > 1),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<RouterConfig, String> {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        RouterConfig::from_args("launch_router", &args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_defaults() {
        let config = RouterConfig::default();
        assert_eq!(config.policy, "cache_aware");
        assert_eq!(config.cache_threshold, 0.5);
        assert_eq!(config.balance_abs_threshold, 32);
        assert_eq!(config.balance_rel_threshold, 1.0001);
        assert_eq!(config.eviction_interval, 60.0);
        assert_eq!(config.max_tree_size, 16_777_216);
        assert_eq!((config.max_worker_retries, config.max_total_retries), (3, 6));
        assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 30000));
        assert_eq!(config.worker_startup_timeout_secs, 300.0);
    }

    #[test]
    fn the_command_line_and_json_say_the_same() {
        let config = parse(&["--worker-urls", "http://a:1", "b:2", "--policy", "random", "--port", "0"]).unwrap();
        assert_eq!(config.worker_urls, ["http://a:1", "b:2"]);
        let json = r#"{"worker_urls": ["http://a:1", "b:2"], "policy": "random", "port": 0}"#;
        assert_eq!(RouterConfig::from_json(json).unwrap(), config);
        let round_trip = serde_json::to_string(&config).unwrap();
        assert_eq!(RouterConfig::from_json(&round_trip).unwrap(), config);
    }

    #[test]
    fn bad_values_are_refused_with_option_value_and_advice() {
        for (args, expected) in [
            (vec!["--cache-threshold", "1.5"], "--cache-threshold 1.5: must be between 0 and 1"),
            (vec!["--cache-threshold", "NaN"], "--cache-threshold NaN: must be between 0 and 1"),
            (vec!["--balance-rel-threshold", "0.5"], "--balance-rel-threshold 0.5: must be at least 1"),
            (vec!["--consistent-hash-load-factor", "0.9"], "--consistent-hash-load-factor 0.9: must be at least 1"),
            (vec!["--consistent-hash-header", "a b"], "--consistent-hash-header \"a b\": invalid HTTP header name"),
            (vec!["--eviction-interval", "0"], "--eviction-interval 0: must be a number of seconds above 0"),
            (vec!["--max-tree-size", "0"], "--max-tree-size 0: must be at least 1"),
            (vec!["--worker-urls", "https://a:1"], "https"),
            (vec!["--worker-urls", "a:1", "http://A:1/"], "http://a:1 is given twice"),
            (
                vec!["--policy", "best"],
                "possible values: expected_cost, cache_aware, consistent_hash, least_load, power_of_two, round_robin, random",
            ),
            (vec!["--port", "70000"], "70000 is not in 0..=65535"),
        ] {
            let error = parse(&args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
        let error = RouterConfig::from_json(r#"{"polcy": "random"}"#).unwrap_err();
        assert!(error.contains("unknown field `polcy`"), "{error}");
        for (json, expected) in [
            (r#"{"port": "x"}"#, "--port: invalid type: string \"x\", expected u16"),
            (r#"{"port": 70000}"#, "--port: invalid value: integer `70000`, expected u16"),
            (r#"{"worker_urls": "a:1"}"#, "--worker-urls: invalid type: string \"a:1\", expected a sequence"),
            (r#"{"worker_urls": ["a:1", 2]}"#, "--worker-urls[1]: invalid type: integer `2`, expected a string"),
            (r#"{"log_level": "loud"}"#, "--log-level: unknown variant `loud`, expected one of"),
            (r#"{"api_key": 7}"#, "--api-key: expected a string or a list of strings"),
            ("[", "invalid router configuration: EOF"),
        ] {
            let error = RouterConfig::from_json(json).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
        let error = RouterConfig::from_json(r#"{"policy": "best"}"#).unwrap_err();
        assert_eq!(
            error,
            "--policy best: unknown; choose from expected_cost, cache_aware, consistent_hash, least_load, power_of_two, round_robin, random"
        );
    }

    #[test]
    fn keys_are_taken_and_not_shown() {
        let config = parse(&["--api-key", "one", "--api-key", "two", "--worker-api-key", "w"]).unwrap();
        assert_eq!(config.api_key, [Secret::from("one"), Secret::from("two")]);
        assert_eq!(RouterConfig::from_json(r#"{"api_key": "one"}"#).unwrap().api_key, [Secret::from("one")]);
        assert_eq!(config.worker_authorization().unwrap(), "Bearer w");
        assert!(!format!("{config:?}").contains("two"));
        for name in ["api-key", "admin-api-key", "worker-api-key"] {
            let error = parse(&[&format!("--{name}"), "top secret"]).unwrap_err();
            assert!(error.contains(&format!("--{name}: a key is one or more visible ASCII characters")), "{error}");
            assert!(!error.contains("top"), "{error}");
        }
    }

    #[test]
    fn selectors_are_lists_of_labels() {
        for args in [&["app=worker", "example.com/role=chat"][..], &["app=worker,example.com/role=chat"]] {
            let config = parse(&[&["--service-discovery", "--selector"], args].concat()).unwrap();
            assert_eq!(config.label_selector().unwrap(), "app=worker,example.com/role=chat");
        }
        let json = r#"{"service_discovery": true, "selector": ["app=worker role="]}"#;
        assert_eq!(RouterConfig::from_json(json).unwrap().label_selector().unwrap(), "app=worker,role=");
        for (args, expected) in [
            (&["--service-discovery"][..], "--service-discovery needs --selector"),
            (&["--selector", "app=worker"], "--selector is of no use without --service-discovery"),
            (&["--service-discovery", "--selector", "app"], "--selector app: expected KEY=VALUE"),
            (&["--service-discovery", "--selector", "=x"], "--selector =x: expected KEY=VALUE"),
            (&["--service-discovery", "--selector", "a=b!"], "--selector a=b!: expected KEY=VALUE"),
            (&["--service-discovery-port", "0"], "--service-discovery-port 0: must be at least 1"),
            (&["--service-discovery-namespace", "a/b"], "--service-discovery-namespace a/b: not a name"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }

    #[test]
    fn every_option_is_described_under_a_heading() {
        let options = options();
        let fields = serde_json::to_value(RouterConfig::default()).unwrap();
        let mut names: Vec<String> = options.iter().map(|option| option.name.replace('-', "_")).collect();
        names.sort();
        let mut keys: Vec<String> = fields.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(names, keys);
        assert!(options.iter().all(|option| !option.group.is_empty() && !option.help.is_empty()));
        let policy = options.iter().find(|option| option.name == "policy").unwrap();
        assert_eq!(
            policy.choices.as_deref(),
            Some(&policy::names().into_iter().map(String::from).collect::<Vec<_>>()[..])
        );
        assert_eq!(policy.default.as_deref(), Some("cache_aware"));
        let urls = options.iter().find(|option| option.name == "worker-urls").unwrap();
        assert!(urls.multiple && urls.takes_value && urls.default.is_none());
    }
}
