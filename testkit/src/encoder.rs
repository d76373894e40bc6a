use std::collections::BTreeMap;

use serde_json::Value;
use weirgate_models::{DType, EncoderSpec, ModelError, ModelFiles, TensorSource, TensorView, read_encoder};

use crate::generator;

/// A tiny encoder with generated weights, in memory. `tools/parity/encoders.py` makes the same.
#[derive(Debug)]
pub struct RandomEncoder {
    pub name: String,
    pub seed: u64,
    pub files: ModelFiles,
    shapes: BTreeMap<String, Vec<usize>>,
    tensors: BTreeMap<String, Vec<u8>>,
}

macro_rules! configs {
    ($($name:literal),* $(,)?) => {
        &[$((
            $name,
            &[("config.json", include_bytes!(concat!("../checkpoints/encoders/", $name, "/config.json")))],
            include_str!(concat!("../checkpoints/encoders/", $name, "/tensors.json")),
        )),*]
    };
}

type Checkpoint = (&'static str, &'static [(&'static str, &'static [u8])], &'static str);

const ENCODERS: &[Checkpoint] = configs![
    "bert",
    "bert-relu",
    "bert-lm",
    "bert-ranker",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-ranker",
    "distilbert",
    "distilbert-ranker",
    "mpnet",
    "mpnet-ranker",
    "modernbert",
    "modernbert-ranker",
    "nomic",
];

impl RandomEncoder {
    /// One of every family, with and without a head.
    pub fn all() -> Vec<Self> {
        ENCODERS.iter().map(Self::new).collect()
    }

    fn new((name, files, tensors): &Checkpoint) -> Self {
        let known: Value = serde_json::from_str(tensors).unwrap_or_default();
        let seed = known["seed"].as_u64().unwrap_or_default();
        let shape = |shape: &Value| {
            let sizes = shape.as_array().into_iter().flatten().filter_map(Value::as_u64);
            sizes.map(|size| size as usize).collect::<Vec<_>>()
        };
        let shapes: BTreeMap<String, Vec<usize>> = known["shapes"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, sizes)| (name.clone(), shape(sizes)))
            .collect();
        let bytes = |(name, shape): (&String, &Vec<usize>)| {
            let (count, range) = (shape.iter().product(), range(name, shape));
            (name.clone(), generator::tensor_bytes(seed, name, count, range, DType::F32))
        };
        let tensors = shapes.iter().map(bytes).collect();
        Self { name: (*name).to_owned(), seed, files: ModelFiles::embedded(files), shapes, tensors }
    }

    /// # Errors
    /// When the configuration cannot be read.
    pub fn spec(&self) -> Result<EncoderSpec, ModelError> {
        read_encoder(&self.files, self)
    }

    /// Prompt `index`, without the ids 0 and 1, by which transformers counts positions in some models.
    pub fn prompt(&self, index: usize, len: usize, vocab: usize) -> Vec<u32> {
        let ids = generator::prompt(self.seed, index, len, vocab).into_iter();
        ids.map(|id| 2 + id % (vocab as u32 - 2)).collect()
    }
}

/// Centre and half width of the distribution of a tensor's values.
fn range(name: &str, shape: &[usize]) -> (f32, f32) {
    match shape {
        [_, _] if name.contains("embeddings") => (0.0, 0.5),
        [_, _] if name.contains("relative_attention_bias") => (0.0, 1.0),
        [_, cols] => (0.0, (1.6 * (3.0 / *cols as f64).sqrt()) as f32),
        _ => (if name.ends_with("weight") { 1.0 } else { 0.0 }, 0.3),
    }
}

impl TensorSource for RandomEncoder {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        match (self.tensors.get(name), self.shapes.get(name)) {
            (Some(bytes), Some(shape)) => {
                Ok(TensorView { dtype: DType::F32, shape: shape.clone(), bytes: bytes.into() })
            }
            _ => Err(ModelError::Tensor {
                file: self.name.clone(),
                tensor: name.into(),
                message: "is missing".into(),
            }),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn file(&self, _name: &str) -> &str {
        &self.name
    }

    fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|bytes| bytes.len() as u64).sum()
    }
}
