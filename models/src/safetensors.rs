use std::collections::HashMap;
use std::ops::Range;

use safetensors::{Dtype, SafeTensors};

use crate::config::Config;
use crate::files::file_error;
use crate::{Bytes, DType, ModelError, ModelFiles, TensorSource, TensorView};

/// Longest header accepted, in bytes. The largest published checkpoints stay far below; the limit keeps a hostile file from
/// occupying the loader for seconds.
pub const MAX_HEADER: u64 = 16 << 20;
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 3] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"];

/// The tensors of a checkpoint in one or many safetensors files.
#[derive(Debug)]
pub struct SafetensorsSource {
    label: String,
    shards: Vec<Shard>,
    tensors: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Shard {
    label: String,
    bytes: Bytes,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Within the shard's file.
    range: Range<usize>,
}

/// A tensor of any type that the format has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawTensor<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl SafetensorsSource {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` lists, and checks every header
    /// against its file's length.
    ///
    /// # Errors
    /// A missing, truncated or malformed file, a tensor that the index promises and its shard lacks, or a checkpoint
    /// that only has pickled weights.
    pub fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        if let Some(source) = Self::open_file(files, SINGLE)? {
            return Ok(source);
        }
        let mut source = Self::empty(files);
        let Some(index) = Config::read(files, INDEX)? else {
            return Err(no_weights(files));
        };
        source.open_shards(files, &index)?;
        Ok(source)
    }

    /// Opens the one file `name`; `None` if there is no such file.
    ///
    /// # Errors
    /// As for [`SafetensorsSource::open`].
    pub(crate) fn open_file(files: &ModelFiles, name: &str) -> Result<Option<Self>, ModelError> {
        let Some(bytes) = files.read(name)? else { return Ok(None) };
        let mut source = Self::empty(files);
        source.tensors = source.add_shard(files.label_of(name), bytes)?;
        Ok(Some(source))
    }

    fn empty(files: &ModelFiles) -> Self {
        Self { label: files.label(), shards: Vec::new(), tensors: HashMap::new() }
    }

    /// In no particular order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor `name` as it is stored.
    pub(crate) fn raw(&self, name: &str) -> Result<RawTensor<'_>, ModelError> {
        let entry = self.tensors.get(name).ok_or_else(|| self.error(name, "is missing"))?;
        let bytes = self
            .shards
            .get(entry.shard)
            .and_then(|shard| shard.bytes.get(entry.range.clone()))
            .ok_or_else(|| self.error(name, "lies outside its file"))?;
        Ok(RawTensor { dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// Bytes of tensor `name`.
    pub(crate) fn bytes(&self, name: &str) -> u64 {
        self.tensors.get(name).map_or(0, |entry| entry.range.len() as u64)
    }

    fn open_shards(&mut self, files: &ModelFiles, index: &Config) -> Result<(), ModelError> {
        let Some(map) = index.object("weight_map")? else {
            return Err(index.error("weight_map", "is missing"));
        };
        let mut shards: HashMap<String, HashMap<String, Entry>> = HashMap::new();
        for name in map.keys() {
            let shard = map.text(name)?;
            if !shard.ends_with(".safetensors") {
                return Err(map.error(name, format!("'{shard}' is not a safetensors file")));
            }
            if !shards.contains_key(shard) {
                let Some(bytes) = files.read(shard)? else {
                    return Err(file_error(files.label_of(shard), format!("is missing; {INDEX} lists it")));
                };
                shards.insert(shard.into(), self.add_shard(files.label_of(shard), bytes)?);
            }
            let Some(entry) = shards.get_mut(shard).and_then(|entries| entries.remove(name)) else {
                return Err(ModelError::Tensor {
                    file: files.label_of(shard),
                    tensor: name.into(),
                    message: format!("is missing; {INDEX} says it is here"),
                });
            };
            self.tensors.insert(name.into(), entry);
        }
        Ok(())
    }

    /// Checks a file's header and returns its tensors.
    fn add_shard(&mut self, label: String, bytes: Bytes) -> Result<HashMap<String, Entry>, ModelError> {
        if let Some(length) = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length))
            && length > MAX_HEADER
        {
            return Err(file_error(
                label,
                format!("header of {length} bytes, at most {MAX_HEADER} are accepted"),
            ));
        }
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| {
            file_error(label.clone(), format!("is not a complete safetensors file: {error}"))
        })?;
        let data = header + 8;
        let shard = self.shards.len();
        let entries = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (start, end) = info.data_offsets;
                let entry = Entry {
                    shard,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    range: data + start..data + end,
                };
                (name, entry)
            })
            .collect();
        self.shards.push(Shard { label, bytes });
        Ok(entries)
    }

    fn error(&self, name: &str, message: impl Into<String>) -> ModelError {
        ModelError::Tensor { file: self.file(name).into(), tensor: name.into(), message: message.into() }
    }
}

impl TensorSource for SafetensorsSource {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let raw = self.raw(name)?;
        let dtype = match raw.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                return Err(
                    self.error(name, format!("dtype {other} is not supported, only F32, F16 and BF16"))
                );
            }
        };
        Ok(TensorView { dtype, shape: raw.shape.to_vec(), bytes: raw.bytes.into() })
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn file(&self, name: &str) -> &str {
        match (self.tensors.get(name).and_then(|entry| self.shards.get(entry.shard)), &self.shards[..]) {
            (Some(shard), _) => &shard.label,
            (None, [only]) => &only.label,
            (None, _) => &self.label,
        }
    }

    fn release(&self, name: &str) {
        if let Some(entry) = self.tensors.get(name)
            && let Some(shard) = self.shards.get(entry.shard)
        {
            shard.bytes.release(entry.range.clone());
        }
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|entry| entry.range.len() as u64).sum()
    }
}

fn no_weights(files: &ModelFiles) -> ModelError {
    let message = match PICKLES.iter().find(|name| files.contains(name)) {
        Some(pickle) => format!(
            "has only pickled weights ({pickle}), which can run code when opened and are refused; convert them to \
             safetensors"
        ),
        None => format!("has neither {SINGLE} nor {INDEX}"),
    };
    file_error(files.label(), message)
}
