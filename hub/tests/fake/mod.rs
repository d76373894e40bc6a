//! A hub on a local port: the listing and file addresses of the real one.

use std::path::Path;

use sha2::{Digest, Sha256};
use weirgate_hub::HubSettings;
pub use weirgate_testkit::http::{Reply, Request, Server};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OTHER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

pub trait Hub {
    /// How often each path was fetched with GET.
    fn downloads(&self, file: &str) -> usize;
    fn settings(&self, cache: &Path) -> HubSettings;
}

impl Hub for Server {
    fn downloads(&self, file: &str) -> usize {
        self.requests().iter().filter(|r| r.method == "GET" && r.path.ends_with(file)).count()
    }

    fn settings(&self, cache: &Path) -> HubSettings {
        settings(&self.url(), cache)
    }
}

pub fn settings(endpoint: &str, cache: &Path) -> HubSettings {
    HubSettings {
        endpoint: endpoint.to_owned(),
        token: None,
        cache: cache.to_owned(),
        offline: false,
        user_agent_origin: None,
        certificates: None,
    }
}

/// The files of one model, served at [`COMMIT`].
#[derive(Clone)]
pub struct Repo {
    pub id: &'static str,
    pub files: Vec<(&'static str, Vec<u8>)>,
}

impl Repo {
    pub fn small() -> Self {
        let weights: Vec<u8> =
            (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        Self {
            id: "org/tiny",
            files: vec![
                ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
                ("tokenizer.json", b"{}".to_vec()),
                ("model.safetensors", weights),
                ("README.md", b"not needed".to_vec()),
            ],
        }
    }

    pub fn content(&self, name: &str) -> &[u8] {
        &self.files.iter().find(|(n, _)| *n == name).unwrap().1
    }

    pub fn info(&self) -> String {
        let siblings: Vec<String> = self
            .files
            .iter()
            .map(|(name, content)| format!(r#"{{"rfilename":"{name}","size":{}}}"#, content.len()))
            .collect();
        format!(r#"{{"id":"{}","sha":"{COMMIT}","siblings":[{}]}}"#, self.id, siblings.join(","))
    }

    /// The file that a request is for.
    pub fn requested<'r>(&self, request: &'r Request) -> Option<&'r str> {
        request.path.strip_prefix(&format!("/{}/resolve/{COMMIT}/", self.id))
    }

    /// Answers as the hub does.
    pub fn reply(&self, request: &Request) -> Reply {
        if request.path == format!("/api/models/{}/revision/main?blobs=true", self.id) {
            return Reply::status(200).with_body(self.info());
        }
        match self.requested(request) {
            Some(name) if self.files.iter().any(|(n, _)| *n == name) => self.file(name, request),
            _ => Reply::status(404).with("X-Error-Code", "RepoNotFound"),
        }
    }

    /// A file's bytes, or those from the range's start on.
    pub fn file(&self, name: &str, request: &Request) -> Reply {
        let content = self.content(name);
        let reply = Reply::status(200).with("ETag", format!("\"{}\"", etag(name, content)));
        match request.range_start() {
            None => reply.with_body(content),
            Some(start) if start < content.len() => Reply { status: 206, ..reply }
                .with("Content-Range", format!("bytes {start}-{}/{}", content.len() - 1, content.len()))
                .with_body(&content[start..]),
            Some(_) => Reply { status: 416, ..reply },
        }
    }
}

/// As on the hub: sha256 for weights, a shorter hash for the rest.
pub fn etag(name: &str, content: &[u8]) -> String {
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    if name.ends_with(".safetensors") { hash } else { hash[..40].to_owned() }
}
