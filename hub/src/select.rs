//! Which files of a repository a server needs.

use serde::Deserialize;

use crate::error::HubError;
use crate::id::{FileName, ModelId};

/// What a repository of a LoRA adapter has in place of a model's files.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
pub(crate) const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// One entry of the hub's listing.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sibling {
    pub rfilename: String,
    pub size: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub name: FileName,
    /// Bytes, where the hub says so.
    pub size: Option<u64>,
}

/// Settings, tokenizer, templates and safetensors at the top of the repository, and the pooling of an embedding model;
/// weights last, as they take longest. Of an adapter, its two files.
///
/// # Errors
/// [`HubError::MissingFile`] without a config.json, [`HubError::NoWeights`] without safetensors.
pub(crate) fn wanted_files(id: &ModelId, siblings: &[Sibling]) -> Result<Vec<Wanted>, HubError> {
    let names: Vec<&str> = siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    if !names.contains(&"config.json") && names.contains(&ADAPTER_CONFIG) {
        return adapter_files(id, siblings, &names);
    }
    if !names.contains(&"config.json") {
        return Err(HubError::MissingFile { id: id.clone(), file: "config.json" });
    }
    // Some repositories hold the same weights twice, in the layout of the original publisher too.
    let standard = names.contains(&"model.safetensors") || names.contains(&"model.safetensors.index.json");
    let wanted = |weights: bool| {
        siblings.iter().filter_map(move |sibling| {
            let name = FileName::parse(&sibling.rfilename)?;
            let fits = match kind(&name) {
                Kind::Weights => weights && (!standard || name.as_str().starts_with("model")),
                Kind::Settings => !weights,
                Kind::Other => false,
            };
            fits.then_some(Wanted { name, size: sibling.size })
        })
    };
    let mut files: Vec<Wanted> = wanted(false).collect();
    let before = files.len();
    files.extend(wanted(true));
    if files.len() == before {
        return Err(HubError::NoWeights { id: id.clone(), found: other_weights(&names) });
    }
    Ok(files)
}

/// The two files of an adapter, in the order in which a model's come.
fn adapter_files(id: &ModelId, siblings: &[Sibling], names: &[&str]) -> Result<Vec<Wanted>, HubError> {
    if !names.contains(&ADAPTER_WEIGHTS) {
        return Err(HubError::NoWeights { id: id.clone(), found: other_weights(names) });
    }
    let of = |name: &str| {
        let sibling = siblings.iter().find(|sibling| sibling.rfilename == name)?;
        Some(Wanted { name: FileName::parse(name)?, size: sibling.size })
    };
    Ok([ADAPTER_CONFIG, ADAPTER_WEIGHTS].into_iter().filter_map(of).collect())
}

enum Kind {
    Settings,
    Weights,
    Other,
}

fn kind(file: &FileName) -> Kind {
    let name = file.as_str();
    let is = |extension: &str| name.ends_with(extension);
    if file.folder().is_some() {
        // All other folders hold the same weights for other programs.
        return if is("_Pooling/config.json") { Kind::Settings } else { Kind::Other };
    }
    if is(".safetensors") {
        Kind::Weights
    } else if is(".bin.index.json") || is(".msgpack.index.json") || is(".h5.index.json") {
        Kind::Other
    } else if is(".json") || is(".jinja") || matches!(name, "tokenizer.model" | "merges.txt" | "vocab.txt") {
        Kind::Settings
    } else {
        Kind::Other
    }
}

fn other_weights(names: &[&str]) -> String {
    let found: Vec<&str> = [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx"]
        .into_iter()
        .filter(|extension| names.iter().any(|name| name.ends_with(extension)))
        .collect();
    if found.is_empty() { "none found".to_owned() } else { format!("here {}", found.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(names: &[&str]) -> Result<Vec<String>, HubError> {
        let siblings: Vec<Sibling> =
            names.iter().map(|name| Sibling { rfilename: (*name).to_owned(), size: None }).collect();
        let files = wanted_files(&"org/name".parse().unwrap(), &siblings)?;
        Ok(files.into_iter().map(|file| file.name.to_string()).collect())
    }

    #[test]
    fn takes_what_a_server_reads_and_nothing_else() {
        let listed = [
            ".gitattributes",
            "README.md",
            "model-00001-of-00002.safetensors",
            "config.json",
            "model-00002-of-00002.safetensors",
            "consolidated.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tokenizer.json",
            "chat_template.jinja",
            "original/params.json",
            "onnx/model.onnx",
            "../evil.json",
            "tokenizer.model",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "1_Pooling/../config.json",
        ];
        assert_eq!(
            select(&listed).unwrap(),
            [
                "config.json",
                "model.safetensors.index.json",
                "tokenizer.json",
                "chat_template.jinja",
                "tokenizer.model",
                "1_Pooling/config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ]
        );
    }

    #[test]
    fn an_unusual_weight_name_is_taken_when_there_is_no_usual_one() {
        assert_eq!(
            select(&["config.json", "weights.safetensors"]).unwrap(),
            ["config.json", "weights.safetensors"]
        );
    }

    #[test]
    fn repositories_without_safetensors_are_refused() {
        let error = select(&["config.json", "pytorch_model.bin"]).unwrap_err();
        assert!(matches!(&error, HubError::NoWeights { found, .. } if found == "here .bin"), "{error}");
        assert!(matches!(select(&["model.safetensors"]), Err(HubError::MissingFile { .. })));
    }
}
