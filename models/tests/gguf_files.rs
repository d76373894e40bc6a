//! Reading GGUF files: those an independent writer made (`tools/parity/gguf_samples.py`), parts, and files that are
//! damaged or hostile. All errors name the file and the byte, and the key or tensor where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use weirgate_models::{
    Activation, DType, Gguf, GgufFile, GgufSource, GgufTensorType, GgufValue, GgufWriter, ModelFiles,
    TensorSource, open_tensors, read_spec,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

fn parse(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::parse("bad.gguf", bytes.into()).map_err(|error| error.to_string())
}

fn values(source: &GgufSource, name: &str) -> Vec<f32> {
    source.tensor(name).unwrap().to_f32()
}

fn check_tensors(source: &GgufSource) {
    assert_eq!(source.tensor("f32").unwrap().shape, [2, 3]);
    assert_eq!(values(source, "f32"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let half = source.tensor("f16").unwrap();
    assert_eq!((half.dtype, half.shape), (DType::F16, vec![5]));
    assert_eq!(values(source, "f16"), [0.0, 1.0, 2.0, 3.0, 4.0]);
    let blocks = source.tensor("q8_0").unwrap();
    assert_eq!((blocks.dtype, &*blocks.shape, blocks.bytes.len()), (DType::Q8_0, &[2, 64][..], 4 * 34));
    for (i, value) in blocks.to_f32().iter().enumerate() {
        let expected = -1.0 + 2.0 * i as f32 / 127.0;
        assert!((value - expected).abs() < 0.005, "{i}: {value}, {expected}");
    }
    assert_eq!(source.tensor("deep").unwrap().shape, [2, 3, 4]);
    assert_eq!(values(source, "deep")[23], 23.0);
    assert_eq!(source.total_bytes(), 24 + 10 + 136 + 96);
    let message = source.tensor("absent").unwrap_err().to_string();
    assert!(message.contains("tensor 'absent': is missing"), "{message}");
}

#[test]
fn reads_what_another_writer_wrote() {
    let files = ModelFiles::open(golden("sample.gguf")).unwrap();
    let metadata = files.gguf().unwrap().metadata();
    assert_eq!(metadata.text("general.architecture").unwrap(), Some("test"));
    assert_eq!(metadata.text("test.text").unwrap(), Some("größer ▁ 🦙"));
    assert_eq!(metadata.flag("test.flag").unwrap(), Some(true));
    for (key, expected) in [
        ("u8", 255.0),
        ("i8", -128.0),
        ("u16", 65_535.0),
        ("i16", -32_768.0),
        ("u32", 4_294_967_295.0),
        ("i32", -2_147_483_648.0),
        ("u64", 9_007_199_254_740_992.0),
        ("i64", -9_007_199_254_740_992.0),
        ("f32", f64::from(0.1f32)),
        ("f64", 0.1),
    ] {
        assert_eq!(metadata.number(&format!("test.{key}")).unwrap(), Some(expected), "{key}");
    }
    assert!(metadata.contains("test.texts") && metadata.contains("test.numbers"));
    assert_eq!(metadata.text("absent").unwrap(), None);
    for (key, error) in [
        ("test.i8", metadata.size("test.i8").map(drop)),
        ("test.text", metadata.number("test.text").map(drop)),
        ("test.u8", metadata.text("test.u8").map(drop)),
        ("test.texts", metadata.flag("test.texts").map(drop)),
    ] {
        let message = error.unwrap_err().to_string();
        assert!(message.contains(&format!("sample.gguf: key '{key}': at byte ")), "{message}");
    }
    check_tensors(&GgufSource::open(&files).unwrap());
}

#[test]
fn version_2_is_the_same() {
    let mut bytes = fs::read(golden("sample.gguf")).unwrap();
    bytes[4] = 2;
    check_tensors(&GgufSource::open(&Gguf::from_bytes("v2.gguf", bytes).unwrap().into()).unwrap());
}

#[test]
fn foreign_files_are_refused() {
    let message = ModelFiles::open(golden("big-endian.gguf")).unwrap_err().to_string();
    assert!(message.contains("at byte 4: is a big-endian file"), "{message}");
    for (bytes, expected) in [
        (&b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0"[..], "at byte 4: version 1 is not supported"),
        (b"GGUF\x04\0\0\0\0\0\0\0\0\0\0\0", "at byte 4: version 4 is not supported"),
        (b"ggml\x03\0\0\0", "at byte 0: begins with"),
        (b"", "at byte 0: the magic number takes 4 bytes, the file has 0 more"),
        (b"GGUF\x03\0", "at byte 4: the version takes 4 bytes"),
    ] {
        let message = parse(bytes.to_vec()).unwrap_err();
        assert!(message.contains("bad.gguf: ") && message.contains(expected), "{message}");
    }
}

/// Copies the parts of the split sample, changed by `change`, and opens the one called `name`.
fn split(name: &str, change: impl Fn(&Path)) -> Result<ModelFiles, String> {
    let folder = tempfile::tempdir().unwrap();
    for part in ["split-00001-of-00002.gguf", "split-00002-of-00002.gguf"] {
        fs::copy(golden(part), folder.path().join(part)).unwrap();
    }
    change(folder.path());
    ModelFiles::open(folder.path().join(name)).map_err(|error| error.to_string())
}

#[test]
fn parts_are_found_from_any_of_them() {
    for part in ["split-00001-of-00002.gguf", "split-00002-of-00002.gguf"] {
        let files = split(part, |_| {}).unwrap();
        let source = GgufSource::open(&files).unwrap();
        check_tensors(&source);
        assert_eq!(files.gguf().unwrap().metadata().flag("test.flag").unwrap(), Some(true));
        assert!(source.file("deep").ends_with("split-00002-of-00002.gguf"));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    const FIRST: &str = "split-00001-of-00002.gguf";
    const SECOND: &str = "split-00002-of-00002.gguf";
    let missing = split(FIRST, |folder| fs::remove_file(folder.join(SECOND)).unwrap()).unwrap_err();
    assert!(missing.contains("split-00002-of-00002.gguf: is missing"), "{missing}");
    let twice = split(FIRST, |folder| {
        fs::copy(folder.join(FIRST), folder.join(SECOND)).unwrap();
    })
    .unwrap_err();
    assert!(
        twice.contains("split-00002-of-00002.gguf: key 'split.no'") && twice.contains("is not 1"),
        "{twice}"
    );
    let renamed = split("a.gguf", |folder| fs::rename(folder.join(FIRST), folder.join("a.gguf")).unwrap());
    let renamed = renamed.unwrap_err();
    assert!(renamed.contains("the file's name does not end in '-00001-of-00002.gguf'"), "{renamed}");
    let other = split(FIRST, |folder| {
        fs::copy(golden("sample.gguf"), folder.join(SECOND)).unwrap();
    });
    assert!(other.unwrap_err().contains("key 'split.no'"));
    let bytes = fs::read(golden(FIRST)).unwrap();
    let alone = Gguf::from_bytes("one.gguf", bytes.clone()).unwrap_err().to_string();
    assert!(alone.contains("a part of a split checkpoint"), "{alone}");
    // 4 tensors are promised.
    let at = bytes.windows(19).position(|window| window == b"split.tensors.count").unwrap() + 19 + 4;
    let fewer = split(FIRST, |folder| {
        let mut bytes = bytes.clone();
        bytes[at] = 5;
        fs::write(folder.join(FIRST), bytes).unwrap();
    });
    let fewer = fewer.unwrap_err();
    assert!(fewer.contains("is 5, the 2 parts have 4 tensors"), "{fewer}");
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A value of type `kind` under `key`.
fn key(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &kind.to_le_bytes(), value].concat()
}

fn tensor(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((sizes.len() as u32).to_le_bytes());
    sizes.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// A file of these parts, with 256 bytes of data.
fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    keys.iter().chain(tensors).for_each(|part| bytes.extend(part));
    bytes.resize(bytes.len().next_multiple_of(32) + 256, 0);
    bytes
}

#[test]
fn hostile_tensors_are_refused() {
    const F32: u32 = 0;
    let one = |sizes: &[u64], kind: u32, offset: u64| file(&[], &[tensor("t", sizes, kind, offset)]);
    let huge = 1 << 32;
    for (what, bytes, expected) in [
        ("a product that wraps", one(&[huge, huge], F32, 0), "more elements than can be counted"),
        ("bytes that wrap", one(&[1 << 62], F32, 0), "more elements than can be counted"),
        ("the largest sizes", one(&[u64::MAX; 4], F32, 0), "more elements than can be counted"),
        ("no elements", one(&[4, 0], F32, 0), "a dimension of 0"),
        ("many dimensions", one(&[1; 5], F32, 0), "5 dimensions, at most 4"),
        ("half a block", one(&[48, 2], 8, 0), "rows of 48 elements are not whole blocks of 32 (Q8_0)"),
        ("past the end", one(&[65], F32, 0), "the file ends at byte 320"),
        ("an offset past the end", one(&[1], F32, 1 << 20), "the file ends at byte 320"),
        ("an offset that wraps", one(&[64], F32, u64::MAX - 31), "lies outside the file"),
        ("an odd offset", one(&[1], F32, 4), "offset 4 is not a multiple of the alignment 32"),
        (
            "the same place twice",
            file(&[], &[tensor("a", &[9], F32, 0), tensor("t", &[8], F32, 32)]),
            "begins at byte 128 within 'a'",
        ),
        (
            "the same name",
            file(&[], &[tensor("t", &[1], F32, 0), tensor("t", &[1], F32, 32)]),
            "appears twice",
        ),
    ] {
        let message = parse(bytes).expect_err(what);
        assert!(message.contains("bad.gguf: tensor 't': at byte "), "{what}: {message}");
        assert!(message.contains(expected), "{what}: {message}");
    }
    assert!(parse(one(&[64], F32, 0)).is_ok());
    assert!(parse(one(&[32, 2], 8, 32)).is_ok());
}

#[test]
fn hostile_headers_are_refused() {
    let counts = |tensors: u64, keys: u64| {
        let mut bytes = file(&[], &[]);
        bytes[8..16].copy_from_slice(&tensors.to_le_bytes());
        bytes[16..24].copy_from_slice(&keys.to_le_bytes());
        bytes
    };
    let length = |length: u64| length.to_le_bytes().to_vec();
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let alignment = |value: u32| file(&[key("general.alignment", 4, &value.to_le_bytes())], &[]);
    for (what, bytes, expected) in [
        (
            "tensors without end",
            counts(u64::MAX, 0),
            "at byte 8: the number of tensors is 18446744073709551615",
        ),
        ("keys without end", counts(0, 1 << 60), "at byte 16: the number of keys is"),
        ("a key's length", file(&[length(u64::MAX)], &[]), "a key's name takes 18446744073709551615 bytes"),
        (
            "a key that is no text",
            file(&[[&length(1)[..], &[0xFF]].concat()], &[]),
            "a key's name is not UTF-8",
        ),
        (
            "a key twice",
            file(&[key("k", 0, &[1]), key("k", 0, &[1])], &[]),
            "key 'k': at byte 38: appears twice",
        ),
        ("a string", file(&[key("k", 8, &length(1 << 40))], &[]), "key 'k': at byte 45: a string takes"),
        (
            "an array",
            file(&[key("k", 9, &array(4, 1 << 62))], &[]),
            "the number of elements is 4611686018427387904",
        ),
        ("an array of strings", file(&[key("k", 9, &array(8, 1 << 40))], &[]), "the number of elements is"),
        ("arrays in an array", file(&[key("k", 9, &array(9, 1))], &[]), "arrays within arrays"),
        ("a type", file(&[key("k", 13, &[])], &[]), "key 'k': at byte 33: value type 13 does not exist"),
        ("an element's type", file(&[key("k", 9, &array(77, 1))], &[]), "value type 77 does not exist"),
        ("alignment 0", alignment(0), "key 'general.alignment'"),
        ("alignment 48", alignment(48), "is 48, expected a power of two"),
        ("alignment 2", alignment(2), "is 2, expected a power of two"),
        ("alignment 2^31", alignment(1 << 31), "expected a power of two from 8 to 1048576"),
    ] {
        let message = parse(bytes).expect_err(what);
        assert!(message.contains("bad.gguf: ") && message.contains("at byte "), "{what}: {message}");
        assert!(message.contains(expected), "{what}: {message}");
    }
    // An array of strings whose second string is cut off.
    let mut strings = array(8, 2);
    strings.extend(string("fine"));
    strings.extend(length(1 << 33));
    let message = parse(file(&[key("k", 9, &strings)], &[])).unwrap_err();
    assert!(message.contains("key 'k': at byte 69: a string takes 8589934592 bytes"), "{message}");
}

#[test]
fn every_truncation_is_an_error() {
    let whole = fs::read(golden("sample.gguf")).unwrap();
    // What comes last is a tensor of 96 bytes, with nothing to fill up.
    for len in 0..whole.len() {
        let message = parse(whole[..len].to_vec()).expect_err("truncated");
        assert!(message.contains("bad.gguf: ") && message.contains("at byte "), "{len}: {message}");
    }
}

#[test]
fn foreign_types_are_refused_when_needed() {
    let files: ModelFiles =
        Gguf::from_bytes("t.gguf", file(&[], &[tensor("t", &[256], 16, 0)])).unwrap().into();
    assert_eq!(files.gguf().unwrap().files()[0].tensors()[0].dtype, GgufTensorType::Other(16));
    let message = GgufSource::open(&files).unwrap().tensor("t").unwrap_err().to_string();
    assert!(message.contains("t.gguf: tensor 't': ggml type 16 is not supported"), "{message}");
    assert!(message.contains("Q4_K"), "{message}");
}

/// The keys of a one-layer model, by architecture.
fn model<'a>(architecture: &str, change: impl Fn(&str) -> Option<GgufValue>) -> GgufWriter<'a> {
    let mut writer = GgufWriter::new();
    let size = GgufValue::U32;
    writer.set("general.architecture", GgufValue::String(architecture.into()));
    for (key, value) in [
        ("context_length", size(128)),
        ("embedding_length", size(8)),
        ("feed_forward_length", size(6)),
        ("block_count", size(1)),
        ("attention.head_count", size(2)),
        ("attention.head_count_kv", size(1)),
        ("attention.layer_norm_rms_epsilon", GgufValue::F32(1e-5)),
        ("rope.freq_base", GgufValue::F32(500_000.0)),
    ] {
        match change(key) {
            Some(GgufValue::Bools(_)) => {}
            Some(other) => writer.set(format!("{architecture}.{key}"), other),
            None => writer.set(format!("{architecture}.{key}"), value),
        }
    }
    writer.tensor("token_embd.weight", DType::F32, &[10, 8], || Ok(vec![0; 320].into())).unwrap();
    writer
}

fn read(writer: &GgufWriter<'_>) -> Result<weirgate_models::ModelSpec, String> {
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    let files = ModelFiles::from(Gguf::from_bytes("m.gguf", bytes).unwrap());
    assert!(open_tensors(&files).is_ok());
    read_spec(&files).map_err(|error| error.to_string())
}

#[test]
fn metadata_becomes_a_specification() {
    let spec = read(&model("llama", |_| None)).unwrap();
    assert_eq!(
        (spec.vocab_size, spec.hidden_size, spec.head_dim, spec.heads, spec.kv_heads),
        (10, 8, 4, 2, 1)
    );
    assert_eq!((spec.intermediate_size, spec.max_positions, spec.layers.len()), (6, 128, 1));
    assert_eq!((spec.norm_eps, spec.ropes[0].base, spec.ropes[0].rotary_dim), (1e-5, 500_000.0, 4));
    assert_eq!(spec.activation, Activation::Silu);
    // Without a tensor of its own the head is the embedding.
    assert_eq!(spec.tensors.head, None);
    let layer = &spec.tensors.layers[0];
    assert_eq!(layer.qkv, ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"]);
    assert_eq!(layer.gate_up, ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"]);
    assert!(layer.qkv_bias.is_empty());

    let phi = read(&model("phi3", |_| None)).unwrap().tensors.layers.remove(0);
    assert_eq!(
        (&phi.qkv[..], &phi.gate_up[..]),
        (&["blk.0.attn_qkv.weight".into()][..], &["blk.0.ffn_up.weight".into()][..])
    );
    let qwen = read(&model("qwen2", |_| None)).unwrap().tensors.layers.remove(0);
    assert_eq!(qwen.qkv_bias, ["blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias"]);

    let gemma = read(&model("gemma2", |_| None)).unwrap();
    assert_eq!(
        (gemma.norm_offset, gemma.attention_softcap, gemma.logit_softcap),
        (0.0, Some(50.0), Some(30.0))
    );
    assert_eq!(gemma.attention_scale, 0.5);
    assert_eq!(gemma.layers[0].window, Some(4096));
    let names = &gemma.tensors.layers[0];
    assert_eq!(names.post_attn_norm.as_deref(), Some("blk.0.post_attention_norm.weight"));
    assert_eq!(names.post_ffn_norm.as_deref(), Some("blk.0.post_ffw_norm.weight"));
}

#[test]
fn unusable_metadata_names_the_key() {
    // An empty list of bools leaves the key out.
    let absent = || Some(GgufValue::Bools(Vec::new()));
    for wrong in
        ["context_length", "embedding_length", "feed_forward_length", "block_count", "attention.head_count"]
    {
        let key = format!("key 'llama.{wrong}': ");
        let missing = read(&model("llama", |key| if key == wrong { absent() } else { None })).unwrap_err();
        assert!(
            missing.contains("m.gguf: ") && missing.contains(&key) && missing.contains("is missing"),
            "{missing}"
        );
        let zero = if wrong == "attention.head_count" { continue } else { GgufValue::U32(0) };
        let zero = read(&model("llama", |key| (key == wrong).then(|| zero.clone()))).unwrap_err();
        assert!(zero.contains(&key) && zero.contains("is 0"), "{zero}");
        let text =
            read(&model("llama", |key| (key == wrong).then(|| GgufValue::String("8".into())))).unwrap_err();
        assert!(text.contains(&key) && text.contains("at byte ") && text.contains("is not a size"), "{text}");
    }
    let huge =
        read(&model("llama", |key| (key == "block_count").then_some(GgufValue::U32(u32::MAX)))).unwrap_err();
    assert!(huge.contains("m.gguf (as config.json): key 'num_hidden_layers'"), "{huge}");
    let unknown = read(&model("mamba", |_| None)).unwrap_err();
    assert!(unknown.contains("architecture 'mamba' is not supported; supported: llama, qwen2"), "{unknown}");
}
