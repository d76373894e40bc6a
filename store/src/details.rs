//! Family, size and quantization of a checkpoint, from its headers alone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use weirgate_models::{Gguf, MAX_SAFETENSORS_HEADER};

use crate::entry::Details;

const MAX_CONFIG: u64 = 16 << 20;

/// Of a GGUF file.
pub(crate) fn of_gguf(gguf: &Gguf) -> Details {
    let metadata = gguf.metadata();
    let text = |key: &str| metadata.text(key).ok().flatten().map(str::to_owned);
    let family = text("general.architecture").unwrap_or_else(|| "unknown".to_owned());
    let elements = gguf.files().iter().flat_map(|file| file.tensors()).map(|tensor| {
        let product = tensor.shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
        product.unwrap_or(0)
    });
    let parameters = elements.fold(0, u64::saturating_add);
    let file_type = metadata.size("general.file_type").ok().flatten();
    Details {
        parent_model: String::new(),
        format: "gguf".to_owned(),
        families: vec![family.clone()],
        family,
        parameter_size: human_count(parameters),
        quantization_level: file_type.map_or("unknown", file_type_name).to_owned(),
    }
}

/// Of a Hugging Face folder with safetensors.
pub(crate) fn of_folder(folder: &Path) -> Details {
    #[derive(Deserialize, Default)]
    struct Config {
        model_type: Option<String>,
    }
    let config = read_limited(&folder.join("config.json"), MAX_CONFIG);
    let config: Config = config.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let family = config.model_type.unwrap_or_default();
    let by_dtype = elements_by_dtype(folder);
    let parameters = by_dtype.values().copied().fold(0, u64::saturating_add);
    let main = by_dtype.into_iter().max_by_key(|(_, count)| *count);
    Details {
        parent_model: String::new(),
        format: "safetensors".to_owned(),
        families: if family.is_empty() { Vec::new() } else { vec![family.clone()] },
        family,
        parameter_size: if parameters == 0 { String::new() } else { human_count(parameters) },
        quantization_level: main.map(|(dtype, _)| dtype).unwrap_or_default(),
    }
}

/// Elements of all tensors in the folder's safetensors files, by type.
fn elements_by_dtype(folder: &Path) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in files.filter(|path| path.extension().is_some_and(|e| e == "safetensors") && path.is_file()) {
        for (dtype, elements) in of_safetensors(&path).unwrap_or_default().0 {
            let count = counts.entry(dtype).or_insert(0u64);
            *count = count.saturating_add(elements);
        }
    }
    counts
}

/// Of one file.
fn of_safetensors(path: &Path) -> Option<Elements> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    if length > MAX_SAFETENSORS_HEADER || length > file.metadata().ok()?.len() {
        return None;
    }
    serde_json::from_reader(BufReader::new(file.take(length))).ok()
}

/// The elements of a safetensors header's tensors, by type. Headers may be long: they are counted while they are read.
#[derive(Default)]
struct Elements(BTreeMap<String, u64>);

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut tensors: A) -> Result<Self, A::Error> {
        #[derive(Deserialize)]
        struct Tensor {
            dtype: String,
            shape: Vec<u64>,
        }
        while let Some(name) = tensors.next_key::<String>()? {
            if name == "__metadata__" {
                tensors.next_value::<IgnoredAny>()?;
                continue;
            }
            let Tensor { dtype, shape } = tensors.next_value()?;
            let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
            let count = self.0.entry(dtype).or_insert(0u64);
            *count = count.saturating_add(elements.unwrap_or(0));
        }
        Ok(self)
    }
}

/// A regular file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > limit {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// `7B`, `7.2B`, `137M`, `136.73M`, `12K`, `5`: Ollama's rounding.
fn human_count(count: u64) -> String {
    const THOUSAND: u64 = 1_000;
    const MILLION: u64 = 1_000_000;
    const BILLION: u64 = 1_000_000_000;
    let of = |unit: u64| count as f64 / unit as f64;
    match count {
        BILLION.. if count.is_multiple_of(BILLION) => format!("{}B", count / BILLION),
        BILLION.. => format!("{:.1}B", of(BILLION)),
        MILLION.. if count.is_multiple_of(MILLION) => format!("{}M", count / MILLION),
        MILLION.. => format!("{:.2}M", of(MILLION)),
        THOUSAND.. => format!("{:.0}K", (count / THOUSAND) as f64),
        _ => count.to_string(),
    }
}

/// llama.cpp's name of a `general.file_type` (`llama_ftype` in llama.h).
fn file_type_name(number: u64) -> &'static str {
    match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the reference.
    #[test]
    fn counts_are_rounded_as_ollama_does() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (12_345, "12K"),
            (137_000_000, "137M"),
            (136_727_040, "136.73M"),
            (7_000_000_000, "7B"),
            (7_241_732_096, "7.2B"),
        ];
        for (count, text) in cases {
            assert_eq!(human_count(count), text);
        }
    }

    #[test]
    fn folders_tell_type_and_size() {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in weirgate_demo_model::FILES {
            fs::write(folder.path().join(name), contents).unwrap();
        }
        let details = of_folder(folder.path());
        assert_eq!((details.family.as_str(), details.quantization_level.as_str()), ("llama", "BF16"));
        // The weights are two bytes a parameter, beside a header.
        let bytes = weirgate_demo_model::file("model.safetensors").unwrap().len() as u64;
        let counted = elements_by_dtype(folder.path())["BF16"];
        assert!(bytes - 2 * counted < 50_000 && bytes > 2 * counted, "{counted} of {bytes}");
        fs::write(folder.path().join("bad.safetensors"), [255; 64]).unwrap();
        assert_eq!(of_folder(folder.path()), details);
    }

    /// What the loader refuses for its length is not read here either.
    #[test]
    fn headers_without_end_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let header = |count: usize| {
            let tensor = |i| format!(r#""{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
            let header = format!("{{{}}}", (0..count).map(tensor).collect::<Vec<_>>().join(","));
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; count]].concat()
        };
        for (count, known) in [(100_000, Some(&100_000)), (1_000_000, None)] {
            fs::write(folder.path().join("model.safetensors"), header(count)).unwrap();
            assert_eq!(elements_by_dtype(folder.path()).get("U8"), known);
        }
    }
}
