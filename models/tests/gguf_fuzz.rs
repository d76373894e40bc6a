//! A few hundred thousand damaged GGUF files: each ends in a model or in an error, never in a panic, and none makes
//! the process grow. (`fuzz/` has the same for a coverage-guided fuzzer.)
#![allow(clippy::unwrap_used)]

use weirgate_models::{DType, Gguf, GgufSource, GgufValue, GgufWriter, ModelFiles, TensorSource, read_spec};

const FILES: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
const ROUNDS: usize = 100_000;
/// What the process may grow by, in KiB; the files are some 4 KB each.
const MAX_GROWTH: u64 = 64 << 10;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A one-layer model with a tokenizer of `kind`.
fn seed(kind: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", GgufValue::String("llama".into()));
    for (key, size) in [
        ("context_length", 128),
        ("embedding_length", 8),
        ("feed_forward_length", 32),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        writer.set(format!("llama.{key}"), GgufValue::U32(size));
    }
    writer.set("llama.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-5));
    let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab", "[CLS]", "<0x41>", "Ġ", "Ġa"];
    let texts = |texts: &[&str]| GgufValue::Strings(texts.iter().map(|text| (*text).into()).collect());
    writer.set("tokenizer.ggml.model", GgufValue::String(kind.into()));
    writer.set("tokenizer.ggml.pre", GgufValue::String("llama-bpe".into()));
    writer.set("tokenizer.ggml.tokens", texts(&tokens));
    writer.set("tokenizer.ggml.scores", GgufValue::F32s((0..12).map(|i| -(i as f32)).collect()));
    writer.set("tokenizer.ggml.token_type", GgufValue::I32s(vec![2, 3, 3, 1, 1, 1, 1, 1, 3, 6, 1, 1]));
    writer.set("tokenizer.ggml.merges", texts(&["a b", "▁ ab", "Ġ a"]));
    writer.set("tokenizer.ggml.bos_token_id", GgufValue::U32(1));
    writer.set("tokenizer.ggml.eos_token_id", GgufValue::U32(2));
    writer.set("tokenizer.chat_template", GgufValue::String("{{ messages }}".into()));
    let mut tensor = |name: &str, dtype: DType, shape: &[usize]| {
        let len = dtype.bytes_of(shape.iter().product()).unwrap();
        writer.tensor(name, dtype, shape, move || Ok(vec![1; len].into())).unwrap();
    };
    tensor("token_embd.weight", DType::F32, &[12, 8]);
    tensor("output_norm.weight", DType::F32, &[8]);
    tensor("rope_freqs.weight", DType::F32, &[2]);
    for (name, rows) in [("attn_q", 8), ("attn_k", 4), ("attn_v", 4), ("attn_output", 8)] {
        tensor(&format!("blk.0.{name}.weight"), DType::F16, &[rows, 8]);
    }
    tensor("blk.0.attn_norm.weight", DType::F32, &[8]);
    tensor("blk.0.ffn_norm.weight", DType::F32, &[8]);
    tensor("blk.0.ffn_gate.weight", DType::BF16, &[32, 8]);
    tensor("blk.0.ffn_up.weight", DType::BF16, &[32, 8]);
    tensor("blk.0.ffn_down.weight", DType::Q8_0, &[8, 32]);
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    bytes
}

/// Numbers that counts, lengths and offsets go wrong at.
fn number(rng: &mut Rng, len: usize) -> u64 {
    let near = rng.below(3) as u64;
    match rng.below(8) {
        0 => near,
        1 => (len as u64 + near).wrapping_sub(1),
        2 => (1 << 32) - 1 + near,
        3 => (1 << 31) - 1 + near,
        4 => (1 << 63) - 1 + near,
        5 => u64::MAX - near * 31,
        6 => 1 << rng.below(64),
        _ => rng.next(),
    }
}

fn mutate(rng: &mut Rng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + rng.below(3) {
        let len = bytes.len().max(16);
        bytes.resize(len, 0);
        let at = rng.below(len - 8);
        match rng.below(7) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes[at..at + 8].copy_from_slice(&number(rng, len).to_le_bytes()),
            3 => bytes[at..at + 4].copy_from_slice(&(number(rng, len) as u32).to_le_bytes()),
            4 if rng.below(8) == 0 => bytes.truncate(at),
            5 => drop(bytes.drain(at..at + 1 + rng.below(8))),
            _ => {
                // Repeats a piece, such as a key.
                let piece = bytes[at..len.min(at + rng.below(64))].to_vec();
                let to = rng.below(len);
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes
}

/// Reads everything there is to read. What was reached: header, specification, tokenizer, whole model.
fn read_all(bytes: Vec<u8>) -> [bool; 4] {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", bytes) else {
        return [false; 4];
    };
    let names: Vec<String> =
        gguf.files().iter().flat_map(|file| file.tensors()).map(|tensor| tensor.name.clone()).collect();
    let files = ModelFiles::from(gguf);
    let tokenizer = FILES.map(|name| files.read(name).is_ok_and(|file| file.is_some()))[2];
    let spec = read_spec(&files);
    let Ok(source) = GgufSource::open(&files) else {
        return [true, spec.is_ok(), tokenizer, false];
    };
    for name in &names {
        if let Ok(view) = source.tensor(name) {
            let elements = view.shape.iter().product();
            assert_eq!(view.dtype.bytes_of(elements), Some(view.bytes.len()), "{name}");
            assert_eq!(view.to_f32().len(), elements, "{name}");
        }
    }
    let whole = spec.as_ref().is_ok_and(|spec| spec.check_tensors(&source).is_ok());
    [true, spec.is_ok(), tokenizer, whole]
}

/// The most memory that the process has had so far, in KiB; nothing where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn damaged_files_end_in_errors() {
    let mut rng = Rng(5);
    for kind in ["llama", "gpt2", "bert"] {
        let seed = seed(kind);
        assert_eq!(read_all(seed.clone()), [true; 4], "{kind}");
        let before = peak_memory();
        let mut reached = [0; 4];
        for _ in 0..ROUNDS {
            let stages = read_all(mutate(&mut rng, &seed));
            reached.iter_mut().zip(stages).for_each(|(count, stage)| *count += usize::from(stage));
        }
        let growth = peak_memory() - before;
        println!("gguf fuzz | {kind} | {ROUNDS} files | reached {reached:?} | {growth} KiB");
        assert!(growth < MAX_GROWTH, "{kind}: grew by {growth} KiB");
        // The mutations must neither all fail at the first byte nor all be harmless.
        assert!(reached.iter().all(|count| (ROUNDS / 50..ROUNDS).contains(count)), "{kind}: {reached:?}");
    }
}
