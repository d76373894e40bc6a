//! One blob in parts: `blobs/sha256-…-partial` is filled from several connections, `…-partial.json` says how far each
//! part is. Both outlive a crash; a later pull goes on from there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ureq::http::{Method, StatusCode, header};
use weirgate_hub::http::header_text;

use super::RegistryError;
use super::client::{Call, Session};
use super::progress::Shared;
use crate::StoreError;
use crate::details::read_limited;
use crate::layout::ollama::OllamaRoot;
use crate::manifest::Layer;
use crate::name::Digest;
use crate::own::{sync_folder, write_error};

const BUFFER_BYTES: usize = 256 << 10;
/// Buffers that are hashed for one that is received: enough to catch up, and few enough to go on receiving.
const STEPS: usize = 4;
const MAX_STATE_BYTES: u64 = 1 << 20;
/// How many parts a blob is cut into, where they are neither too small nor too large.
const PARTS: u64 = 16;
const SAVE_EVERY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A stretch of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    offset: u64,
    size: u64,
    completed: u64,
}

/// A blob on its way.
struct Partial {
    file: File,
    path: PathBuf,
    state: PathBuf,
    parts: Vec<(Part, AtomicU64)>,
    saved: Mutex<Instant>,
    front: Mutex<Front>,
}

/// The hash of what lies in one piece from the beginning. Parts come in any order and hashes are made in one, so content
/// is hashed as that piece grows, out of the file that was just written.
struct Front {
    hash: Sha256,
    at: u64,
    buffer: Vec<u8>,
}

impl Front {
    fn new() -> Self {
        Self { hash: Sha256::new(), at: 0, buffer: vec![0; BUFFER_BYTES] }
    }

    /// Takes in a buffer of `file`, which is whole up to `end`. False where nothing is left.
    fn step(&mut self, file: &File, end: u64) -> io::Result<bool> {
        let want = usize::try_from(end.saturating_sub(self.at)).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
        let n = file.read_at(self.buffer.get_mut(..want).unwrap_or_default(), self.at)?;
        self.hash.update(self.buffer.get(..n).unwrap_or_default());
        self.at += n as u64;
        Ok(n > 0)
    }
}

/// Brings the content of `layer` here.
///
/// # Errors
/// [`RegistryError::DigestMismatch`], [`RegistryError::GivenUp`], [`StoreError::DiskFull`], [`StoreError::Canceled`].
pub(super) fn download(
    session: &Session<'_>,
    root: &OllamaRoot,
    layer: &Layer,
    shared: &Shared,
) -> Result<(), StoreError> {
    let completed = shared.content("pulling", &layer.digest, layer.size);
    let done = |size: u64| completed.store(size, Ordering::Relaxed);
    let Some(partial) = Partial::open(root, layer, session.registry.settings.part_bytes)? else {
        done(layer.size);
        return Ok(());
    };
    done(partial.completed());
    let outcome = partial.fill(session, layer, shared, &completed);
    partial.save().map_err(partial.io(layer))?;
    outcome?;
    partial.finish(root, layer)
}

impl Partial {
    /// Goes on with what an earlier pull left; `None` if the blob is here. Waits for a pull of the same in another
    /// process.
    fn open(root: &OllamaRoot, layer: &Layer, part_bytes: (u64, u64)) -> Result<Option<Self>, StoreError> {
        let what = || format!("blob {}", layer.digest);
        let path = root.blobs().join(format!("{}-partial", layer.digest.file_name()));
        let state = path.with_extension("json");
        loop {
            let options = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
            let file = options.map_err(StoreError::io(what()))?;
            file.lock().map_err(StoreError::io(what()))?;
            if root.blob(&layer.digest).is_some_and(|(_, size)| size == layer.size) {
                if is_same(&file, &path) {
                    let _ = fs::remove_file(&path);
                }
                return Ok(None);
            }
            // Whoever had it before may have moved or removed it.
            if !is_same(&file, &path) {
                continue;
            }
            let length = file.metadata().map_err(StoreError::io(what()))?.len();
            let known =
                read_limited(&state, MAX_STATE_BYTES).and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let parts = match known.filter(|parts: &Vec<Part>| is_sound(parts, layer.size, length)) {
                Some(parts) => parts,
                None => split(layer.size, part_bytes),
            };
            let parts = parts.into_iter().map(|part| (part, AtomicU64::new(part.completed))).collect();
            let (saved, front) = (Mutex::new(Instant::now()), Mutex::new(Front::new()));
            return Ok(Some(Self { file, path, state, parts, saved, front }));
        }
    }

    fn completed(&self) -> u64 {
        self.parts.iter().map(|(_, completed)| completed.load(Ordering::Relaxed)).sum()
    }

    /// How far the content is whole from its beginning.
    fn contiguous(&self) -> u64 {
        let mut end = 0;
        for (part, completed) in &self.parts {
            let completed = completed.load(Ordering::Acquire);
            end = part.offset + completed;
            if completed < part.size {
                break;
            }
        }
        end
    }

    /// Hashes a little of what has come, unless another connection does.
    fn advance(&self) -> io::Result<()> {
        let Ok(mut front) = self.front.try_lock() else { return Ok(()) };
        let end = self.contiguous();
        for _ in 0..STEPS {
            if !front.step(&self.file, end)? {
                break;
            }
        }
        Ok(())
    }

    fn io(&self, layer: &Layer) -> impl Fn(io::Error) -> StoreError {
        let (folder, what, size) = (self.path.clone(), format!("blob {}", layer.digest), layer.size);
        move |error| write_error(folder.parent().unwrap_or(&folder), &what, size)(error)
    }

    /// Fetches what is missing, over several connections.
    fn fill(
        &self,
        session: &Session<'_>,
        layer: &Layer,
        shared: &Shared,
        total: &AtomicU64,
    ) -> Result<(), StoreError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure: Mutex<Option<StoreError>> = Mutex::new(None);
        let fetch = Fetch { partial: self, session, layer, shared, total, stop: &stop };
        std::thread::scope(|scope| {
            for _ in 0..session.registry.settings.connections.clamp(1, self.parts.len().max(1)) {
                scope.spawn(|| {
                    while let Some((part, completed)) = self.parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = fetch.part(part, completed) {
                            // Before the others stop, so that theirs is not the error that is told.
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            stop.store(true, Ordering::Relaxed);
                            return;
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes down how far the parts are, after what they say is on disk.
    fn save(&self) -> io::Result<()> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let now = |(part, completed): &(Part, AtomicU64)| Part {
            completed: completed.load(Ordering::Relaxed),
            ..*part
        };
        let parts: Vec<Part> = self.parts.iter().map(now).collect();
        self.file.sync_data()?;
        let temporary = self.state.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(&parts)?)?;
        fs::rename(&temporary, &self.state)?;
        *saved = Instant::now();
        Ok(())
    }

    fn save_now_and_then(&self) -> io::Result<()> {
        let due = match self.saved.try_lock() {
            Ok(saved) => saved.elapsed() >= SAVE_EVERY,
            Err(_) => false,
        };
        if due { self.save() } else { Ok(()) }
    }

    /// The hash of all there is, of `size` bytes at most.
    fn hashed(&self, size: u64) -> io::Result<Front> {
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        while front.step(&self.file, size)? {}
        Ok(std::mem::replace(&mut *front, Front::new()))
    }

    /// Checks the whole and gives it its name.
    fn finish(self, root: &OllamaRoot, layer: &Layer) -> Result<(), StoreError> {
        let failed = self.io(layer);
        let Front { hash, .. } = self.hashed(layer.size).map_err(&failed)?;
        let got = Digest::finish(hash);
        if got != layer.digest {
            let _ = fs::remove_file(&self.state);
            let _ = fs::remove_file(&self.path);
            return Err(RegistryError::DigestMismatch { want: layer.digest, got }.into());
        }
        self.file.set_len(layer.size).and_then(|()| self.file.sync_all()).map_err(&failed)?;
        fs::rename(&self.path, root.blob_path(&layer.digest)).map_err(&failed)?;
        let _ = fs::remove_file(&self.state);
        sync_folder(&root.blobs()).map_err(&failed)
    }
}

/// Whether the open file still is what its name means.
pub(super) fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => open.ino() == named.ino() && open.dev() == named.dev(),
        _ => false,
    }
}

/// Whether the parts make up the whole, and the file has what they say.
fn is_sound(parts: &[Part], size: u64, length: u64) -> bool {
    let mut end = 0u64;
    for part in parts {
        let fits = part.offset == end && part.size > 0 && part.completed <= part.size;
        let here = part.completed == 0 || part.offset.saturating_add(part.completed) <= length;
        match end.checked_add(part.size) {
            Some(next) if fits && here => end = next,
            _ => return false,
        }
    }
    end == size
}

fn split(size: u64, (least, most): (u64, u64)) -> Vec<Part> {
    let step = (size / PARTS).clamp(least.max(1), most.max(least).max(1));
    let offsets = (0..size.div_ceil(step)).map(|index| index * step);
    offsets.map(|offset| Part { offset, size: step.min(size - offset), completed: 0 }).collect()
}

/// What all connections of one download share.
struct Fetch<'a> {
    partial: &'a Partial,
    session: &'a Session<'a>,
    layer: &'a Layer,
    shared: &'a Shared,
    total: &'a AtomicU64,
    stop: &'a AtomicBool,
}

impl Fetch<'_> {
    /// Fetches one part, over as many connections as it takes.
    fn part(&self, part: &Part, completed: &AtomicU64) -> Result<(), StoreError> {
        let mut fruitless = 0;
        let mut pause = FIRST_PAUSE;
        while completed.load(Ordering::Relaxed) < part.size {
            let before = completed.load(Ordering::Relaxed);
            match self.connection(part, completed) {
                Err(StoreError::Registry(error)) if error.is_outage() => {
                    tracing::debug!("{}: {error}", self.layer.digest);
                }
                other => other?,
            }
            if completed.load(Ordering::Relaxed) > before {
                fruitless = 0;
                pause = FIRST_PAUSE;
                continue;
            }
            fruitless += 1;
            if fruitless >= self.session.registry.settings.tries {
                return Err(RegistryError::GivenUp { digest: self.layer.digest }.into());
            }
            self.wait(pause)?;
            pause *= 2;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        self.shared.check()?;
        if self.stop.load(Ordering::Relaxed) { Err(StoreError::Canceled) } else { Ok(()) }
    }

    fn wait(&self, pause: Duration) -> Result<(), StoreError> {
        let end = Instant::now() + pause;
        while Instant::now() < end {
            self.check()?;
            std::thread::sleep(Duration::from_millis(50).min(pause));
        }
        Ok(())
    }

    /// Reads one connection to its end, or to the part's.
    fn connection(&self, part: &Part, completed: &AtomicU64) -> Result<(), StoreError> {
        self.check()?;
        let from = part.offset + completed.load(Ordering::Relaxed);
        let last = part.offset + part.size - 1;
        let url = self.session.blob_url(&self.layer.digest);
        let call = Call::new(Method::GET).with(header::RANGE, format!("bytes={from}-{last}"));
        let response = self.session.send(&url, &call)?;
        let problem =
            |problem: &str| RegistryError::Protocol { url: url.clone(), problem: problem.to_owned() };
        // A server without ranges begins anew: what is here already is read past.
        let skip = match response.status() {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT => {
                let range = header_text(response.headers(), header::CONTENT_RANGE.as_str());
                let start =
                    range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
                if start != Some(from) {
                    return Err(problem("a part that was not asked for").into());
                }
                0
            }
            status => return Err(RegistryError::Status { url, status: status.as_u16() }.into()),
        };
        let mut body = response.into_body().into_reader();
        if self.read_past(&mut body, skip)? {
            self.take(part, completed, &mut body)?;
        }
        Ok(())
    }

    /// False where the connection ends before.
    fn read_past(&self, body: &mut dyn Read, mut skip: u64) -> Result<bool, StoreError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while skip > 0 {
            self.check()?;
            let want = usize::try_from(skip).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            match body.read(buffer.get_mut(..want).unwrap_or_default()) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(n) => skip -= n as u64,
            }
        }
        Ok(true)
    }

    fn take(&self, part: &Part, completed: &AtomicU64, body: &mut dyn Read) -> Result<(), StoreError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            self.check()?;
            let at = completed.load(Ordering::Relaxed);
            let want = usize::try_from(part.size - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            if want == 0 {
                return Ok(());
            }
            let n = match body.read(buffer.get_mut(..want).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!("{}: connection broke: {error}", self.layer.digest);
                    return Ok(());
                }
            };
            let failed = self.partial.io(self.layer);
            let bytes = buffer.get(..n).unwrap_or_default();
            self.partial.file.write_all_at(bytes, part.offset + at).map_err(&failed)?;
            completed.store(at + n as u64, Ordering::Release);
            self.total.fetch_add(n as u64, Ordering::Relaxed);
            self.partial.advance().map_err(&failed)?;
            self.partial.save_now_and_then().map_err(&failed)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole() {
        for (size, bounds, count) in [
            (1, (100, 1000), 1),
            (100, (100, 1000), 1),
            (101, (100, 1000), 2),
            (16_000, (100, 2000), 16),
            (160_000, (100, 1000), 160),
            (0, (100, 1000), 0),
        ] {
            let parts = split(size, bounds);
            assert_eq!(parts.len(), count, "{size}");
            assert!(is_sound(&parts, size, 0), "{size}");
        }
    }

    #[test]
    fn content_is_hashed_as_its_beginning_grows() {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..10u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let part = |offset, completed| (Part { offset, size: 5, completed: 0 }, AtomicU64::new(completed));
        let mut partial = Partial {
            file,
            path: PathBuf::new(),
            state: PathBuf::new(),
            parts: vec![part(0, 3), part(5, 5)],
            saved: Mutex::new(Instant::now()),
            front: Mutex::new(Front::new()),
        };
        let at = |partial: &Partial| {
            partial.advance().unwrap();
            partial.front.lock().unwrap().at
        };
        assert_eq!(at(&partial), 3, "the second part is there, and not next");
        partial.parts = vec![part(0, 5), part(5, 2)];
        assert_eq!(at(&partial), 7);
        assert_eq!(Digest::finish(partial.hashed(10).unwrap().hash), Digest::of(&content));
    }

    #[test]
    fn unsound_states_are_not_gone_on_with() {
        let part = |offset, size, completed| Part { offset, size, completed };
        assert!(is_sound(&[part(0, 5, 5), part(5, 5, 2)], 10, 7));
        for (parts, length) in [
            (vec![part(0, 5, 5), part(5, 5, 2)], 6),
            (vec![part(0, 5, 6), part(5, 5, 0)], 10),
            (vec![part(0, 5, 0), part(6, 4, 0)], 10),
            (vec![part(0, 5, 0)], 10),
            (vec![part(0, u64::MAX, 0), part(u64::MAX, 5, 0)], 10),
            (vec![part(0, 10, 0), part(10, 0, 0)], 10),
        ] {
            assert!(!is_sound(&parts, 10, length), "{parts:?}");
        }
    }
}
