//! The decoder against transformers: logits at every position of a 200-token prompt, and 64 greedy tokens for each of
//! 20 prompts, for a tiny random checkpoint of every architecture and rotary scaling.
//!
//! The goldens come from `tools/parity/make_goldens.py`: transformers in f32 on the same stored weights.
//! `WEIRGATE_GOLDENS` names another folder of them.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde_json::Value;
use weirgate_engine::{
    Batch, Decoder, DecoderConfig, EmbedInput, EmbedModel, EmbedOptions, load_cpu_embedder,
};
use weirgate_kernels::DType;
use weirgate_kernels::cpu::CpuBackend;
use weirgate_models::{
    Activation, ModelFiles, ModelSpec, Pooling, Rope, RopeScaling, TensorSource, read_headless, read_spec,
};
use weirgate_testkit::{Definition, RandomCheckpoint, definitions, prompt_lengths};

/// Sequences that decode together, tokens each may have, tokens per block.
const MAX_SEQS: usize = 20;
const MAX_SEQ_LEN: usize = 208;
const BLOCK_SIZE: usize = 16;
const BLOCKS_PER_SEQ: usize = MAX_SEQ_LEN / BLOCK_SIZE;

const LOGITS_PROMPT: usize = 1000;
const LOGITS_TOKENS: usize = 200;
const GREEDY_TOKENS: usize = 64;

const F32_BOUND: f64 = 1e-4;
/// With keys and values rounded to f16.
const HALF_BOUND: f64 = 2e-2;
/// bf16 has three bits less than f16.
const BF16_KV_BOUND: f64 = 8.0 * HALF_BOUND;

/// A piece of one sequence to compute: tokens `start..` of `tokens`.
struct Piece<'a> {
    seq: usize,
    tokens: &'a [u32],
    start: usize,
    /// The length that picks the rotary table, unless the position is past it.
    rope_base: usize,
}

struct Runner {
    decoder: Decoder<CpuBackend>,
}

impl Runner {
    fn new(checkpoint: &RandomCheckpoint, kv_dtype: DType, threads: usize) -> Self {
        Self::with_spec(checkpoint.spec(), checkpoint, kv_dtype, threads)
    }

    /// The checkpoint's weights under another reading of its configuration.
    fn with_spec(spec: &ModelSpec, checkpoint: &RandomCheckpoint, kv_dtype: DType, threads: usize) -> Self {
        let config = DecoderConfig {
            blocks: MAX_SEQS * BLOCKS_PER_SEQ,
            block_size: BLOCK_SIZE,
            kv_dtype: kv_dtype.into(),
            max_step_tokens: 256,
            max_seqs: MAX_SEQS,
            max_seq_len: MAX_SEQ_LEN,
            max_logit_rows: 48,
        };
        let decoder = Decoder::new(CpuBackend::new(threads), spec, checkpoint, config).unwrap();
        Self { decoder }
    }

    /// The blocks of a sequence lie scattered and out of order.
    fn block(seq: usize, index: usize) -> u32 {
        ((BLOCKS_PER_SEQ - 1 - index) * MAX_SEQS + seq) as u32
    }

    /// Computes the pieces in one step; the logits after every token.
    fn step(&mut self, pieces: &[Piece<'_>]) -> Vec<f32> {
        let batch = Self::batch(pieces);
        self.decoder.forward(&batch).unwrap();
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        let mut logits = Vec::new();
        self.decoder.logits(&rows, &mut logits).unwrap();
        logits
    }

    fn batch(pieces: &[Piece<'_>]) -> Batch {
        let mut batch = Batch { cu_q: vec![0], block_offsets: vec![0], ..Batch::default() };
        for piece in pieces {
            for position in piece.start..piece.tokens.len() {
                let block = Self::block(piece.seq, position / BLOCK_SIZE) as usize;
                batch.ids.push(piece.tokens[position]);
                batch.positions.push(position as u32);
                batch.slots.push((block * BLOCK_SIZE + position % BLOCK_SIZE) as u32);
                batch.rope_len.push(piece.rope_base.max(position + 1) as u32);
            }
            let blocks = piece.tokens.len().div_ceil(BLOCK_SIZE);
            batch.block_tables.extend((0..blocks).map(|index| Self::block(piece.seq, index)));
            batch.cu_q.push(batch.ids.len() as u32);
            batch.kv_len.push(piece.tokens.len() as u32);
            batch.adapters.push(None);
            batch.block_offsets.push(batch.block_tables.len() as u32);
        }
        batch
    }

    /// The logits after every token of `prompt`, computed in pieces that end at `cuts`.
    fn prompt_logits(&mut self, prompt: &[u32], cuts: &[usize]) -> Vec<f32> {
        let mut logits = Vec::new();
        let mut start = 0;
        for &end in cuts {
            logits.extend(self.step(&[Piece {
                seq: 3,
                tokens: &prompt[..end],
                start,
                rope_base: prompt.len(),
            }]));
            start = end;
        }
        logits
    }

    /// 64 greedy tokens for each prompt: prompts one by one, then all sequences decode together.
    fn greedy(&mut self, spec: &ModelSpec, prompts: Vec<Vec<u32>>) -> Vec<Vec<u32>> {
        let recompute = spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::LongRope { .. }));
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut rope_bases = lengths.clone();
        let mut sequences = prompts;
        for (seq, tokens) in sequences.iter_mut().enumerate() {
            let logits = self.step(&[Piece { seq, tokens, start: 0, rope_base: tokens.len() }]);
            tokens.push(last_choice(&logits, spec.vocab_size));
        }
        for _ in 1..GREEDY_TOKENS {
            for (seq, tokens) in sequences.iter().enumerate() {
                let class = spec.length_class(tokens.len());
                if recompute && class != spec.length_class(rope_bases[seq]) {
                    // All but the last token, which the step below computes.
                    rope_bases[seq] = tokens.len();
                    let piece =
                        Piece { seq, tokens: &tokens[..tokens.len() - 1], start: 0, rope_base: tokens.len() };
                    self.step(&[piece]);
                }
            }
            let pieces: Vec<Piece<'_>> = sequences
                .iter()
                .zip(&rope_bases)
                .enumerate()
                .map(|(seq, (tokens, &rope_base))| Piece { seq, tokens, start: tokens.len() - 1, rope_base })
                .collect();
            let logits = self.step(&pieces);
            for (tokens, row) in sequences.iter_mut().zip(logits.chunks(spec.vocab_size)) {
                tokens.push(last_choice(row, spec.vocab_size));
            }
        }
        sequences.into_iter().zip(lengths).map(|(tokens, len)| tokens[len..].to_vec()).collect()
    }
}

/// The most likely token after the last row.
fn last_choice(logits: &[f32], vocab: usize) -> u32 {
    let row = &logits[logits.len() - vocab..];
    (0..vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
}

/// The largest ‖a − b‖ / ‖b‖ over rows.
fn largest_error(ours: &[f32], reference: &[f32], vocab: usize) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let rows = ours.chunks(vocab).zip(reference.chunks(vocab));
    rows.map(|(a, b)| {
        let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        difference / norm(&mut b.iter().map(|b| f64::from(*b)))
    })
    // A NaN must not lose against any number.
    .fold(0.0, |largest, error| if error.is_nan() { f64::INFINITY } else { f64::max(largest, error) })
}

fn goldens() -> PathBuf {
    match std::env::var_os("WEIRGATE_GOLDENS") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"),
    }
}

fn golden(name: &str) -> Value {
    let text = std::fs::read_to_string(goldens().join("goldens.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    all[name].clone()
}

fn golden_logits(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(goldens().join(format!("{name}.logits"))).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn check(name: &str) {
    let definition = Definition::named(name).unwrap();
    let checkpoint = RandomCheckpoint::new(&definition).unwrap();
    let golden = golden(name);
    assert_eq!(golden["checksum"], format!("{:016x}", checkpoint.checksum()), "{name}: other weights");
    let vocab = checkpoint.spec().vocab_size;
    let prompt = definition.prompt(LOGITS_PROMPT, LOGITS_TOKENS, vocab);
    let reference = golden_logits(name);

    let mut runner = Runner::new(&checkpoint, DType::F32, 2);
    let logits = runner.prompt_logits(&prompt, &[LOGITS_TOKENS]);
    let f32_error = largest_error(&logits, &reference, vocab);

    let prompts: Vec<_> =
        prompt_lengths().enumerate().map(|(index, len)| definition.prompt(index, len, vocab)).collect();
    let tokens = runner.greedy(checkpoint.spec(), prompts);
    let expected: Vec<Vec<u32>> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    assert_eq!(expected.len(), 20);
    let identical = tokens.iter().zip(&expected).filter(|(ours, theirs)| ours == theirs).count();

    let half_kv = [DType::F16, DType::BF16].map(|dtype| {
        let logits = Runner::new(&checkpoint, dtype, 2).prompt_logits(&prompt, &[LOGITS_TOKENS]);
        largest_error(&logits, &reference, vocab)
    });
    println!(
        "parity | {name} | {:?} | {f32_error:.1e} | {identical}/20 | {:.1e} | {:.1e}",
        definition.dtype, half_kv[0], half_kv[1]
    );
    assert!(f32_error < F32_BOUND, "{name}: relative error {f32_error:e} with an f32 cache");
    assert!(half_kv[0] < HALF_BOUND, "{name}: relative error {:e} with an f16 cache", half_kv[0]);
    assert!(half_kv[1] < BF16_KV_BOUND, "{name}: relative error {:e} with a bf16 cache", half_kv[1]);
    for (index, (ours, theirs)) in tokens.iter().zip(&expected).enumerate() {
        assert_eq!(ours, theirs, "{name}: greedy tokens of prompt {index}");
    }
    check_cuts(&checkpoint, &prompt, &logits);
}

/// However the prompt is cut, and with one thread or two, the logits are the same bits.
fn check_cuts(checkpoint: &RandomCheckpoint, prompt: &[u32], whole: &[f32]) {
    let one_by_one: Vec<usize> = (1..=prompt.len()).collect();
    let cases: [(usize, &[usize]); 3] =
        [(1, &[LOGITS_TOKENS]), (2, &[1, 2, 19, 51, 64, 129, 199, 200]), (1, &one_by_one)];
    for (threads, cuts) in cases {
        let cut = Runner::new(checkpoint, DType::F32, threads).prompt_logits(prompt, cuts);
        let differs = cut.iter().zip(whole).position(|(a, b)| a.to_bits() != b.to_bits());
        let vocab = checkpoint.spec().vocab_size;
        assert_eq!(differs.map(|at| at / vocab), None, "{threads} threads, pieces that end at {cuts:?}");
    }
}

macro_rules! checkpoints {
    ($($test:ident = $name:literal,)*) => {
        $(#[test]
        fn $test() {
            check($name);
        })*

        /// No checkpoint of the testkit goes unchecked.
        #[test]
        fn all_checkpoints_are_checked() {
            let names: Vec<String> = definitions().into_iter().map(|definition| definition.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

checkpoints! {
    llama = "llama",
    llama_llama3 = "llama-llama3",
    llama_linear = "llama-linear",
    llama_dynamic = "llama-dynamic",
    llama_yarn = "llama-yarn",
    mistral = "mistral",
    qwen2 = "qwen2",
    qwen2_sliding = "qwen2-sliding",
    qwen3 = "qwen3",
    gemma2 = "gemma2",
    gemma3 = "gemma3",
    phi3 = "phi3",
    phi3_longrope = "phi3-longrope",
    phi4_mini = "phi4-mini",
    llama_bf16 = "llama-bf16",
    llama_f16 = "llama-f16",
    qwen2_bf16 = "qwen2-bf16",
    gemma3_bf16 = "gemma3-bf16",
    phi3_f16 = "phi3-f16",
}

/// Decoders as embedders: the head over the last token's vector gives the last of transformers' logits.
#[test]
fn pooled_states_are_those_that_the_head_reads() {
    for definition in definitions() {
        let name = &definition.name;
        let checkpoint = RandomCheckpoint::new(&definition).unwrap();
        let mut spec = read_headless(&definition.files, &checkpoint).unwrap();
        assert_eq!(spec.tensors.head, None, "{name}");
        // The goldens go past the positions of a model with dynamic scaling, as its rotary table does.
        spec.max_positions = spec.max_positions.max(LOGITS_TOKENS);
        let options = EmbedOptions {
            threads: 2,
            max_step_tokens: LOGITS_TOKENS,
            max_seqs: 1,
            max_tokens: LOGITS_TOKENS,
            pooling: Pooling::Last,
        };
        let mut embedder = load_cpu_embedder(EmbedModel::Decoder(&spec), &checkpoint, &options).unwrap();
        let prompt = definition.prompt(LOGITS_PROMPT, LOGITS_TOKENS, spec.vocab_size);
        let mut state = Vec::new();
        embedder.embed(&[EmbedInput { tokens: prompt, types: Vec::new() }], &mut state).unwrap();

        let names = &checkpoint.spec().tensors;
        let head = checkpoint.tensor(names.head.as_ref().unwrap_or(&names.embedding)).unwrap().to_f32();
        let logits: Vec<f32> = head
            .chunks(spec.hidden_size)
            .map(|row| {
                let logit: f64 = row.iter().zip(&state).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let capped = |cap: f32| f64::from(cap) * (logit / f64::from(cap)).tanh();
                spec.logit_softcap.map_or(logit, capped) as f32
            })
            .collect();
        let reference = golden_logits(name);
        let last = &reference[reference.len() - spec.vocab_size..];
        let error = largest_error(&logits, last, spec.vocab_size);
        assert!(error < F32_BOUND, "{name}: relative error {error:e}");
    }
}

/// The last layer leaves out rows that are not wanted; the others are the same bits, and so is what follows.
#[test]
fn wanted_rows_are_what_they_are_among_all() {
    for name in ["llama", "gemma2", "qwen2-bf16", "phi3"] {
        let definition = Definition::named(name).unwrap();
        let checkpoint = RandomCheckpoint::new(&definition).unwrap();
        let vocab = checkpoint.spec().vocab_size;
        let prompt = definition.prompt(LOGITS_PROMPT, LOGITS_TOKENS, vocab);
        let whole = Runner::new(&checkpoint, DType::F32, 2).prompt_logits(&prompt, &[LOGITS_TOKENS]);
        let mut runner = Runner::new(&checkpoint, DType::F32, 2);
        let cuts: [(usize, usize, &[u32]); 4] =
            [(0, 60, &[]), (60, 100, &[0, 7, 39]), (100, 190, &[89]), (190, 200, &[9])];
        for (start, end, wanted) in cuts {
            let piece = Piece { seq: 3, tokens: &prompt[..end], start, rope_base: prompt.len() };
            let batch = Batch { wanted: Some(wanted.to_vec()), ..Runner::batch(&[piece]) };
            runner.decoder.forward(&batch).unwrap();
            let mut logits = Vec::new();
            runner.decoder.logits(wanted, &mut logits).unwrap();
            for (row, ours) in wanted.iter().zip(logits.chunks(vocab)) {
                let at = start + *row as usize;
                assert_eq!(bits(ours), bits(&whole[at * vocab..][..vocab]), "{name}: token {at}");
            }
            // Where few rows are spared, all are computed.
            let refused = runner.decoder.logits(&[2], &mut logits).err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), end - start > 16, "{name}: {start}..{end}, {refused:?}");
            if let Some(refused) = refused {
                assert!(refused.contains("row 2, which it did not want"), "{refused}");
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The comparison can fail: a reference of another checkpoint, or a single wrong logit, is seen.
#[test]
fn the_comparison_sees_differences() {
    let definition = Definition::named("llama").unwrap();
    let checkpoint = RandomCheckpoint::new(&definition).unwrap();
    let vocab = checkpoint.spec().vocab_size;
    let reference = golden_logits("llama");
    assert_eq!(largest_error(&reference, &reference, vocab), 0.0);
    let mut wrong = reference.clone();
    wrong[150 * vocab + 7] += 0.01;
    assert!(largest_error(&wrong, &reference, vocab) > F32_BOUND);
    wrong[0] = f32::NAN;
    assert_eq!(largest_error(&wrong, &reference, vocab), f64::INFINITY);
    let other = definition.prompt(LOGITS_PROMPT + 1, LOGITS_TOKENS, vocab);
    let logits = Runner::new(&checkpoint, DType::F32, 1).prompt_logits(&other, &[LOGITS_TOKENS]);
    assert!(largest_error(&logits, &reference, vocab) > 0.1);
}

/// A change to what was read from a configuration.
type Change = fn(&mut ModelSpec);

/// The goldens depend on every setting: each of these small misreadings is seen.
#[test]
fn every_setting_matters() {
    let changes: [(&str, Change); 20] = [
        ("llama", |spec| spec.norm_eps = 1e-3),
        ("llama", |spec| spec.attention_scale *= 1.01),
        ("llama", |spec| spec.ropes[0].base = 10_100.0),
        ("llama-llama3", |spec| spec.ropes[0].scaling = RopeScaling::None),
        ("llama-linear", |spec| spec.ropes[0].scaling = RopeScaling::Linear { factor: 4.1 }),
        ("llama-linear", |spec| spec.tensors.layers[0].qkv_bias.clear()),
        ("llama-linear", |spec| spec.tensors.layers[1].output_bias = None),
        ("llama-linear", |spec| spec.tensors.layers[1].gate_up_bias.clear()),
        ("llama-linear", |spec| spec.tensors.layers[1].down_bias = None),
        ("llama-dynamic", |spec| {
            spec.ropes[0].scaling = RopeScaling::Dynamic { factor: 2.0, original_max: 101 }
        }),
        ("mistral", |spec| spec.layers.iter_mut().for_each(|layer| layer.window = Some(46))),
        ("qwen2-sliding", |spec| spec.layers[2].window = None),
        ("qwen3", |spec| spec.tensors.layers[0].qk_norm = None),
        ("gemma2", |spec| spec.attention_softcap = None),
        ("gemma2", |spec| spec.logit_softcap = None),
        ("gemma2", |spec| spec.tensors.layers[3].post_ffn_norm = None),
        ("gemma3", |spec| spec.layers[0].rope = 0),
        ("gemma3", |spec| spec.embedding_scale *= 1.01),
        ("gemma3", |spec| spec.activation = Activation::Gelu),
        ("phi4-mini", |spec| {
            if let RopeScaling::LongRope { attention_factor, .. } = &mut spec.ropes[0].scaling {
                *attention_factor *= 1.01;
            }
        }),
    ];
    for (index, (name, change)) in changes.into_iter().enumerate() {
        let definition = Definition::named(name).unwrap();
        let checkpoint = RandomCheckpoint::new(&definition).unwrap();
        let mut spec = checkpoint.spec().clone();
        change(&mut spec);
        let prompt = definition.prompt(LOGITS_PROMPT, LOGITS_TOKENS, spec.vocab_size);
        let mut runner = Runner::with_spec(&spec, &checkpoint, DType::F32, 1);
        let logits = runner.prompt_logits(&prompt, &[LOGITS_TOKENS]);
        let error = largest_error(&logits, &golden_logits(name), spec.vocab_size);
        assert!(error > F32_BOUND, "change {index} of {name} goes unseen: {error:e}");
    }
}

/// Rotary tables of published settings, at positions up to 131,071, where one bit of a frequency counts.
#[test]
fn rotary_tables() {
    let all: Value =
        serde_json::from_str(&std::fs::read_to_string(goldens().join("rope.json")).unwrap()).unwrap();
    for (name, golden) in all.as_object().unwrap() {
        let config: &'static [u8] = golden["config"].to_string().into_bytes().leak();
        let files = ModelFiles::embedded(Box::leak(Box::new([("config.json", config)])));
        let spec = read_spec(&files).unwrap();
        let positions: Vec<u32> = serde_json::from_value(golden["positions"].clone()).unwrap();
        let lengths = vec![positions[positions.len() - 1] + 1; positions.len()];
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        Rope::new(&spec.ropes[0]).fill(&positions, &lengths, &mut cos, &mut sin);
        for (ours, theirs) in [(cos, &golden["cos"]), (sin, &golden["sin"])] {
            let theirs: Vec<Vec<f32>> = serde_json::from_value(theirs.clone()).unwrap();
            for ((ours, theirs), position) in ours.chunks(theirs[0].len()).zip(&theirs).zip(&positions) {
                let error = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("rope | {name} | {position} | {error:.1e}");
                assert!(error < 1e-5, "{name}: {error:e} at position {position}");
            }
        }
    }
}
