use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::gguf::Gguf;
use crate::{ModelError, mmap};

/// Files above this size are memory-mapped, smaller ones are read.
const MAP_ABOVE: u64 = 1 << 20;

/// The files of one checkpoint: a folder, a GGUF file, or a table built into the binary. Cheap to clone.
///
/// A GGUF file shows its metadata as the small JSON files that a folder would have.
#[derive(Debug, Clone)]
pub struct ModelFiles(Source);

#[derive(Debug, Clone)]
enum Source {
    Folder(PathBuf),
    Gguf(Arc<Gguf>),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// A file's contents, read, mapped or built in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bytes(Inner);

#[derive(Debug, Clone)]
enum Inner {
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
    Mapped(Arc<Mmap>),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Inner::Owned(bytes.into()))
    }
}

impl Bytes {
    /// Gives back the memory of `range` until it is read again, where it is mapped.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Inner::Mapped(map) = &self.0 {
            mmap::release(map, range);
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Static(bytes) => bytes,
            Inner::Owned(bytes) => bytes,
            Inner::Mapped(map) => map,
        }
    }
}

impl ModelFiles {
    /// The checkpoint in folder or GGUF file `path`.
    ///
    /// # Errors
    /// When `path` is neither a folder that can be listed nor a sound GGUF file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && !path.is_dir()
        {
            return Ok(Self::from(Gguf::open(path)?));
        }
        match fs::read_dir(path) {
            Ok(_) => Ok(Self(Source::Folder(path.to_path_buf()))),
            Err(error) => Err(file_error(path.display().to_string(), error.to_string())),
        }
    }

    /// A checkpoint built into the binary, as `(file name, contents)`.
    pub const fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self(Source::Embedded(files))
    }

    /// The folder, where there is one.
    pub fn folder(&self) -> Option<&Path> {
        match &self.0 {
            Source::Folder(path) => Some(path),
            Source::Gguf(_) | Source::Embedded(_) => None,
        }
    }

    /// The GGUF checkpoint, where it is one.
    pub fn gguf(&self) -> Option<&Arc<Gguf>> {
        match &self.0 {
            Source::Gguf(gguf) => Some(gguf),
            Source::Folder(_) | Source::Embedded(_) => None,
        }
    }

    /// What to call this checkpoint in messages.
    pub fn label(&self) -> String {
        match &self.0 {
            Source::Folder(path) => path.display().to_string(),
            Source::Gguf(gguf) => gguf.label().into(),
            Source::Embedded(_) => "the embedded model".into(),
        }
    }

    /// What to call file `name` of this checkpoint in messages.
    pub(crate) fn label_of(&self, name: &str) -> String {
        match &self.0 {
            Source::Folder(path) => path.join(name).display().to_string(),
            Source::Gguf(gguf) => format!("{} (as {name})", gguf.label()),
            Source::Embedded(_) => format!("{name} of the embedded model"),
        }
    }

    /// The contents of file `name`; `None` if there is no such file.
    ///
    /// # Errors
    /// When `name` is not a plain file name, or the file cannot be read or is not a regular file.
    pub fn read(&self, name: &str) -> Result<Option<Bytes>, ModelError> {
        if !is_plain_name(name) {
            return Err(file_error(self.label(), format!("'{name}' is not a plain file name")));
        }
        match &self.0 {
            Source::Embedded(files) => Ok(files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| Bytes(Inner::Static(bytes)))),
            Source::Gguf(gguf) => Ok(gguf.virtual_file(name)?.map(Bytes::from)),
            Source::Folder(folder) => {
                read_file(&folder.join(name)).map_err(|message| file_error(self.label_of(name), message))
            }
        }
    }

    /// Whether file `name` exists, whatever it holds.
    pub fn contains(&self, name: &str) -> bool {
        is_plain_name(name)
            && match &self.0 {
                Source::Folder(folder) => folder.join(name).is_file(),
                Source::Gguf(gguf) => gguf.has_virtual_file(name),
                Source::Embedded(files) => files.iter().any(|(known, _)| *known == name),
            }
    }
}

impl From<Gguf> for ModelFiles {
    fn from(gguf: Gguf) -> Self {
        Self(Source::Gguf(Arc::new(gguf)))
    }
}

/// A name that cannot leave its folder.
fn is_plain_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', '\0', ':'])
}

/// The file at `path`, mapped if it is large; `None` if there is none.
pub(crate) fn read_file(path: &Path) -> Result<Option<Bytes>, String> {
    // Asked before opening: to open a named pipe would wait for its other end.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if fs::symlink_metadata(path).is_ok() {
                Err("is a link to a file that does not exist".into())
            } else {
                Ok(None)
            };
        }
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.is_file() {
        return Err("is not a regular file".into());
    }
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    if metadata.len() > MAP_ABOVE {
        let map = mmap::map(&file).map_err(|error| format!("cannot be mapped: {error}"))?;
        return Ok(Some(Bytes(Inner::Mapped(Arc::new(map)))));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(Some(Bytes(Inner::Owned(bytes.into()))))
}

pub(crate) fn file_error(file: String, message: impl Into<String>) -> ModelError {
    ModelError::File { file, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("model")).unwrap();
        fs::write(folder.path().join("secret"), b"x").unwrap();
        let files = ModelFiles::open(folder.path().join("model")).unwrap();
        for name in ["../secret", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b"] {
            assert!(files.read(name).unwrap_err().to_string().contains("plain file name"), "{name}");
        }
    }

    #[test]
    fn reads_small_and_mapped_files() {
        let folder = tempfile::tempdir().unwrap();
        let large: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(folder.path().join("large"), &large).unwrap();
        fs::write(folder.path().join("small"), b"abc").unwrap();
        fs::write(folder.path().join("empty"), b"").unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        assert_eq!(*files.read("large").unwrap().unwrap(), large[..]);
        assert_eq!(*files.read("small").unwrap().unwrap(), *b"abc");
        assert_eq!(*files.read("empty").unwrap().unwrap(), *b"");
        assert!(files.read("absent").unwrap().is_none());
        assert!(!files.contains("absent"));
    }

    #[test]
    fn a_folder_or_pipe_in_place_of_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("config.json")).unwrap();
        let files = ModelFiles::open(folder.path()).unwrap();
        let message = files.read("config.json").unwrap_err().to_string();
        assert!(message.contains("config.json: is not a regular file"), "{message}");
        let missing = ModelFiles::open(folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(missing.contains("nowhere"), "{missing}");
    }

    #[test]
    fn embedded_files_are_found_by_name() {
        let files = ModelFiles::embedded(&[("config.json", b"{}")]);
        assert_eq!(*files.read("config.json").unwrap().unwrap(), *b"{}");
        assert!(files.read("model.safetensors").unwrap().is_none());
    }
}
