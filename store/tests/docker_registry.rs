//! Push and pull against the real registry: Debian's `docker-registry`, which `tools/setup` unpacks.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kit::{SmallDisk, blob, blob_files, check_integrity, lines, name, open, settings};
use weirgate_models::{DType, GgufValue, GgufWriter};
use weirgate_store::{
    Base, CreateRequest, Credentials, Digest, Progress, RegistrySettings, Store, StoreError, StoreSettings,
    Transfer,
};

const INSECURE: Transfer = Transfer { insecure: true };
const WAIT: Duration = Duration::from_secs(20);
/// `secret`, hashed by crypt(3) with bcrypt.
const PASSWORD_FILE: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// In the folder they are made in: an authority, and a certificate of its for this machine.
const CERTIFICATES: &str = r#"set -e
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >extensions
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -subj /CN=authority -days 2 -keyout authority.key -out authority.pem
openssl req $new -subj /CN=127.0.0.1 -keyout server.key -out server.csr
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out server.pem"#;

/// What a registry asks of its clients.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    Open,
    Password,
    /// `https`, with the certificates above.
    Tls,
}

fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/debian/usr/bin/docker-registry");
    if unpacked.is_file() { unpacked } else { "docker-registry".into() }
}

/// A registry process with its storage in `folder`.
struct Registry {
    folder: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Registry {
    fn start(folder: &Path, front: Front) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let registry =
            Self { folder: folder.to_owned(), address: free, process: Self::run(folder, free, front) };
        registry.wait();
        registry
    }

    fn run(folder: &Path, address: SocketAddr, front: Front) -> Child {
        let storage = folder.join("registry");
        fs::create_dir_all(&storage).unwrap();
        let mut http = format!("addr: '{address}'");
        if front == Front::Tls {
            let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(folder).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let [certificate, key] = ["server.pem", "server.key"].map(|name| folder.join(name));
            http += &format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
        }
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{{http}}}\n",
            storage.display()
        );
        if front == Front::Password {
            let passwords = folder.join("passwords");
            fs::write(&passwords, PASSWORD_FILE).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", passwords.display());
        }
        let path = folder.join("registry.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new(program());
        command.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap_or_else(|error| panic!("docker-registry: {error}; run tools/setup"))
    }

    fn wait(&self) {
        let begin = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(begin.elapsed() < WAIT, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = Self::run(&self.folder, self.address, Front::Open);
        self.wait();
    }

    fn model(&self) -> String {
        format!("{}/n/m", self.address)
    }

    /// Where it keeps the content of `digest`.
    fn stored(&self, digest: &str) -> PathBuf {
        let hex = &digest["sha256:".len()..];
        self.folder.join("registry/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Passes connections on, slowly while it is told to; counts the bytes that came back.
struct SlowLine {
    address: SocketAddr,
    slow: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
}

impl SlowLine {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (slow, bytes) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (flag, count) = (Arc::clone(&slow), Arc::clone(&bytes));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                });
                let (flag, count) = (Arc::clone(&flag), Arc::clone(&count));
                std::thread::spawn(move || pass_back(server, client, &flag, &count));
            }
        });
        Self { address, slow, bytes }
    }

    fn model(&self) -> String {
        format!("{}/n/m", self.address)
    }
}

fn pass_back(mut server: TcpStream, mut client: TcpStream, slow: &AtomicBool, bytes: &AtomicU64) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
        bytes.fetch_add(n as u64, Ordering::Relaxed);
        if slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(40));
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

/// A model of some megabytes in `store`, called `model`; the digest of its weights.
fn make_model(store: &Arc<Store>, model: &str) -> Digest {
    let values: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", GgufValue::String("llama".to_owned()));
    writer.tensor("x", DType::F32, &[750_000], || Ok((&values[..]).into())).unwrap();
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    let digest = blob(store, &bytes);
    let mut request = CreateRequest::new(name(model), Base::Files(vec![("x.gguf".to_owned(), digest)]));
    request.template = Some("{{ .Prompt }}".to_owned());
    request.system = Some("Be brief.".to_owned());
    lines(|report| store.create(&request, report)).unwrap();
    digest
}

fn push(store: &Arc<Store>, model: &str) -> Result<Vec<Progress>, StoreError> {
    lines(|report| store.push(model, INSECURE, report))
}

fn pull(store: &Arc<Store>, model: &str) -> Result<Vec<Progress>, StoreError> {
    lines(|report| store.pull(model, INSECURE, report))
}

/// A registry with a model, what its weights' digest is, and where it all lies.
fn with_model() -> (tempfile::TempDir, Registry, Digest) {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), Front::Open);
    let store = open(&folder.path().join("source"));
    let digest = make_model(&store, &registry.model());
    push(&store, &registry.model()).unwrap();
    (folder, registry, digest)
}

#[test]
fn what_is_pushed_is_what_is_pulled() {
    let (folder, registry, digest) = with_model();
    let source = open(&folder.path().join("source"));
    let again = push(&source, &registry.model()).unwrap();
    let status: Vec<&str> = again.iter().map(|line| line.status.as_str()).collect();
    assert_eq!((status[0], status[status.len() - 1]), ("retrieving manifest", "success"));
    assert!(
        status.contains(&"pushing manifest")
            && status.contains(&format!("pushing {}", digest.short()).as_str())
    );

    let target = folder.path().join("target");
    let store = open(&target);
    pull(&store, &registry.model()).unwrap();
    let (there, here) = (source.find(&registry.model()).unwrap(), store.find(&registry.model()).unwrap());
    assert_eq!((here.digest, here.size), (there.digest, there.size));
    assert_eq!(store.settings(&here).unwrap().system.unwrap(), "Be brief.");
    check_integrity(&target);

    // Content that another repository of the registry has is not sent again.
    let derived = format!("{}/n/derived", registry.address);
    let mut request = CreateRequest::new(name(&derived), Base::Model(registry.model()));
    request.system = Some("Be long.".to_owned());
    lines(|report| store.create(&request, report)).unwrap();
    push(&store, &derived).unwrap();
    let other = open(&folder.path().join("other"));
    pull(&other, &derived).unwrap();
    assert_eq!(other.find(&derived).unwrap().digest, store.find(&derived).unwrap().digest);

    let missing = pull(&store, &format!("{}/n/none", registry.address)).unwrap_err().to_string();
    assert_eq!(missing, "pull model manifest: file does not exist");
    assert!(matches!(push(&store, "none"), Err(StoreError::ModelNotFound(_))));
}

#[test]
fn a_password_is_asked_for_and_given() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), Front::Password);
    let root = folder.path().join("store");
    let credentials = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
    let own = settings(&root);
    let known = RegistrySettings {
        credentials: [(registry.address.to_string(), credentials)].into(),
        ..own.registry.clone()
    };
    let store = Arc::new(Store::open(StoreSettings { registry: known, ..own }).unwrap());
    make_model(&store, &registry.model());
    let stranger = open(&root);
    assert_eq!(push(&stranger, &registry.model()).unwrap_err().to_string(), "unauthorized: access denied");
    push(&store, &registry.model()).unwrap();
    assert_eq!(pull(&stranger, &registry.model()).unwrap_err().to_string(), "unauthorized: access denied");
    store.delete(&registry.model()).unwrap();
    pull(&store, &registry.model()).unwrap();
    check_integrity(&root);
}

/// What `FROM` names comes from its registry where it is not here; over https, as nobody said otherwise.
#[test]
fn a_base_that_is_not_here_is_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), Front::Tls);
    let trusting = |root: &str| {
        let own = settings(&folder.path().join(root));
        let certificates = Some(folder.path().join("authority.pem"));
        let registry = RegistrySettings { certificates, ..own.registry.clone() };
        Arc::new(Store::open(StoreSettings { registry, ..own }).unwrap())
    };
    let source = trusting("source");
    let weights = make_model(&source, &registry.model());
    lines(|report| source.push(&registry.model(), Transfer::default(), report)).unwrap();

    let store = trusting("target");
    assert!(store.list().is_empty());
    let text = format!("FROM {}\nSYSTEM Be long.", registry.model());
    let modelfile = weirgate_store::Modelfile::parse(&text).unwrap();
    let request = CreateRequest::from_modelfile(name("own"), &modelfile, None).unwrap();
    let made = lines(|report| store.create(&request, report)).unwrap();
    let status: Vec<&str> = made.iter().map(|line| line.status.as_str()).collect();
    assert_eq!((status[0], *status.last().unwrap()), ("pulling manifest", "success"), "{status:?}");
    let own = status.iter().position(|line| !line.starts_with("pulling ")).unwrap();
    assert!(status[..own].contains(&format!("pulling {}", weights.short()).as_str()), "{status:?}");
    assert!(status[own..].contains(&format!("using existing layer {weights}").as_str()), "{status:?}");
    let own = store.find("own").unwrap();
    assert_eq!(own.details.parent_model, registry.model() + ":latest");
    assert_eq!(store.settings(&own).unwrap().system.unwrap(), "Be long.");
    assert_eq!(store.settings(&own).unwrap().template.unwrap(), "{{ .Prompt }}");
    assert_eq!(store.find(&registry.model()).unwrap().digest, source.find(&registry.model()).unwrap().digest);
    check_integrity(&folder.path().join("target"));
    // One that is nowhere is no base, and leaves nothing.
    let missing = format!("{}/n/none", registry.address);
    let request = CreateRequest::new(name("other"), Base::Model(missing));
    let error = lines(|report| store.create(&request, report)).unwrap_err().to_string();
    assert_eq!(error, "pull model manifest: file does not exist");
    assert!(matches!(store.find("other"), Err(StoreError::ModelNotFound(_))));
}

#[test]
fn a_corrupted_blob_is_not_kept() {
    let (folder, registry, digest) = with_model();
    let stored = registry.stored(&digest.to_string());
    let mut bytes = fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&stored, &bytes).unwrap();
    let target = folder.path().join("target");
    let store = open(&target);
    let error = pull(&store, &registry.model()).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("digest mismatch, file must be downloaded again: want {digest}")),
        "{error}"
    );
    assert!(blob_files(&target).is_empty(), "{:?}", blob_files(&target));
    assert!(store.list().is_empty());
}

#[test]
fn a_registry_that_dies_half_way_is_gone_on_with() {
    let (folder, mut registry, _) = with_model();
    let line = SlowLine::to(registry.address);
    let target = folder.path().join("target");
    let store = open(&target);
    let failed = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&store, &line.model()));
        let begin = Instant::now();
        while line.bytes.load(Ordering::Relaxed) < 1_000_000 && begin.elapsed() < WAIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        registry.kill();
        pulling.join().unwrap()
    });
    assert!(failed.is_err());
    check_integrity(&target);
    let first = line.bytes.load(Ordering::Relaxed);
    registry.restart();
    line.slow.store(false, Ordering::Relaxed);
    pull(&store, &line.model()).unwrap();
    let second = line.bytes.load(Ordering::Relaxed) - first;
    assert!(second < 2_600_000, "{second} bytes were fetched after {first}");
    check_integrity(&target);
}

const CHILD_FOLDER: &str = "WEIRGATE_PULL_TEST_FOLDER";
const CHILD_MODEL: &str = "WEIRGATE_PULL_TEST_MODEL";

/// Not a test of its own: what the killed process runs.
#[test]
#[ignore = "run by `a_killed_pull_is_gone_on_with`"]
fn puller() {
    let (Ok(folder), Ok(model)) = (std::env::var(CHILD_FOLDER), std::env::var(CHILD_MODEL)) else { return };
    let _ = pull(&open(Path::new(&folder)), &model);
}

#[test]
fn a_killed_pull_is_gone_on_with() {
    let (folder, registry, digest) = with_model();
    let line = SlowLine::to(registry.address);
    let target = folder.path().join("target");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "puller"])
        .env(CHILD_FOLDER, &target)
        .env(CHILD_MODEL, line.model())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Until it has written down that it has something.
    let state = target.join("blobs").join(format!("sha256-{}-partial.json", digest.hex()));
    let begin = Instant::now();
    while !state.is_file() && begin.elapsed() < WAIT {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let parts: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    let kept: u64 = parts.as_array().unwrap().iter().map(|part| part["completed"].as_u64().unwrap()).sum();
    assert!(kept > 100_000, "{kept}");

    line.slow.store(false, Ordering::Relaxed);
    let store = open(&target);
    assert!(store.list().is_empty());
    let before = line.bytes.load(Ordering::Relaxed);
    pull(&store, &line.model()).unwrap();
    let fetched = line.bytes.load(Ordering::Relaxed) - before;
    // Answers have headers, too.
    assert!(fetched < 3_000_000 + 100_000 - kept, "{fetched} bytes were fetched after {kept}");
    check_integrity(&target);
    assert_eq!(blob_files(&target).len(), 4);
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let (folder, registry, _) = with_model();
    let Some(disk) = SmallDisk::mount(folder.path().join("small"), 1 << 20) else { return };
    let store = open(&disk.0);
    let error = pull(&store, &registry.model()).unwrap_err().to_string();
    assert!(error.starts_with("the disk is full: 3000"), "{error}");
    // Of an upload the length is not known before.
    let digest = Digest::of(b"whatever");
    let endless = store.put_blob(&digest, &mut std::io::repeat(1));
    assert!(matches!(endless, Err(StoreError::DiskFull { free: 0, .. })), "{endless:?}");
    assert!(blob_files(&disk.0).is_empty(), "{:?}", blob_files(&disk.0));
    assert!(store.put_blob(&Digest::of(b"small"), &mut &b"small"[..]).unwrap());
}
