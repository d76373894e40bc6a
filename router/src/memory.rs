//! How much memory this process may still take.

use std::fs;
use std::path::Path;

use weirgate_engine::CudaDevice;

/// Whose memory a model is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Gpu,
}

/// What is known of memory where models are loaded.
pub(crate) trait Memory: Send + Sync {
    /// Bytes that may still be taken; `None` where nobody knows.
    fn free_bytes(&self) -> Option<u64>;

    /// Bytes that are taken, by which loads are measured.
    fn taken_bytes(&self) -> u64;
}

/// That of a GPU, of which this process may have a share.
pub(crate) struct GpuMemory {
    pub device: CudaDevice,
    /// 0 to 1.
    pub fraction: f32,
}

impl Memory for GpuMemory {
    fn free_bytes(&self) -> Option<u64> {
        let memory = self.device.memory_info().ok()?;
        let allowed = (memory.total as f64 * f64::from(self.fraction)) as usize;
        let used = memory.total.saturating_sub(memory.free);
        Some(allowed.saturating_sub(used).min(memory.free) as u64)
    }

    fn taken_bytes(&self) -> u64 {
        self.device.memory_info().map_or(0, |memory| memory.total.saturating_sub(memory.free) as u64)
    }
}

/// That of this machine.
pub(crate) struct Machine;

impl Memory for Machine {
    fn free_bytes(&self) -> Option<u64> {
        free_bytes()
    }

    fn taken_bytes(&self) -> u64 {
        own_bytes()
    }
}

/// Bytes: what the machine has available, or what the control group leaves, whichever is less. `None` where neither
/// can be read.
pub(crate) fn free_bytes() -> Option<u64> {
    let machine = available(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let group = group_free(Path::new("/sys/fs/cgroup"));
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (machine, group) => machine.or(group),
    }
}

/// Bytes of its own that this process has in memory; files that it maps are the system's to drop. 0 where it cannot be
/// read.
pub(crate) fn own_bytes() -> u64 {
    kibibytes(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "RssAnon:").unwrap_or(0)
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemAvailable:")
}

/// What the system says in KiB, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit of the control group at `root` less its usage; file pages that can be dropped are not counted as used.
fn group_free(root: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(root.join(name)).ok()?.trim().parse::<u64>().ok();
    let v1 = "memory/memory.limit_in_bytes";
    let (limit, used, stat, key) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, "memory.stat", "inactive_file "),
        None => (
            number(v1)?,
            number("memory/memory.usage_in_bytes")?,
            "memory/memory.stat",
            "total_inactive_file ",
        ),
    };
    let stat = fs::read_to_string(root.join(stat)).unwrap_or_default();
    let droppable =
        stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        assert_eq!(available("MemTotal:  9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn what_is_written_to_is_this_processs_own() {
        let before = own_bytes();
        let taken = std::hint::black_box(vec![1u8; 256 << 20]);
        // Other tests take and give back at the same time.
        assert!(before > 0 && own_bytes() >= before + (128 << 20));
        drop(taken);
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(group_free(root.path()), None);
        write("memory/memory.limit_in_bytes", "1000\n");
        write("memory/memory.usage_in_bytes", "900\n");
        assert_eq!(group_free(root.path()), Some(100));
        write("memory.max", "500\n");
        write("memory.current", "450\n");
        write("memory.stat", "anon 1\ninactive_file 200\n");
        assert_eq!(group_free(root.path()), Some(250));
        write("memory.max", "max\n");
        write("memory/memory.usage_in_bytes", "1100\n");
        assert_eq!(group_free(root.path()), Some(0));
    }
}
