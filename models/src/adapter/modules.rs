//! The projections that can be adapted, and where the decoder has them.

use crate::ModelSpec;

/// One of the four matrices of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterSite {
    Qkv,
    Output,
    GateUp,
    Down,
}

/// A projection of every layer: `rows` rows of the site's matrix, from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct AdapterModule {
    /// In transformers, within a layer: `self_attn.q_proj`.
    pub name: &'static str,
    /// In GGUF, within a block.
    pub(super) gguf: &'static str,
    pub site: AdapterSite,
    pub first: usize,
    pub rows: usize,
    pub cols: usize,
    /// Heads whose rows GGUF may store in another order.
    pub(super) heads: Option<usize>,
}

impl AdapterModule {
    /// What PEFT calls this module of layer `layer`, with or without the adapter's own prefix: the base model's name.
    pub fn path(&self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.name)
    }

    /// The name of its tensor `A` (`[rank, cols]`) or `B` (`[rows, rank]`) in PEFT's files.
    pub fn peft_tensor(&self, layer: usize, side: char) -> String {
        format!("base_model.model.{}.lora_{side}.weight", self.path(layer))
    }
}

/// Those of a layer of `spec`, fused where its checkpoints have them so, in the order of their rows; as many for a site as
/// its list of tensors is long.
pub fn adapter_modules(spec: &ModelSpec) -> Vec<AdapterModule> {
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let (hidden, width) = (spec.hidden_size, spec.intermediate_size);
    let fused = |list: fn(&crate::LayerTensors) -> usize| spec.tensors.layers.first().map(list) == Some(1);
    let module = |name, gguf, site, first, rows, cols| AdapterModule {
        name,
        gguf,
        site,
        first,
        rows,
        cols,
        heads: None,
    };
    let mut modules = Vec::new();
    if fused(|layer| layer.qkv.len()) {
        modules.push(module("self_attn.qkv_proj", "attn_qkv", AdapterSite::Qkv, 0, q + 2 * kv, hidden));
    } else {
        let queries = module("self_attn.q_proj", "attn_q", AdapterSite::Qkv, 0, q, hidden);
        let keys = module("self_attn.k_proj", "attn_k", AdapterSite::Qkv, q, kv, hidden);
        modules.push(AdapterModule { heads: Some(spec.heads), ..queries });
        modules.push(AdapterModule { heads: Some(spec.kv_heads), ..keys });
        modules.push(module("self_attn.v_proj", "attn_v", AdapterSite::Qkv, q + kv, kv, hidden));
    }
    modules.push(module("self_attn.o_proj", "attn_output", AdapterSite::Output, 0, hidden, q));
    if fused(|layer| layer.gate_up.len()) {
        modules.push(module("mlp.gate_up_proj", "ffn_up", AdapterSite::GateUp, 0, 2 * width, hidden));
    } else {
        modules.push(module("mlp.gate_proj", "ffn_gate", AdapterSite::GateUp, 0, width, hidden));
        modules.push(module("mlp.up_proj", "ffn_up", AdapterSite::GateUp, width, width, hidden));
    }
    modules.push(module("mlp.down_proj", "ffn_down", AdapterSite::Down, 0, hidden, width));
    modules
}
