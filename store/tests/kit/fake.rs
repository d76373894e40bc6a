//! A registry on a local port that does as a test tells it, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use weirgate_store::Digest;

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// First and last byte of `Range`.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub cut_after: Option<usize>,
    /// Pause after every 16 KiB.
    pub pause: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// Answers until the test process ends.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (handler, record) = (Arc::new(handler), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, record) = (Arc::clone(&handler), Arc::clone(&record));
                std::thread::spawn(move || {
                    if let Some(request) = read_request(&stream) {
                        record.lock().unwrap().push(request.clone());
                        let reply = handler(&request);
                        write_reply(stream, &request, &reply);
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// What is asked for `path`, in order.
    pub fn requests_of(&self, path: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(path)).collect()
    }

    /// `host:port/n/m`.
    pub fn model(&self) -> String {
        format!("{}/n/m", self.address)
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut text = String::new();
        reader.read_line(&mut text).ok().map(|_| text.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    while let Some(text) = line().filter(|text| !text.is_empty()) {
        let (name, value) = text.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers })
}

fn write_reply(mut stream: TcpStream, request: &Request, reply: &Reply) {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if stream.write_all(head.as_bytes()).is_err() || request.method == "HEAD" {
        return;
    }
    let end = reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len());
    for chunk in reply.body[..end].chunks(16 << 10) {
        if stream.write_all(chunk).is_err() {
            return;
        }
        std::thread::sleep(reply.pause);
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
