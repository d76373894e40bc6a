//! A hub on a local port: the listing and file addresses of the real one, and a record of what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use weirgate_hub::HubSettings;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OTHER_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn range_start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after this many bytes of the body, whatever its length was said to be.
    pub cut_after: Option<usize>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

/// A server that answers with `handler`, until dropped with the test process.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let handler = Arc::new(handler);
        let record = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, record) = (Arc::clone(&handler), Arc::clone(&record));
                std::thread::spawn(move || {
                    if let Some(request) = read_request(&stream) {
                        record.lock().unwrap().push(request.clone());
                        write_reply(stream, &request, handler(&request));
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How often each path was fetched with GET.
    pub fn downloads(&self, file: &str) -> usize {
        self.requests().iter().filter(|r| r.method == "GET" && r.path.ends_with(file)).count()
    }

    pub fn settings(&self, cache: &Path) -> HubSettings {
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

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    Some(Request { method, path, headers })
}

fn write_reply(mut stream: TcpStream, request: &Request, reply: Reply) {
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let _ = stream.write_all(head.as_bytes());
    if request.method != "HEAD" {
        let sent = reply.cut_after.unwrap_or(reply.body.len()).min(reply.body.len());
        let _ = stream.write_all(&reply.body[..sent]);
    }
    let _ = stream.flush();
    // Without this, closing would reset the connection while bytes are still on their way.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
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
            return Reply::status(200).with_body(self.info().as_bytes());
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
