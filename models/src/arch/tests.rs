//! Readers against the published configurations of real models. Expected values are the models' documented facts.

use serde_json::{Value, json};

use crate::{Activation, LayerSpec, ModelError, ModelFiles, ModelSpec, RopeScaling, read_spec};

fn files(config: &str) -> ModelFiles {
    let config: &'static [u8] = config.to_owned().into_bytes().leak();
    ModelFiles::embedded(Box::leak(Box::new([("config.json", config)])))
}

fn read(config: &Value) -> Result<ModelSpec, ModelError> {
    read_spec(&files(&config.to_string()))
}

fn with(base: &Value, changes: Value) -> Value {
    let mut config = base.clone();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn llama_3_1_8b() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256
    })
}

/// Elements of all tensors.
fn parameters(spec: &ModelSpec) -> usize {
    spec.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn llama_3_1() {
    let spec = read(&llama_3_1_8b()).unwrap();
    assert_eq!(spec.architecture, "LlamaForCausalLM");
    assert_eq!((spec.heads, spec.kv_heads, spec.head_dim, spec.layers.len()), (32, 8, 128, 32));
    assert_eq!((spec.norm_eps, spec.max_positions, spec.activation), (1e-5, 131_072, Activation::Silu));
    assert_eq!(f64::from(spec.attention_scale), f64::from(128f32.sqrt().recip()));
    assert_eq!(spec.ropes[0].base, 500_000.0);
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max: 8192 };
    assert_eq!(spec.ropes[0].scaling, scaling);
    assert_eq!(spec.tensors.head.as_deref(), Some("lm_head.weight"));
    assert_eq!(spec.tensors.layers[31].qkv[1], "model.layers.31.self_attn.k_proj.weight");
    assert_eq!(spec.tensors.layers[0].ffn_norm, "model.layers.0.post_attention_layernorm.weight");
    assert!(spec.tensors.layers[0].qkv_bias.is_empty());
    // The published parameter count.
    assert_eq!(parameters(&spec), 8_030_261_248);
}

#[test]
fn llama_2_and_biases() {
    // Llama 2 7B: no grouped heads, no rope_theta.
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false, "vocab_size": 32000
    });
    let spec = read(&config).unwrap();
    assert_eq!((spec.ropes[0].base, &spec.ropes[0].scaling), (10_000.0, &RopeScaling::None));
    assert_eq!(parameters(&spec), 6_738_415_616);
    let spec = read(&with(&config, json!({"attention_bias": true, "mlp_bias": true}))).unwrap();
    let layer = &spec.tensors.layers[2];
    assert_eq!(layer.qkv_bias[2], "model.layers.2.self_attn.v_proj.bias");
    assert_eq!(layer.output_bias.as_deref(), Some("model.layers.2.self_attn.o_proj.bias"));
    assert_eq!(layer.gate_up_bias, ["model.layers.2.mlp.gate_proj.bias", "model.layers.2.mlp.up_proj.bias"]);
    assert_eq!(layer.down_bias.as_deref(), Some("model.layers.2.mlp.down_proj.bias"));
}

#[test]
fn mistral() {
    let config = json!({
        "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000
    });
    let spec = read(&config).unwrap();
    assert!(spec.layers.iter().all(|layer| layer.window == Some(4096)));
    assert_eq!(parameters(&spec), 7_241_732_096);
    let spec = read(&with(&config, json!({"sliding_window": null}))).unwrap();
    assert!(spec.layers.iter().all(|layer| layer.window.is_none()));
    // Nemo's heads are narrower than hidden / heads.
    let nemo = json!({"hidden_size": 5120, "head_dim": 128, "num_hidden_layers": 40, "vocab_size": 131072,
        "sliding_window": null});
    let spec = read(&with(&config, nemo)).unwrap();
    assert_eq!((spec.head_dim, parameters(&spec)), (128, 12_247_782_400));
}

fn qwen_2_5_0_5b() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
    })
}

#[test]
fn qwen_2_5() {
    let spec = read(&qwen_2_5_0_5b()).unwrap();
    assert_eq!(parameters(&spec), 494_032_768);
    assert_eq!(spec.tensors.head, None);
    assert_eq!(spec.tensors.layers[0].qkv_bias[0], "model.layers.0.self_attn.q_proj.bias");
    assert_eq!(spec.tensors.layers[0].output_bias, None);
    assert!(spec.layers.iter().all(|layer| layer.window.is_none()));
    let sliding = with(&qwen_2_5_0_5b(), json!({"use_sliding_window": true}));
    let spec = read(&sliding).unwrap();
    assert_eq!(spec.layers.iter().filter(|layer| layer.window == Some(32768)).count(), 3);
    assert_eq!((spec.layers[20].window, spec.layers[21].window), (None, Some(32768)));
    let all = read(&with(&sliding, json!({"max_window_layers": 0}))).unwrap();
    assert!(all.layers.iter().all(|layer| layer.window.is_some()));
}

#[test]
fn qwen_2_5_with_yarn() {
    let yarn =
        json!({"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}});
    let spec = read(&with(&qwen_2_5_0_5b(), yarn)).unwrap();
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max, attention_factor, truncate } =
        spec.ropes[0].scaling
    else {
        panic!("{:?}", spec.ropes[0].scaling);
    };
    assert_eq!((factor, beta_fast, beta_slow, original_max, truncate), (4.0, 32.0, 1.0, 32768, true));
    // 0.1 ln 4 + 1.
    assert!((attention_factor - 1.138_629_436).abs() < 1e-9);
}

#[test]
fn qwen_3() {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28, "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936
    });
    let spec = read(&config).unwrap();
    assert_eq!((spec.head_dim, parameters(&spec)), (128, 596_049_920));
    let norms = spec.tensors.layers[1].qk_norm.clone().unwrap();
    assert_eq!(norms.0, "model.layers.1.self_attn.q_norm.weight");
    assert_eq!(norms.1, "model.layers.1.self_attn.k_norm.weight");
}

#[test]
fn gemma_2() {
    let config = json!({
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
        "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 256000
    });
    let spec = read(&config).unwrap();
    assert_eq!(parameters(&spec), 2_614_341_888);
    assert_eq!((spec.attention_softcap, spec.logit_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((spec.norm_offset, spec.embedding_scale, spec.attention_scale), (1.0, 48.0, 0.0625));
    assert_eq!(spec.activation, Activation::GeluTanh);
    assert_eq!((spec.layers[0].window, spec.layers[1].window), (Some(4096), None));
    let layer = &spec.tensors.layers[0];
    assert_eq!(layer.ffn_norm, "model.layers.0.pre_feedforward_layernorm.weight");
    assert_eq!(layer.post_attn_norm.as_deref(), Some("model.layers.0.post_attention_layernorm.weight"));
    assert_eq!(layer.post_ffn_norm.as_deref(), Some("model.layers.0.post_feedforward_layernorm.weight"));
    let uncapped = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let spec = read(&with(&config, uncapped)).unwrap();
    assert_eq!((spec.attention_softcap, spec.logit_softcap), (None, None));
}

fn gemma_3_1b() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": null,
        "cache_implementation": "hybrid", "final_logit_softcapping": null, "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4,
        "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "vocab_size": 262144
    })
}

#[test]
fn gemma_3() {
    let spec = read(&gemma_3_1b()).unwrap();
    assert_eq!(parameters(&spec), 999_885_952);
    assert_eq!(spec.ropes.iter().map(|rope| rope.base).collect::<Vec<_>>(), [1e6, 1e4]);
    assert_eq!(spec.layers[4], LayerSpec { window: Some(512), rope: 1 });
    assert_eq!(spec.layers[5], LayerSpec { window: None, rope: 0 });
    assert_eq!(spec.layers.iter().filter(|layer| layer.window.is_none()).count(), 4);
    assert_eq!((spec.attention_softcap, spec.logit_softcap), (None, None));
}

/// The same model as transformers 5 writes it, and the larger ones' linear scaling, which spares the local table.
#[test]
fn gemma_3_rope_parameters() {
    let mut config = gemma_3_1b();
    for key in ["rope_local_base_freq", "rope_scaling", "rope_theta", "sliding_window_pattern"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let types: Vec<&str> =
        (1..=26).map(|layer| if layer % 6 == 0 { "full_attention" } else { "sliding_attention" }).collect();
    let new = json!({"layer_types": types, "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1000000},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000}}});
    assert_eq!(read(&with(&config, new)).unwrap(), read(&gemma_3_1b()).unwrap());
    let scaled = json!({"rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let spec = read(&with(&gemma_3_1b(), scaled)).unwrap();
    assert_eq!(spec.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(spec.ropes[1].scaling, RopeScaling::None);
}

fn phi_3_mini_4k() -> Value {
    json!({
        "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling": null,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false, "vocab_size": 32064
    })
}

#[test]
fn phi_3() {
    let spec = read(&phi_3_mini_4k()).unwrap();
    assert_eq!(parameters(&spec), 3_821_079_552);
    assert_eq!((spec.head_dim, spec.layers[0].window), (96, Some(2047)));
    assert_eq!(spec.tensors.layers[3].qkv, ["model.layers.3.self_attn.qkv_proj.weight"]);
    assert_eq!(spec.tensors.layers[3].gate_up, ["model.layers.3.mlp.gate_up_proj.weight"]);
}

#[test]
fn phi_long_rope() {
    // Phi-3-mini-128k; "su" is its first name for LongRoPE.
    for kind in ["su", "longrope"] {
        let long = json!({"max_position_embeddings": 131072, "sliding_window": 262144, "rope_scaling": {
            "type": kind, "short_factor": vec![1.05; 48], "long_factor": vec![1.25; 48]}});
        let spec = read(&with(&phi_3_mini_4k(), long)).unwrap();
        let RopeScaling::LongRope { original_max, attention_factor, short, .. } = &spec.ropes[0].scaling
        else {
            panic!("{:?}", spec.ropes[0].scaling);
        };
        assert_eq!((*original_max, short.len()), (4096, 48));
        // sqrt(1 + ln 32 / ln 4096).
        assert!((attention_factor - 1.190_238_072).abs() < 1e-9);
        assert_eq!([4096, 4097, 100_000].map(|len| spec.length_class(len)), [0, 1, 1]);
    }
}

#[test]
fn phi_4_mini() {
    let changes = json!({"num_attention_heads": 24, "num_key_value_heads": 8, "partial_rotary_factor": 0.75,
        "max_position_embeddings": 131072, "tie_word_embeddings": true, "vocab_size": 200064, "rope_scaling": {
            "type": "longrope", "short_factor": vec![1; 48], "long_factor": vec![2; 48]}});
    let spec = read(&with(&phi_3_mini_4k(), changes)).unwrap();
    assert_eq!((spec.head_dim, spec.ropes[0].rotary_dim), (128, 96));
    assert_eq!(parameters(&spec), 3_836_021_760);
    let too_short =
        json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": vec![2; 48]}});
    let message = read(&with(&phi_3_mini_4k(), too_short)).unwrap_err().to_string();
    assert!(message.contains("rope_scaling.short_factor") && message.contains("48"), "{message}");
}

#[test]
fn unsupported_architectures_are_refused_by_name() {
    for name in [
        "MixtralForCausalLM",
        "Qwen2MoeForCausalLM",
        "Gemma3ForConditionalGeneration",
        "BertModel",
        "llama",
        "",
    ] {
        let message = read(&json!({"architectures": [name]})).unwrap_err().to_string();
        assert!(message.contains(&format!("'{name}' is not supported")), "{message}");
        assert!(message.contains("LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM"), "{message}");
        assert!(message.starts_with("config.json of the embedded model"), "{message}");
    }
    let quantized = with(&llama_3_1_8b(), json!({"quantization_config": {"quant_method": "bitsandbytes"}}));
    let message = read(&quantized).unwrap_err().to_string();
    assert!(message.contains("quantization_config") && message.contains("'bitsandbytes'"), "{message}");
}

/// Each absurd value is an error that names its key.
#[test]
fn absurd_values_name_their_key() {
    let cases = json!({
        "hidden_size": [0, -1, 1.5, "4096", u64::MAX, 1u64 << 40, [1], {}],
        "num_attention_heads": [0, 31, u32::MAX],
        "num_key_value_heads": [0, 3, 64],
        "num_hidden_layers": [0, 100_000],
        "vocab_size": [0, 1u64 << 33],
        "intermediate_size": [0, null],
        "head_dim": [0, 7, 1u64 << 20],
        "max_position_embeddings": [0, "many"],
        "rms_norm_eps": [0, -1e-5, "small"],
        "tie_word_embeddings": [1, "yes"],
        "hidden_act": ["relu", 3],
        "architectures": [null, [], "LlamaForCausalLM", [3]],
        "rope_theta": [0, -1, 0.5, "big"],
        "partial_rotary_factor": [0.5, -1],
        "rope_scaling": ["linear", 3],
        "attention_bias": ["no"],
    });
    for (key, values) in cases.as_object().unwrap() {
        for value in values.as_array().unwrap() {
            let config = with(&llama_3_1_8b(), json!({ key: value }));
            let message = read(&config).expect_err(&format!("{key} = {value}")).to_string();
            let named = [key.as_str(), "hidden_size"].iter().any(|key| message.contains(key));
            assert!(named, "{key} = {value}: {message}");
        }
    }
}

#[test]
fn absurd_rope_scalings_name_their_key() {
    for (scaling, key) in [
        (json!({"rope_type": "cubic"}), "rope_scaling.rope_type"),
        (json!({"type": 3}), "rope_scaling.type"),
        (json!({"type": "linear"}), "rope_scaling.factor"),
        (json!({"type": "linear", "factor": 0}), "rope_scaling.factor"),
        (json!({"type": "dynamic", "factor": 0.5}), "rope_scaling.factor"),
        (json!({"type": "dynamic", "factor": "2"}), "rope_scaling.factor"),
        (json!({"type": "llama3", "factor": 8}), "rope_scaling.low_freq_factor"),
        (
            json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}),
            "rope_scaling.high_freq_factor",
        ),
        (
            json!({"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}),
            "rope_scaling.original_max_position_embeddings",
        ),
        (json!({"type": "yarn", "factor": 4, "beta_fast": -1}), "rope_scaling.beta_fast"),
        (json!({"type": "longrope"}), "rope_scaling.short_factor"),
        (json!({"type": "longrope", "short_factor": vec![0; 64]}), "rope_scaling.short_factor"),
    ] {
        let message = read(&with(&llama_3_1_8b(), json!({"rope_scaling": scaling}))).unwrap_err().to_string();
        assert!(message.contains(&format!("'{key}'")), "{scaling}: {message}");
    }
}

#[test]
fn layer_types_must_fit() {
    let sliding = with(&qwen_2_5_0_5b(), json!({"use_sliding_window": true}));
    for types in [json!(["full_attention"]), json!(vec!["linear_attention"; 24]), json!("full_attention")] {
        let message = read(&with(&sliding, json!({ "layer_types": types }))).unwrap_err().to_string();
        assert!(message.contains("layer_types"), "{message}");
    }
}

/// Every prefix of a configuration, and every single damaged byte, is an error or a reading; never a panic.
#[test]
fn damaged_configurations_do_not_panic() {
    for config in [llama_3_1_8b(), qwen_2_5_0_5b(), gemma_3_1b(), phi_3_mini_4k()] {
        let text = config.to_string();
        for end in 0..text.len() {
            assert!(read_spec(&files(&text[..end])).is_err());
        }
        for at in 0..text.len() {
            for byte in [b'0', b'9', b'"', b'}', b'-'] {
                let mut damaged = text.clone().into_bytes();
                damaged[at] = byte;
                let _ = read_spec(&files(&String::from_utf8(damaged).unwrap()));
            }
        }
    }
    for text in ["", "[]", "null", "3", &"[".repeat(100_000), "{\"architectures\": [\"LlamaForCausalLM\"]}"] {
        assert!(read_spec(&files(text)).is_err());
    }
    assert!(read_spec(&ModelFiles::embedded(&[])).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn operators_can_stretch_the_positions() {
    let mut spec = read(&llama_3_1_8b()).unwrap();
    spec.override_rope(crate::RopeOverride::Dynamic, 2.0).unwrap();
    assert_eq!(spec.ropes[0].scaling, RopeScaling::Dynamic { factor: 2.0, original_max: 131_072 });
    assert_eq!(spec.max_positions, 262_144);
    assert_eq!([131_072, 131_073, 200_000].map(|len| spec.length_class(len)), [0, 131_073, 200_000]);
    for factor in [0.0, 0.5, f64::NAN, f64::INFINITY] {
        assert!(spec.override_rope(crate::RopeOverride::Linear, factor).is_err());
    }
}
