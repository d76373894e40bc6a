//! Checkpoints written as GGUF give the logits of their safetensors form, and those of transformers.

use std::path::PathBuf;

use weirgate_models::{
    Gguf, GgufSource, GgufWriter, ModelFiles, RopeScaling, TensorSource, read_spec, to_gguf,
};
use weirgate_testkit::{Definition, RandomCheckpoint, definitions};

use crate::{largest_error, logits};

const PROMPT: usize = 1000;
const TOKENS: usize = 200;
/// GGUF keeps factors in f32 and rotary frequencies as quotients, so a table may differ in its last bits.
const SCALED_BOUND: f64 = 2e-5;
const GOLDEN_BOUND: f64 = 1e-4;

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
