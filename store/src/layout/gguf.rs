//! Plain Hugging Face folders, loose GGUF files, and folders of either.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use weirgate_models::Gguf;

use crate::details;
use crate::entry::{Details, Entry, Kind, Location};
use crate::layout::scan::{Scan, children, confined, files_in, name_of};

/// Folders below the one given that are looked through.
const MAX_DEPTH: usize = 4;
/// Of a name in a split checkpoint: `-00001-of-00002`.
const PART_SUFFIX: usize = "-00001-of-00002".len();

/// All checkpoints at or below `path`.
pub(crate) fn scan(scan: &Scan, path: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    if is_gguf(path) {
        let root = path.parent().unwrap_or(path);
        entries.extend(file_entry(scan, root, path, &stem(name_of(path)), Kind::Gguf));
    } else if is_checkpoint(path) {
        entries.push(folder_entry(scan, path, path, name_of(path).to_owned(), Kind::Folder));
    } else {
        walk(scan, path, path, 0, &mut entries);
    }
    entries
}

fn walk(scan: &Scan, root: &Path, folder: &Path, depth: usize, entries: &mut Vec<Entry>) {
    for path in children(folder) {
        let name = name_of(&path);
        if name.starts_with('.') || confined(root, &path).is_none() {
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            if is_checkpoint(&path) {
                entries.push(folder_entry(scan, root, &path, relative, Kind::Folder));
            } else if depth < MAX_DEPTH {
                walk(scan, root, &path, depth + 1, entries);
            }
        } else if is_model_file(&path) {
            entries.extend(file_entry(scan, root, &path, &stem(&relative), Kind::Gguf));
        }
    }
}

/// A folder with a config and safetensors.
pub(crate) fn is_checkpoint(folder: &Path) -> bool {
    let has_weights = || {
        children(folder).iter().any(|path| {
            path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file()
        })
    };
    folder.join("config.json").is_file() && has_weights()
}

pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && path.is_file()
}

/// A GGUF file that is a model of its own: neither an image encoder nor a later part of a split one.
pub(crate) fn is_model_file(path: &Path) -> bool {
    let name = without_ending(name_of(path));
    let first = part_of(name).is_none_or(|(_, number)| number == "00001");
    is_gguf(path) && first && !name.to_ascii_lowercase().starts_with("mmproj")
}

/// Base name and number of one part of a split checkpoint; `None` for the name of a whole one.
fn part_of(stem: &str) -> Option<(&str, &str)> {
    let at = stem.len().checked_sub(PART_SUFFIX)?;
    let (base, suffix) = (stem.get(..at)?, stem.get(at..)?);
    let (number, count) = suffix.strip_prefix('-')?.split_once("-of-")?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(count)).then_some((base, number))
}

/// Whether it is a file's name that says which part of a model it has.
pub(crate) fn is_part(name: &str) -> bool {
    part_of(without_ending(name)).is_some()
}

/// The name without `.gguf` and part number.
pub(crate) fn stem(name: &str) -> String {
    let whole = without_ending(name);
    part_of(whole).map_or(whole, |(base, _)| base).to_owned()
}

fn without_ending(name: &str) -> &str {
    match name.len().checked_sub(".gguf".len()).and_then(|at| name.split_at_checked(at)) {
        Some((stem, ending)) if ending.eq_ignore_ascii_case(".gguf") => stem,
        _ => name,
    }
}

/// The entry of the GGUF file at `path`; `None`, and a log line, where it is damaged.
pub(crate) fn file_entry(scan: &Scan, root: &Path, path: &Path, name: &str, kind: Kind) -> Option<Entry> {
    confined(root, path)?;
    let files = parts(path);
    let mut problem = None;
    let read = || match Gguf::open(path) {
        Ok(gguf) => details::of_gguf(&gguf),
        Err(error) => {
            problem = Some(error.to_string());
            Details::default()
        }
    };
    let entry = scan.plain(name.to_owned(), kind, Location::Gguf(path.to_owned()), &files, read);
    if let Some(problem) = problem {
        scan.skip(path, &problem);
    }
    (!entry.details.format.is_empty()).then_some(entry)
}

/// The file and, where it is the first part of a split checkpoint, the others.
pub(crate) fn parts(path: &Path) -> Vec<(PathBuf, Metadata)> {
    let whole = |path: PathBuf| fs::metadata(&path).ok().map(|metadata| (path, metadata));
    let name = name_of(path);
    let Some((base, _)) = part_of(without_ending(name)) else {
        return whole(path.to_owned()).into_iter().collect();
    };
    let same = |other: &PathBuf| is_gguf(other) && stem(name_of(other)) == base;
    children(path.parent().unwrap_or(path)).into_iter().filter(same).filter_map(whole).collect()
}

/// The entry of the Hugging Face folder at `folder`.
pub(crate) fn folder_entry(scan: &Scan, root: &Path, folder: &Path, name: String, kind: Kind) -> Entry {
    let files = files_in(root, folder);
    scan.plain(name, kind, Location::Folder(folder.to_owned()), &files, || details::of_folder(folder))
}
