//! The embedded folder is complete, small enough and consistent in itself.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use weirgate_demo_model::{FILES, file};

fn json(name: &str) -> Value {
    serde_json::from_slice(file(name).unwrap()).unwrap()
}

/// The header of the safetensors file: an 8-byte little-endian length, then JSON.
fn weights_header() -> (usize, Value) {
    let bytes = file("model.safetensors").unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (8 + length, serde_json::from_slice(&bytes[8..8 + length]).unwrap())
}

#[test]
fn all_files_together_stay_under_twelve_megabytes() {
    let total: usize = FILES.iter().map(|(_, contents)| contents.len()).sum();
    assert!(total > 9_000_000 && total <= 12_000_000, "{total} bytes");
    assert!(file("no-such-file").is_none());
}

#[test]
fn the_config_has_the_promised_shape() {
    let config = json("config.json");
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    let number = |key: &str| config[key].as_u64().unwrap_or_else(|| panic!("{key} is no number"));
    assert_eq!(number("hidden_size") % 256, 0);
    assert_eq!(number("intermediate_size") % 256, 0);
    assert_eq!(number("head_dim"), 64);
    assert_eq!(number("hidden_size"), number("num_attention_heads") * number("head_dim"));
    assert!(number("num_key_value_heads") < number("num_attention_heads"));
    assert_eq!(number("max_position_embeddings"), 2048);
    assert_eq!(config["tie_word_embeddings"], true);
}

#[test]
fn the_weights_fit_the_config_and_are_complete() {
    let (config, (start, header)) = (json("config.json"), weights_header());
    let size = |key: &str| config[key].as_u64().unwrap();
    let (hidden, wide) = (size("hidden_size"), size("intermediate_size"));
    let queries = size("num_attention_heads") * size("head_dim");
    let keys = size("num_key_value_heads") * size("head_dim");
    let mut expected = vec![
        ("model.embed_tokens.weight".to_owned(), vec![size("vocab_size"), hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..size("num_hidden_layers") {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![queries, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, queries]),
            ("mlp.gate_proj", vec![wide, hidden]),
            ("mlp.up_proj", vec![wide, hidden]),
            ("mlp.down_proj", vec![hidden, wide]),
        ] {
            expected.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let tensors = header.as_object().unwrap();
    assert_eq!(tensors.keys().filter(|name| *name != "__metadata__").count(), expected.len());
    let mut bytes = 0;
    for (name, shape) in expected {
        let tensor = &tensors[&name];
        assert_eq!(tensor["dtype"], "BF16", "{name}");
        assert_eq!(tensor["shape"], serde_json::json!(shape), "{name}");
        bytes += 2 * shape.iter().product::<u64>() as usize;
    }
    assert_eq!(start + bytes, file("model.safetensors").unwrap().len());
}

#[test]
fn the_tokenizer_agrees_with_the_configs() {
    let tokenizer = json("tokenizer.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    assert_eq!(vocabulary.len() as u64, json("config.json")["vocab_size"].as_u64().unwrap());
    let settings = json("tokenizer_config.json");
    let end = settings["eos_token"].as_str().unwrap();
    assert_eq!(vocabulary[end], json("config.json")["eos_token_id"]);
    assert_eq!(vocabulary[end], json("generation_config.json")["eos_token_id"]);
    assert!(settings["chat_template"].as_str().unwrap().contains(end));
    assert_eq!(settings["model_max_length"], 2048);
}
