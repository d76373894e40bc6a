//! Encoders of every family against transformers, and the thread that batches texts for them.
//!
//! The goldens come from `tools/parity/make_encoder_goldens.py`: transformers in f32 on the same weights.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use weirgate_engine::{
    EmbedConfig, EmbedFailure, EmbedInput, EmbedLimits, EmbedModel, EmbedOptions, Embedder, ExecutorError,
    load_cpu_embedder, spawn_embedder,
};
use weirgate_models::{
    DType, EncoderSpec, ModelError, ModelFiles, Pooling, TensorSource, TensorView, read_encoder,
    read_headless,
};
use weirgate_testkit::{Definition, RandomCheckpoint, RandomEncoder};
use weirgate_types::RejectReason;

/// As in the script.
const LENGTHS: [usize; 5] = [1, 2, 17, 41, 62];
const BOUND: f64 = 2e-5;

fn options(pooling: Pooling) -> EmbedOptions {
    EmbedOptions { threads: 2, max_step_tokens: 200, max_seqs: 16, max_tokens: 64, pooling }
}

fn goldens() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/encoders.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The prompts, of two types where a model is asked about pairs.
fn texts(encoder: &RandomEncoder, vocab: usize, pairs: bool) -> Vec<EmbedInput> {
    LENGTHS
        .iter()
        .enumerate()
        .map(|(index, &len)| EmbedInput {
            tokens: encoder.prompt(index, len, vocab),
            types: if pairs { (0..len).map(|at| u32::from(at >= len / 2)).collect() } else { Vec::new() },
        })
        .collect()
}

fn embed(embedder: &mut dyn Embedder, texts: &[EmbedInput]) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    embedder.embed(texts, &mut out).unwrap();
    out.chunks(embedder.limits().dimensions).map(<[f32]>::to_vec).collect()
}

/// ‖ours − theirs‖ / ‖theirs‖.
fn error(ours: &[f32], theirs: &Value) -> f64 {
    let theirs: Vec<f64> = theirs.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    assert_eq!(ours.len(), theirs.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| f64::from(*a) - b));
    difference / norm(&mut theirs.iter().copied())
}

#[test]
fn every_family_gives_transformers_vectors_and_scores() {
    let goldens = goldens();
    let encoders = RandomEncoder::all();
    assert_eq!(encoders.len(), goldens.as_object().unwrap().len());
    for encoder in encoders {
        let spec = encoder.spec().unwrap();
        let ranks = spec.classifier.is_some();
        let texts = texts(&encoder, spec.vocab_size, ranks);
        let poolings =
            [("mean", Pooling::Mean), ("cls", Pooling::Cls), ("last", Pooling::Last), ("max", Pooling::Max)];
        for (name, pooling) in poolings {
            let name = if ranks { "score" } else { name };
            let mut embedder =
                load_cpu_embedder(EmbedModel::Encoder(&spec), &encoder, &options(pooling)).unwrap();
            let together = embed(embedder.as_mut(), &texts);
            for (index, vector) in together.iter().enumerate() {
                let error = error(vector, &goldens[&encoder.name][index][name]);
                assert!(error < BOUND, "{} {name} of {} tokens: {error:e}", encoder.name, LENGTHS[index]);
                let alone = embed(embedder.as_mut(), &texts[index..=index]);
                assert_eq!(alone[0], *vector, "{} {name} alone", encoder.name);
            }
        }
    }
}

/// Tensors under other names than an encoder's.
struct Renamed(BTreeMap<String, (Vec<usize>, Vec<u8>)>);

impl TensorSource for Renamed {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        let (shape, bytes) = &self.0[name];
        Ok(TensorView { dtype: DType::F32, shape: shape.clone(), bytes: bytes.into() })
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn file(&self, _name: &str) -> &str {
        "renamed"
    }

    fn total_bytes(&self) -> u64 {
        self.0.values().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// A published checkpoint's tensors under the names that they have within transformers, after the table in its
/// `conversion_mapping.py`: queries, keys and values apart.
fn as_within_transformers(encoder: &RandomEncoder, spec: &EncoderSpec) -> Renamed {
    let names = [
        ("encoder.layers", "layers"),
        ("emb_ln", "embeddings.LayerNorm"),
        ("attn.out_proj", "self_attn.o_proj"),
        ("fc11", "up_proj"),
        ("fc12", "gate_proj"),
        ("fc2", "down_proj"),
        ("norm1", "post_attention_layernorm"),
        ("norm2", "post_mlp_layernorm"),
    ];
    let mut renamed = BTreeMap::new();
    for (name, shape) in spec.tensor_shapes() {
        let new = names.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
        let bytes = encoder.tensor(name).unwrap().bytes.to_vec();
        if new.contains("attn.Wqkv") {
            let parts = ["q_proj", "k_proj", "v_proj"].into_iter().zip(bytes.chunks(bytes.len() / 3));
            renamed.extend(parts.map(|(part, bytes)| {
                let name = new.replace("attn.Wqkv", &format!("self_attn.{part}"));
                (name, (vec![shape[0] / 3, shape[1]], bytes.to_vec()))
            }));
        } else {
            renamed.insert(new, (shape, bytes));
        }
    }
    Renamed(renamed)
}

/// Published checkpoints have the original names and keys; transformers writes the original names and keys of its own.
#[test]
fn nomic_is_the_same_under_all_its_names_and_keys() {
    let encoder = RandomEncoder::all().into_iter().find(|encoder| encoder.name == "nomic").unwrap();
    let own: Value = serde_json::from_slice(&encoder.files.read("config.json").unwrap().unwrap()).unwrap();
    let original = json!({
        "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "vocab_size": own["vocab_size"],
        "n_embd": own["hidden_size"], "n_inner": own["intermediate_size"], "n_head": own["num_attention_heads"],
        "n_layer": own["num_hidden_layers"], "n_positions": own["max_position_embeddings"],
        "activation_function": "swiglu", "layer_norm_epsilon": own["layer_norm_eps"], "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": false, "rotary_emb_scale_base": null,
        "rotary_scaling_factor": null, "max_trained_positions": 2048, "type_vocab_size": 2, "prenorm": false,
        "parallel_block": false, "use_rms_norm": false, "causal": false, "qkv_proj_bias": false,
        "mlp_fc1_bias": false, "mlp_fc2_bias": false, "pad_vocab_size_multiple": 64
    });
    let bytes: &'static [u8] = original.to_string().into_bytes().leak();
    let original = ModelFiles::embedded(Box::leak(Box::new([("config.json", bytes)])));
    let within = as_within_transformers(&encoder, &encoder.spec().unwrap());
    assert!(encoder.contains("encoder.layers.1.attn.Wqkv.weight") && !within.contains("emb_ln.weight"));
    assert!(within.contains("layers.1.self_attn.v_proj.weight"));
    let goldens = goldens();
    let cases: [(&str, &ModelFiles, &dyn TensorSource); 3] = [
        ("original keys", &original, &encoder),
        ("transformers' names", &encoder.files, &within),
        ("both", &original, &within),
    ];
    for (case, files, tensors) in cases {
        let spec = read_encoder(files, tensors).unwrap();
        let mut embedder =
            load_cpu_embedder(EmbedModel::Encoder(&spec), tensors, &options(Pooling::Mean)).unwrap();
        let vectors = embed(embedder.as_mut(), &texts(&encoder, spec.vocab_size, false));
        for (index, vector) in vectors.iter().enumerate() {
            let error = error(vector, &goldens["nomic"][index]["mean"]);
            assert!(error < BOUND, "{case}: {error:e} of {} tokens", LENGTHS[index]);
        }
    }
}

/// As of a model that was loaded in one thread beside others that answer.
#[test]
fn threads_that_come_later_change_nothing() {
    for encoder in RandomEncoder::all() {
        let spec = encoder.spec().unwrap();
        let texts = texts(&encoder, spec.vocab_size, spec.classifier.is_some());
        let load = || {
            let options = EmbedOptions { threads: 1, ..options(Pooling::Mean) };
            load_cpu_embedder(EmbedModel::Encoder(&spec), &encoder, &options).unwrap()
        };
        let expected = embed(load().as_mut(), &texts);
        let mut embedder = load();
        embedder.use_threads(4).unwrap();
        for _ in 0..30 {
            for (text, expected) in texts.iter().zip(&expected) {
                let found = embed(embedder.as_mut(), std::slice::from_ref(text));
                assert_eq!(found[0], *expected, "{} of {} tokens", encoder.name, text.tokens.len());
            }
        }
    }
}

#[test]
fn every_tensor_of_a_checkpoint_without_a_head_is_read() {
    for encoder in RandomEncoder::all() {
        let spec = encoder.spec().unwrap();
        spec.check_tensors(&encoder).unwrap();
        let elements = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        let read: u64 = spec.tensor_shapes().iter().map(|(_, shape)| elements(shape)).sum();
        // A pooler, or what predicts masked words, is there and not needed.
        let unread = encoder.total_bytes() / 4 - read;
        let allowed = match encoder.name.as_str() {
            "bert" | "bert-relu" | "roberta" | "xlm-roberta" | "mpnet" => 36 * 36 + 36,
            "bert-lm" => 36 * 36 + 3 * 36 + 160,
            _ => 0,
        };
        assert_eq!(unread, allowed, "{}", encoder.name);
    }
}

/// Its hidden states are pooled; what they are is tested with the logits (`parity.rs`).
#[test]
fn a_decoder_pools_its_last_hidden_states() {
    let checkpoint = RandomCheckpoint::new(&Definition::named("qwen3").unwrap()).unwrap();
    let spec = read_headless(&checkpoint.definition().files, &checkpoint).unwrap();
    assert_eq!(spec.tensors.head, None);
    let prompt = |index, len| EmbedInput {
        tokens: checkpoint.definition().prompt(index, len, spec.vocab_size),
        types: Vec::new(),
    };
    let texts = [prompt(0, 1), prompt(1, 33), prompt(2, 17)];
    let run = |pooling, texts: &[EmbedInput]| {
        let mut embedder =
            load_cpu_embedder(EmbedModel::Decoder(&spec), &checkpoint, &options(pooling)).unwrap();
        embed(embedder.as_mut(), texts)
    };
    // A causal model's states do not depend on what follows, so those of all prefixes are those of all tokens.
    let prefixes: Vec<EmbedInput> = (1..=17)
        .map(|len| EmbedInput { tokens: texts[2].tokens[..len].to_vec(), types: Vec::new() })
        .collect();
    let states: Vec<Vec<f32>> =
        prefixes.iter().flat_map(|prefix| run(Pooling::Last, std::slice::from_ref(prefix))).collect();
    let column = |at: usize| states.iter().map(move |state| f64::from(state[at]));
    let [mean, cls, last, max] =
        [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::Max].map(|pooling| run(pooling, &texts));
    assert_eq!(last[2], states[16]);
    assert_eq!(cls[2], states[0]);
    for at in 0..spec.hidden_size {
        let (sum, largest) = (column(at).sum::<f64>() / 17.0, column(at).fold(f64::MIN, f64::max));
        assert!((f64::from(mean[2][at]) - sum).abs() < 1e-5);
        assert_eq!(f64::from(max[2][at]), largest);
    }
    assert_eq!(mean[0], last[0]);
    assert!(mean[1] != last[1]);
}

/// Answers with a text's first token and its length; fails on 99 and panics on 98; waits while the gate is held.
struct Scripted {
    gate: Arc<Mutex<()>>,
    steps: Arc<Mutex<Vec<Vec<u32>>>>,
}

impl Embedder for Scripted {
    fn limits(&self) -> EmbedLimits {
        EmbedLimits { vocab_size: 100, max_tokens: 8, max_step_tokens: 10, max_seqs: 4, dimensions: 2 }
    }

    fn embed(&mut self, texts: &[EmbedInput], out: &mut Vec<f32>) -> Result<(), ExecutorError> {
        drop(self.gate.lock().unwrap());
        self.steps.lock().unwrap().push(texts.iter().map(|text| text.tokens[0]).collect());
        for text in texts {
            match text.tokens[0] {
                99 => return Err(ExecutorError::Batch("on purpose".into())),
                98 => panic!("on purpose"),
                first => out.extend([first as f32, text.tokens.len() as f32]),
            }
        }
        Ok(())
    }
}

fn text(first: u32, len: usize) -> EmbedInput {
    EmbedInput { tokens: vec![first; len], types: Vec::new() }
}

struct Served {
    handle: weirgate_engine::EmbedHandle,
    outputs: flume::Receiver<weirgate_types::StepOutputs>,
    gate: Arc<Mutex<()>>,
    steps: Arc<Mutex<Vec<Vec<u32>>>>,
}

fn serve(max_waiting: usize) -> Served {
    let (gate, steps) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
    let embedder = Box::new(Scripted { gate: gate.clone(), steps: steps.clone() });
    let (handle, outputs) = spawn_embedder(embedder, EmbedConfig { max_waiting }).unwrap();
    Served { handle, outputs, gate, steps }
}

#[test]
fn vectors_come_in_the_order_of_the_texts() {
    let served = serve(10);
    let texts: Vec<EmbedInput> = (0..50).map(|n| text(n, 1 + n as usize % 8)).collect();
    let vectors = served.handle.submit(texts).unwrap().wait().unwrap();
    for (n, vector) in vectors.iter().enumerate() {
        assert_eq!(*vector, [n as f32, (1 + n % 8) as f32]);
    }
    let steps = served.steps.lock().unwrap();
    assert!(steps.iter().all(|step| step.len() <= 4));
    let tokens = |step: &Vec<u32>| step.iter().map(|n| 1 + *n as usize % 8).sum::<usize>();
    assert!(steps.iter().all(|step| tokens(step) <= 10));
    assert!(served.handle.submit(Vec::new()).unwrap().wait().unwrap().is_empty());
}

#[test]
fn a_short_request_passes_a_long_one() {
    let served = serve(10);
    let held = served.gate.lock().unwrap();
    let long = served.handle.submit((0..40).map(|_| text(1, 5)).collect()).unwrap();
    while served.handle.stats().queued_requests > 0 {
        std::thread::yield_now();
    }
    let short = served.handle.submit(vec![text(2, 3)]).unwrap();
    drop(held);
    assert_eq!(short.wait().unwrap(), [[2.0, 3.0]]);
    long.wait().unwrap();
    let steps = served.steps.lock().unwrap();
    assert!(steps[1].contains(&2), "{steps:?}");
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let served = serve(10);
    for (bad, reason) in [
        (text(1, 0), RejectReason::EmptyPrompt),
        (text(1, 9), RejectReason::TooLong { needed: 9, limit: 8 }),
        (text(100, 1), RejectReason::TokenOutOfRange { token: 100, vocab: 100 }),
    ] {
        assert_eq!(served.handle.submit(vec![text(1, 1), bad]).unwrap_err(), reason);
    }
    assert_eq!(served.handle.stats().live_requests, 0);
}

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    let served = serve(10);
    for guilty in [99, 98] {
        let held = served.gate.lock().unwrap();
        let first = served.handle.submit(vec![text(1, 8)]).unwrap();
        while served.handle.stats().queued_requests > 0 {
            std::thread::yield_now();
        }
        let bad = served.handle.submit(vec![text(guilty, 8), text(3, 8), text(3, 8)]).unwrap();
        let after = served.handle.submit(vec![text(4, 8)]).unwrap();
        drop(held);
        assert_eq!(first.wait().unwrap(), [[1.0, 8.0]]);
        assert_eq!(bad.wait().unwrap_err(), EmbedFailure::Step);
        assert_eq!(after.wait().unwrap(), [[4.0, 8.0]]);
    }
    assert_eq!(served.handle.stats().live_requests, 0);
}

#[test]
fn too_many_are_refused_and_who_leaves_is_forgotten() {
    let served = serve(2);
    let held = served.gate.lock().unwrap();
    let first = served.handle.submit(vec![text(1, 8)]).unwrap();
    while served.handle.stats().queued_requests > 0 {
        std::thread::yield_now();
    }
    let gone = served.handle.submit((0..20).map(|_| text(2, 8)).collect()).unwrap();
    let waiting = served.handle.submit(vec![text(3, 8)]).unwrap();
    assert_eq!(served.handle.submit(vec![text(4, 1)]).unwrap_err(), RejectReason::Overloaded);
    drop(gone);
    drop(held);
    assert_eq!(waiting.wait().unwrap(), [[3.0, 8.0]]);
    first.wait().unwrap();
    assert!(served.steps.lock().unwrap().iter().all(|step| !step.contains(&2)));
    while served.handle.stats().live_requests > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn stopping_finishes_what_was_accepted_and_aborting_does_not() {
    for abort in [false, true] {
        let served = serve(10);
        let held = served.gate.lock().unwrap();
        let first = served.handle.submit(vec![text(1, 8)]).unwrap();
        while served.handle.stats().queued_requests > 0 {
            std::thread::yield_now();
        }
        let second = served.handle.submit(vec![text(2, 8)]).unwrap();
        if abort {
            served.handle.abort();
        } else {
            served.handle.stop();
        }
        assert_eq!(served.handle.submit(vec![text(3, 1)]).unwrap_err(), RejectReason::EngineStopped);
        drop(held);
        assert!(first.wait().is_ok());
        let ended = second.wait();
        assert_eq!(ended.is_err(), abort, "{ended:?}");
        let mut steps = 0;
        while served.outputs.recv_timeout(Duration::from_secs(10)).is_ok() {
            steps += 1;
        }
        assert!(served.outputs.is_disconnected() && steps >= 1);
    }
}
