//! The router process: how the launcher starts it, and what runs in it. Both are this one program.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use weirgate_router::RouterConfig;

use crate::error::LauncherError;
use crate::supervise::Service;

/// First argument of the router process.
pub const ROUTER_COMMAND: &str = "router";

const PROCESS_NAME: &std::ffi::CStr = c"weirgate-router";
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// glibc's bound in bytes from which memory is mapped, and so given back when it is freed. Left to itself glibc raises it
/// to 32 MiB as a model is loaded, and keeps 30 MB that were needed for a moment.
const MMAP_THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1048576");

/// Starts router processes with the same settings each time.
pub struct RouterService {
    executable: PathBuf,
    settings: Vec<u8>,
    health: SocketAddr,
}

impl RouterService {
    /// # Errors
    /// [`LauncherError::OwnExecutable`], [`LauncherError::Settings`].
    pub fn new(config: &RouterConfig) -> Result<Self, LauncherError> {
        Ok(Self {
            executable: own_executable()?,
            settings: serde_json::to_vec(config)?,
            health: reachable(config.listen),
        })
    }
}

/// The very file that runs now, even when another was installed in its place since.
fn own_executable() -> Result<PathBuf, LauncherError> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() {
        return Ok(running);
    }
    std::env::current_exe().map_err(LauncherError::OwnExecutable)
}

impl Service for RouterService {
    fn spawn(&mut self) -> io::Result<Child> {
        let (name, bytes) = MMAP_THRESHOLD;
        let threshold = std::env::var_os(name).unwrap_or_else(|| bytes.into());
        let mut child = Command::new(&self.executable)
            .env(name, threshold)
            .arg0("weirgate-router")
            .arg(ROUTER_COMMAND)
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the launcher alone, which passes it on.
            .process_group(0)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A child that ended before reading is noticed by whoever waits for it.
            let _ = stdin.write_all(&self.settings);
        }
        Ok(child)
    }

    fn is_ready(&mut self) -> bool {
        answers_healthy(self.health).unwrap_or(false)
    }
}

/// The address under which a server listening on `listen` is reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Whether `GET /health` answers 200.
fn answers_healthy(address: SocketAddr) -> io::Result<bool> {
    const EXPECTED: &[u8] = b"HTTP/1.1 200";
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_TIMEOUT))?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; EXPECTED.len()];
    stream.read_exact(&mut start)?;
    Ok(start == EXPECTED)
}

/// The router process: settings as JSON on stdin, exit status 0 after an orderly end and 1 after an error.
pub fn run_router(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match start_router(arguments.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_router(launcher: Option<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    rustix::thread::set_name(PROCESS_NAME)?;
    die_with(launcher)?;
    let config: RouterConfig = serde_json::from_reader(io::stdin().lock()).map_err(|error| {
        format!("settings on stdin: {error}; `weirgate` starts this command, people do not")
    })?;
    weirgate_router::run(config)?;
    Ok(())
}

/// Ends this process when its launcher ends in whatever way, so that no orphan keeps the port.
fn die_with(launcher: Option<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let parent = getppid().map(Pid::as_raw_nonzero).map(|pid| pid.to_string());
    // The launcher may have ended before the line above took effect.
    if launcher.is_some() && launcher != parent.map(OsString::from) {
        return Err("the launcher ended".into());
    }
    Ok(())
}
