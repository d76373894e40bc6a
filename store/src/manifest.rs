//! Manifests, layers and config blobs, as Ollama stores them and registries serve them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::entry::Details;
use crate::name::Digest;

/// Largest manifest read; real ones have a few kilobytes.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Most layers a manifest may name.
const MAX_LAYERS: usize = 10_000;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_PREFIX: &str = "application/vnd.ollama.image.";

/// What a layer holds, after `application/vnd.ollama.image.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Model,
    Adapter,
    Projector,
    Template,
    System,
    Params,
    Messages,
    License,
    /// What is stored and moved but not understood.
    Other,
}

impl Content {
    fn suffix(self) -> &'static str {
        match self {
            Content::Model => "model",
            Content::Adapter => "adapter",
            Content::Projector => "projector",
            Content::Template => "template",
            Content::System => "system",
            Content::Params => "params",
            Content::Messages => "messages",
            Content::License => "license",
            Content::Other => "",
        }
    }

    pub(crate) fn media_type(self) -> String {
        format!("{LAYER_PREFIX}{}", self.suffix())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    pub config: Layer,
    #[serde(default)]
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// The model that the layer was taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Manifest {
    pub fn new(config: Layer, layers: Vec<Layer>) -> Self {
        Self { schema_version: 2, media_type: MANIFEST_TYPE.to_owned(), config, layers }
    }

    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(format!("{} layers, at most {MAX_LAYERS} are accepted", manifest.layers.len()));
        }
        match manifest.layers.iter().try_fold(manifest.config.size, |sum, layer| sum.checked_add(layer.size))
        {
            Some(_) => Ok(manifest),
            None => Err("the layers' sizes do not fit into 64 bits".to_owned()),
        }
    }

    /// The bytes of the manifest's file.
    pub fn to_bytes(&self) -> Vec<u8> {
        go_json(&serde_json::to_value(self).unwrap_or_default())
    }

    /// Of config and layers.
    pub fn size(&self) -> u64 {
        self.layers.iter().fold(self.config.size, |sum, layer| sum.saturating_add(layer.size))
    }

    /// Layers with `content`, in their order.
    pub fn layers_of(&self, content: Content) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(move |layer| layer.content() == content)
    }

    /// Layers, then config: the order in which they are moved.
    pub fn all(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain([&self.config])
    }
}

impl Layer {
    pub fn new(content: Content, digest: Digest, size: u64) -> Self {
        Self { media_type: content.media_type(), digest, size, from: None }
    }

    pub fn config(digest: Digest, size: u64) -> Self {
        Self { media_type: CONFIG_TYPE.to_owned(), digest, size, from: None }
    }

    pub fn content(&self) -> Content {
        use Content::*;
        let suffix = self.media_type.strip_prefix(LAYER_PREFIX).unwrap_or_default();
        [Model, Adapter, Projector, Template, System, Params, Messages, License]
            .into_iter()
            .find(|content| content.suffix() == suffix)
            .unwrap_or(Other)
    }

    pub fn media_type(&self) -> &str {
        &self.media_type
    }
}

/// The config blob. Foreign ones may lack anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub model_format: String,
    pub model_family: String,
    #[serde(deserialize_with = "or_default")]
    pub model_families: Vec<String>,
    /// The number of parameters, as `7.2B`.
    pub model_type: String,
    /// The quantization, by llama.cpp's name.
    pub file_type: String,
    architecture: String,
    os: String,
    rootfs: Rootfs,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Rootfs {
    r#type: String,
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<String>,
}

/// Go writes empty lists as null.
fn or_default<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    pub fn new(details: Details) -> Self {
        Self {
            model_format: details.format,
            model_family: details.family,
            model_families: details.families,
            model_type: details.parameter_size,
            file_type: details.quantization_level,
            ..Self::default()
        }
    }

    /// Makes the blob whole and gives its bytes.
    pub fn to_bytes(&self, layers: &[Layer]) -> Vec<u8> {
        let rootfs = Rootfs {
            r#type: "layers".to_owned(),
            diff_ids: layers.iter().map(|layer| layer.digest.to_string()).collect(),
        };
        let (architecture, os) = ("amd64".to_owned(), "linux".to_owned());
        let config = Self { architecture, os, rootfs, ..self.clone() };
        go_json(&serde_json::to_value(config).unwrap_or_default())
    }
}

/// JSON as Go's encoder writes it: compact, `<`, `>`, `&` and two separators escaped, a line feed at the end. Digests
/// hang on these bytes.
pub(crate) fn go_json(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    let mut escaped = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped.push('\n');
    escaped.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden digest of the config that belongs to a GGUF file with nothing in it.
    #[test]
    fn config_of_an_empty_gguf() {
        let mut gguf = b"GGUF\x03\0\0\0".to_vec();
        gguf.extend([0; 16]);
        let layer = Layer::new(Content::Model, Digest::of(&gguf), 24);
        assert_eq!(layer.digest.hex(), "a4e5e156ddec27e286f75328784d7106b60a4eb1d246e950a001a3f944fbda99");
        let unknown = || "unknown".to_owned();
        let config = Config {
            model_format: "gguf".to_owned(),
            model_family: unknown(),
            model_families: vec![unknown()],
            model_type: "0".to_owned(),
            file_type: unknown(),
            ..Config::default()
        };
        let digest = Digest::of(&config.to_bytes(&[layer]));
        assert_eq!(digest.hex(), "ca239d7bd8ea90e4a5d2e6bf88f8d74a47b14336e73eb4e18bed4dd325018116");
    }

    #[test]
    fn manifests_are_read_strictly() {
        let digest = Digest::of(b"");
        let text = |digest: &str, size: &str| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{digest}","size":{size}}},"layers":[]}}"#
            )
        };
        let good = Manifest::parse(text(&digest.to_string(), "3").as_bytes()).unwrap();
        assert_eq!((good.config.digest, good.size()), (digest, 3));
        for (bad_digest, size) in [("sha256:../../x", "3"), ("", "3"), (&digest.to_string(), "-1")] {
            assert!(Manifest::parse(text(bad_digest, size).as_bytes()).is_err(), "{bad_digest} {size}");
        }
        assert!(Manifest::parse(b"").is_err());
        let layer = Layer::new(Content::Model, digest, u64::MAX);
        let overflow = Manifest::new(layer.clone(), vec![layer]);
        assert!(Manifest::parse(&overflow.to_bytes()).is_err());
    }

    #[test]
    fn manifests_are_written_as_go_does() {
        let digest = Digest::of(b"");
        let mut layer = Layer::new(Content::Model, digest, 5);
        layer.from = Some("a&b".to_owned());
        let manifest = Manifest::new(Layer::config(digest, 7), vec![layer]);
        let expected = format!(
            concat!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":"#,
                r#"{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{0}","size":7}},"layers":"#,
                r#"[{{"mediaType":"application/vnd.ollama.image.model","digest":"{0}","size":5,"from":"a\u0026b"}}]}}"#,
                "\n"
            ),
            digest
        );
        assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), expected);
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
    }
}
