//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::json;

use crate::model::Adapters;
use crate::{FinetuneError, Hyperparameters};

pub const CONFIG: &str = "adapter_config.json";
pub const TENSORS: &str = "adapter_model.safetensors";

/// Writes the two files into `folder`, which is there.
///
/// # Errors
/// Those of writing.
pub fn write(
    folder: &Path,
    adapters: &Adapters,
    settings: &Hyperparameters,
    base: &str,
) -> Result<(), FinetuneError> {
    let mut targets: Vec<&str> =
        adapters.modules.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
    targets.sort_unstable();
    let alpha = match settings.alpha.fract() == 0.0 {
        true => json!(settings.alpha as u64),
        false => json!(settings.alpha),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
    });
    write_file(&folder.join(CONFIG), &serde_json::to_vec_pretty(&config).map_err(std::io::Error::from)?)?;
    let tensors = adapters.named().into_iter().map(|(name, var)| (name, var.as_detached_tensor()));
    write_tensors(&folder.join(TENSORS), tensors)
}

/// Writes f32 tensors.
///
/// # Errors
/// Those of writing.
pub fn write_tensors(
    path: &Path,
    tensors: impl IntoIterator<Item = (String, Tensor)>,
) -> Result<(), FinetuneError> {
    let mut stored = BTreeMap::new();
    for (name, tensor) in tensors {
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        stored.insert(name, (tensor.dims().to_vec(), bytes));
    }
    let error = |error| FinetuneError::file(path, error);
    let views = stored
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(error)?;
    // What transformers and peft ask for.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(error)?;
    write_file(path, &bytes)
}

/// The f32 tensors of a file, by name.
///
/// # Errors
/// A file that is missing, malformed, or of other types.
pub fn read_tensors(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>, FinetuneError> {
    let error = |message: &dyn std::fmt::Display| FinetuneError::file(path, message);
    let bytes = fs::read(path).map_err(|reason| error(&reason))?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|reason| error(&reason))?;
    let mut tensors = HashMap::new();
    for (name, view) in stored.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(error(&format!("tensor '{name}' is {:?}, expected F32", view.dtype())));
        }
        let (values, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.insert(name, Tensor::from_vec(values, view.shape(), device)?);
    }
    Ok(tensors)
}

/// Gives every tensor of `targets` the value that `tensors`, read from `path`, has under its name.
///
/// # Errors
/// One that is missing, too many, or of another shape; nothing may be taken for trained that is not.
pub fn assign(
    path: &Path,
    mut tensors: HashMap<String, Tensor>,
    targets: &[(String, &Var)],
) -> Result<(), FinetuneError> {
    for (name, var) in targets {
        let tensor = tensors
            .remove(name)
            .ok_or_else(|| FinetuneError::file(path, format!("tensor '{name}' is missing")))?;
        if tensor.dims() != var.dims() {
            let message = format!("tensor '{name}' has shape {:?}, expected {:?}", tensor.dims(), var.dims());
            return Err(FinetuneError::file(path, message));
        }
        var.set(&tensor)?;
    }
    match tensors.keys().min() {
        Some(name) => Err(FinetuneError::file(path, format!("tensor '{name}' is none that is trained"))),
        None => Ok(()),
    }
}

/// Writes a file and waits until it is on the disk.
///
/// # Errors
/// Those of writing.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<(), FinetuneError> {
    use std::io::Write;
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().map_err(|error: std::io::Error| FinetuneError::file(path, error))
}
