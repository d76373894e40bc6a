//! What the families share: sizes, activations, and names as checkpoints of several ages have them.

use super::spec::{
    Classifier, EncoderLayer, EncoderSpec, EncoderTensors, LinearTensors, NormTensors, Pooling,
};
use crate::arch::base::{MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH};
use crate::config::Config;
use crate::{Activation, ModelError, TensorSource};

/// The keys under which a family's configuration has its sizes.
pub(super) struct Keys {
    pub hidden: &'static str,
    pub intermediate: &'static str,
    pub heads: &'static str,
    pub layers: &'static str,
    pub positions: &'static str,
    pub activation: &'static str,
    pub norm_eps: &'static str,
}

pub(super) const BERT_KEYS: Keys = Keys {
    hidden: "hidden_size",
    intermediate: "intermediate_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    positions: "max_position_embeddings",
    activation: "hidden_act",
    norm_eps: "layer_norm_eps",
};

/// A family's values for keys that its configurations may leave out.
pub(super) struct Defaults {
    pub max_positions: usize,
    pub norm_eps: f64,
    pub activation: &'static str,
}

/// A checkpoint while its names are looked up.
pub(super) struct Names<'a> {
    tensors: &'a dyn TensorSource,
    prefix: &'static str,
}

impl<'a> Names<'a> {
    /// With the first of `prefixes` under which `probe` is there.
    pub fn find(tensors: &'a dyn TensorSource, prefixes: &[&'static str], probe: &str) -> Self {
        let there = |prefix: &&&str| tensors.contains(&format!("{prefix}{probe}"));
        Self { tensors, prefix: prefixes.iter().find(there).copied().unwrap_or_default() }
    }

    pub fn tensor(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains(&self.tensor(name))
    }

    /// A LayerNorm's tensors; checkpoints converted from TensorFlow call them gamma and beta.
    pub fn norm(&self, name: &str) -> NormTensors {
        let full = self.tensor(name);
        if self.tensors.contains(&format!("{full}.gamma")) {
            return NormTensors { weight: format!("{full}.gamma"), bias: Some(format!("{full}.beta")) };
        }
        NormTensors { weight: format!("{full}.weight"), bias: Some(format!("{full}.bias")) }
    }

    /// A LayerNorm's tensors, the bias where there is one.
    pub fn norm_without_bias(&self, name: &str) -> NormTensors {
        let norm = self.norm(name);
        let bias = norm.bias.filter(|bias| self.tensors.contains(bias));
        NormTensors { bias, ..norm }
    }

    pub fn linear(&self, names: &[String]) -> LinearTensors {
        let part = |end: &str| names.iter().map(|name| format!("{}.{end}", self.tensor(name))).collect();
        LinearTensors { weights: part("weight"), biases: part("bias") }
    }

    /// A projection with biases only if the checkpoint has them.
    pub fn linear_or_bare(&self, names: &[String]) -> LinearTensors {
        let linear = self.linear(names);
        let has = linear.biases.iter().all(|bias| self.tensors.contains(bias));
        if has { linear } else { LinearTensors { biases: Vec::new(), ..linear } }
    }
}

/// A post-norm encoder without layers, positions or types yet.
pub(super) fn read(
    config: &Config,
    keys: &Keys,
    defaults: &Defaults,
    words: String,
    norm: NormTensors,
) -> Result<EncoderSpec, ModelError> {
    let hidden_size = config.size(keys.hidden, MAX_WIDTH)?;
    let heads = config.size(keys.heads, MAX_HEADS)?;
    if hidden_size % heads != 0 {
        let message = format!("is {hidden_size}, not a multiple of {} = {heads}", keys.heads);
        return Err(config.error(keys.hidden, message));
    }
    let head_dim = hidden_size / heads;
    let norm_eps = config.optional_positive(keys.norm_eps)?.unwrap_or(defaults.norm_eps);
    Ok(EncoderSpec {
        architecture: String::new(),
        vocab_size: config.size("vocab_size", MAX_VOCAB)?,
        hidden_size,
        intermediate_size: config.optional_size(keys.intermediate, MAX_WIDTH)?.unwrap_or(4 * hidden_size),
        heads,
        head_dim,
        max_tokens: config.optional_size(keys.positions, MAX_POSITIONS)?.unwrap_or(defaults.max_positions),
        norm_eps: norm_eps as f32,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        activation: activation(config, keys.activation, defaults.activation)?,
        gated: false,
        pre_norm: false,
        first_position: 0,
        token_types: 0,
        relative_bias: None,
        ropes: Vec::new(),
        layers: Vec::new(),
        tensors: EncoderTensors { words, positions: None, types: None, norm, final_norm: None },
        classifier: None,
    })
}

pub(super) fn layer_count(config: &Config, keys: &Keys) -> Result<usize, ModelError> {
    config.size(keys.layers, MAX_LAYERS)
}

pub(super) fn activation(config: &Config, key: &str, default: &str) -> Result<Activation, ModelError> {
    Ok(match config.optional_text(key)?.unwrap_or(default) {
        "gelu" | "geglu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "silu" | "swish" | "swiglu" => Activation::Silu,
        "relu" => Activation::Relu,
        "tanh" => Activation::Tanh,
        other => return Err(config.error(key, format!("'{other}' is not supported"))),
    })
}

/// The names of one layer of BERT or of a family that follows it.
pub(super) struct LayerNames {
    pub qkv: Vec<String>,
    pub output: String,
    pub attn_norm: String,
    pub up: String,
    pub down: String,
    pub ffn_norm: String,
}

/// A layer of full attention with biases everywhere.
pub(super) fn plain_layer(names: &Names<'_>, layer: LayerNames) -> EncoderLayer {
    EncoderLayer {
        window: None,
        rope: None,
        qkv: names.linear(&layer.qkv),
        output: names.linear(&[layer.output]),
        attn_norm: Some(names.norm(&layer.attn_norm)),
        up: names.linear(&[layer.up]),
        down: names.linear(&[layer.down]),
        ffn_norm: names.norm(&layer.ffn_norm),
    }
}

/// BERT's layer `index`.
pub(super) fn bert_layer(names: &Names<'_>, index: usize) -> EncoderLayer {
    let name = |part: &str| format!("encoder.layer.{index}.{part}");
    plain_layer(
        names,
        LayerNames {
            qkv: ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}"))).into(),
            output: name("attention.output.dense"),
            attn_norm: name("attention.output.LayerNorm"),
            up: name("intermediate.dense"),
            down: name("output.dense"),
            ffn_norm: name("output.LayerNorm"),
        },
    )
}

/// The head of a cross-encoder, its names from the checkpoint's root: one dense layer over the first token, then one
/// label.
pub(super) fn classifier(
    config: &Config,
    tensors: &dyn TensorSource,
    (dense, output): (&str, &str),
    activation: Activation,
) -> Result<Classifier, ModelError> {
    let names = Names { tensors, prefix: "" };
    Ok(Classifier {
        pooling: Pooling::Cls,
        dense: names.linear_or_bare(&[dense.to_owned()]),
        activation,
        norm: None,
        output: names.linear_or_bare(&[output.to_owned()]),
        labels: labels(config)?,
        sigmoid: sigmoid(config)?,
    })
}

/// How many labels a classifier has: as many as are named, or two.
fn labels(config: &Config) -> Result<usize, ModelError> {
    if let Some(named) = config.object("id2label")? {
        return Ok(named.keys().count());
    }
    Ok(config.optional_size("num_labels", MAX_WIDTH)?.unwrap_or(2))
}

/// Whether a score is a probability: yes, unless the cross-encoder was saved with another function.
fn sigmoid(config: &Config) -> Result<bool, ModelError> {
    const KEY: &str = "sbert_ce_default_activation_function";
    let own = config.object("sentence_transformers")?;
    let named = match &own {
        Some(own) => own.optional_text("activation_fn")?,
        None => config.optional_text(KEY)?,
    };
    match named {
        None => Ok(true),
        Some(name) if name.ends_with("Sigmoid") => Ok(true),
        Some(name) if name.ends_with("Identity") => Ok(false),
        Some(other) => {
            Err(config.error(KEY, format!("'{other}' is not supported; Sigmoid and Identity are")))
        }
    }
}
