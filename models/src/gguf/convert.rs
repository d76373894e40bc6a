//! A checkpoint's weights and sizes, as they are stored elsewhere, into a GGUF file.

use std::borrow::Cow;
use std::f64::consts::PI;

use super::config::{self, ARCHITECTURES, LOCAL_BASE, MISTRAL};
use super::names::{self, Rotated};
use super::write::{GgufValue, GgufWriter};
use crate::{Activation, DType, ModelError, ModelSpec, RopeScaling, RopeSpec, TensorSource};

/// A writer of `spec`'s sizes and of `tensors`, matrices as they are stored, vectors in f32 as GGUF has them. The
/// tokenizer is not part of it.
///
/// # Errors
/// A setting that GGUF cannot express, or a tensor that is missing.
pub fn to_gguf<'a>(spec: &'a ModelSpec, tensors: &'a dyn TensorSource) -> Result<GgufWriter<'a>, ModelError> {
    let mut writer = Conversion::new(spec)?.metadata()?;
    let mut renamed = spec.clone();
    names::use_gguf_layout(&mut renamed);
    add_rope_tensors(&mut writer, &spec.ropes)?;
    let architecture = architecture(spec)?;
    for ((stored, shape), (name, _)) in spec.tensor_shapes().into_iter().zip(renamed.tensor_shapes()) {
        let heads = match names::rotated(name).filter(|_| names::rotates_neighbours(architecture)) {
            Some(Rotated::Queries) => Some(spec.heads),
            Some(Rotated::Keys) => Some(spec.kv_heads),
            None => None,
        };
        let offset = if stored.ends_with("norm.weight") { spec.norm_offset } else { 0.0 };
        let (stored, rows) = (stored.to_owned(), shape.first().copied().unwrap_or(1));
        let dtype = if shape.len() == 1 { DType::F32 } else { tensors.info(&stored)?.0 };
        writer.tensor(name, dtype, &shape, move || {
            let view = tensors.tensor(&stored)?;
            let bytes = match dtype {
                DType::F32 => {
                    view.to_f32().into_iter().flat_map(|value| (value + offset).to_le_bytes()).collect()
                }
                _ => view.bytes,
            };
            Ok(match heads {
                Some(heads) => rows_by_neighbours(&bytes, rows, heads),
                None => bytes,
            })
        })?;
    }
    Ok(writer)
}

/// The rows in the order for a rotation of neighbours.
pub(crate) fn rows_by_neighbours<'a>(bytes: &[u8], rows: usize, heads: usize) -> Cow<'a, [u8]> {
    let (head_dim, width) = (rows / heads, bytes.len() / rows);
    let mut ordered = vec![0; bytes.len()];
    for (row, data) in bytes.chunks_exact(width).enumerate() {
        let at = names::neighbour_row(row, head_dim) * width;
        ordered[at..at + width].copy_from_slice(data);
    }
    ordered.into()
}

/// GGUF's name of the architecture.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<&'static str, ModelError> {
    let class = if spec.architecture == MISTRAL { "LlamaForCausalLM" } else { &spec.architecture };
    ARCHITECTURES
        .into_iter()
        .find_map(|(name, known)| (known == class).then_some(name))
        .ok_or_else(|| unable("architecture", &spec.architecture))
}

fn unable(what: &str, value: &str) -> ModelError {
    ModelError::Config {
        file: "GGUF".into(),
        key: what.into(),
        message: format!("{value} cannot be expressed"),
    }
}

struct Conversion<'a> {
    spec: &'a ModelSpec,
    architecture: &'static str,
    writer: GgufWriter<'a>,
}

impl<'a> Conversion<'a> {
    fn new(spec: &'a ModelSpec) -> Result<Self, ModelError> {
        Ok(Self { spec, architecture: architecture(spec)?, writer: GgufWriter::new() })
    }

    fn set(&mut self, key: &str, value: GgufValue) {
        self.writer.set(format!("{}.{key}", self.architecture), value);
    }

    fn size(&mut self, key: &str, size: usize) {
        self.set(key, GgufValue::U32(size as u32));
    }

    fn is_gemma(&self) -> bool {
        self.architecture.starts_with("gemma")
    }

    fn metadata(mut self) -> Result<GgufWriter<'a>, ModelError> {
        let spec = self.spec;
        let activation = if self.is_gemma() { Activation::GeluTanh } else { Activation::Silu };
        if spec.activation != activation {
            return Err(unable("activation", &format!("{:?}", spec.activation)));
        }
        self.writer.set("general.architecture", GgufValue::String(self.architecture.into()));
        for (key, size) in [
            ("vocab_size", spec.vocab_size),
            ("context_length", spec.max_positions),
            ("embedding_length", spec.hidden_size),
            ("feed_forward_length", spec.intermediate_size),
            ("block_count", spec.layers.len()),
            ("attention.head_count", spec.heads),
            ("attention.head_count_kv", spec.kv_heads),
            ("attention.key_length", spec.head_dim),
            ("attention.value_length", spec.head_dim),
        ] {
            self.size(key, size);
        }
        self.set("attention.layer_norm_rms_epsilon", GgufValue::F32(spec.norm_eps));
        self.attention();
        self.windows()?;
        self.rope()?;
        Ok(self.writer)
    }

    fn attention(&mut self) {
        let spec = self.spec;
        if self.is_gemma() {
            let sizes = [spec.layers.len(), spec.hidden_size, spec.heads, spec.head_dim];
            let [layers, hidden, heads, head_dim] = sizes.map(|size| size as u64);
            let scalar = config::default_query_scalar(self.architecture, layers, hidden, heads, head_dim);
            if spec.attention_scale != scalar.powf(-0.5) as f32 {
                self.set("attention.scale", GgufValue::F32(spec.attention_scale));
            }
        }
        // Gemma 2 caps where nothing is said; 0 says that it does not.
        let unsaid = (self.architecture == "gemma2").then_some(0.0);
        if let Some(cap) = spec.attention_softcap.or(unsaid) {
            self.set("attn_logit_softcapping", GgufValue::F32(cap));
        }
        if let Some(cap) = spec.logit_softcap.or(unsaid) {
            self.set("final_logit_softcapping", GgufValue::F32(cap));
        }
    }

    fn windows(&mut self) -> Result<(), ModelError> {
        let layers = &self.spec.layers;
        let Some(window) = layers.iter().find_map(|layer| layer.window) else {
            if self.is_gemma() {
                self.size("attention.sliding_window", 0);
            }
            return Ok(());
        };
        if layers.iter().any(|layer| layer.window.is_some_and(|other| other != window)) {
            return Err(unable("sliding_window", "more than one length"));
        }
        self.size("attention.sliding_window", window as usize);
        let slides: Vec<bool> = layers.iter().map(|layer| layer.window.is_some()).collect();
        let usual = |index: usize| match self.architecture {
            "gemma2" => index.is_multiple_of(2),
            "gemma3" => !(index + 1).is_multiple_of(6),
            "qwen2" | "qwen3" => false,
            _ => true,
        };
        if slides.iter().enumerate().any(|(index, slides)| *slides != usual(index)) {
            self.set("attention.sliding_window_pattern", GgufValue::Bools(slides));
        }
        Ok(())
    }

    fn rope(&mut self) -> Result<(), ModelError> {
        let Some((rope, others)) = self.spec.ropes.split_first() else {
            return Err(unable("rope", "none"));
        };
        self.size("rope.dimension_count", rope.rotary_dim);
        self.set("rope.freq_base", GgufValue::F32(rope.base as f32));
        for local in others {
            if self.architecture != "gemma3" || local.scaling != RopeScaling::None {
                return Err(unable("rope", "scaling of the sliding layers"));
            }
            if local.base != LOCAL_BASE {
                self.set("rope.freq_base_swa", GgufValue::F32(local.base as f32));
            }
        }
        let kind = |name: &str| GgufValue::String(name.into());
        match &rope.scaling {
            RopeScaling::None | RopeScaling::Llama3 { .. } => {}
            RopeScaling::Linear { factor } => {
                self.set("rope.scaling.type", kind("linear"));
                self.set("rope.scaling.factor", GgufValue::F32(*factor as f32));
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max,
                attention_factor,
                truncate: true,
            } => {
                self.set("rope.scaling.type", kind("yarn"));
                self.set("rope.scaling.factor", GgufValue::F32(*factor as f32));
                self.size("rope.scaling.original_context_length", *original_max);
                let extra = attention_factor / config::yarn_attention(*factor);
                self.set("rope.scaling.yarn_attn_factor", GgufValue::F32(extra as f32));
                self.set("rope.scaling.yarn_beta_fast", GgufValue::F32(*beta_fast as f32));
                self.set("rope.scaling.yarn_beta_slow", GgufValue::F32(*beta_slow as f32));
            }
            RopeScaling::LongRope { original_max, attention_factor, .. } => {
                self.set("rope.scaling.type", kind("longrope"));
                self.size("rope.scaling.original_context_length", *original_max);
                self.set("rope.scaling.attn_factor", GgufValue::F32(*attention_factor as f32));
            }
            RopeScaling::Yarn { truncate: false, .. } => return Err(unable("rope", "YaRN without rounding")),
            RopeScaling::Dynamic { .. } => return Err(unable("rope", "dynamic scaling")),
        }
        Ok(())
    }
}

/// The factors that GGUF keeps as tensors.
fn add_rope_tensors(writer: &mut GgufWriter<'_>, ropes: &[RopeSpec]) -> Result<(), ModelError> {
    let mut add = |name: &str, factors: Vec<f64>| {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| (*factor as f32).to_le_bytes()).collect();
        writer.tensor(name, DType::F32, &[factors.len()], move || Ok(bytes.clone().into()))
    };
    for rope in ropes {
        match &rope.scaling {
            RopeScaling::LongRope { short, long, .. } => {
                add("rope_factors_long.weight", long.clone())?;
                add("rope_factors_short.weight", short.clone())?;
            }
            RopeScaling::Llama3 { .. } => add("rope_freqs.weight", llama3_factors(rope))?,
            _ => {}
        }
    }
    Ok(())
}

/// What each frequency is divided by.
fn llama3_factors(rope: &RopeSpec) -> Vec<f64> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } = rope.scaling else {
        return Vec::new();
    };
    let context = original_max as f64;
    (0..rope.rotary_dim / 2)
        .map(|i| {
            let wavelength = 2.0 * PI * rope.base.powf(2.0 * i as f64 / rope.rotary_dim as f64);
            // 0 where the whole factor applies, 1 where none does.
            let keep = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let keep = keep.clamp(0.0, 1.0);
            1.0 / ((1.0 - keep) / factor + keep)
        })
        .collect()
}
