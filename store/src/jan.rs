//! Jan's folder of models where it is ours: GGUF files that are dropped into it get folders of their own, folders without
//! a `model.json` get one, and what is deleted or fetched is so here.
//!
//! Nothing is kept in memory: whoever looks at the folder first puts it in order. Every change is one rename, so that
//! another process, or a crash, finds either what was or what is to be; files that belong together are gathered aside
//! before, and put back where that was cut off.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use weirgate_models::Gguf;

use crate::StoreError;
use crate::layout::jan::{MODEL_JSON, is_binary, model_json};
use crate::layout::{children, fingerprint, gguf, name_of};
use crate::name::Digest;
use crate::own::sync_folder;

/// What folders on their way out begin with.
const LEAVING: &str = ".weirgate-leaving-";
/// And those that files are gathered in that belong together.
const SETTLING: &str = ".weirgate-settling-";
const TEMPORARY: &str = ".weirgate-";
/// Folders of one name: `name`, `name-1`, ….
const MAX_SAME: usize = 1000;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The folder.
#[derive(Debug)]
pub(crate) struct JanFolder {
    pub path: PathBuf,
    /// Files that are no models, or not whole yet, with all their parts as they were; looked at again once these have
    /// changed. Held by who puts the folder in order.
    refused: Mutex<Refused>,
}

type Refused = HashMap<PathBuf, Digest>;

impl JanFolder {
    /// Makes the folder, and removes what a crash left half-removed.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(path).map_err(StoreError::io("the folder of models"))?;
        for left in children(path).iter().filter(|left| name_of(left).starts_with(LEAVING)) {
            let _ = fs::remove_dir_all(left);
        }
        Ok(Self { path: path.to_owned(), refused: Mutex::default() })
    }

    /// Puts what was dropped in into order. What cannot be is left as it is, with a line in the log.
    pub fn organize(&self) {
        let (mut refused, _lock) = self.begin();
        let mut all = children(&self.path);
        if all.iter().any(|path| name_of(path).starts_with(SETTLING)) {
            all.iter()
                .filter(|path| name_of(path).starts_with(SETTLING))
                .for_each(|left| self.put_back(left));
            all = children(&self.path);
        }
        let mut loose: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in all.into_iter().filter(|path| !name_of(path).starts_with('.')) {
            // Links stay: what they lead to is not ours to move.
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => describe(&path, &mut refused),
                Ok(metadata) if metadata.is_file() && gguf::is_gguf(&path) => {
                    loose.entry(gguf::stem(name_of(&path))).or_default().push(path);
                }
                _ => {}
            }
        }
        for (stem, parts) in loose {
            if let Err(error) = self.settle(&stem, &parts, &mut refused) {
                tracing::warn!("{stem}: cannot be put into a folder of its own: {error}");
            }
        }
    }

    /// Waits until nobody else puts the folder in order, in this process or, where the file system has locks for
    /// folders, in another one.
    fn begin(&self) -> (MutexGuard<'_, Refused>, Option<File>) {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = File::open(&self.path).and_then(|folder| folder.lock().map(|()| folder));
        (refused, lock.ok())
    }

    /// Moves the files of a model, of which all parts are here, into a folder of its own.
    fn settle(&self, stem: &str, parts: &[PathBuf], refused: &mut Refused) -> io::Result<()> {
        let Some(first) = parts.iter().find(|path| gguf::is_model_file(path)) else { return Ok(()) };
        if !is_whole(first, refused) {
            return Ok(());
        }
        let gathered = self.aside(SETTLING);
        fs::create_dir(&gathered)?;
        let moved = parts.iter().try_for_each(|part| fs::rename(part, gathered.join(name_of(part))));
        let id: String = stem.split_whitespace().collect();
        let named = moved.and_then(|()| sync_folder(&gathered)).and_then(|()| self.name(&gathered, &id));
        let folder = named.inspect_err(|_| self.put_back(&gathered))?;
        sync_folder(&self.path)?;
        tracing::info!(model = name_of(&folder), "a file that was dropped in has its own folder now");
        describe(&folder, refused);
        Ok(())
    }

    /// Calls a folder `id`, or `id-1` and so on where that is taken by anything but an empty folder.
    fn name(&self, folder: &Path, id: &str) -> io::Result<PathBuf> {
        const TAKEN: [ErrorKind; 3] =
            [ErrorKind::AlreadyExists, ErrorKind::DirectoryNotEmpty, ErrorKind::NotADirectory];
        for number in 0..MAX_SAME {
            let name = if number == 0 { id.to_owned() } else { format!("{id}-{number}") };
            let named = self.path.join(name);
            match fs::rename(folder, &named) {
                Ok(()) => return Ok(named),
                Err(error) if TAKEN.contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Where files were gathered that did not get their folder: they are loose again, but for one whose name another
    /// file has by now.
    fn put_back(&self, gathered: &Path) {
        for file in children(gathered) {
            let loose = self.path.join(name_of(&file));
            if fs::symlink_metadata(&loose).is_err()
                && let Err(error) = fs::rename(&file, &loose)
            {
                tracing::warn!("{}: cannot be put back: {error}", file.display());
            }
        }
        // One that is not empty stays.
        let _ = fs::remove_dir(gathered);
    }

    /// A folder of a name that nothing else has.
    fn aside(&self, purpose: &str) -> PathBuf {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.path.join(format!("{purpose}{}-{number}", std::process::id()))
    }

    /// Removes a model: all of it where a user brought it here, else its files alone, which can be fetched again.
    ///
    /// # Errors
    /// Those of removing.
    pub fn delete(&self, folder: &Path) -> Result<(), StoreError> {
        let what = || StoreError::io("the model's folder");
        let document = folder.join(MODEL_JSON);
        let json = if document.is_file() { model_json(folder)? } else { Map::new() };
        let author = json.get("metadata").and_then(|metadata| metadata.get("author")).and_then(Value::as_str);
        if document.is_file() && author.is_none_or(|author| !author.eq_ignore_ascii_case("user")) {
            for file in children(folder).into_iter().filter(|path| is_binary(path)) {
                fs::remove_file(file).map_err(what())?;
            }
            return sync_folder(folder).map_err(what());
        }
        let leaving = self.aside(LEAVING);
        fs::rename(folder, &leaving).and_then(|()| sync_folder(&self.path)).map_err(what())?;
        fs::remove_dir_all(leaving).map_err(what())
    }
}

/// Whether the file can be read as a model. One that is still being copied, or whose other parts are, cannot, and is looked
/// at again.
fn is_whole(path: &Path, refused: &mut Refused) -> bool {
    let now = fingerprint(&gguf::parts(path));
    if refused.get(path) == Some(&now) {
        return false;
    }
    match Gguf::open(path) {
        Ok(_) => {
            refused.remove(path);
            true
        }
        Err(error) => {
            tracing::warn!("{}: left where it is: {error}", path.display());
            refused.insert(path.to_owned(), now);
            false
        }
    }
}

/// Writes the `model.json` of a folder that has a model and no such file.
fn describe(folder: &Path, refused: &mut Refused) {
    if fs::symlink_metadata(folder.join(MODEL_JSON)).is_ok() {
        return;
    }
    let Some(file) = children(folder).into_iter().find(|path| gguf::is_model_file(path)) else { return };
    if !is_whole(&file, refused) {
        return;
    }
    let written = document(folder, &file).and_then(|json| write_whole(folder, &json));
    if let Err(error) = written {
        tracing::warn!("{}: no {MODEL_JSON} could be written: {error}", folder.display());
    }
}

/// What is written for a folder that has but a file.
fn document(folder: &Path, file: &Path) -> io::Result<Map<String, Value>> {
    let mut json = model_json(folder).map_err(|error| io::Error::other(error.to_string()))?;
    let size = fs::metadata(file).as_ref().map_or(0, Metadata::len);
    json.insert("source_url".to_owned(), json!(local_address(folder, file)));
    if let Some(metadata) = json.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("size".to_owned(), json!(size));
    }
    Ok(json)
}

/// A file of this machine as an address that tells no path of it.
pub(crate) fn local_address(folder: &Path, file: &Path) -> String {
    format!("weirgate://models/{}/{}", escaped(name_of(folder)), escaped(name_of(file)))
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Under a name of its own first: a `model.json` is never half there.
fn write_whole(folder: &Path, json: &Map<String, Value>) -> io::Result<()> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
    let text = serde_json::to_vec_pretty(json)?;
    let written = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, folder.join(MODEL_JSON))?;
        sync_folder(folder)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
