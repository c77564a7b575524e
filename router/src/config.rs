//! Every option of the router, once: clap for the command line, serde for Python, validated in one place.

mod validation;

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy;
use crate::secret::Secret;

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

    /// Failures in a row (no connection, time-outs, 500, 502) that open a worker's circuit breaker: it gets no requests
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
mod tests;
