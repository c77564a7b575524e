//! Options from the command line and from JSON: defaults, errors, descriptions.

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
    assert_eq!(policy.choices.as_deref(), Some(&policy::names().into_iter().map(String::from).collect::<Vec<_>>()[..]));
    assert_eq!(policy.default.as_deref(), Some("cache_aware"));
    let urls = options.iter().find(|option| option.name == "worker-urls").unwrap();
    assert!(urls.multiple && urls.takes_value && urls.default.is_none());
}
