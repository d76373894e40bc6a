//! Every level that `quantize` of a request may name.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use kit::{blob, lines, name, open};
use weirgate_store::{Base, CreateRequest};

#[test]
fn every_level_is_made_under_every_name_it_has() {
    // What is asked for, the base it is made of, llama.cpp's name for the mixture, and ggml's type of most matrices.
    const LEVELS: [(&str, &str, &str, &str); 12] = [
        ("F16", "BF16", "F16", "F16"),
        ("f16", "BF16", "F16", "F16"),
        ("BF16", "F16", "BF16", "BF16"),
        ("bf16", "F16", "BF16", "BF16"),
        ("Q8_0", "BF16", "Q8_0", "Q8_0"),
        ("q4_0", "BF16", "Q4_0", "Q4_0"),
        ("Q4_K_M", "F16", "Q4_K_M", "Q4_K"),
        ("q4_K", "BF16", "Q4_K_M", "Q4_K"),
        ("Q5_K_M", "BF16", "Q5_K_M", "Q5_K"),
        ("Q5_k", "BF16", "Q5_K_M", "Q5_K"),
        ("Q6_K", "BF16", "Q6_K", "Q6_K"),
        ("q6_k", "F16", "Q6_K", "Q6_K"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let create = |request: &CreateRequest| -> Vec<String> {
        let lines = lines(|report| store.create(request, report)).unwrap();
        lines.into_iter().map(|line| line.status).collect()
    };
    let files = weirgate_demo_model::FILES.iter();
    let files = files.map(|(name, contents)| ((*name).to_owned(), blob(&store, contents)));
    create(&CreateRequest::new(name("base:BF16"), Base::Files(files.collect())));
    let quantized = |model: &str, from: &str, level: &str| {
        let base = Base::Model(format!("base:{from}"));
        create(&CreateRequest { quantize: Some(level.to_owned()), ..CreateRequest::new(name(model), base) })
    };
    quantized("base:F16", "BF16", "F16");
    for (asked, from, level, matrices) in LEVELS {
        let status = quantized("made", from, asked);
        let converting = format!("quantizing {from} model to {level}");
        assert!(status.contains(&converting), "{asked}: {status:?}");
        assert_eq!(status.last().unwrap(), "success");
        let made = store.find("made").unwrap();
        assert_eq!(made.details.quantization_level, level, "{asked}");
        let shown = store.show(&made, true).unwrap();
        let tensor = shown.tensors.iter().find(|tensor| tensor.name == "blk.1.ffn_gate.weight").unwrap();
        assert_eq!(tensor.dtype, matrices, "{asked}");
    }
    // What it is already, it stays.
    let before = store.find("base:BF16").unwrap();
    let status = quantized("same", "BF16", "bf16");
    assert!(!status.iter().any(|line| line.starts_with("quantizing")), "{status:?}");
    assert_eq!(store.find("same").unwrap().details.quantization_level, "BF16");
    assert_eq!(store.find("same").unwrap().location, before.location);
}
