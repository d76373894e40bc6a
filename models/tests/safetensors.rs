//! Opening weights: single files, shards, and files that are damaged or hostile. All errors name the file, and the
//! tensor where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use weirgate_models::{DType, ModelFiles, ModelSpec, SafetensorsSource, TensorSource, read_spec};

/// A file in the safetensors format, written here by its description.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn header(tensors: &[(&str, &str, &[usize], usize)]) -> (String, usize) {
    let mut map = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape, bytes) in tensors {
        map.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes]}));
        at += bytes;
    }
    (Value::Object(map).to_string(), at)
}

fn weights(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let (header, len) = header(tensors);
    file(&header, &(0..len).map(|i| i as u8).collect::<Vec<_>>())
}

fn open(folder: &Path) -> Result<SafetensorsSource, String> {
    SafetensorsSource::open(&ModelFiles::open(folder).unwrap()).map_err(|error| error.to_string())
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsSource, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    open(folder.path())
}

#[test]
fn reads_one_file() {
    let source =
        open_bytes(&weights(&[("a", "F32", &[2, 2], 16), ("b", "BF16", &[3], 6), ("c", "F16", &[], 2)]))
            .unwrap();
    let a = source.tensor("a").unwrap();
    assert_eq!(
        (a.dtype, &a.shape[..], &*a.bytes),
        (DType::F32, &[2, 2][..], &(0..16).collect::<Vec<u8>>()[..])
    );
    let b = source.tensor("b").unwrap();
    assert_eq!((b.dtype, &*b.bytes), (DType::BF16, &[16, 17, 18, 19, 20, 21][..]));
    assert_eq!(source.tensor("c").unwrap().dtype, DType::F16);
    assert_eq!(source.total_bytes(), 24);
    assert!(source.contains("a") && !source.contains("d"));
    let message = source.tensor("d").unwrap_err().to_string();
    assert!(message.contains("model.safetensors: tensor 'd': is missing"), "{message}");
}

#[test]
fn other_dtypes_are_refused_when_needed() {
    for dtype in ["I64", "F64", "U8", "F8_E4M3", "BOOL"] {
        let size = if matches!(dtype, "I64" | "F64") { 8 } else { 1 };
        let source = open_bytes(&weights(&[("x.weight", dtype, &[2], 2 * size)])).unwrap();
        let message = source.tensor("x.weight").unwrap_err().to_string();
        assert!(message.contains("'x.weight'") && message.contains(dtype), "{message}");
    }
}

#[test]
fn every_truncation_is_an_error_that_names_the_file() {
    let whole = weights(&[("a", "F32", &[5, 3], 60), ("b", "BF16", &[7], 14)]);
    for len in 0..whole.len() {
        let message = open_bytes(&whole[..len]).expect_err("truncated");
        assert!(message.contains("model.safetensors"), "{message}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(open_bytes(&longer).is_err());
}

#[test]
fn every_damaged_byte_is_an_error_or_harmless() {
    let whole = weights(&[("a", "F32", &[5, 3], 60), ("b", "BF16", &[7], 14)]);
    let header_end = whole.len() - 74;
    for at in 0..header_end {
        for byte in [0, b'0', b'9', b'"', b'{', 0xFF] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            if let Ok(source) = open_bytes(&damaged) {
                for name in ["a", "b"] {
                    if let Ok(view) = source.tensor(name) {
                        assert_eq!(
                            view.bytes.len(),
                            view.shape.iter().product::<usize>() * view.dtype.block_bytes()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn hostile_headers_are_errors() {
    let tensor = |shape: &str, offsets: &str| {
        file(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), &[0; 16])
    };
    let huge: u64 = 1 << 62;
    let mut long_header = u64::MAX.to_le_bytes().to_vec();
    long_header.extend([0; 64]);
    let mut large_header = (90u64 << 20).to_le_bytes().to_vec();
    large_header.extend([0; 64]);
    for (what, bytes) in [
        ("length beyond all", long_header),
        ("length beyond the limit", large_header),
        ("overflowing shape", tensor(&format!("[{huge},{huge}]"), "[0,16]")),
        ("negative shape", tensor("[-4]", "[0,16]")),
        ("offsets beyond the end", tensor("[8]", "[0,32]")),
        ("offsets reversed", tensor("[4]", "[16,0]")),
        ("offsets with a hole", tensor("[3]", "[4,16]")),
        ("offsets that do not fit the shape", tensor("[3]", "[0,16]")),
        ("offsets beyond u64", tensor("[4]", "[0,99999999999999999999]")),
        ("not JSON", file("hello there", &[0; 16])),
        ("not an object", file("[]", &[])),
        ("deep nesting", file(&"[".repeat(1 << 20), &[])),
        ("not UTF-8", [&2u64.to_le_bytes()[..], &[0xFF, 0xFE]].concat()),
    ] {
        let message = open_bytes(&bytes).expect_err(what);
        assert!(message.contains("model.safetensors"), "{what}: {message}");
    }
    let overlap = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},
        "b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    assert!(open_bytes(&file(overlap, &[0; 16])).is_err());
}

#[test]
fn a_hundred_thousand_tensors_are_no_problem() {
    let names: Vec<String> = (0..100_000).map(|i| format!("t{i}")).collect();
    let tensors: Vec<(&str, &str, &[usize], usize)> =
        names.iter().map(|name| (name.as_str(), "F32", &[1][..], 4)).collect();
    let source = open_bytes(&weights(&tensors)).unwrap();
    assert_eq!(source.total_bytes(), 400_000);
}

fn sharded(folder: &Path, map: Value) {
    let one = weights(&[("a", "F32", &[2], 8)]);
    let two = weights(&[("b", "F32", &[3], 12), ("unused", "F32", &[1], 4)]);
    fs::write(folder.join("model-00001-of-00002.safetensors"), one).unwrap();
    fs::write(folder.join("model-00002-of-00002.safetensors"), two).unwrap();
    let index = json!({"metadata": {"total_size": 20}, "weight_map": map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn reads_shards() {
    let folder = tempfile::tempdir().unwrap();
    let map = json!({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"});
    sharded(folder.path(), map);
    let source = open(folder.path()).unwrap();
    assert_eq!(source.tensor("a").unwrap().shape, [2]);
    assert_eq!(source.tensor("b").unwrap().shape, [3]);
    assert!(source.file("b").ends_with("model-00002-of-00002.safetensors"));
    assert_eq!(source.total_bytes(), 20);
}

#[test]
fn an_index_cannot_point_astray() {
    for (map, expected) in [
        (json!({"a": "model-00009-of-00002.safetensors"}), "model-00009-of-00002.safetensors: is missing"),
        (json!({"b": "model-00001-of-00002.safetensors"}), "tensor 'b': is missing"),
        (json!({"a": "../model.safetensors"}), "not a plain file name"),
        (json!({"a": "/etc/passwd"}), "not a safetensors file"),
        (json!({"a": "pytorch_model.bin"}), "not a safetensors file"),
        (json!({"a": 3}), "weight_map.a"),
        (json!(null), "weight_map"),
        (json!([]), "weight_map"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        sharded(folder.path(), map.clone());
        let message = open(folder.path()).expect_err("astray");
        assert!(message.contains(expected), "{map}: {message}");
    }
}

#[test]
fn pickles_and_empty_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(open(folder.path()).unwrap_err().contains("has neither model.safetensors nor"));
    fs::write(folder.path().join("pytorch_model.bin"), b"\x80\x02").unwrap();
    let message = open(folder.path()).unwrap_err();
    assert!(message.contains("pickled weights (pytorch_model.bin)"), "{message}");
}

/// A one-layer model with `change` made to one of its tensors.
fn checked(change: impl Fn(&str, &mut Vec<usize>, &mut &str) -> bool) -> Result<(), String> {
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 1, "intermediate_size": 6, "vocab_size": 10});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let files = ModelFiles::open(folder.path()).unwrap();
    let spec: ModelSpec = read_spec(&files).unwrap();
    let mut tensors = Vec::new();
    for (name, mut shape) in spec.tensor_shapes() {
        let mut dtype = "F32";
        if change(name, &mut shape, &mut dtype) {
            let size = if dtype == "F32" { 4 } else { 2 };
            tensors.push((name, dtype, shape.clone(), shape.iter().product::<usize>() * size));
        }
    }
    let tensors: Vec<_> = tensors.iter().map(|(n, d, s, b)| (*n, *d, s.as_slice(), *b)).collect();
    fs::write(folder.path().join("model.safetensors"), weights(&tensors)).unwrap();
    let source = SafetensorsSource::open(&files).map_err(|error| error.to_string())?;
    spec.check_tensors(&source).map_err(|error| error.to_string())
}

#[test]
fn shapes_are_checked_against_the_configuration() {
    checked(|_, _, _| true).unwrap();
    let names = [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
    ];
    for wrong in names {
        let missing = checked(|name, _, _| name != wrong).unwrap_err();
        assert!(missing.contains(&format!("'{wrong}': is missing")), "{missing}");
        let message = checked(|name, shape, _| {
            if name == wrong {
                shape[0] += 1;
            }
            true
        })
        .unwrap_err();
        assert!(message.contains("model.safetensors") && message.contains(wrong), "{message}");
        assert!(message.contains("has shape") && message.contains("implies"), "{message}");
    }
    // Parts of one product may be stored in different types, as K-quants of a file are.
    checked(|name, _, dtype| {
        if name.contains("k_proj") {
            *dtype = "F16";
        }
        true
    })
    .unwrap();
}
