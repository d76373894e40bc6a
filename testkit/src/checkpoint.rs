use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use safetensors::tensor::{Dtype, TensorView as StoredView, serialize_to_file};
use weirgate_models::{DType, ModelError, ModelSpec, TensorSource, TensorView, read_spec};

use crate::{Definition, generator};

/// A checkpoint with generated weights, in memory.
#[derive(Debug)]
pub struct RandomCheckpoint {
    definition: Definition,
    spec: ModelSpec,
    shapes: BTreeMap<String, Vec<usize>>,
    tensors: BTreeMap<String, Vec<u8>>,
}

impl RandomCheckpoint {
    /// Generates the weights that the definition's `config.json` calls for.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn new(definition: &Definition) -> Result<Self, ModelError> {
        let spec = read_spec(&definition.files)?;
        let shapes: BTreeMap<String, Vec<usize>> =
            spec.tensor_shapes().into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
        let tensors = shapes
            .iter()
            .map(|(name, shape)| {
                let count = shape.iter().product();
                let range = definition.range(name, shape);
                (name.clone(), generator::tensor_bytes(definition.seed, name, count, range, definition.dtype))
            })
            .collect();
        Ok(Self { definition: definition.clone(), spec, shapes, tensors })
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// See [`generator::checksum`].
    pub fn checksum(&self) -> u64 {
        generator::checksum_of(&self.tensors)
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, which is made if need be.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let config = self.definition.files.read("config.json").map_err(io::Error::other)?;
        fs::write(folder.join("config.json"), &*config.ok_or(io::ErrorKind::NotFound)?)?;
        let dtype = match self.definition.dtype {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => return Err(io::Error::other(format!("{other} is not written"))),
        };
        let views = self
            .tensors
            .iter()
            .zip(self.shapes.values())
            .map(|((name, bytes), shape)| Ok((name, StoredView::new(dtype, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(io::Error::other)?;
        serialize_to_file(views, None, &folder.join("model.safetensors")).map_err(io::Error::other)
    }
}

impl TensorSource for RandomCheckpoint {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        match (self.tensors.get(name), self.shapes.get(name)) {
            (Some(bytes), Some(shape)) => {
                Ok(TensorView { dtype: self.definition.dtype, shape: shape.clone(), bytes: bytes.into() })
            }
            _ => Err(ModelError::Tensor {
                file: self.definition.name.clone(),
                tensor: name.into(),
                message: "is missing".into(),
            }),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn file(&self, _name: &str) -> &str {
        &self.definition.name
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|bytes| bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use weirgate_models::{ModelFiles, SafetensorsSource};

    use super::*;
    use crate::definitions;

    #[test]
    fn a_written_checkpoint_reads_back_the_same() {
        for definition in definitions() {
            let checkpoint = RandomCheckpoint::new(&definition).unwrap();
            checkpoint.spec().check_tensors(&checkpoint).unwrap();
            let folder = tempfile::tempdir().unwrap();
            checkpoint.write(folder.path()).unwrap();
            let files = ModelFiles::open(folder.path()).unwrap();
            assert_eq!(read_spec(&files).unwrap(), *checkpoint.spec());
            let source = SafetensorsSource::open(&files).unwrap();
            checkpoint.spec().check_tensors(&source).unwrap();
            assert_eq!(source.total_bytes(), checkpoint.total_bytes());
            for name in checkpoint.tensors.keys() {
                assert_eq!(*source.tensor(name).unwrap().bytes, checkpoint.tensors[name][..]);
            }
        }
    }
}
