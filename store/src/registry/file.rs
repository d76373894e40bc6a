//! A file from an address into a folder: what a `model.json` names.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ureq::http::{Method, StatusCode, header};
use weirgate_hub::http::{header_text, without_query};
use weirgate_models::Gguf;

use super::RegistryError;
use super::client::{Call, Registry};
use super::progress::Shared;
use crate::StoreError;
use crate::entry::Progress;
use crate::jan::partial;
use crate::layout::gguf::is_part;
use crate::own::{free_space, sync_folder, write_error};

const BUFFER_BYTES: usize = 1 << 20;
/// After the first interruption; each further one without progress doubles it.
const PAUSE: Duration = Duration::from_millis(250);

/// What is to be fetched.
pub(super) struct Wanted<'a> {
    pub url: &'a str,
    /// What it is called in the folder.
    pub name: &'a str,
    pub folder: &'a Path,
    /// Bytes; what is larger is not taken.
    pub limit: u64,
}

impl Wanted<'_> {
    /// Fetches the file, from where an earlier try was cut off; it takes its name once it is whole and a model.
    ///
    /// # Errors
    /// [`RegistryError`]s, [`StoreError::TooLarge`], [`StoreError::DiskFull`], [`StoreError::Canceled`].
    pub fn fetch(&self, registry: &Registry, shared: &Shared) -> Result<(), StoreError> {
        let url = page_to_file(self.url);
        let (path, mut file) = partial(self.folder, self.name).map_err(self.io(0))?;
        let mut line: Option<Arc<AtomicU64>> = None;
        let mut failures = 0;
        loop {
            let before = file.metadata().map_err(self.io(0))?.len();
            let tried = self.go_on(registry, &url, &mut file, (shared, &mut line));
            let error = match tried {
                Ok(()) => break,
                Err(error) => error,
            };
            let outage = matches!(&error, StoreError::Registry(error) if error.is_outage());
            let came = file.metadata().map_err(self.io(0))?.len() > before;
            failures = if came { 1 } else { failures + 1 };
            if !outage || failures >= registry.settings.tries {
                return Err(error);
            }
            shared.check()?;
            std::thread::sleep(PAUSE * 2u32.pow(failures.min(6)));
        }
        file.sync_all().map_err(self.io(0))?;
        if let Err(error) = self.check(&path) {
            tracing::warn!("{url}: {error}");
            let _ = fs::remove_file(&path);
            return Err(StoreError::invalid("what came is not in GGUF format, or is damaged"));
        }
        fs::rename(&path, self.folder.join(self.name)).map_err(self.io(0))?;
        sync_folder(self.folder).map_err(self.io(0))
    }

    /// That a whole file is in GGUF format; of a part, which cannot be read without the others, how it begins.
    fn check(&self, path: &Path) -> Result<(), String> {
        if !is_part(self.name) {
            return Gguf::open(path).map(|_| ()).map_err(|error| error.to_string());
        }
        let mut magic = [0; 4];
        let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        match read {
            Ok(()) if magic == *b"GGUF" => Ok(()),
            Ok(()) => Err(format!("begins with {magic:?}, not with GGUF")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn io(&self, needed: u64) -> impl Fn(std::io::Error) -> StoreError {
        let (folder, what) = (self.folder.to_owned(), format!("the file {}", self.name));
        move |error| write_error(&folder, &what, needed)(error)
    }

    /// Fetches what is missing at the end of `file`.
    fn go_on(
        &self,
        registry: &Registry,
        url: &str,
        file: &mut File,
        (shared, line): (&Shared, &mut Option<Arc<AtomicU64>>),
    ) -> Result<(), StoreError> {
        let here = file.metadata().map_err(self.io(0))?.len();
        let mut call = Call::new(Method::GET);
        if here > 0 {
            call = call.with(header::RANGE, format!("bytes={here}-"));
        }
        let mut response = registry.file(url, &call)?;
        let length =
            header_text(response.headers(), "content-length").and_then(|text| text.parse::<u64>().ok());
        let goes_on = header_text(response.headers(), "content-range")
            .is_some_and(|range| range.starts_with(&format!("bytes {here}-")));
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if goes_on => here,
            StatusCode::OK => 0,
            // All of it is here, or it is another file by now.
            StatusCode::RANGE_NOT_SATISFIABLE if here > 0 => {
                let whole = header_text(response.headers(), "content-range");
                if whole == Some(format!("bytes */{here}").as_str()) {
                    return Ok(());
                }
                file.set_len(0).map_err(self.io(0))?;
                return Err(interrupted(url, "the file has changed"));
            }
            status => {
                return Err(RegistryError::Status { url: without_query(url), status: status.as_u16() }.into());
            }
        };
        if start < here {
            file.set_len(start).map_err(self.io(0))?;
        }
        let total = length.map_or(0, |length| start.saturating_add(length));
        self.check_size(total, start)?;
        let completed: &AtomicU64 = line.get_or_insert_with(|| {
            let status = format!("pulling {}", self.name);
            shared.add(Progress { status, total, ..Progress::default() })
        });
        completed.store(start, Ordering::Relaxed);
        self.copy(&mut response.body_mut().as_reader(), file, (shared, completed), (start, url))?;
        match file.metadata().map_err(self.io(0))?.len() {
            at if total > 0 && at < total => Err(interrupted(url, "the connection ended early")),
            _ => Ok(()),
        }
    }

    fn check_size(&self, total: u64, here: u64) -> Result<(), StoreError> {
        if total > self.limit {
            return Err(StoreError::TooLarge { what: format!("the file {}", self.name), limit: self.limit });
        }
        let needed = total.saturating_sub(here);
        match free_space(self.folder) {
            Some(free) if needed > free => Err(StoreError::DiskFull { needed, free }),
            _ => Ok(()),
        }
    }

    fn copy(
        &self,
        body: &mut dyn Read,
        file: &mut File,
        (shared, completed): (&Shared, &AtomicU64),
        (start, url): (u64, &str),
    ) -> Result<(), StoreError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut at = start;
        loop {
            shared.check()?;
            let n = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) => return Err(interrupted(url, &error.to_string())),
            };
            at = at.saturating_add(n as u64);
            if at > self.limit {
                return Err(StoreError::TooLarge {
                    what: format!("the file {}", self.name),
                    limit: self.limit,
                });
            }
            file.write_all(buffer.get(..n).unwrap_or_default()).map_err(self.io(n as u64))?;
            completed.store(at, Ordering::Relaxed);
        }
    }
}

fn interrupted(url: &str, problem: &str) -> StoreError {
    RegistryError::Unreachable { url: without_query(url), problem: problem.to_owned() }.into()
}

/// The hub's addresses of files as its pages show them are those of pages about the files.
fn page_to_file(url: &str) -> String {
    let hub = ["https://huggingface.co/", "https://hf.co/"].iter().any(|hub| url.starts_with(hub));
    if hub { url.replacen("/blob/", "/resolve/", 1) } else { url.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Jan's documentation.
    #[test]
    fn pages_of_the_hub_stand_for_their_files() {
        let page = "https://huggingface.co/TheBloke/zephyr-7B-beta-GGUF/blob/main/zephyr-7b-beta.Q4_K_M.gguf";
        let file =
            "https://huggingface.co/TheBloke/zephyr-7B-beta-GGUF/resolve/main/zephyr-7b-beta.Q4_K_M.gguf";
        assert_eq!(page_to_file(page), file);
        assert_eq!(page_to_file(file), file);
        assert_eq!(page_to_file("https://x.example/blob/a.gguf"), "https://x.example/blob/a.gguf");
    }

    /// Parts cannot be read without each other, nor under the name that they have while they come.
    #[test]
    fn parts_are_known_by_how_they_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf.download");
        let check = |name: &str, bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            Wanted { url: "", name, folder: folder.path(), limit: 0 }.check(&path).is_ok()
        };
        assert!(check("m-00001-of-00002.gguf", b"GGUF, more or less"));
        assert!(!check("m-00001-of-00002.gguf", b"<html>"));
        assert!(!check("m-00001-of-00002.gguf", b"GG"));
        assert!(!check("m.gguf", b"GGUF, more or less"));
    }
}
