//! Compiled kernels on disk, so that NVRTC runs once per binary, chip and driver.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a cached file was made from.
#[derive(Hash)]
pub(super) struct Key<'a> {
    pub source: &'a str,
    /// Names and texts of the headers, in order.
    pub headers: Vec<(&'a str, &'a str)>,
    /// Such as `sm_90a`.
    pub target: &'a str,
    /// NVRTC's version, and the driver's.
    pub compiler: (u32, u32),
    pub driver: (u32, u32),
}

/// A folder of compiled kernels; what is damaged counts as absent.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, name: &str, key: &Key<'_>) -> PathBuf {
        self.folder.join(format!("{name}-{:016x}.cubin", hash(key)))
    }

    pub fn get(&self, name: &str, key: &Key<'_>) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(name, key)).ok()?;
        let body = bytes.len().checked_sub(8)?;
        let sum = bytes.split_off(body);
        (sum == hash(&bytes).to_le_bytes()).then_some(bytes)
    }

    /// Written beside its place and renamed, so that readers never see half of it.
    pub fn put(&self, name: &str, key: &Key<'_>, code: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.path(name, key);
        let draft = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::File::create(&draft)?;
        file.write_all(code)?;
        file.write_all(&hash(&code).to_le_bytes())?;
        drop(file);
        fs::rename(draft, path)
    }
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &'static str, driver: (u32, u32)) -> Key<'static> {
        Key { source, headers: vec![("a.cuh", "text")], target: "sm_90a", compiler: (13, 0), driver }
    }

    #[test]
    fn what_was_put_comes_back_only_under_its_key_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("below"));
        let (mine, other) = (key("one", (13, 0)), key("one", (13, 1)));
        assert_eq!(cache.get("k", &mine), None);
        cache.put("k", &mine, b"code").unwrap();
        assert_eq!(cache.get("k", &mine).as_deref(), Some(b"code".as_slice()));
        assert_eq!(cache.get("k", &other), None);
        assert_eq!(cache.get("k", &key("two", (13, 0))), None);
        let path = cache.path("k", &mine);
        let whole = fs::read(&path).unwrap();
        for damaged in [&whole[..whole.len() - 1], &whole[..3], b"" as &[u8]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.get("k", &mine), None);
        }
    }
}
