//! GGUF files from anywhere: whatever the bytes are, reading ends in a model or in an error.
//!
//!     cargo +nightly fuzz run gguf fuzz/corpus/gguf models/tests/goldens -- -max_len=4096
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_models::{Gguf, GgufSource, ModelFiles, TensorSource, read_spec};

const FILES: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", data.to_vec()) else {
        return;
    };
    let names: Vec<String> =
        gguf.files().iter().flat_map(|file| file.tensors()).map(|tensor| tensor.name.clone()).collect();
    let files = ModelFiles::from(gguf);
    for name in FILES {
        let _ = files.read(name);
    }
    let Ok(source) = GgufSource::open(&files) else {
        return;
    };
    for name in &names {
        if let Ok(view) = source.tensor(name) {
            assert_eq!(view.dtype.bytes_of(view.shape.iter().product()), Some(view.bytes.len()));
            view.to_f32();
        }
    }
    if let Ok(spec) = read_spec(&files) {
        let _ = spec.check_tensors(&source);
    }
});
