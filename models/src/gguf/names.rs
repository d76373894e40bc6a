//! What the tensors are called in GGUF, and how it stores some of them differently.

use crate::{LayerTensors, ModelSpec};

/// Renames every tensor of `spec` to what GGUF calls it. GGUF stores norm weights with the architecture's offset
/// already added, so there is none left to add.
pub(crate) fn use_gguf_layout(spec: &mut ModelSpec) {
    spec.norm_offset = 0.0;
    let names = &mut spec.tensors;
    names.embedding = "token_embd.weight".into();
    names.final_norm = "output_norm.weight".into();
    names.head = names.head.as_ref().map(|_| "output.weight".into());
    for (index, layer) in names.layers.iter_mut().enumerate() {
        rename_layer(layer, index);
    }
}

fn rename_layer(layer: &mut LayerTensors, index: usize) {
    let weight = |part: &str| format!("blk.{index}.{part}.weight");
    let bias = |part: &str| format!("blk.{index}.{part}.bias");
    // Query, key and value, and gate and up, are separate or in one tensor each.
    let qkv: &[&str] = if layer.qkv.len() == 1 { &["attn_qkv"] } else { &["attn_q", "attn_k", "attn_v"] };
    let gate_up: &[&str] = if layer.gate_up.len() == 1 { &["ffn_up"] } else { &["ffn_gate", "ffn_up"] };
    layer.attn_norm = weight("attn_norm");
    layer.qkv = qkv.iter().map(|part| weight(part)).collect();
    if !layer.qkv_bias.is_empty() {
        layer.qkv_bias = qkv.iter().map(|part| bias(part)).collect();
    }
    layer.qk_norm = layer.qk_norm.as_ref().map(|_| (weight("attn_q_norm"), weight("attn_k_norm")));
    layer.output = weight("attn_output");
    layer.output_bias = layer.output_bias.as_ref().map(|_| bias("attn_output"));
    layer.post_attn_norm = layer.post_attn_norm.as_ref().map(|_| weight("post_attention_norm"));
    layer.ffn_norm = weight("ffn_norm");
    layer.gate_up = gate_up.iter().map(|part| weight(part)).collect();
    if !layer.gate_up_bias.is_empty() {
        layer.gate_up_bias = gate_up.iter().map(|part| bias(part)).collect();
    }
    layer.down = weight("ffn_down");
    layer.down_bias = layer.down_bias.as_ref().map(|_| bias("ffn_down"));
    layer.post_ffn_norm = layer.post_ffn_norm.as_ref().map(|_| weight("post_ffw_norm"));
}

/// Which rotation the architecture's rows are stored for: GGUF's `llama` rotates neighbours, `(0, 1), (2, 3), …`,
/// while the decoder rotates halves, `(0, d/2), (1, d/2 + 1), …`.
pub(crate) fn rotates_neighbours(architecture: &str) -> bool {
    architecture == "llama"
}

/// Whether the rows of tensor `name` are ordered for the rotation; queries' rows, keys' rows, or neither.
pub(super) fn rotated(name: &str) -> Option<Rotated> {
    let part = name.strip_prefix("blk.")?.split_once('.')?.1;
    match part {
        "attn_q.weight" | "attn_q.bias" => Some(Rotated::Queries),
        "attn_k.weight" | "attn_k.bias" => Some(Rotated::Keys),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotated {
    Queries,
    Keys,
}

/// Where row `row` of the order by halves lies in the order by neighbours, in heads of `head_dim` rows.
pub(super) fn neighbour_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (within % half) + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_neighbours() {
        // Two heads of six: row 0 turns with row 3, 1 with 4, 2 with 5.
        let order: Vec<usize> = (0..12).map(|row| neighbour_row(row, 6)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }

    #[test]
    fn only_queries_and_keys_rotate() {
        assert_eq!(rotated("blk.11.attn_q.weight"), Some(Rotated::Queries));
        assert_eq!(rotated("blk.0.attn_k.bias"), Some(Rotated::Keys));
        for name in ["blk.0.attn_v.weight", "blk.0.attn_q_norm.weight", "attn_q.weight", "blk.0", ""] {
            assert_eq!(rotated(name), None, "{name}");
        }
    }
}
