//! GgufMetadata → the `config.json` that the architecture readers know. Values keep their meaning; what GGUF leaves to the
//! program that runs it is said here.

use serde_json::{Map, Value, json};

use super::file::{GgufFile, GgufTensor, GgufTensorType};
use super::metadata::{GgufMetadata, Value as Stored};
use super::{Gguf, dequantize};
use crate::ModelError;

/// Every supported architecture: GGUF's name and `config.json`'s.
pub(super) const ARCHITECTURES: [(&str, &str); 6] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
];
/// Llama with a window in every layer goes by GGUF's name of Llama.
pub(super) const MISTRAL: &str = "MistralForCausalLM";

/// The window-free layers of Gemma 3 rotate with their own base; the others, where no base is given, with this one.
pub(super) const LOCAL_BASE: f64 = 10_000.0;
/// Longest list of rotary factors read: half of the largest head accepted.
const MAX_FACTORS: usize = 1 << 11;

/// The contents of `config.json`.
pub(super) fn config(gguf: &Gguf) -> Result<Option<Value>, ModelError> {
    let metadata = gguf.metadata();
    let Some(architecture) = metadata.text("general.architecture")? else {
        return Err(metadata.wrong("general.architecture", "is missing"));
    };
    let Some((architecture, class)) = ARCHITECTURES.into_iter().find(|(name, _)| *name == architecture)
    else {
        return Err(ModelError::UnsupportedArchitecture {
            file: metadata.label().into(),
            architecture: architecture.chars().take(100).collect(),
            supported: ARCHITECTURES.map(|(name, _)| name).join(", "),
        });
    };
    let mut reader = Reader { gguf, metadata, architecture, map: Map::new() };
    reader.set("architectures", json!([class]));
    reader.sizes()?;
    reader.attention()?;
    reader.windows()?;
    reader.rope()?;
    Ok(Some(Value::Object(reader.map)))
}

struct Reader<'a> {
    gguf: &'a Gguf,
    metadata: &'a GgufMetadata,
    architecture: &'static str,
    map: Map<String, Value>,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.into(), value.into());
    }

    fn optional_size(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.metadata.size(&self.key(key))
    }

    fn size(&self, key: &str) -> Result<u64, ModelError> {
        match self.optional_size(key)? {
            Some(0) => Err(self.metadata.wrong(&self.key(key), "is 0")),
            Some(size) => Ok(size),
            None => Err(self.metadata.wrong(&self.key(key), "is missing")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.metadata.number(&self.key(key))
    }

    fn is_gemma(&self) -> bool {
        self.architecture.starts_with("gemma")
    }

    fn sizes(&mut self) -> Result<(), ModelError> {
        if self.optional_size("expert_count")?.unwrap_or(0) > 0 {
            return Err(self
                .metadata
                .wrong(&self.key("expert_count"), "mixtures of experts are not supported"));
        }
        for (ours, theirs) in [
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("max_position_embeddings", "context_length"),
        ] {
            let size = self.size(theirs)?;
            self.set(ours, size);
        }
        if let Some(kv_heads) = self.optional_size("attention.head_count_kv")? {
            self.set("num_key_value_heads", kv_heads);
        }
        let vocab_size = self.vocab_size()?;
        self.set("vocab_size", vocab_size);
        let key = "attention.layer_norm_rms_epsilon";
        let epsilon = self.number(key)?.ok_or_else(|| self.metadata.wrong(&self.key(key), "is missing"))?;
        self.set("rms_norm_eps", epsilon);
        self.set("tie_word_embeddings", !self.gguf.contains("output.weight"));
        self.set("mlp_bias", self.gguf.contains("blk.0.ffn_gate.bias"));
        if self.architecture != "qwen2" {
            self.set("attention_bias", self.gguf.contains("blk.0.attn_q.bias"));
        }
        Ok(())
    }

    /// The rows of the embedding; the tokenizer may know fewer.
    fn vocab_size(&self) -> Result<usize, ModelError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let tokens = match self.metadata.get(TOKENS)? {
            Some(Stored::Array(tokens)) => tokens.count_left(),
            _ => 0,
        };
        let rows = match self.gguf.find("token_embd.weight") {
            Some((_, info)) => info.shape.first().copied().unwrap_or(0),
            None => tokens,
        };
        if tokens > rows {
            return Err(self
                .metadata
                .wrong(TOKENS, &format!("has {tokens} tokens, the embedding {rows} rows")));
        }
        Ok(rows)
    }

    fn attention(&mut self) -> Result<(), ModelError> {
        let (hidden, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_dim = match self.optional_size("attention.key_length")? {
            Some(length) => length,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                let message = format!("{hidden} is not a multiple of the {heads} heads");
                return Err(self.metadata.wrong(&self.key("embedding_length"), &message));
            }
        };
        if let Some(length) = self.optional_size("attention.value_length")?
            && length != head_dim
        {
            let message = format!("is {length}, keys have {head_dim}; other lengths are not supported");
            return Err(self.metadata.wrong(&self.key("attention.value_length"), &message));
        }
        self.set("head_dim", head_dim);
        let rotary_dim = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        if rotary_dim != head_dim {
            // The reader takes the whole part of the product; the quarter keeps it clear of rounding.
            self.set("partial_rotary_factor", (rotary_dim as f64 + 0.25) / head_dim as f64);
        }
        if self.is_gemma() {
            let scale = self.number("attention.scale")?;
            let layers = self.size("block_count")?;
            let scalar = match scale {
                Some(scale) => 1.0 / (scale * scale),
                None => default_query_scalar(self.architecture, layers, hidden, heads, head_dim),
            };
            self.set("query_pre_attn_scalar", scalar);
        }
        for (key, name) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = self.number(name)? {
                self.set(key, if cap == 0.0 { Value::Null } else { cap.into() });
            }
        }
        Ok(())
    }

    fn windows(&mut self) -> Result<(), ModelError> {
        let window = self.optional_size("attention.sliding_window")?;
        if let Some(window) = window {
            self.set("sliding_window", if window == 0 { Value::Null } else { window.into() });
        }
        let key = self.key("attention.sliding_window_pattern");
        let pattern = match self.metadata.get(&key)? {
            None => None,
            Some(Stored::Array(_)) => self.metadata.list(&key, "bools", |value| match value {
                Stored::Bool(slides) => Some(slides),
                _ => None,
            })?,
            Some(_) => {
                let period = self.metadata.size(&key)?;
                self.set("sliding_window_pattern", period);
                None
            }
        };
        if let Some(pattern) = &pattern {
            let name = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
            self.set("layer_types", pattern.iter().map(name).collect::<Vec<_>>());
        }
        match (self.architecture, window) {
            ("llama", Some(1..)) => self.set("architectures", json!([MISTRAL])),
            // Which layers have it is said nowhere but in a pattern.
            ("qwen2" | "qwen3", Some(1..)) => self.set("use_sliding_window", pattern.is_some()),
            _ => {}
        }
        Ok(())
    }

    fn rope(&mut self) -> Result<(), ModelError> {
        let base = self.number("rope.freq_base")?.unwrap_or(LOCAL_BASE);
        self.set("rope_theta", base);
        if self.architecture == "gemma3" {
            let local = self.number("rope.freq_base_swa")?.unwrap_or(LOCAL_BASE);
            self.set("rope_local_base_freq", local);
        }
        if let Some(scaling) = self.scaling()? {
            self.set("rope_scaling", scaling);
        }
        Ok(())
    }

    fn scaling(&mut self) -> Result<Option<Value>, ModelError> {
        let original = self.optional_size("rope.scaling.original_context_length")?;
        let long = self.factors("rope_factors_long.weight")?;
        let short = self.factors("rope_factors_short.weight")?;
        if let (Some(long), Some(short)) = (long, short) {
            if let Some(original) = original {
                self.set("original_max_position_embeddings", original);
            }
            let factor = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            return Ok(Some(long_rope(&short, &long, factor)));
        }
        let key = self.key("rope.scaling.type");
        let linear = self.number("rope.scale_linear")?;
        let kind = match self.metadata.text(&key)? {
            Some(kind) => kind,
            None if linear.is_some() => "linear",
            None => "none",
        };
        let factor = self.number("rope.scaling.factor")?.or(linear).unwrap_or(1.0);
        let frequencies = self.factors("rope_freqs.weight")?;
        match (kind, frequencies) {
            ("none", None) => Ok(None),
            // Every frequency divided by its own factor: a LongRoPE whose two tables are one.
            ("none", Some(factors)) => Ok(Some(long_rope(&factors, &factors, 1.0))),
            ("linear", None) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            ("yarn", None) => Ok(Some(self.yarn(factor, original)?)),
            (other, factors) => {
                let beside = if factors.is_some() { " beside rope_freqs.weight" } else { "" };
                let message = format!(
                    "'{}'{beside} is not supported; none, linear, yarn and longrope are",
                    other.chars().take(40).collect::<String>()
                );
                Err(self.metadata.wrong(&key, &message))
            }
        }
    }

    fn yarn(&self, factor: f64, original: Option<u64>) -> Result<Value, ModelError> {
        // GGUF's factor multiplies the usual one.
        let extra = match self.number("rope.scaling.yarn_attn_factor")? {
            Some(extra) => extra,
            None => self.number("rope.scaling.attn_factor")?.unwrap_or(1.0),
        };
        let mut map = Map::new();
        map.insert("rope_type".into(), "yarn".into());
        map.insert("factor".into(), factor.into());
        map.insert("attention_factor".into(), (extra * yarn_attention(factor)).into());
        for (ours, theirs) in
            [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
        {
            if let Some(beta) = self.number(theirs)? {
                map.insert(ours.into(), beta.into());
            }
        }
        if let Some(original) = original {
            map.insert("original_max_position_embeddings".into(), original.into());
        }
        Ok(Value::Object(map))
    }

    /// The values of a small vector.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some((file, info)) = self.gguf.find(name) else {
            return Ok(None);
        };
        let wrong = |message: String| ModelError::Tensor {
            file: file.metadata().label().into(),
            tensor: name.into(),
            message,
        };
        match info.dtype {
            GgufTensorType::Known(dtype) if info.shape.iter().product::<usize>() <= MAX_FACTORS => {
                Ok(Some(dequantize(dtype, file.data(info))))
            }
            GgufTensorType::Known(_) => {
                Err(wrong(format!("has shape {:?}, at most {MAX_FACTORS} values are accepted", info.shape)))
            }
            GgufTensorType::Other(id) => Err(wrong(format!("ggml type {id} is not supported"))),
        }
    }
}

fn long_rope(short: &[f32], long: &[f32], attention_factor: f64) -> Value {
    json!({
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "attention_factor": attention_factor,
    })
}

/// How much longer YaRN makes queries and keys, by its paper.
pub(super) fn yarn_attention(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// Gemma's `query_pre_attn_scalar`, which GGUF need not state: the head's size, but in the 27-billion models of either
/// generation (46 and 62 layers) the model's width over its heads.
pub(super) fn default_query_scalar(
    architecture: &str,
    layers: u64,
    hidden: u64,
    heads: u64,
    head_dim: u64,
) -> f64 {
    match (architecture, layers) {
        ("gemma2", 46) | ("gemma3", 62) => hidden as f64 / heads as f64,
        _ => head_dim as f64,
    }
}

impl Gguf {
    /// The tensor `name` and its file.
    fn find(&self, name: &str) -> Option<(&GgufFile, &GgufTensor)> {
        self.files()
            .iter()
            .find_map(|file| Some((file, file.tensors().iter().find(|tensor| tensor.name == name)?)))
    }

    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
