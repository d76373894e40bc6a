//! Adapters of any kind as llama.cpp stores them.

use std::borrow::Cow;

use super::{Adapter, AdapterSite, LayerAdapter, LowRank, adapter_modules};
use crate::gguf::{base_architecture, order_by_neighbours, rotates_neighbours};
use crate::{DType, GgufValue, GgufWriter, ModelError, ModelSpec};

impl Adapter {
    /// A writer of the adapter as a GGUF file. Such a file has one alpha; where the modules of the adapter are scaled
    /// differently, it is that of the first, and the others' second matrices are multiplied by what is missing.
    ///
    /// # Errors
    /// A base whose architecture GGUF has no name for.
    pub fn to_gguf(&self, base: &ModelSpec) -> Result<GgufWriter<'_>, ModelError> {
        let architecture = base_architecture(base)?;
        let modules = adapter_modules(base);
        let mut parts = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for (site, part) in layer.placed() {
                if let Some(module) =
                    modules.iter().find(|module| module.site == site && module.first == part.first)
                {
                    parts.push((index, module, part));
                }
            }
        }
        // An alpha of 0 would stand for none.
        let alpha =
            parts.iter().map(|(_, _, part)| alpha_of(part)).find(|alpha| *alpha != 0.0).unwrap_or(1.0);
        let mut writer = GgufWriter::new();
        let text = |text: &str| GgufValue::String(text.to_owned());
        writer.set("general.architecture", text(architecture));
        writer.set("general.type", text("adapter"));
        writer.set("adapter.type", text("lora"));
        writer.set("adapter.lora.alpha", GgufValue::F32(alpha));
        for (layer, module, part) in parts {
            let name = |side: &str| format!("blk.{layer}.{}.weight.lora_{side}", module.gguf);
            let heads = module.heads.filter(|_| rotates_neighbours(architecture));
            let missing = alpha_of(part) / alpha;
            writer.tensor(name("a"), part.a.dtype, &part.a.shape, || Ok(Cow::Borrowed(&*part.a.bytes)))?;
            let dtype = if missing == 1.0 { part.b.dtype } else { DType::F32 };
            writer.tensor(name("b"), dtype, &part.b.shape, move || {
                let bytes: Cow<'_, [u8]> = match missing {
                    1.0 => Cow::Borrowed(&*part.b.bytes),
                    _ => part.b.to_f32().iter().flat_map(|value| (value * missing).to_le_bytes()).collect(),
                };
                Ok(match (heads, part.b.shape.first()) {
                    (Some(heads), Some(&rows)) => {
                        order_by_neighbours(&bytes, rows, heads).into_owned().into()
                    }
                    _ => bytes,
                })
            })?;
        }
        Ok(writer)
    }
}

/// What is divided by the rank to give the scale.
fn alpha_of(part: &LowRank) -> f32 {
    let rank = part.a.shape.first().copied().unwrap_or(1);
    (f64::from(part.scale) * rank as f64) as f32
}

impl LayerAdapter {
    fn placed(&self) -> impl Iterator<Item = (AdapterSite, &LowRank)> {
        let sites = [
            (AdapterSite::Qkv, &self.qkv),
            (AdapterSite::Output, &self.output),
            (AdapterSite::GateUp, &self.gate_up),
            (AdapterSite::Down, &self.down),
        ];
        sites.into_iter().flat_map(|(site, parts)| parts.iter().map(move |part| (site, part)))
    }
}
