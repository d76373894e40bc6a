//! What a bug report needs to know about the machine.

use std::fmt::Write;
use std::process::Command;

/// One item a line, for people.
pub fn describe() -> String {
    let mut text = String::from("Runtime environment:\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {value}");
    };
    line("Weirgate version", env!("CARGO_PKG_VERSION"));
    line("Commit sha", option_env!("WEIRGATE_COMMIT").unwrap_or("N/A"));
    line("Target", &format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));
    line("Docker label", option_env!("DOCKER_LABEL").unwrap_or("N/A"));
    line("Processor", proc_field("/proc/cpuinfo", "model name").as_deref().unwrap_or("N/A"));
    line(
        "Processors usable",
        &std::thread::available_parallelism().map_or_else(|_| "N/A".to_owned(), |n| n.to_string()),
    );
    line("Memory", proc_field("/proc/meminfo", "MemTotal").as_deref().unwrap_or("N/A"));
    line("Memory available", proc_field("/proc/meminfo", "MemAvailable").as_deref().unwrap_or("N/A"));
    line("nvidia-smi", &nvidia_smi().unwrap_or_else(|| "N/A".to_owned()));
    text
}

/// The value of the first `name: value` line of a file under /proc.
fn proc_field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn nvidia_smi() -> Option<String> {
    let output = Command::new("nvidia-smi").output().ok().filter(|output| output.status.success())?;
    Some(format!("\n{}", String::from_utf8_lossy(&output.stdout).trim_end()))
}
