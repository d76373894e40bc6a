//! Checkpoints written as GGUF give the logits of their safetensors form, and those of transformers.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use weirgate_engine::{Batch, Decoder, DecoderConfig};
use weirgate_kernels::DType;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_models::{
    Gguf, GgufSource, GgufWriter, ModelFiles, ModelSpec, RopeScaling, TensorSource, read_spec, to_gguf,
};
use weirgate_testkit::{Definition, RandomCheckpoint, definitions};

const PROMPT: usize = 1000;
const TOKENS: usize = 200;
const BLOCK_SIZE: usize = 16;
/// GGUF keeps factors in f32 and rotary frequencies as quotients, so a table may differ in its last bits.
const SCALED_BOUND: f64 = 2e-5;
const GOLDEN_BOUND: f64 = 1e-4;

fn decoder(spec: &ModelSpec, tensors: &dyn TensorSource) -> Decoder<CpuBackend> {
    let config = DecoderConfig {
        blocks: TOKENS.div_ceil(BLOCK_SIZE),
        block_size: BLOCK_SIZE,
        kv_dtype: DType::F32,
        max_step_tokens: TOKENS,
        max_seqs: 1,
        max_seq_len: TOKENS,
        max_logit_rows: 64,
    };
    Decoder::new(CpuBackend::new(2), spec, tensors, config).unwrap()
}

/// The logits after every token of the prompt.
fn logits(spec: &ModelSpec, tensors: &dyn TensorSource, prompt: &[u32]) -> Vec<f32> {
    let count = prompt.len() as u32;
    let blocks = count.div_ceil(BLOCK_SIZE as u32);
    let batch = Batch {
        ids: prompt.to_vec(),
        positions: (0..count).collect(),
        slots: (0..count).collect(),
        rope_len: vec![count; prompt.len()],
        cu_q: vec![0, count],
        kv_len: vec![count],
        block_tables: (0..blocks).collect(),
        block_offsets: vec![0, blocks],
        ..Batch::default()
    };
    let mut decoder = decoder(spec, tensors);
    decoder.forward(&batch).unwrap();
    let mut logits = Vec::new();
    decoder.logits(&(0..count).collect::<Vec<_>>(), &mut logits).unwrap();
    logits
}

fn largest_error(ours: &[f32], reference: &[f32], vocab: usize) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let rows = ours.chunks(vocab).zip(reference.chunks(vocab));
    rows.map(|(a, b)| {
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        difference / norm(&mut b.iter().map(|b| f64::from(*b)))
    })
    .fold(0.0, |largest, error| if error.is_nan() { f64::INFINITY } else { f64::max(largest, error) })
}

fn golden_logits(name: &str) -> Vec<f32> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{name}.logits"));
    std::fs::read(path).unwrap().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn open(writer: &GgufWriter<'_>) -> ModelFiles {
    let mut file = Vec::new();
    writer.write(&mut file).unwrap();
    Gguf::from_bytes("test.gguf", file).unwrap().into()
}

/// What GGUF has no words for.
fn expressible(name: &str) -> bool {
    name != "llama-dynamic"
}

#[test]
fn gguf_gives_the_same_logits() {
    for definition in definitions().into_iter().filter(|definition| expressible(&definition.name)) {
        let checkpoint = RandomCheckpoint::new(&definition).unwrap();
        let spec = checkpoint.spec();
        let files = open(&to_gguf(spec, &checkpoint).unwrap());
        let source = GgufSource::open(&files).unwrap();
        let gguf_spec = read_spec(&files).unwrap();
        gguf_spec.check_tensors(&source).unwrap();
        assert_eq!(source.tensor("token_embd.weight").unwrap().dtype, definition.dtype);

        let prompt = definition.prompt(PROMPT, TOKENS, spec.vocab_size);
        let reference = logits(spec, &checkpoint, &prompt);
        let ours = logits(&gguf_spec, &source, &prompt);
        let error = largest_error(&ours, &reference, spec.vocab_size);
        let golden = largest_error(&ours, &golden_logits(&definition.name), spec.vocab_size);
        println!("gguf | {} | {} | {error:.1e} | {golden:.1e}", definition.name, definition.dtype);
        let scaled = !matches!(spec.ropes[0].scaling, RopeScaling::None);
        if scaled {
            assert!(error < SCALED_BOUND, "{}: {error:e}", definition.name);
        } else {
            let same = ours.iter().zip(&reference).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}: other bits, {error:e}", definition.name);
        }
        assert!(golden < GOLDEN_BOUND, "{}: {golden:e} from transformers", definition.name);
    }
}

#[test]
fn the_specification_survives() {
    for definition in definitions().into_iter().filter(|definition| expressible(&definition.name)) {
        let checkpoint = RandomCheckpoint::new(&definition).unwrap();
        let files = open(&to_gguf(checkpoint.spec(), &checkpoint).unwrap());
        let (ours, mut expected) = (read_spec(&files).unwrap(), checkpoint.spec().clone());
        // Names differ, and the norms' offset has been added; factors went through f32.
        expected.tensors = ours.tensors.clone();
        expected.norm_offset = 0.0;
        for (ours, expected) in ours.ropes.iter().zip(&mut expected.ropes) {
            assert_eq!(
                std::mem::discriminant(&ours.scaling) == std::mem::discriminant(&expected.scaling),
                !matches!(expected.scaling, RopeScaling::Llama3 { .. }),
                "{}",
                definition.name
            );
            expected.scaling = ours.scaling.clone();
        }
        assert_eq!(ours, expected, "{}", definition.name);
    }
}

#[test]
fn what_gguf_cannot_express_is_refused() {
    let checkpoint = RandomCheckpoint::new(&Definition::named("llama-dynamic").unwrap()).unwrap();
    let message = to_gguf(checkpoint.spec(), &checkpoint).err().unwrap().to_string();
    assert!(message.contains("dynamic scaling cannot be expressed"), "{message}");
}
