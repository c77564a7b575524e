//! The static binary, as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_radixfleet-router"))
}

fn spawn(arguments: &[&str]) -> Child {
    binary().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
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
        let mut router = spawn(&arguments);
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
        assert_eq!(messages, ["router listens", "shutting down", "router stopped"]);
    }
}

/// The address of a worker that is healthy, and begins every other answer without ending it.
fn endless_worker() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let (mut stream, mut asked) = (stream.unwrap(), [0; 4096]);
            let length = stream.read(&mut asked).unwrap();
            let answer: &[u8] = if text(&asked[..length]).starts_with("GET ") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n"
            };
            // A router that is gone already wants no answer.
            let _ = stream.write_all(answer);
            open.push(stream);
        }
    });
    address
}

fn busy_router(grace: &str) -> Child {
    spawn(&[
        "--port",
        "0",
        "--prometheus-port",
        "0",
        "--worker-urls",
        &endless_worker(),
        "--shutdown-grace-secs",
        grace,
    ])
}

/// A client that reads an answer of `router`, which does not end.
fn reader_of(router: &mut Child) -> TcpStream {
    let mut ready = String::new();
    BufReader::new(router.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let address = ready.split_whitespace().find_map(|word| word.strip_prefix("http://")).unwrap();
    loop {
        // Until the worker has answered the first probe, the router says that there is none.
        let (mut client, mut status) = (TcpStream::connect(address).unwrap(), [0; 12]);
        client.write_all(b"POST /generate HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        client.read_exact(&mut status).unwrap();
        if &status == b"HTTP/1.1 200" {
            return client;
        }
    }
}

#[test]
fn sigterm_waits_for_answers_and_a_second_one_does_not() {
    let mut router = busy_router("3600");
    let _client = reader_of(&mut router);
    let pid = router.id().to_string();
    let terminate = || assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    terminate();
    let mut log = BufReader::new(router.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("shutting down")));
    assert!(router.try_wait().unwrap().is_none(), "the answer goes on");
    terminate();
    assert_eq!(router.wait().unwrap().code(), Some(143));
}

#[test]
fn sigterm_drops_answers_after_the_grace() {
    let mut router = busy_router("0");
    let mut client = reader_of(&mut router);
    assert!(Command::new("kill").args(["-TERM", &router.id().to_string()]).status().unwrap().success());
    assert!(router.wait().unwrap().success());
    let mut rest = String::new();
    // Closed or reset: in both cases there is no last chunk that says the answer were complete.
    let _ = client.read_to_string(&mut rest);
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
}
