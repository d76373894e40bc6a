//! GGUF files, and float weights that are quantized while they are loaded, on a CUDA device against the same on the CPU.
#![allow(clippy::expect_used)]

use weirgate_kernels::cuda::CudaBackend;
use weirgate_models::{DType, Gguf, GgufSource, ModelFiles, QuantMix, Quantized, read_spec, to_gguf};
use weirgate_testkit::{Definition, RandomCheckpoint};

use crate::gpu;
use crate::parity::{assert_parity, exact};
use crate::quantized::{check_tokens, requests, run};
use crate::real::{Engine, Model, Setup};

/// Rows of whole super-blocks, and no more layers than keep the roundings of two devices together.
const CONFIG: &[u8] = br#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 261,
    "max_position_embeddings": 512, "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "hidden_act": "silu",
    "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
}"#;
const FILES: &[(&str, &[u8])] = &[("config.json", CONFIG)];

fn floats() -> RandomCheckpoint {
    let definition = Definition {
        name: "llama".into(),
        dtype: DType::F16,
        seed: 78,
        embedding_scale: 1.0,
        norm_center: 1.0,
        files: ModelFiles::embedded(FILES),
    };
    RandomCheckpoint::new(&definition).expect("a checkpoint")
}

/// Through a file.
fn in_file(mix: QuantMix) -> Model {
    let floats = floats();
    let quantized = Quantized::new(floats.spec(), &floats, mix).expect("a mixture");
    let mut file = Vec::new();
    to_gguf(floats.spec(), &quantized).expect("expressible").write(&mut file).expect("written");
    let files = ModelFiles::from(Gguf::from_bytes("test.gguf", file).expect("a file"));
    let spec = read_spec(&files).expect("a specification");
    let tensors = Box::new(GgufSource::open(&files).expect("tensors"));
    Model { name: mix.name().into(), spec, tensors }
}

/// As `--quantize` has it.
fn at_load(mix: QuantMix) -> Model {
    // A model owns its tensors; these borrow others, which the process keeps.
    let floats: &'static RandomCheckpoint = Box::leak(Box::new(floats()));
    let tensors = Quantized::new(floats.spec(), floats, mix).expect("a mixture");
    Model { name: format!("{} at load", mix.name()), spec: floats.spec().clone(), tensors: Box::new(tensors) }
}

/// In the CPU's own arithmetic, and with a prompt's weights unpacked to f16 for tensor cores. `types`: of a matrix in each layer.
fn check(model: &Model, types: [DType; 2]) {
    let layers = &model.spec.tensors.layers;
    let info = |name: &String| model.tensors.info(name).expect("a matrix").0;
    assert_eq!([&layers[0].output, &layers[1].down].map(info), types, "{}", model.name);
    let requests = requests(model.spec.vocab_size);
    let setup = Setup { threads: 1, blocks: 64, ..Setup::default() };
    let expected = run(Engine::start(model, setup), &requests);
    assert_parity(&expected, &run(exact(model, setup), &requests), &model.name, 0.05);
    let in_tiles = run(Engine::start_on(CudaBackend::new(gpu()), model, setup), &requests);
    check_tokens(&expected, &in_tiles, (&model.name, 0.2));
}

#[test]
fn q8_0_files() {
    check(&in_file(QuantMix::Q8_0), [DType::Q8_0; 2]);
}

#[test]
fn q4_k_m_files() {
    check(&in_file(QuantMix::Q4KM), [DType::Q4K, DType::Q6K]);
}

#[test]
fn q6_k_files() {
    check(&in_file(QuantMix::Q6K), [DType::Q6K; 2]);
}

#[test]
fn q4_k_m_at_load() {
    check(&at_load(QuantMix::Q4KM), [DType::Q4K, DType::Q6K]);
}
