//! A PostgreSQL server of the tests' own: Debian's, on a socket in a temporary folder, gone with this process.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::DatabaseUrl;

/// Stops the server and removes its folder at the end of its input, which is that of this process.
const KEEPER: &str =
    r#"trap '' INT TERM; "$@" >"$DATA/log" 2>&1 & read -r _; kill -QUIT $!; wait; rm -rf "$DATA""#;
/// The server refuses to be root.
const NOBODY: u32 = 65534;

struct Server {
    folder: PathBuf,
    _keeper: Child,
}

/// An empty database.
pub(super) fn new_database() -> DatabaseUrl {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let server = SERVER.get_or_init(start);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut client = connect(&server.folder).expect("the server runs");
    client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    url(&server.folder, &name).parse().unwrap()
}

fn url(folder: &Path, name: &str) -> String {
    format!("postgres://postgres@{}/{name}", folder.to_str().unwrap().replace('/', "%2F"))
}

fn connect(folder: &Path) -> Result<Client, postgres::Error> {
    Client::connect(&url(folder, "postgres"), NoTls)
}

fn program(name: &str) -> PathBuf {
    let folders =
        std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is missing; `make setup` installs it");
    let mut found: Vec<PathBuf> =
        folders.flatten().map(|folder| folder.path().join("bin").join(name)).collect();
    found.retain(|path| path.is_file());
    found.sort();
    found.pop().expect("PostgreSQL is missing; `make setup` installs it")
}

fn start() -> Server {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let folder = folder.keep();
    let command = |name: &str| {
        let program = program(name);
        if !is_root {
            return vec![program];
        }
        let user = format!("--reuid={NOBODY}");
        let group = format!("--regid={NOBODY}");
        let mut words: Vec<PathBuf> =
            ["setpriv", &user, &group, "--clear-groups"].iter().map(PathBuf::from).collect();
        words.push(program);
        words
    };
    let data = folder.join("data");
    let initdb = command("initdb");
    let made = Command::new(&initdb[0])
        .args(&initdb[1..])
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let keeper = Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .args(command("postgres"))
        .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", "-k"])
        .arg(&folder)
        .arg("-D")
        .arg(&data)
        .env("DATA", &folder)
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while connect(&folder).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "PostgreSQL does not start: see {}",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Server { folder, _keeper: keeper }
}
