use std::path::Path;

use super::file::GgufFile;
use super::metadata::GgufMetadata;
use super::{config, tokenizer};
use crate::files::{file_error, read_file};
use crate::{Bytes, ModelError};

/// Most parts a checkpoint may be split into.
const MAX_PARTS: usize = 1024;

/// A checkpoint in one GGUF file, or in the parts that one was split into.
#[derive(Debug)]
pub struct Gguf {
    label: String,
    /// The first holds the metadata.
    files: Vec<GgufFile>,
}

impl Gguf {
    /// Opens the file at `path` and, where it is one part of a split checkpoint, the others beside it.
    ///
    /// # Errors
    /// See [`GgufFile::parse`]; also a part that is missing or that belongs elsewhere.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let first = open_file(path)?;
        let label = path.display().to_string();
        let count = first.metadata().size("split.count")?.unwrap_or(1);
        if count <= 1 {
            return Ok(Self { label, files: vec![first] });
        }
        let wrong = |message: String| first.metadata().wrong("split.count", &message);
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_PARTS)
            .ok_or_else(|| wrong(format!("is {count}, at most {MAX_PARTS} are accepted")))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let suffix = format!("-of-{count:05}.gguf");
        let prefix =
            name.strip_suffix(&suffix).and_then(|rest| rest.get(..rest.len().checked_sub(6)?)).ok_or_else(
                || wrong(format!("is {count}, but the file's name does not end in '-00001{suffix}'")),
            )?;
        let files = (1..=count)
            .map(|part| open_file(&path.with_file_name(format!("{prefix}-{part:05}{suffix}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let gguf = Self { label, files };
        gguf.check_parts()?;
        Ok(gguf)
    }

    /// A checkpoint in memory; `label` is its name in messages.
    ///
    /// # Errors
    /// See [`GgufFile::parse`]; also one part of a split checkpoint.
    pub fn from_bytes(label: &str, bytes: Vec<u8>) -> Result<Self, ModelError> {
        let file = GgufFile::parse(label, Bytes::from(bytes))?;
        match file.metadata().size("split.count")? {
            Some(2..) => Err(file.metadata().wrong("split.count", "a part of a split checkpoint")),
            _ => Ok(Self { label: label.into(), files: vec![file] }),
        }
    }

    fn check_parts(&self) -> Result<(), ModelError> {
        let count = self.files.len() as u64;
        for (index, file) in self.files.iter().enumerate() {
            for (key, expected) in [("split.no", index as u64), ("split.count", count)] {
                if file.metadata().size(key)? != Some(expected) {
                    return Err(file
                        .metadata()
                        .wrong(key, &format!("is not {expected}, as the file's name has it")));
                }
            }
        }
        let tensors: usize = self.files.iter().map(|file| file.tensors().len()).sum();
        match self.metadata().size("split.tensors.count")? {
            Some(promised) if promised != tensors as u64 => Err(self.metadata().wrong(
                "split.tensors.count",
                &format!("is {promised}, the {count} parts have {tensors} tensors"),
            )),
            _ => Ok(()),
        }
    }

    /// The path it was opened from.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub fn files(&self) -> &[GgufFile] {
        &self.files
    }

    pub fn metadata(&self) -> &GgufMetadata {
        // A checkpoint has at least one file.
        self.files[0].metadata()
    }

    /// The contents of the file `name` that a checkpoint folder would have, made from the metadata; `None` where there
    /// is nothing to make it from.
    ///
    /// # Errors
    /// GgufMetadata that is missing, of the wrong type, or not supported; names the key.
    pub fn virtual_file(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        let json = match name {
            "config.json" => config::config(self)?,
            "generation_config.json" => tokenizer::generation_config(self.metadata())?,
            "tokenizer.json" => tokenizer::tokenizer(self.metadata())?,
            "tokenizer_config.json" => tokenizer::tokenizer_config(self.metadata())?,
            _ => None,
        };
        Ok(json.map(|json| json.to_string().into_bytes()))
    }

    /// Whether [`Gguf::virtual_file`] knows `name`.
    pub fn has_virtual_file(&self, name: &str) -> bool {
        let tokenizer = self.metadata().contains("tokenizer.ggml.model");
        match name {
            "config.json" => true,
            "generation_config.json" | "tokenizer.json" | "tokenizer_config.json" => tokenizer,
            _ => false,
        }
    }
}

fn open_file(path: &Path) -> Result<GgufFile, ModelError> {
    let label = path.display().to_string();
    match read_file(path) {
        Ok(Some(bytes)) => GgufFile::parse(&label, bytes),
        Ok(None) => Err(file_error(label, "is missing")),
        Err(message) => Err(file_error(label, message)),
    }
}
