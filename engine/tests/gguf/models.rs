//! Whole models with quantized weights against the same models with the dequantized weights in f32, which nothing but
//! the rounding of activations to int8 tells apart.

use std::collections::BTreeMap;

use weirgate_models::{
    DType, Gguf, GgufSource, ModelError, ModelFiles, ModelSpec, QuantMix, Quantized, SafetensorsSource,
    TensorSource, TensorView, dequantize, read_spec, to_gguf,
};

use crate::products::{TYPES, random_blocks};
use crate::{Rng, largest_error, logits};

/// What rounding activations to int8 may do to the logits of five layers, relative to their norm.
const BOUND: f64 = 0.03;
/// The standard deviation of weights that keep activations in bounds.
const DEVIATION: f32 = 0.04;

/// A story that the demo model tells.
fn prompt() -> Vec<u32> {
    let expected = include_str!("../../../tools/demo_model/expected.json");
    let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
    let story = &expected["prompts"][3];
    let ids = story["prompt_ids"].as_array().unwrap().iter().chain(story["token_ids"].as_array().unwrap());
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The norm of the difference of all logits, relative to that of `reference`.
fn difference(ours: &[f32], reference: &[f32]) -> f64 {
    largest_error(ours, reference, reference.len())
}

/// Tensors in memory.
struct Stored(BTreeMap<String, (DType, Vec<usize>, Vec<u8>)>);

impl Stored {
    /// All tensors of `tensors` in f32.
    fn dequantized(spec: &ModelSpec, tensors: &dyn TensorSource) -> Self {
        let shapes = spec.tensor_shapes();
        let each = shapes.into_iter().map(|(name, shape)| {
            let values = tensors.tensor(name).unwrap().to_f32();
            (name.to_owned(), (DType::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        });
        Self(each.collect())
    }
}

impl TensorSource for Stored {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let (dtype, shape, bytes) = &self.0[name];
        Ok(TensorView { dtype: *dtype, shape: shape.clone(), bytes: bytes.into() })
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn file(&self, _name: &str) -> &str {
        "memory"
    }

    fn total_bytes(&self) -> u64 {
        self.0.values().map(|(_, _, bytes)| bytes.len() as u64).sum()
    }
}

fn demo() -> (ModelFiles, ModelSpec, SafetensorsSource) {
    let files = ModelFiles::embedded(weirgate_demo_model::FILES);
    let (spec, tensors) = (read_spec(&files).unwrap(), SafetensorsSource::open(&files).unwrap());
    (files, spec, tensors)
}

/// How far the logits are from those of the dequantized weights.
fn error(spec: &ModelSpec, tensors: &dyn TensorSource) -> f64 {
    let reference = logits(spec, &Stored::dequantized(spec, tensors), &prompt());
    difference(&logits(spec, tensors, &prompt()), &reference)
}

/// Random blocks of weights with about the deviation [`DEVIATION`].
fn random_matrix(kind: usize, elements: usize, rng: &mut Rng) -> Vec<u8> {
    let trial = dequantize(TYPES[kind].1, &random_blocks(kind, 4096, 1.0, rng));
    let deviation = (trial.iter().map(|value| value * value).sum::<f32>() / trial.len() as f32).sqrt();
    random_blocks(kind, elements, DEVIATION / deviation, rng)
}

/// The demo model's shape with matrices of random blocks: every type, also those that nothing of ours makes.
#[test]
fn every_type_gives_the_logits_of_its_dequantized_weights() {
    let (_, spec, demo) = demo();
    for (kind, (_, dtype, _)) in TYPES.into_iter().enumerate() {
        let mut rng = Rng(kind as u64);
        let stored = spec.tensor_shapes().into_iter().map(|(name, shape)| {
            let view = demo.tensor(name).unwrap();
            let tensor = match shape[..] {
                [rows, cols] => {
                    let blocks = random_matrix(kind, rows * cols, &mut rng);
                    (dtype, shape, blocks)
                }
                _ => (view.dtype, shape, view.bytes.into_owned()),
            };
            (name.to_owned(), tensor)
        });
        let error = error(&spec, &Stored(stored.collect()));
        println!("random blocks | {dtype} | {error:.1e}");
        assert!(error < BOUND, "{dtype}: {error:e}");
    }
}

/// The demo model in every mixture, through a file.
#[test]
fn every_mixture_gives_the_logits_of_its_dequantized_weights() {
    let (_, spec, demo) = demo();
    let original = logits(&spec, &demo, &prompt());
    for (mix, loss) in [
        (QuantMix::F16, 1e-3),
        (QuantMix::BF16, 0.0),
        (QuantMix::Q8_0, 0.03),
        (QuantMix::Q6K, 0.06),
        (QuantMix::Q5KM, 0.12),
        (QuantMix::Q4KM, 0.2),
        (QuantMix::Q4_0, 0.3),
    ] {
        let quantized = Quantized::new(&spec, &demo, mix).unwrap();
        let mut file = Vec::new();
        to_gguf(&spec, &quantized).unwrap().write(&mut file).unwrap();
        let files = ModelFiles::from(Gguf::from_bytes("test.gguf", file).unwrap());
        let (gguf_spec, gguf) = (read_spec(&files).unwrap(), GgufSource::open(&files).unwrap());
        let error = error(&gguf_spec, &gguf);
        let from_file = logits(&gguf_spec, &gguf, &prompt());
        let lost = difference(&from_file, &original);
        println!("demo model | {} | {error:.1e} from dequantized | {lost:.1e} from bf16", mix.name());
        assert!(error < BOUND, "{}: {error:e}", mix.name());
        assert!(lost <= loss, "{}: {lost:e} from the original", mix.name());
        // At load it is the same as in a file, up to the order of rows within a head, which no sum depends on.
        let at_load = logits(&spec, &quantized, &prompt());
        assert!(difference(&at_load, &from_file) < 1e-5, "{}", mix.name());
    }
}
