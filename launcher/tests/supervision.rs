//! Launcher and router together, on the demo model: crashes, termination, orphans.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Only to end a test that would otherwise wait for ever.
const PATIENCE: Duration = Duration::from_secs(60);

struct Launcher {
    process: Child,
    port: u16,
}

impl Launcher {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(env!("CARGO_BIN_EXE_weirgate"))
            .env_clear()
            .env("HOME", "/nowhere")
            .envs(variables.iter().copied())
            .args(["--hostname", "127.0.0.1", "--port", &port.to_string(), "--threads", "1"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port }
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200")
    }

    fn until_healthy(&self) {
        until("the server answers", || self.is_healthy());
    }

    /// The router's process.
    fn router(&self) -> Option<Pid> {
        let launcher = self.process.id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the launcher ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited for long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Gone, or dead and not yet waited for by whoever inherited it.
fn is_gone(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(process).is_err() || stat.rsplit(')').next().is_some_and(|s| s.trim().starts_with('Z'))
}

#[test]
fn a_killed_router_is_replaced() {
    let launcher = Launcher::start(&[]);
    launcher.until_healthy();
    let first = launcher.router().unwrap();
    let name = fs::read_to_string(format!("/proc/{}/comm", first.as_raw_nonzero())).unwrap();
    assert_eq!(name.trim(), "weirgate-router");
    kill_process(first, Signal::KILL).unwrap();
    until("another router", || launcher.router().is_some_and(|router| router != first));
    launcher.until_healthy();
}

#[test]
fn termination_ends_both_with_status_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut launcher = Launcher::start(&[]);
        launcher.until_healthy();
        let router = launcher.router().unwrap();
        launcher.signal(signal);
        assert_eq!(launcher.wait().code(), Some(0), "{signal:?}");
        assert!(is_gone(router));
        assert!(!launcher.is_healthy());
    }
}

#[test]
fn no_router_outlives_a_killed_launcher() {
    let mut launcher = Launcher::start(&[]);
    launcher.until_healthy();
    let router = launcher.router().unwrap();
    launcher.signal(Signal::KILL);
    launcher.wait();
    until("the router ends", || is_gone(router));
}

#[test]
fn a_stalled_router_is_replaced() {
    let launcher = Launcher::start(&["--watchdog-timeout", "1", "--fault-stall-after-steps", "3"]);
    launcher.until_healthy();
    let first = launcher.router().unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", launcher.port)).unwrap();
    let body = r#"{"inputs":"Once upon a time","parameters":{"max_new_tokens":20}}"#;
    let length = body.len();
    write!(client, "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .unwrap();
    until("another router", || launcher.router().is_some_and(|router| router != first));
    launcher.until_healthy();
}

#[test]
fn a_download_can_be_interrupted() {
    // Accepts and never answers.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let variables = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HOME", cache.path().to_str().unwrap())];
    let mut launcher = Launcher::start_with(&["--model-id", "org/name"], &variables);
    let _connection = hub.accept().unwrap();
    launcher.signal(Signal::TERM);
    assert_eq!(launcher.wait().code(), Some(128 + 15));
}
