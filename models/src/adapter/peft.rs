//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::targets::{Targets, by_pattern};
use super::{
    Adapter, LowRank, MAX_RANK, adapter_modules, check_all_taken, no_tensors, read_pair, tensor_error,
};
use crate::config::Config;
use crate::files::file_error;
use crate::{ModelError, ModelFiles, ModelSpec, SafetensorsSource};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PICKLE: &str = "adapter_model.bin";

impl Adapter {
    /// An adapter in a folder of PEFT's.
    ///
    /// # Errors
    /// See [`Adapter::open`].
    pub fn from_peft(files: &ModelFiles, base: &ModelSpec) -> Result<Self, ModelError> {
        let Some(config) = Config::read(files, CONFIG)? else {
            return Err(file_error(files.label_of(CONFIG), "is missing"));
        };
        check_kind(&config)?;
        let scaling = Scaling::read(&config)?;
        let targets = Targets::read(&config)?;
        let tensors = open_tensors(files)?;
        let mut left: BTreeSet<&str> = tensors.names().collect();
        if left.is_empty() {
            return Err(no_tensors(&files.label_of(TENSORS)));
        }
        let modules = adapter_modules(base);
        let mut adapter = Self::empty(base);
        for layer in 0..base.layers.len() {
            for module in &modules {
                let path = module.path(layer);
                let (a_name, b_name) = (module.peft_tensor(layer, 'A'), module.peft_tensor(layer, 'B'));
                let present = left.remove(a_name.as_str()) | left.remove(b_name.as_str());
                if let Some(targets) = &targets
                    && targets.contain(&path) != present
                {
                    let message = if present { "is not among" } else { "is missing and among" };
                    return Err(tensor_error(&tensors, &a_name, format!("{message} the `target_modules`")));
                }
                if !present {
                    continue;
                }
                let (a, b, rank) = read_pair(&tensors, (&a_name, &b_name), module)?;
                let scale = scaling.of(&path, rank).map_err(|error| match error {
                    Mismatch::Rank(expected) => tensor_error(
                        &tensors,
                        &a_name,
                        format!("has rank {rank}, the configuration says {expected}"),
                    ),
                    Mismatch::Model(error) => error,
                })?;
                adapter.add(layer, module, LowRank { first: module.first, scale, a, b });
            }
        }
        check_all_taken(&tensors, left.into_iter())?;
        Ok(adapter)
    }
}

fn open_tensors(files: &ModelFiles) -> Result<SafetensorsSource, ModelError> {
    match SafetensorsSource::open_file(files, TENSORS)? {
        Some(tensors) => Ok(tensors),
        None if files.contains(PICKLE) => Err(file_error(
            files.label(),
            format!(
                "has only pickled weights ({PICKLE}), which can run code when opened and are refused; save them as {TENSORS}"
            ),
        )),
        None => Err(file_error(files.label_of(TENSORS), "is missing")),
    }
}

/// Refuses by name what is not plain LoRA: computed as if it were, its answers would be wrong.
fn check_kind(config: &Config) -> Result<(), ModelError> {
    let kind = config.text("peft_type")?;
    if !kind.eq_ignore_ascii_case("LORA") {
        return Err(config.error("peft_type", format!("'{kind}' is not supported, only LORA")));
    }
    let bias = config.optional_text("bias")?.unwrap_or("none");
    if bias != "none" {
        return Err(
            config.error("bias", format!("'{bias}' is not supported: trained biases cannot be adapted"))
        );
    }
    for key in ["use_dora", "use_qalora", "lora_bias"] {
        if config.flag(key, false)? {
            return Err(config.error(key, "is true, which is not supported"));
        }
    }
    const OTHER: [&str; 9] = [
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "use_bdlora",
    ];
    for key in OTHER {
        let empty = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            other => *other == Value::Bool(false),
        };
        if let Some(value) = config.value(key).filter(|value| !empty(value)) {
            let shown: String = value.to_string().chars().take(80).collect();
            return Err(config.error(key, format!("is {shown}, which is not supported")));
        }
    }
    // The others take something out of the base's weights, which here stay as they are.
    match config.value("init_lora_weights") {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(name))
            if ["gaussian", "eva", "orthogonal", "true", "false"].contains(&name.to_lowercase().as_str()) =>
        {
            Ok(())
        }
        Some(value) => {
            let shown: String = value.to_string().chars().take(40).collect();
            Err(config.error(
                "init_lora_weights",
                format!("{shown} changes the base model, which is not supported"),
            ))
        }
    }
}

/// What the changes are multiplied by.
struct Scaling {
    rank: usize,
    alpha: f64,
    /// Divides by the rank's root rather than the rank.
    root: bool,
    ranks: Option<Config>,
    alphas: Option<Config>,
}

enum Mismatch {
    /// What the rank ought to be.
    Rank(f64),
    Model(ModelError),
}

impl From<ModelError> for Mismatch {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

impl Scaling {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let alpha = config.optional_number("lora_alpha")?;
        Ok(Self {
            rank: config.size("r", MAX_RANK)?,
            alpha: alpha.ok_or_else(|| config.error("lora_alpha", "is missing"))?,
            root: config.flag("use_rslora", false)?,
            ranks: config.object("rank_pattern")?,
            alphas: config.object("alpha_pattern")?,
        })
    }

    /// For the module of this whole name, whose tensors have rank `rank`.
    fn of(&self, module: &str, rank: usize) -> Result<f32, Mismatch> {
        let expected = by_pattern(self.ranks.as_ref(), module)?.unwrap_or(self.rank as f64);
        if expected != rank as f64 {
            return Err(Mismatch::Rank(expected));
        }
        let alpha = by_pattern(self.alphas.as_ref(), module)?.unwrap_or(self.alpha);
        Ok((alpha / if self.root { expected.sqrt() } else { expected }) as f32)
    }
}
