//! A registry on a local port that does as a test tells it.

use std::collections::BTreeMap;

use serde_json::json;
use weirgate_store::Digest;
pub use weirgate_testkit::http::{Reply, Request, Server};

pub trait Registry {
    /// `host:port/n/m`.
    fn model(&self) -> String;
}

impl Registry for Server {
    fn model(&self) -> String {
        format!("{}/n/m", self.address)
    }
}

/// A model as a registry holds it.
#[derive(Clone)]
pub struct Hosted {
    pub manifest: Vec<u8>,
    pub blobs: BTreeMap<String, Vec<u8>>,
}

impl Hosted {
    /// Weights of `bytes`, a system text and a config.
    pub fn new(bytes: Vec<u8>) -> Self {
        let config = br#"{"model_format":"gguf","model_family":"llama"}"#.to_vec();
        let layer = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len() });
        let system = b"Be brief.".to_vec();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": layer("application/vnd.docker.container.image.v1+json", &config),
            "layers": [
                layer("application/vnd.ollama.image.model", &bytes),
                layer("application/vnd.ollama.image.system", &system),
            ],
        });
        let blobs = [bytes, system, config].into_iter().map(|bytes| (Digest::of(&bytes).to_string(), bytes));
        Self { manifest: manifest.to_string().into_bytes(), blobs: blobs.collect() }
    }

    /// As a sound registry answers.
    pub fn reply(&self, request: &Request) -> Reply {
        if request.path.starts_with("/v2/n/m/manifests/latest") {
            return Reply::status(200).with_body(self.manifest.clone());
        }
        let digest = request.path.strip_prefix("/v2/n/m/blobs/").unwrap_or_default();
        match (self.blobs.get(digest), request.range()) {
            (None, _) => Reply::status(404),
            (Some(bytes), None) => Reply::status(200).with_body(bytes.clone()),
            (Some(bytes), Some((from, to))) => {
                let range = format!("bytes {from}-{to}/{}", bytes.len());
                Reply::status(206).with("Content-Range", range).with_body(&bytes[from..=to])
            }
        }
    }
}
