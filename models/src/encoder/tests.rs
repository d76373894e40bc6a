use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::{DType, Gguf, GgufValue, GgufWriter, RopeScaling, TensorView};

/// Tensors by name alone.
struct Named(HashSet<&'static str>);

impl TensorSource for Named {
    fn tensor(&self, name: &str) -> Result<TensorView<'_>, ModelError> {
        Ok(TensorView { dtype: DType::F32, shape: Vec::new(), bytes: Vec::new().into() }).and_then(|view| {
            if self.contains(name) {
                Ok(view)
            } else {
                Err(crate::files::file_error(name.into(), "is missing"))
            }
        })
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn file(&self, _name: &str) -> &str {
        "named"
    }

    fn total_bytes(&self) -> u64 {
        0
    }
}

fn write(folder: &Path, name: &str, value: &Value) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

fn bert() -> Value {
    json!({
        "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 384, "intermediate_size": 1536,
        "num_attention_heads": 12, "num_hidden_layers": 6, "max_position_embeddings": 512
    })
}

fn read_with(changes: &Value, tensors: &[&'static str]) -> Result<EncoderSpec, ModelError> {
    let mut config = bert();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &config);
    read_encoder(&ModelFiles::open(folder.path()).unwrap(), &Named(tensors.iter().copied().collect()))
}

#[test]
fn names_follow_the_checkpoint() {
    let plain = read_with(&json!({}), &[]).unwrap();
    assert_eq!(plain.tensors.words, "embeddings.word_embeddings.weight");
    assert_eq!((plain.head_dim, plain.max_tokens, plain.token_types), (32, 512, 2));
    let prefixed = read_with(
        &json!({"architectures": ["BertForMaskedLM"]}),
        &["bert.embeddings.word_embeddings.weight", "bert.embeddings.LayerNorm.gamma"],
    );
    let prefixed = prefixed.unwrap();
    assert_eq!(prefixed.layers[5].qkv.weights[1], "bert.encoder.layer.5.attention.self.key.weight");
    assert_eq!(prefixed.tensors.norm.bias.unwrap(), "bert.embeddings.LayerNorm.beta");
}

#[test]
fn roberta_counts_positions_after_the_padding() {
    let roberta =
        json!({"architectures": ["XLMRobertaModel"], "max_position_embeddings": 514, "pad_token_id": 1});
    let spec = read_with(&roberta, &[]).unwrap();
    assert_eq!((spec.first_position, spec.max_tokens), (2, 512));
    let mut camembert = roberta;
    camembert["architectures"] = json!(["CamembertModel"]);
    let camembert = read_with(&camembert, &[]).unwrap();
    assert_eq!(camembert.architecture, "CamembertModel");
    assert_eq!(EncoderSpec { architecture: spec.architecture.clone(), ..camembert }, spec);
    let error = read_with(&json!({"architectures": ["RobertaModel"], "max_position_embeddings": 2}), &[]);
    assert!(error.unwrap_err().to_string().contains("max_position_embeddings"));
}

/// The keys of `nomic-ai/nomic-embed-text-v1.5` and their values.
#[test]
fn nomics_published_keys_are_read() {
    let published = json!({
        "architectures": ["NomicBertModel"], "vocab_size": 30528, "n_embd": 768, "n_inner": 3072, "n_head": 12,
        "n_layer": 12, "n_positions": 8192, "activation_function": "swiglu", "layer_norm_epsilon": 1e-12,
        "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_scale_base": null,
        "rotary_scaling_factor": null, "max_trained_positions": 2048, "type_vocab_size": 2, "prenorm": false
    });
    let spec = read_with(&published, &["emb_ln.weight"]).unwrap();
    assert_eq!(
        (spec.hidden_size, spec.intermediate_size, spec.heads, spec.layers.len()),
        (768, 3072, 12, 12)
    );
    assert_eq!((spec.vocab_size, spec.max_tokens, spec.norm_eps), (30528, 8192, 1e-12));
    assert_eq!((spec.activation, spec.ropes[0].base), (crate::Activation::Silu, 1000.0));
    let mut scaled = published;
    for (factor, trained, longest) in [(json!(2), json!(1024), 1024), (json!(2), json!(null), 2048)] {
        scaled["rotary_scaling_factor"] = factor;
        scaled["max_trained_positions"] = trained;
        assert_eq!(read_with(&scaled, &[]).unwrap().max_tokens, longest);
    }
}

/// The buckets that T5's rule gives (mesh TensorFlow's function with 32 buckets and a distance of 128).
#[test]
fn relative_positions_fall_into_t5s_buckets() {
    let bias = RelativeBiasSpec { tensor: String::new(), buckets: 32 };
    for (distance, bucket) in [
        (0, 0),
        (-1, 1),
        (-7, 7),
        (-8, 8),
        (-11, 8),
        (-12, 9),
        (-64, 14),
        (-127, 15),
        (-5000, 15),
        (1, 17),
        (8, 24),
        (500, 31),
    ] {
        assert_eq!(bias.bucket(distance), bucket, "{distance}");
    }
}

#[test]
fn modernberts_layers_take_turns() {
    let config = json!({
        "architectures": ["ModernBertModel"], "local_attention": 128, "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0, "global_attn_every_n_layers": 3, "norm_eps": 1e-5
    });
    let spec = read_with(&config, &[]).unwrap();
    let windows: Vec<_> = spec.layers.iter().map(|layer| layer.window).collect();
    assert_eq!(windows, [None, Some(64), Some(64), None, Some(64), Some(64)]);
    assert_eq!(spec.layers[0].attn_norm, None);
    assert_eq!((spec.ropes[0].base, spec.ropes[1].base), (160_000.0, 10_000.0));
    assert_eq!(spec.ropes[0].scaling, RopeScaling::None);
}

#[test]
fn what_cannot_be_computed_is_refused_by_its_key() {
    for (changes, key) in [
        (json!({"hidden_size": 100}), "hidden_size"),
        (json!({"hidden_act": "mish"}), "hidden_act"),
        (json!({"position_embedding_type": "relative_key"}), "position_embedding_type"),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers"),
        (json!({"architectures": ["NomicBertModel"], "rotary_emb_fraction": 0.5}), "rotary_emb_fraction"),
        (json!({"architectures": ["NomicBertModel"], "num_experts": 8}), "num_experts"),
        (json!({"architectures": ["NomicBertModel"], "prenorm": true}), "prenorm"),
        (json!({"architectures": ["LlamaForCausalLM"]}), "architectures"),
        (
            json!({"architectures": ["BertForSequenceClassification"],
                   "sbert_ce_default_activation_function": "torch.nn.modules.activation.Softmax"}),
            "sbert_ce_default_activation_function",
        ),
    ] {
        let error = read_with(&changes, &[]).unwrap_err().to_string();
        assert!(error.contains(key), "{changes}: {error}");
    }
}

#[test]
fn a_cross_encoder_says_how_its_scores_read() {
    let scores = |more: Value| {
        let mut config =
            json!({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let classifier = read_with(&config, &["classifier.bias"]).unwrap().classifier.unwrap();
        (classifier.labels, classifier.sigmoid)
    };
    assert_eq!(scores(json!({})), (1, true));
    let identity = "torch.nn.modules.linear.Identity";
    assert_eq!(scores(json!({"sbert_ce_default_activation_function": identity})), (1, false));
    assert_eq!(scores(json!({"sentence_transformers": {"activation_fn": identity}})), (1, false));
    assert_eq!(scores(json!({"id2label": {"0": "a", "1": "b"}})), (2, true));
}

/// A folder as sentence-transformers saves it.
fn sentence(
    pooling: &Value,
    modules: &[(&str, &str)],
    more: &[(&str, Value)],
) -> Result<Option<SentenceConfig>, ModelError> {
    let folder = tempfile::tempdir().unwrap();
    let modules: Vec<Value> = modules
        .iter()
        .map(|(path, kind)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")}))
        .collect();
    write(folder.path(), "modules.json", &json!(modules));
    write(folder.path(), "1_Pooling/config.json", pooling);
    for (name, value) in more {
        write(folder.path(), name, value);
    }
    SentenceConfig::read(&ModelFiles::open(folder.path()).unwrap())
}

const MODULES: [(&str, &str); 3] =
    [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];

#[test]
fn sentence_transformers_files_are_read() {
    let flags = |flag: &str| {
        json!({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": flag == "mean_tokens",
        "pooling_mode_cls_token": flag == "cls_token", "pooling_mode_max_tokens": flag == "max_tokens",
        "pooling_mode_lasttoken": flag == "lasttoken"})
    };
    for (pooling, want) in [
        (flags("mean_tokens"), Pooling::Mean),
        (flags("cls_token"), Pooling::Cls),
        (flags("max_tokens"), Pooling::Max),
        (flags("lasttoken"), Pooling::Last),
        (json!({"pooling_mode": "lasttoken"}), Pooling::Last),
        (json!({"pooling_mode": ["cls"]}), Pooling::Cls),
    ] {
        assert_eq!(sentence(&pooling, &MODULES, &[]).unwrap().unwrap().pooling, want, "{pooling}");
    }
    let more = [
        ("sentence_bert_config.json", json!({"max_seq_length": 256, "do_lower_case": false})),
        (
            "config_sentence_transformers.json",
            json!({"prompts": {"query": "query: "}, "default_prompt_name": "query"}),
        ),
    ];
    let config = sentence(&flags("mean_tokens"), &MODULES, &more).unwrap().unwrap();
    assert_eq!(config.max_tokens, Some(256));
    assert_eq!(config.prompts["query"], "query: ");
    assert_eq!(config.default_prompt.as_deref(), Some("query"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(SentenceConfig::read(&ModelFiles::open(folder.path()).unwrap()).unwrap(), None);
}

/// A GGUF file of nothing but these keys.
fn gguf(keys: &[(&str, GgufValue)]) -> ModelFiles {
    let mut writer = GgufWriter::new();
    keys.iter().for_each(|(key, value)| writer.set(*key, value.clone()));
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    Gguf::from_bytes("t.gguf", bytes).unwrap().into()
}

#[test]
fn a_gguf_file_says_its_pooling_by_number() {
    let read = |number| {
        let architecture = ("general.architecture", GgufValue::String("qwen3".into()));
        let files = gguf(&[architecture, ("qwen3.pooling_type", GgufValue::U32(number))]);
        SentenceConfig::read(&files).map(|config| config.map(|config| config.pooling))
    };
    for (number, want) in
        [(0, None), (1, Some(Pooling::Mean)), (2, Some(Pooling::Cls)), (3, Some(Pooling::Last)), (4, None)]
    {
        assert_eq!(read(number).unwrap(), want, "{number}");
    }
    let error = read(5).unwrap_err().to_string();
    assert!(error.contains("qwen3.pooling_type") && error.contains("is 5;"), "{error}");
    let plain = gguf(&[("general.architecture", GgufValue::String("qwen3".into()))]);
    assert_eq!(SentenceConfig::read(&plain).unwrap(), None);
}

#[test]
fn modules_that_are_not_supported_are_refused_by_name() {
    let mean = json!({"pooling_mode_mean_tokens": true});
    let two = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
    let dense = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")];
    let outside = [("", "Transformer"), ("../1_Pooling", "Pooling")];
    let missing = [("", "Transformer"), ("3_Pooling", "Pooling")];
    let no_default = [("config_sentence_transformers.json", json!({"default_prompt_name": "query"}))];
    for (outcome, what) in [
        (sentence(&two, &MODULES, &[]), "pooling_mode"),
        (sentence(&json!({"pooling_mode": "weightedmean"}), &MODULES, &[]), "weightedmean"),
        (sentence(&json!({"include_prompt": false}), &MODULES, &[]), "include_prompt"),
        (sentence(&mean, &dense, &[]), "Dense"),
        (sentence(&mean, &outside, &[]), "../1_Pooling"),
        (sentence(&mean, &missing, &[]), "3_Pooling"),
        (sentence(&mean, &MODULES[..1], &[]), "Pooling"),
        (sentence(&mean, &MODULES, &no_default), "default_prompt_name"),
    ] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
