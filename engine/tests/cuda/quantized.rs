//! Quantized checkpoints of every kind on a CUDA device against the same on the CPU.
#![allow(clippy::expect_used)]

use std::fs;

use serde_json::{Value, json};
use weirgate_kernels::cuda::{CudaBackend, FactorType, Gpu};
use weirgate_models::{DType, ModelFiles, TensorSource, open_tensors, read_spec};
use weirgate_testkit::packed::{Grid, Tensor, to_e4m3, write_tensors};
use weirgate_testkit::{Definition, RandomCheckpoint};
use weirgate_types::GenerateRequest;

use crate::parity::{apart, assert_parity};
use crate::real::{Engine, Model, Results, Rng, Setup, greedy};
use crate::{ada, gpu};

/// Columns that whole blocks fill, rows that words fill, and more rows than a tile of a prompt's products has.
const CONFIG: &[u8] = br#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 261,
    "max_position_embeddings": 512, "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "hidden_act": "silu",
    "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
}"#;
const FILES: &[(&str, &[u8])] = &[("config.json", CONFIG)];

/// How a matrix is packed: its name without `.weight`, its values and its shape.
type Pack = fn(&str, &[f32], (usize, usize)) -> Vec<Tensor>;

/// A kind of checkpoint.
struct Scheme {
    name: &'static str,
    config: Value,
    pack: Pack,
    /// What its matrices are read as.
    becomes: DType,
}

fn scheme(name: &'static str, config: Value, becomes: DType, pack: Pack) -> Scheme {
    Scheme { name, config, pack, becomes }
}

fn awq() -> [Scheme; 2] {
    let config =
        || json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "GEMM"});
    [
        scheme("awq", config(), DType::Q5_0, |name, w, shape| Grid::of(w, shape, 4, 32, false).awq(name)),
        scheme("awq, symmetric", config(), DType::Q4_0, |name, w, shape| {
            Grid::of(w, shape, 4, 32, true).awq(name)
        }),
    ]
}

fn gptq() -> [Scheme; 6] {
    let config =
        |bits: u32, format| json!({"quant_method": "gptq", "bits": bits, "checkpoint_format": format});
    [
        scheme("gptq, 4 bit", config(4, "gptq"), DType::Q4_0, |name, w, shape| {
            Grid::of(w, shape, 4, 32, true).gptq(name, 1)
        }),
        scheme("gptq, 4 bit, zero points", config(4, "gptq"), DType::Q5_0, |name, w, shape| {
            Grid::of(w, shape, 4, 32, false).gptq(name, 1)
        }),
        scheme("gptq_v2", config(4, "gptq_v2"), DType::Q5_0, |name, w, shape| {
            Grid::of(w, shape, 4, 32, false).gptq(name, 0)
        }),
        scheme("gptq, 8 bit", config(8, "gptq"), DType::Q8_0, |name, w, shape| {
            Grid::of(w, shape, 8, 32, true).gptq(name, 1)
        }),
        scheme("gptq, 8 bit, zero points", config(8, "gptq"), DType::F16, |name, w, shape| {
            Grid::of(w, shape, 8, 32, false).gptq(name, 1)
        }),
        scheme("gptq, desc_act", config(4, "gptq"), DType::F16, |name, w, shape| {
            let mut grid = Grid::of(w, shape, 4, 32, true);
            grid.group_of.rotate_left(7);
            let mut tensors = grid.gptq(name, 1);
            tensors.push(grid.g_idx(&format!("{name}.g_idx")));
            tensors
        }),
    ]
}

/// Floats of eight bits, with scales for each block of this many rows and columns in a tensor called `part`.
fn small_floats(
    (name, part): (&str, &str),
    w: &[f32],
    (rows, cols): (usize, usize),
    (block_rows, block_cols): (usize, usize),
) -> Vec<Tensor> {
    let grid = (rows.div_ceil(block_rows), cols.div_ceil(block_cols));
    let block_of = |at: usize| at / cols / block_rows * grid.1 + at % cols / block_cols;
    let mut scales = vec![0.0f32; grid.0 * grid.1];
    for (at, value) in w.iter().enumerate() {
        scales[block_of(at)] = scales[block_of(at)].max(value.abs() / 448.0);
    }
    let bytes = w.iter().enumerate().map(|(at, value)| to_e4m3(value / scales[block_of(at)])).collect();
    let shape = if scales.len() == 1 { vec![] } else { vec![grid.0, grid.1] };
    let scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    vec![
        (format!("{name}.weight"), "F8_E4M3", vec![rows, cols], bytes),
        (format!("{name}.{part}"), "F32", shape, scales),
    ]
}

fn eight_bits() -> [Scheme; 5] {
    let compressed = |format| json!({"quant_method": "compressed-tensors", "format": format});
    [
        scheme("fp8", json!({"quant_method": "fp8"}), DType::F16, |name, w, shape| {
            small_floats((name, "weight_scale"), w, shape, shape)
        }),
        scheme(
            "fp8, by block",
            json!({"quant_method": "fp8", "weight_block_size": [32, 32]}),
            DType::F16,
            |name, w, shape| small_floats((name, "weight_scale_inv"), w, shape, (32, 32)),
        ),
        scheme("float-quantized", compressed("float-quantized"), DType::F16, |name, w, shape| {
            small_floats((name, "weight_scale"), w, shape, (1, shape.1))
        }),
        scheme("pack-quantized", compressed("pack-quantized"), DType::Q5_0, |name, w, shape| {
            Grid::of(w, shape, 4, 32, false).packed(name, true)
        }),
        scheme("int-quantized", compressed("int-quantized"), DType::Q8_0, |name, w, (rows, cols)| {
            let grid = Grid::of(w, (rows, cols), 8, cols, true);
            let bytes = grid.codes.iter().map(|code| code ^ 128).collect();
            vec![(format!("{name}.weight"), "I8", vec![rows, cols], bytes), grid.scales_by_row(name)]
        }),
    ]
}

/// The same random weights, packed by a scheme; all but the matrices of the layers in f16.
fn model(scheme: &Scheme) -> Model {
    let definition = Definition {
        name: scheme.name.into(),
        dtype: DType::F16,
        seed: 77,
        embedding_scale: 1.0,
        norm_center: 1.0,
        files: ModelFiles::embedded(FILES),
    };
    let floats = RandomCheckpoint::new(&definition).expect("a checkpoint");
    let mut tensors = Vec::new();
    for (name, shape) in floats.spec().tensor_shapes() {
        let view = floats.tensor(name).expect("a tensor");
        match (name.strip_suffix("_proj.weight"), shape.as_slice()) {
            (Some(_), &[rows, cols]) => {
                let module = name.trim_end_matches(".weight");
                tensors.extend((scheme.pack)(module, &view.to_f32(), (rows, cols)));
            }
            _ => tensors.push((name.to_owned(), "F16", shape.clone(), view.bytes.to_vec())),
        }
    }
    let mut config: Value = serde_json::from_slice(CONFIG).expect("JSON");
    config["quantization_config"] = scheme.config.clone();
    let folder = tempfile::tempdir().expect("a folder");
    write_tensors(folder.path(), &config, &tensors).expect("written");
    let files = ModelFiles::open(folder.path()).expect("a folder");
    let tensors = open_tensors(&files).expect("tensors");
    let spec = read_spec(&files).expect("a config");
    let query = tensors.info(&spec.tensors.layers[0].output).expect("a matrix");
    assert_eq!(query.0, scheme.becomes, "{}", scheme.name);
    // Files that are mapped stay readable without their names.
    fs::remove_dir_all(folder.path()).expect("removed");
    Model { name: scheme.name.into(), spec, tensors }
}

/// A short prompt, and one whose products have the many rows that are made in tiles.
pub fn requests(vocab: usize) -> Vec<GenerateRequest> {
    let mut rng = Rng(5);
    let request = |(id, len)| {
        let mut request = greedy(id, rng.tokens(len, vocab), 6);
        request.logprobs.prompt = true;
        request
    };
    [(0, 9), (1, 150)].map(request).into()
}

pub fn run(engine: Engine, requests: &[GenerateRequest]) -> Results {
    let results = engine.run(requests);
    engine.finish();
    results
}

/// In the CPU's own arithmetic, where a last bit may change which of 255 numbers an activation is rounded to in front of
/// blocks; and with a prompt's weights unpacked to f16 for tensor cores, or its activations rounded to E4M3.
fn check(schemes: impl IntoIterator<Item = Scheme>) {
    for scheme in schemes {
        let model = model(&scheme);
        let requests = requests(model.spec.vocab_size);
        let setup = Setup { threads: 1, blocks: 64, ..Setup::default() };
        let expected = run(Engine::start(&model, setup), &requests);
        let chips =
            if in_small_floats(&model) { vec![(gpu(), gpu()), (ada(), ada())] } else { vec![(gpu(), gpu())] };
        for (exact, tiles) in chips {
            let small = in_small_floats(&model) && FactorType::E4M3.suits(tiles.info());
            let name = format!("{} on {:?}", scheme.name, tiles.info().capability);
            // On the CPU, weights in E4M3 are rounded to f16 with their scales.
            let bound = if small {
                8e-3
            } else if scheme.becomes == DType::F16 {
                2e-3
            } else {
                0.05
            };
            let exact = Engine::start_on(CudaBackend::deterministic(exact), &model, setup);
            assert_parity(&expected, &run(exact, &requests), &name, bound);
            let in_tiles = run(Engine::start_on(CudaBackend::new(tiles), &model, setup), &requests);
            if small {
                check_prompts(&expected, &in_tiles, &name);
            } else {
                let bound = if scheme.becomes == DType::F16 { 0.02 } else { 0.2 };
                check_tokens(&expected, &in_tiles, (&name, bound));
            }
        }
    }
}

/// Log-probabilities are as close as `bound`, as long as tokens are the same.
pub fn check_tokens(expected: &Results, found: &Results, (name, bound): (&str, f32)) {
    let apart: Vec<(usize, f32)> =
        expected.iter().map(|(key, sequence)| apart(sequence, &found[key])).collect();
    println!("{name} in tiles: {apart:?}");
    assert!(apart.iter().all(|(_, most)| *most < bound), "{name} in tiles: {apart:?}");
    // Random weights hardly tell some tokens apart.
    assert!(apart.iter().map(|(count, _)| count).sum::<usize>() >= 6, "{name} in tiles: {apart:?}");
}

/// Three bits of mantissa, handed on by random weights, leave a token's log-probability far closer than that of another token.
fn check_prompts(expected: &Results, found: &Results, name: &str) {
    let prompts = |results: &Results| -> Vec<f32> {
        results
            .values()
            .flat_map(|sequence| sequence.prompt.iter().map(|&bits| f32::from_bits(bits)))
            .collect()
    };
    let (want, got) = (prompts(expected), prompts(found));
    assert_eq!((want.len(), got.len()), (8 + 149, 8 + 149));
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32;
    let (error, of_another) = (apart(&want, &got), apart(&want[1..], &got));
    println!("{name} in tiles: off by {error} on average, of another token by {of_another}");
    assert!(error < 0.2 * of_another, "{name} in tiles: off by {error}, of another token by {of_another}");
}

/// Whether its matrices are E4M3 numbers, to devices that multiply with these.
fn in_small_floats(model: &Model) -> bool {
    let matrix = &model.spec.tensors.layers[0].output;
    model.tensors.scaled_rows(matrix).expect("a matrix").is_some()
}

#[test]
fn awq_checkpoints() {
    check(awq());
}

#[test]
fn gptq_checkpoints() {
    check(gptq());
}

#[test]
fn checkpoints_in_eight_bits_and_compressed_ones() {
    check(eight_bits());
}
