use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::Gguf;
use super::file::{GgufFile, GgufTensor, GgufTensorType};
use super::names::{self, Rotated};
use crate::files::file_error;
use crate::{DType, ModelError, ModelFiles, TensorSource, TensorView};

/// The tensors of a GGUF checkpoint, under GGUF's names, rows in the order the decoder wants.
#[derive(Debug)]
pub struct GgufSource {
    gguf: Arc<Gguf>,
    /// Which file, and which of its tensors.
    tensors: HashMap<String, (usize, usize)>,
    /// Numbers of heads, where query and key rows are stored for another rotation than the decoder's.
    reorder: Option<Heads>,
}

#[derive(Debug, Clone, Copy)]
struct Heads {
    queries: usize,
    keys: usize,
}

impl GgufSource {
    /// The tensors of the checkpoint `files`.
    ///
    /// # Errors
    /// Files that are not GGUF, a tensor that two parts have, or unusable numbers of heads.
    pub fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        match files.gguf() {
            Some(gguf) => Self::new(Arc::clone(gguf)),
            None => Err(file_error(files.label(), "is not a GGUF file")),
        }
    }

    /// As [`GgufSource::open`].
    ///
    /// # Errors
    /// As [`GgufSource::open`].
    pub fn new(gguf: Arc<Gguf>) -> Result<Self, ModelError> {
        let mut tensors = HashMap::new();
        for (part, file) in gguf.files().iter().enumerate() {
            for (index, info) in file.tensors().iter().enumerate() {
                if tensors.insert(info.name.clone(), (part, index)).is_some() {
                    return Err(ModelError::Tensor {
                        file: file.metadata().label().into(),
                        tensor: info.name.clone(),
                        message: "is in another part too".into(),
                    });
                }
            }
        }
        let reorder = Heads::read(&gguf)?;
        Ok(Self { gguf, tensors, reorder })
    }

    fn find(&self, name: &str) -> Option<(&GgufFile, &GgufTensor)> {
        let (part, index) = *self.tensors.get(name)?;
        let file = self.gguf.files().get(part)?;
        Some((file, file.tensors().get(index)?))
    }

    /// As `find`, of a type that is supported.
    fn find_known(&self, name: &str) -> Result<(&GgufFile, &GgufTensor, DType), ModelError> {
        let (file, info) = self.find(name).ok_or_else(|| self.error(name, "is missing"))?;
        match info.dtype {
            GgufTensorType::Known(dtype) => Ok((file, info, dtype)),
            GgufTensorType::Other(id) => {
                let known: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
                let known = known.join(", ");
                Err(self.error(name, format!("ggml type {id} is not supported; these are: {known}")))
            }
        }
    }

    fn error(&self, name: &str, message: impl Into<String>) -> ModelError {
        ModelError::Tensor { file: self.file(name).into(), tensor: name.into(), message: message.into() }
    }

    /// How many heads the rows of `name` make up, where they have to be put in order.
    fn heads_of(&self, name: &str) -> Option<usize> {
        let heads = self.reorder?;
        Some(match names::rotated(name)? {
            Rotated::Queries => heads.queries,
            Rotated::Keys => heads.keys,
        })
    }
}

impl Heads {
    fn read(gguf: &Gguf) -> Result<Option<Self>, ModelError> {
        let metadata = gguf.metadata();
        let Some(architecture) =
            metadata.text("general.architecture")?.filter(|name| names::rotates_neighbours(name))
        else {
            return Ok(None);
        };
        let key = format!("{architecture}.attention.head_count");
        let heads = |key: &str| -> Result<Option<usize>, ModelError> {
            match metadata.size(key)? {
                Some(0) => Err(metadata.wrong(key, "is 0")),
                size => Ok(size.map(|size| usize::try_from(size).unwrap_or(usize::MAX))),
            }
        };
        let Some(queries) = heads(&key)? else {
            return Ok(None);
        };
        let keys = heads(&format!("{key}_kv"))?.unwrap_or(queries);
        Ok(Some(Self { queries, keys }))
    }
}

impl TensorSource for GgufSource {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let (file, info, dtype) = self.find_known(name)?;
        let stored = file.data(info);
        let bytes =
            match self.heads_of(name) {
                None => Cow::Borrowed(stored),
                Some(heads) => Cow::Owned(rows_by_halves(stored, &info.shape, heads).ok_or_else(|| {
                    self.error(name, format!("shape {:?} is not {heads} heads", info.shape))
                })?),
            };
        Ok(TensorView { dtype, shape: info.shape.clone(), bytes })
    }

    fn info(&self, name: &str) -> Result<(DType, Vec<usize>), ModelError> {
        self.find_known(name).map(|(_, info, dtype)| (dtype, info.shape.clone()))
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn file(&self, name: &str) -> &str {
        match self.find(name) {
            Some((file, _)) => file.metadata().label(),
            None => self.gguf.label(),
        }
    }

    fn release(&self, name: &str) {
        if let Some((file, info)) = self.find(name) {
            file.release(info);
        }
    }

    fn total_bytes(&self) -> u64 {
        self.gguf.files().iter().flat_map(GgufFile::tensors).map(|info| info.range.len() as u64).sum()
    }
}

/// The rows (or elements of a vector) in the order by halves; rows of blocks move whole.
pub(crate) fn rows_by_halves(stored: &[u8], shape: &[usize], heads: usize) -> Option<Vec<u8>> {
    let rows = *shape.first()?;
    if !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) || !stored.len().is_multiple_of(rows)
    {
        return None;
    }
    let (head_dim, width) = (rows / heads, stored.len() / rows);
    let mut ordered = Vec::with_capacity(stored.len());
    for row in 0..rows {
        let at = names::neighbour_row(row, head_dim) * width;
        ordered.extend_from_slice(stored.get(at..at + width)?);
    }
    Some(ordered)
}
