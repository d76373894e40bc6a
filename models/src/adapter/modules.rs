//! The projections that can be adapted, and where the decoder has them.

use crate::ModelSpec;

/// One of the four matrices of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    Qkv,
    Output,
    GateUp,
    Down,
}

/// A projection of every layer: `rows` rows of the site's matrix, from `first` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Module {
    /// In transformers, within a layer.
    pub name: &'static str,
    /// In GGUF, within a block.
    pub gguf: &'static str,
    pub site: Site,
    pub first: usize,
    pub rows: usize,
    pub cols: usize,
    /// Heads whose rows GGUF may store in another order.
    pub heads: Option<usize>,
}

/// Those of a layer of `spec`, fused where its checkpoints have them so, in the order of their rows.
pub(super) fn modules(spec: &ModelSpec) -> Vec<Module> {
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let (hidden, width) = (spec.hidden_size, spec.intermediate_size);
    let fused = |list: fn(&crate::LayerTensors) -> usize| spec.tensors.layers.first().map(list) == Some(1);
    let module =
        |name, gguf, site, first, rows, cols| Module { name, gguf, site, first, rows, cols, heads: None };
    let mut modules = Vec::new();
    if fused(|layer| layer.qkv.len()) {
        modules.push(module("self_attn.qkv_proj", "attn_qkv", Site::Qkv, 0, q + 2 * kv, hidden));
    } else {
        let queries = module("self_attn.q_proj", "attn_q", Site::Qkv, 0, q, hidden);
        let keys = module("self_attn.k_proj", "attn_k", Site::Qkv, q, kv, hidden);
        modules.push(Module { heads: Some(spec.heads), ..queries });
        modules.push(Module { heads: Some(spec.kv_heads), ..keys });
        modules.push(module("self_attn.v_proj", "attn_v", Site::Qkv, q + kv, kv, hidden));
    }
    modules.push(module("self_attn.o_proj", "attn_output", Site::Output, 0, hidden, q));
    if fused(|layer| layer.gate_up.len()) {
        modules.push(module("mlp.gate_up_proj", "ffn_up", Site::GateUp, 0, 2 * width, hidden));
    } else {
        modules.push(module("mlp.gate_proj", "ffn_gate", Site::GateUp, 0, width, hidden));
        modules.push(module("mlp.up_proj", "ffn_up", Site::GateUp, width, width, hidden));
    }
    modules.push(module("mlp.down_proj", "ffn_down", Site::Down, 0, hidden, width));
    modules
}
