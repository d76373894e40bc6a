//! The demo model: a small Llama checkpoint inside the program, so that Weirgate serves something without a download.
//!
//! The files are a Hugging Face folder (`demo-model/files`), made by `tools/demo_model/train.py`; what the model is and
//! is not stands in its `README.md`.

/// Name and contents of every file a server needs from the folder. The weights are bf16.
pub static FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../files/config.json")),
    ("generation_config.json", include_bytes!("../files/generation_config.json")),
    ("model.safetensors", include_bytes!("../files/model.safetensors")),
    ("tokenizer.json", include_bytes!("../files/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../files/tokenizer_config.json")),
];

/// The contents of one file of [`FILES`].
pub fn file(name: &str) -> Option<&'static [u8]> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, contents)| *contents)
}
