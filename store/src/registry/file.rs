//! A file from an address into a folder: what a `model.json` names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ureq::http::{HeaderMap, Method, StatusCode, header};
use weirgate_hub::http::{header_text, without_query};
use weirgate_models::Gguf;

use super::RegistryError;
use super::client::{Call, Registry};
use super::parts::is_same;
use super::progress::Shared;
use crate::StoreError;
use crate::details::read_limited;
use crate::entry::Progress;
use crate::layout::gguf::is_part;
use crate::layout::jan::DOWNLOAD;
use crate::own::{free_space, sync_folder, write_error};

const BUFFER_BYTES: usize = 1 << 20;
/// After the first interruption; each further one without progress doubles it.
const PAUSE: Duration = Duration::from_millis(250);

/// No validator is longer, in bytes.
const MAX_VALIDATOR: u64 = 1000;

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
        let whole = self.folder.join(self.name);
        let Some(partial) = Partial::open(self.folder, self.name).map_err(self.io(0))? else { return Ok(()) };
        let mut line: Option<Arc<AtomicU64>> = None;
        let mut failures = 0;
        let mut furthest = partial.length().map_err(self.io(0))?;
        loop {
            let tried = self.go_on(registry, &url, &partial, (shared, &mut line));
            let error = match tried {
                Ok(()) => break,
                Err(error) => error,
            };
            let outage = matches!(&error, StoreError::Registry(error) if error.is_outage());
            let length = partial.length().map_err(self.io(0))?;
            failures = if length > furthest { 1 } else { failures + 1 };
            furthest = furthest.max(length);
            if !outage || failures >= registry.settings.tries {
                return Err(error);
            }
            shared.check()?;
            std::thread::sleep(PAUSE * 2u32.pow(failures.min(6)));
        }
        partial.file.sync_all().map_err(self.io(0))?;
        if let Err(error) = self.check(&partial.path) {
            tracing::warn!("{url}: {error}");
            partial.remove();
            return Err(StoreError::invalid("what came is not in GGUF format, or is damaged"));
        }
        fs::rename(&partial.path, whole).map_err(self.io(0))?;
        partial.remove();
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

    fn io(&self, needed: u64) -> impl Fn(io::Error) -> StoreError {
        let (folder, what) = (self.folder.to_owned(), format!("the file {}", self.name));
        move |error| write_error(&folder, &what, needed)(error)
    }

    /// Fetches what is missing of the file.
    fn go_on(
        &self,
        registry: &Registry,
        url: &str,
        partial: &Partial,
        (shared, line): (&Shared, &mut Option<Arc<AtomicU64>>),
    ) -> Result<(), StoreError> {
        let here = partial.length().map_err(self.io(0))?;
        let known = partial.validator().filter(|_| here > 0);
        let mut call = Call::new(Method::GET);
        if let Some(known) = &known {
            call = call.with(header::RANGE, format!("bytes={here}-")).with(header::IF_RANGE, known);
        }
        let mut response = registry.file(url, &call)?;
        let headers = response.headers();
        let length = header_text(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
        let range = header_text(headers, "content-range").unwrap_or_default();
        let same = known.as_ref().is_some_and(|known| is_of(headers, known));
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT if same && range.starts_with(&format!("bytes {here}-")) => here,
            StatusCode::OK => 0,
            StatusCode::RANGE_NOT_SATISFIABLE if same && range == format!("bytes */{here}") => return Ok(()),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if known.is_some() => {
                partial.begin(None).map_err(self.io(0))?;
                return Err(interrupted(url, "the file has changed"));
            }
            status => {
                return Err(RegistryError::Status { url: without_query(url), status: status.as_u16() }.into());
            }
        };
        if start == 0 {
            partial.begin(validator(headers)).map_err(self.io(0))?;
        }
        let total = length.map_or(0, |length| start.saturating_add(length));
        self.check_size(total, start)?;
        let completed: &AtomicU64 = line.get_or_insert_with(|| {
            let status = format!("pulling {}", self.name);
            shared.add(Progress { status, total, ..Progress::default() })
        });
        completed.store(start, Ordering::Relaxed);
        self.copy(&mut response.body_mut().as_reader(), &partial.file, (shared, completed), (start, url))?;
        match partial.length().map_err(self.io(0))? {
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
        mut file: &File,
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

/// A file on its way, and beside it what tells its content from other content at the same address. One process has it
/// at a time.
struct Partial {
    file: File,
    path: PathBuf,
    validator: PathBuf,
}

impl Partial {
    /// Opens what an earlier try left, at its end, once no other process has it; `None` if that brought the file.
    fn open(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = folder.join(format!("{name}{DOWNLOAD}"));
        let validator = folder.join(format!("{name}.etag{DOWNLOAD}"));
        loop {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.lock()?;
            if !is_same(&file, &path) {
                continue;
            }
            let partial = Self { file, path, validator };
            if folder.join(name).is_file() {
                partial.remove();
                return Ok(None);
            }
            return Ok(Some(partial));
        }
    }

    /// Bytes that are here.
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn validator(&self) -> Option<String> {
        let text = String::from_utf8(read_limited(&self.validator, MAX_VALIDATOR)?).ok()?;
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')).then_some(text)
    }

    /// Empties the file for content that `validator` is of. Without one it cannot be gone on with.
    fn begin(&self, validator: Option<&str>) -> io::Result<()> {
        if self.length()? > 0 {
            self.file.set_len(0)?;
            // What was here must not be taken for the new content, whenever the power goes.
            self.file.sync_all()?;
        }
        match validator {
            Some(validator) => fs::write(&self.validator, validator),
            None => fs::remove_file(&self.validator).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        }
    }

    /// Leaves nothing of it under the names that it has while it comes.
    fn remove(&self) {
        for path in [&self.path, &self.validator] {
            let _ = fs::remove_file(path);
        }
    }
}

/// What tells the content of an answer from other content at its address (RFC 9110, 13.1.5): a strong tag, or else the
/// time of the last change, unless that is now.
fn validator(headers: &HeaderMap) -> Option<&str> {
    let date =
        header_text(headers, "last-modified").filter(|date| header_text(headers, "date") != Some(*date));
    let validator = match header_text(headers, "etag") {
        Some(tag) => Some(tag).filter(|tag| tag.starts_with('"')),
        None => date,
    };
    validator.filter(|text| text.len() as u64 <= MAX_VALIDATOR)
}

/// Whether an answer is of the content that `known` is of, as far as it says.
fn is_of(headers: &HeaderMap, known: &str) -> bool {
    let name = if known.starts_with('"') { "etag" } else { "last-modified" };
    header_text(headers, name).is_none_or(|now| now == known)
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
