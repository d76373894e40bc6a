//! Adapters as llama.cpp stores them: `general.type` is `adapter`, tensors are `<weight>.lora_a` and `<weight>.lora_b`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Adapter, LowRank, adapter_modules, check_all_taken, no_tensors, read_pair, tensor_error};
use crate::gguf::{base_architecture, order_by_halves, rotates_neighbours};
use crate::{Gguf, GgufSource, ModelError, ModelSpec};

const ALPHA: &str = "adapter.lora.alpha";

impl Adapter {
    /// An adapter in a GGUF file.
    ///
    /// # Errors
    /// See [`Adapter::open`].
    pub fn from_gguf(gguf: Gguf, base: &ModelSpec) -> Result<Self, ModelError> {
        let metadata = gguf.metadata();
        for (key, expected) in [("general.type", "adapter"), ("adapter.type", "lora")] {
            let found = metadata.text(key)?.unwrap_or("missing");
            if !found.eq_ignore_ascii_case(expected) {
                return Err(metadata.wrong(key, &format!("is {found}, expected {expected}")));
            }
        }
        let architecture = base_architecture(base)?;
        let found = metadata.text("general.architecture")?.unwrap_or("missing");
        if found != architecture {
            let message = format!("is {found}, the base model's is {architecture}");
            return Err(metadata.wrong("general.architecture", &message));
        }
        let alpha = metadata.number(ALPHA)?.ok_or_else(|| metadata.wrong(ALPHA, "is missing"))?;
        if !alpha.is_finite() {
            return Err(metadata.wrong(ALPHA, &format!("is {alpha}, expected a finite number")));
        }
        let label = gguf.label().to_owned();
        let mut left: BTreeSet<String> =
            gguf.files().iter().flat_map(|file| file.tensors()).map(|tensor| tensor.name.clone()).collect();
        if left.is_empty() {
            return Err(no_tensors(&label));
        }
        let tensors = GgufSource::new(Arc::new(gguf))?;
        let modules = adapter_modules(base);
        let mut adapter = Self::empty(base);
        for layer in 0..base.layers.len() {
            for module in &modules {
                let name = |side: &str| format!("blk.{layer}.{}.weight.lora_{side}", module.gguf);
                let (a_name, b_name) = (name("a"), name("b"));
                if !(left.remove(&a_name) | left.remove(&b_name)) {
                    continue;
                }
                let (a, mut b, rank) = read_pair(&tensors, (&a_name, &b_name), module)?;
                if let Some(heads) = module.heads.filter(|_| rotates_neighbours(architecture)) {
                    let ordered = order_by_halves(&b.bytes, &b.shape, heads);
                    b.bytes = ordered
                        .ok_or_else(|| tensor_error(&tensors, &b_name, format!("is not {heads} heads")))?
                        .into();
                }
                // As in llama.cpp, an alpha of 0 stands for none.
                let scale = if alpha == 0.0 { 1.0 } else { alpha / rank as f64 };
                adapter.add(layer, module, LowRank { first: module.first, scale: scale as f32, a, b });
            }
        }
        check_all_taken(&tensors, left.iter().map(String::as_str))?;
        Ok(adapter)
    }
}
