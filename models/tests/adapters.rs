//! Adapters that are not what they should be: each is refused by the name of what is wrong with it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use weirgate_models::{
    Adapter, DType, GgufValue, GgufWriter, LayerAdapter, LowRank, ModelFiles, ModelSpec, read_spec,
};

/// Two layers; queries are eight wide, keys and values four, the gate twelve.
fn base() -> ModelSpec {
    read_spec(&ModelFiles::embedded(&[(
        "config.json",
        br#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}"#,
    )]))
    .unwrap()
}

fn config() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]})
}

/// Name and shape of every tensor of that configuration.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let name = |layer: usize, module: &str, side: &str| {
        format!("base_model.model.model.layers.{layer}.{module}.lora_{side}.weight")
    };
    (0..2)
        .flat_map(|layer| {
            [("self_attn.q_proj", 8, 8), ("mlp.down_proj", 8, 12)].into_iter().flat_map(
                move |(module, rows, cols)| {
                    [(name(layer, module, "A"), vec![2, cols]), (name(layer, module, "B"), vec![rows, 2])]
                },
            )
        })
        .collect()
}

fn write(folder: &Path, config: &Value, tensors: &[(String, Vec<usize>)], dtype: Dtype, value: f32) {
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    let bytes = |shape: &[usize]| -> Vec<u8> {
        let count: usize = shape.iter().product();
        match dtype {
            Dtype::F32 => (0..count).flat_map(|_| value.to_le_bytes()).collect(),
            Dtype::F64 => vec![0; count * 8],
            _ => vec![0; count],
        }
    };
    let data: Vec<_> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
    let views = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    fs::write(folder.join("adapter_model.safetensors"), serialize(views, None).unwrap()).unwrap();
}

fn open(config: &Value, tensors: &[(String, Vec<usize>)]) -> Result<Adapter, String> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), config, tensors, Dtype::F32, 0.5);
    Adapter::open(folder.path(), &base()).map_err(|error| error.to_string())
}

#[track_caller]
fn refused(config: &Value, tensors: &[(String, Vec<usize>)], words: &[&str]) {
    let error = open(config, tensors).unwrap_err();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

#[test]
fn parts_lie_where_the_decoder_has_them() {
    let mut all = tensors();
    for layer in 0..2 {
        for (module, rows) in [("self_attn.v_proj", 4), ("mlp.up_proj", 12)] {
            let name = format!("base_model.model.model.layers.{layer}.{module}.lora_");
            all.push((format!("{name}A.weight"), vec![2, 8]));
            all.push((format!("{name}B.weight"), vec![rows, 2]));
        }
    }
    let targets = json!(["q_proj", "v_proj", "mlp.up_proj", "down_proj"]);
    let adapter = open(&with("target_modules", targets), &all).unwrap();
    assert_eq!(adapter.layers.len(), 2);
    for layer in &adapter.layers {
        let firsts = |parts: &[LowRank]| parts.iter().map(|part| part.first).collect::<Vec<_>>();
        assert_eq!(firsts(&layer.qkv), [0, 12]);
        assert_eq!((firsts(&layer.output), firsts(&layer.gate_up)), (vec![], vec![12]));
        assert_eq!((firsts(&layer.down), layer.down[0].scale), (vec![0], 2.0));
    }
    let elements: usize = all.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(adapter.bytes(), 4 * elements as u64);
}

#[test]
fn what_is_not_plain_lora_is_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("lora_only")),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["x"])),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
    ] {
        refused(&with(key, value), &tensors(), &["adapter_config.json", &format!("'{key}'")]);
    }
    for (key, value) in [
        ("init_lora_weights", json!("gaussian")),
        ("modules_to_save", json!([])),
        ("fan_in_fan_out", json!(true)),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        open(&with(key, value.clone()), &tensors())
            .unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }
}

#[test]
fn ranks_and_scales_are_the_configurations() {
    refused(&with("r", json!(3)), &tensors(), &["q_proj", "rank 2", "says 3"]);
    for r in [json!(0), json!(1 << 20), json!("2"), json!(null)] {
        refused(&with("r", r), &tensors(), &["'r'"]);
    }
    refused(&with("lora_alpha", json!("x")), &tensors(), &["'lora_alpha'"]);
    refused(&with("rank_pattern", json!({"q_proj": 5})), &tensors(), &["q_proj", "says 5"]);
    refused(&with("alpha_pattern", json!({"(?=x)": 5})), &tensors(), &["alpha_pattern"]);
    let scales = |config: &Value| {
        let adapter = open(config, &tensors()).unwrap();
        adapter.layers.iter().map(|layer| (layer.qkv[0].scale, layer.down[0].scale)).collect::<Vec<_>>()
    };
    let alphas = json!({"layers.1.mlp.down_proj": 1, "down_proj": 3});
    assert_eq!(scales(&with("alpha_pattern", alphas)), [(2.0, 1.5), (2.0, 0.5)]);
    let root = 4.0 / 2f32.sqrt();
    assert_eq!(scales(&with("use_rslora", json!(true))), [(root, root); 2]);
}

#[test]
fn targets_and_tensors_agree() {
    refused(&with("target_modules", json!(["q_proj"])), &tensors(), &["down_proj", "is not among"]);
    refused(&with("target_modules", json!("all-linear")), &tensors(), &["k_proj", "is missing"]);
    refused(&with("exclude_modules", json!(["q_proj"])), &tensors(), &["q_proj", "is not among"]);
    refused(&with("layers_to_transform", json!([0])), &tensors(), &["layers.1.", "is not among"]);
    refused(&with("target_modules", json!(null)), &tensors(), &["'target_modules'"]);
    open(&with("target_modules", json!(r".*\.(q|down)_proj")), &tensors()).unwrap();
    // A pattern that cannot be read here: the tensors tell.
    open(&with("target_modules", json!(r"(?!x).*")), &tensors()).unwrap();
    for name in [
        "lm_head",
        "model.embed_tokens",
        "model.layers.2.self_attn.q_proj",
        "model.layers.0.self_attn.qkv_proj",
    ] {
        let mut more = tensors();
        more.push((format!("base_model.model.{name}.lora_A.weight"), vec![2, 8]));
        refused(&config(), &more, &[name, "can be adapted"]);
    }
    let halves: Vec<_> =
        tensors().into_iter().filter(|(name, _)| !name.contains("0.self_attn.q_proj.lora_B")).collect();
    refused(&config(), &halves, &["0.self_attn.q_proj.lora_B", "is missing"]);
    refused(&config(), &[], &["has no tensors"]);
}

#[test]
fn shapes_are_the_bases() {
    for (index, shape, words) in [
        (0, vec![2, 9], ["q_proj.lora_A", "[2, 9]"]),
        (1, vec![9, 2], ["q_proj.lora_B", "[9, 2]"]),
        (1, vec![2, 8], ["q_proj.lora_B", "[8, 2]"]),
        (2, vec![24], ["down_proj.lora_A", "[24]"]),
        (0, vec![0, 8], ["q_proj.lora_A", "[0, 8]"]),
        (0, vec![5000, 8], ["q_proj.lora_A", "1024"]),
    ] {
        let mut other = tensors();
        other[index].1 = shape;
        refused(&config(), &other, &words);
    }
}

#[test]
fn values_are_finite_floats() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Adapter::open(folder.path(), &base()).unwrap_err().to_string();
    for value in [f32::NAN, f32::INFINITY] {
        write(folder.path(), &config(), &tensors(), Dtype::F32, value);
        assert!(open().contains("not finite"), "{}", open());
    }
    for dtype in [Dtype::F64, Dtype::I8] {
        write(folder.path(), &config(), &tensors(), dtype, 0.0);
        assert!(open().contains("not supported"), "{}", open());
    }
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let open = || Adapter::open(path, &base()).unwrap_err().to_string();
    assert!(open().contains("adapter_config.json: is missing"), "{}", open());
    fs::write(path.join("adapter_config.json"), "[1]").unwrap();
    assert!(open().contains("not a JSON object"), "{}", open());
    fs::write(path.join("adapter_config.json"), config().to_string()).unwrap();
    assert!(open().contains("adapter_model.safetensors: is missing"), "{}", open());
    fs::write(path.join("adapter_model.bin"), b"\x80\x04").unwrap();
    assert!(open().contains("pickled"), "{}", open());
    let file = path.join("adapter_model.safetensors");
    // A header longer than the file, one of 2^60 bytes, and a tensor of 2^60 elements.
    fs::write(&file, [&1000u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert!(open().contains("adapter_model.safetensors"), "{}", open());
    fs::write(&file, [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat()).unwrap();
    assert!(open().contains("header"), "{}", open());
    let header = format!(r#"{{"x":{{"dtype":"F32","shape":[{}],"data_offsets":[0,4]}}}}"#, 1u64 << 60);
    fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat())
        .unwrap();
    assert!(open().contains("adapter_model.safetensors"), "{}", open());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(open().contains("not a regular file"), "{}", open());
    // Every prefix of a good file.
    fs::remove_dir(&file).unwrap();
    write(path, &config(), &tensors(), Dtype::F32, 0.5);
    let whole = fs::read(&file).unwrap();
    for len in (0..whole.len()).step_by(7) {
        fs::write(&file, &whole[..len]).unwrap();
        assert!(Adapter::open(path, &base()).is_err(), "{len} of {} bytes", whole.len());
    }
}

/// A GGUF adapter with one module's tensors, and what it says of itself.
fn gguf(keys: &[(&str, GgufValue)], tensors: &[(&str, Vec<usize>)]) -> Result<Adapter, String> {
    let mut writer = GgufWriter::new();
    let good = [
        ("general.type", GgufValue::String("adapter".into())),
        ("adapter.type", GgufValue::String("lora".into())),
        ("general.architecture", GgufValue::String("llama".into())),
        ("adapter.lora.alpha", GgufValue::F32(6.0)),
    ];
    let given = |key: &str| keys.iter().any(|(given, _)| *given == key);
    for (key, value) in good.iter().filter(|(key, _)| !given(key)).chain(keys) {
        writer.set(*key, value.clone());
    }
    for (name, shape) in tensors {
        let bytes = vec![0u8; 4 * shape.iter().product::<usize>()];
        writer.tensor(*name, DType::F32, shape, move || Ok(bytes.clone().into())).unwrap();
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Adapter::open(file.path(), &base()).map_err(|error| error.to_string())
}

#[test]
fn a_gguf_adapter_says_what_it_is() {
    let pair =
        || vec![("blk.1.ffn_up.weight.lora_a", vec![3, 8]), ("blk.1.ffn_up.weight.lora_b", vec![12, 3])];
    let adapter = gguf(&[], &pair()).unwrap();
    let up = &adapter.layers[1].gate_up[0];
    assert_eq!((up.first, up.scale, &up.a.shape[..], &up.b.shape[..]), (12, 2.0, &[3, 8][..], &[12, 3][..]));
    let without = gguf(&[("adapter.lora.alpha", GgufValue::F32(0.0))], &pair()).unwrap();
    assert_eq!(without.layers[1].gate_up[0].scale, 1.0, "no alpha");
    let text = |text: &str| GgufValue::String(text.into());
    for (key, value) in [
        ("general.type", text("model")),
        ("adapter.type", text("control")),
        ("general.architecture", text("qwen2")),
        ("adapter.lora.alpha", GgufValue::F32(f32::NAN)),
        ("adapter.lora.alpha", text("x")),
    ] {
        let error = gguf(&[(key, value)], &pair()).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
    for (tensors, words) in [
        (vec![], "has no tensors"),
        (vec![("blk.1.ffn_up.weight.lora_a", vec![3, 8])], "lora_b"),
        (
            vec![("blk.1.ffn_up.weight.lora_a", vec![3, 9]), ("blk.1.ffn_up.weight.lora_b", vec![12, 3])],
            "[3, 9]",
        ),
        (
            vec![("blk.1.ffn_up.weight.lora_a", vec![3, 8]), ("blk.1.ffn_up.weight.lora_b", vec![12, 4])],
            "[12, 4]",
        ),
        (vec![("blk.2.ffn_up.weight.lora_a", vec![3, 8])], "can be adapted"),
        (vec![("token_embd.weight.lora_a", vec![3, 8])], "can be adapted"),
    ] {
        let error = gguf(&[], &tensors).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

/// What is written is read as the adapter that it was: queries in GGUF's order of rows, one alpha for all.
#[test]
fn a_folder_of_pefts_becomes_the_same_adapter_in_a_gguf_file() {
    let all = |key: &str| json!([key, "q_proj", "k_proj", "v_proj", "down_proj"]);
    let mut config = config();
    config["target_modules"] = all("up_proj");
    for (more, same) in [
        (json!({}), true),
        (json!({"use_rslora": true}), true),
        (json!({"lora_alpha": 0}), false),
        (json!({"alpha_pattern": {"down_proj": 9, "k_proj": 0}}), false),
    ] {
        let mut config = config.clone();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let name = |layer: usize, module: &str, side: &str| {
            format!("base_model.model.model.layers.{layer}.{module}.lora_{side}.weight")
        };
        let modules = [
            ("self_attn.q_proj", 8, 8),
            ("self_attn.k_proj", 4, 8),
            ("self_attn.v_proj", 4, 8),
            ("mlp.up_proj", 12, 8),
            ("mlp.down_proj", 8, 12),
        ];
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let mut next = 0.0f32;
        let mut data = Vec::new();
        for layer in 0..2 {
            for (module, rows, cols) in modules {
                for (side, shape) in [("A", vec![2, cols]), ("B", vec![rows, 2])] {
                    let bytes: Vec<u8> = (0..shape.iter().product::<usize>())
                        .flat_map(|_| {
                            next += 0.25;
                            next.to_le_bytes()
                        })
                        .collect();
                    data.push((name(layer, module, side), shape, bytes));
                }
            }
        }
        let views = data
            .iter()
            .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        fs::write(folder.path().join("adapter_model.safetensors"), serialize(views, None).unwrap()).unwrap();
        let adapter = Adapter::open(folder.path(), &base()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = Vec::new();
        adapter.to_gguf(&base()).unwrap().write(&mut bytes).unwrap();
        fs::write(file.path(), bytes).unwrap();
        let read = Adapter::open(file.path(), &base()).unwrap();
        for (before, after) in adapter.layers.iter().zip(&read.layers) {
            let lists = |layer: &LayerAdapter| {
                [&layer.qkv, &layer.output, &layer.gate_up, &layer.down].map(|list| list.to_vec())
            };
            for (before, after) in lists(before).into_iter().flatten().zip(lists(after).into_iter().flatten())
            {
                assert_eq!((before.first, &before.a.bytes), (after.first, &after.a.bytes), "{more}");
                let scaled = |part: &LowRank| -> Vec<f32> {
                    part.b.to_f32().iter().map(|value| value * part.scale).collect()
                };
                assert_eq!(scaled(&before), scaled(&after), "{more}");
                if same {
                    assert_eq!((before.scale, &before.b.bytes), (after.scale, &after.b.bytes), "{more}");
                }
            }
        }
    }
}
