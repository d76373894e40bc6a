//! Small tokenizers of each kind, for tests.

use std::sync::{Arc, LazyLock};

use serde_json::json;
use tokenizers::Tokenizer;

/// The 256 letters by which byte-level BPE writes bytes, in byte order (GPT-2's `bytes_to_unicode`).
fn byte_letters() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut shifted = 256;
    (0..256)
        .map(|b| {
            if printable(b) {
                char::from_u32(b).unwrap()
            } else {
                shifted += 1;
                char::from_u32(shifted - 1).unwrap()
            }
        })
        .collect()
}

fn build(value: &serde_json::Value) -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_bytes(value.to_string()).unwrap())
}

/// One token per byte, token `b` being byte `b`, then `<|begin|>` 256, `<|end|>` 257.
pub(crate) fn byte_level() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| build(&byte_level_json()));
    TOKENIZER.clone()
}

/// The `tokenizer.json` of [`byte_level`].
pub(crate) fn byte_level_json() -> serde_json::Value {
    let vocab: serde_json::Map<String, serde_json::Value> =
        byte_letters().iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<|begin|>"), special(257, "<|end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    })
}

/// Llama 2's scheme: `▁` for the space, bytes as `<0xNN>`, the leading space dropped when decoding.
pub(crate) fn byte_fallback() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        let mut names: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        names.extend(["<unk>", "▁", "a", "b", "c", "▁a", "▁b"].map(str::to_owned));
        let vocab: serde_json::Map<String, serde_json::Value> =
            names.into_iter().enumerate().map(|(id, name)| (name, json!(id))).collect();
        build(&json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
                      "merges": ["▁ a", "▁ b"]}
        }))
    });
    TOKENIZER.clone()
}

/// Words with a leading `▁`, decoded by `Metaspace`.
pub(crate) fn metaspace() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
        build(&json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "post_processor": null,
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
            "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "▁hello": 1, "▁world": 2}, "unk_token": "<unk>"}
        }))
    });
    TOKENIZER.clone()
}

/// The id of a token by its name.
pub(crate) fn id(tokenizer: &Tokenizer, name: &str) -> u32 {
    tokenizer.token_to_id(name).unwrap()
}
