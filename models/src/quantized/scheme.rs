//! `quantization_config`: what a checkpoint was quantized by, and whether it is of a kind that is read.
//!
//! The tensors themselves tell shapes, bits, groups and zero points. What only the configuration tells is here.

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::{ModelError, ModelFiles};

/// Kinds of quantized checkpoints, under the names that `quant_method` gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuantMethod {
    Awq,
    Gptq,
    Fp8,
    CompressedTensors,
}

impl QuantMethod {
    pub const fn name(self) -> &'static str {
        match self {
            QuantMethod::Awq => "awq",
            QuantMethod::Gptq => "gptq",
            QuantMethod::Fp8 => "fp8",
            QuantMethod::CompressedTensors => "compressed-tensors",
        }
    }

    /// What the weights of `files` were quantized by; `None` where they were not.
    ///
    /// # Errors
    /// A configuration that is malformed, or of a kind that is not read.
    pub fn of(files: &ModelFiles) -> Result<Option<Self>, ModelError> {
        Ok(Scheme::of(files)?.map(|scheme| scheme.method))
    }
}

/// How to read the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scheme {
    pub method: QuantMethod,
    /// Zero points are stored less one, as GPTQ's first format does.
    pub zeros_less_one: bool,
    /// Rows and columns under one scale, where scales lie in a grid.
    pub block: Option<(usize, usize)>,
}

/// Files in which older checkpoints say what newer ones say in `config.json`.
const OLDER: [(&str, &str); 2] = [("quantize_config.json", "gptq"), ("quant_config.json", "awq")];
/// Keys of `config.json`; the second is what compressed-tensors' first versions wrote.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];
/// Most rows or columns of a block.
const MAX_BLOCK: usize = 1 << 20;

impl Scheme {
    /// The scheme of `files`; `None` for weights that are not quantized, and for GGUF, which needs none.
    pub fn of(files: &ModelFiles) -> Result<Option<Self>, ModelError> {
        if files.gguf().is_some() {
            return Ok(None);
        }
        if let Some(config) = Config::read(files, "config.json")?
            && let Some(scheme) = Self::read(&config)?
        {
            return Ok(Some(scheme));
        }
        for (file, method) in OLDER {
            if let Some(config) = Config::read(files, file)? {
                return Self::read_as(&config, method).map(Some);
            }
        }
        Ok(None)
    }

    /// What `config.json` says.
    pub fn read(config: &Config) -> Result<Option<Self>, ModelError> {
        for key in KEYS {
            if let Some(quantization) = config.object(key)? {
                let method = quantization.optional_text("quant_method")?.unwrap_or("");
                return Self::read_as(&quantization, method).map(Some);
            }
        }
        Ok(None)
    }

    fn read_as(config: &Config, method: &str) -> Result<Self, ModelError> {
        match method {
            "awq" => read_awq(config),
            "gptq" => read_gptq(config),
            "fp8" | "fbgemm_fp8" => Ok(Self {
                method: QuantMethod::Fp8,
                zeros_less_one: false,
                block: read_block(config, "weight_block_size")?,
            }),
            "compressed-tensors" => read_compressed(config),
            other => Err(config.error(
                "quant_method",
                format!(
                    "weights quantized by '{}' are not supported; awq, gptq, fp8 and compressed-tensors are; else \
                     use the unquantized checkpoint, with --quantize q8_0 or q4_k_m to make it small",
                    other.chars().take(100).collect::<String>()
                ),
            )),
        }
    }
}

fn read_awq(config: &Config) -> Result<Scheme, ModelError> {
    check_bits(config, &["bits", "w_bit"], &[4])?;
    check_layout(config, &["version", "format", "checkpoint_format"], &["gemm"])?;
    if !config.flag("zero_point", true)? {
        return Err(config.error("zero_point", "is false; only AWQ with zero points is supported"));
    }
    Ok(Scheme { method: QuantMethod::Awq, zeros_less_one: false, block: None })
}

fn read_gptq(config: &Config) -> Result<Scheme, ModelError> {
    check_bits(config, &["bits"], &[4, 8])?;
    let layout = check_layout(config, &["checkpoint_format", "format"], &["gptq", "gptq_v2"])?;
    if config.flag("is_marlin_format", false)? {
        return Err(config.error(
            "is_marlin_format",
            "is true; weights in the order of that kernel are not supported, use the plain gptq checkpoint",
        ));
    }
    let zeros_less_one = layout.as_deref() != Some("gptq_v2");
    Ok(Scheme { method: QuantMethod::Gptq, zeros_less_one, block: None })
}

/// The first of `keys` that is there must be one of `known`.
fn check_bits(config: &Config, keys: &[&str], known: &[usize]) -> Result<(), ModelError> {
    for key in keys {
        if let Some(bits) = config.optional_size(key, 64)?
            && !known.contains(&bits)
        {
            return Err(config.error(key, format!("is {bits}, supported are {known:?}")));
        }
    }
    Ok(())
}

/// Each of `keys` that is there must be one of `known`, in any case. Returns the first.
fn check_layout(config: &Config, keys: &[&str], known: &[&str]) -> Result<Option<String>, ModelError> {
    let mut first = None;
    for key in keys {
        if let Some(layout) = config.optional_text(key)? {
            let layout = layout.to_ascii_lowercase();
            if !known.contains(&layout.as_str()) {
                let shown: String = layout.chars().take(100).collect();
                return Err(config.error(key, format!("is '{shown}', supported are {}", known.join(", "))));
            }
            first.get_or_insert(layout);
        }
    }
    Ok(first)
}

fn read_block(config: &Config, key: &str) -> Result<Option<(usize, usize)>, ModelError> {
    if config.value(key).is_none() {
        return Ok(None);
    }
    let block = config.positives(key, 2)?;
    let size =
        |at: usize| block.get(at).map(|size| *size as usize).filter(|size| (1..=MAX_BLOCK).contains(size));
    match (size(0), size(1)) {
        (Some(rows), Some(cols)) => Ok(Some((rows, cols))),
        _ => Err(config.error(key, format!("is {block:?}, expected sizes from 1 to {MAX_BLOCK}"))),
    }
}

/// Formats of compressed-tensors that are read; `mixed-precision` and `dense` are told by the tensors.
const FORMATS: [&str; 6] =
    ["pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense"];

fn read_compressed(config: &Config) -> Result<Scheme, ModelError> {
    check_layout(config, &["format"], &FORMATS)?;
    if let Some(sparsity) = config.object("sparsity_config")? {
        check_layout(&sparsity, &["format"], &["dense"])?;
    }
    if let Some(transforms) = config.object("transform_config")?
        && let Some(groups) = transforms.object("config_groups")?
        && groups.keys().next().is_some()
    {
        return Err(
            transforms.error("config_groups", "asks for rotations of activations, which are not supported")
        );
    }
    let mut block = None;
    if let Some(groups) = config.object("config_groups")? {
        let names: Vec<String> = groups.keys().map(str::to_owned).collect();
        for name in names {
            let Some(group) = groups.object(&name)? else { continue };
            check_layout(&group, &["format"], &FORMATS)?;
            if let Some(weights) = group.object("weights")? {
                let float = weights.optional_text("type")? == Some("float");
                check_bits(&weights, &["num_bits"], if float { &[8] } else { &[4, 8] })?;
                block = read_block(&weights, "block_structure")?.or(block);
            }
        }
    }
    Ok(Scheme { method: QuantMethod::CompressedTensors, zeros_less_one: false, block })
}
