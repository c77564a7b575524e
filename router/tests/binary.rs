//! The static binary, as a process.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_radixfleet-router"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn help_shows_every_option_under_its_heading() {
    let Output { status, stdout, stderr } = binary().arg("--help").output().unwrap();
    assert!(status.success() && stderr.is_empty());
    for option in radixfleet_router::config::options() {
        assert!(text(&stdout).contains(&format!("--{}", option.name)), "{}", option.name);
        assert!(text(&stdout).contains(&format!("{}:", option.group)), "{}", option.group);
    }
}

#[test]
fn a_bad_option_is_told_and_exits_with_2() {
    let Output { status, stdout, stderr } = binary().args(["--max-tree-size", "0"]).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(stdout.is_empty());
    assert!(text(&stderr).starts_with("error: --max-tree-size 0: must be at least 1\n"), "{}", text(&stderr));
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, expected) in [
        (
            ["--prometheus-port", "0", "--port", &port],
            format!(
                "cannot listen on 127.0.0.1:{port}: the port is taken by another program; choose another one with --port"
            ),
        ),
        (
            ["--port", "0", "--prometheus-port", &port],
            format!(
                "cannot serve metrics on 127.0.0.1:{port}: the port is taken by another program; choose another one with \
                 --prometheus-port, or 0 for no metrics"
            ),
        ),
    ] {
        let Output { status, stdout, stderr } = binary().args(args).output().unwrap();
        assert_eq!((status.code(), text(&stdout)), (Some(1), ""));
        assert_eq!(text(&stderr), format!("error: {expected}\n"));
    }
}

#[test]
fn signals_end_it_with_exit_code_0() {
    for signal in ["-INT", "-TERM"] {
        let arguments = ["--port", "0", "--prometheus-port", "0", "--log-format", "json"];
        let mut router = binary().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(router.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("Router is ready at http://127.0.0.1:"), "{ready}");
        let killed = Command::new("kill").args([signal, &router.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let status = router.wait().unwrap();
        let mut log = String::new();
        router.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(status.success(), "{signal}: {status}; {log}");
        let entries: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages: Vec<&str> = entries.iter().map(|entry| entry["message"].as_str().unwrap()).collect();
        assert_eq!(messages, ["router listens", "router stopped"]);
    }
}
