//! A PostgreSQL server of the tests' own: Debian's, on a socket in a temporary folder and, encrypted, on a local port; gone
//! with this process.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use tempfile::TempDir;

use crate::database::Value;
use crate::{DatabaseUrl, JobsError, StateFolder, Table};

/// Stops the server and removes its folder at the end of its input, which is that of this process.
const KEEPER: &str =
    r#"trap '' INT TERM; "$@" >"$DATA/log" 2>&1 & read -r _; kill -QUIT $!; wait; rm -rf "$DATA""#;
/// The server refuses to be root.
const NOBODY: u32 = 65534;

/// An authority, and a certificate of its for `localhost`.
const CERTIFICATES: &str = r#"set -e
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >extensions
new="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new -subj /CN=authority -days 2 -keyout authority.key -out authority.pem
openssl req $new -subj /CN=localhost -keyout server.key -out server.csr
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile extensions -out server.pem
chmod 600 server.key"#;

struct Server {
    folder: PathBuf,
    port: u16,
    _keeper: Child,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

/// An empty database.
pub(super) fn new_database() -> DatabaseUrl {
    let server = server();
    url(&server.folder, server.port, &new_name(server)).parse().unwrap()
}

fn new_name(server: &Server) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut client = connect(&server.folder, server.port).expect("the server runs");
    client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    name
}

fn url(folder: &Path, port: u16, name: &str) -> String {
    format!("postgres://postgres@{}:{port}/{name}", folder.to_str().unwrap().replace('/', "%2F"))
}

fn connect(folder: &Path, port: u16) -> Result<Client, postgres::Error> {
    Client::connect(&url(folder, port, "postgres"), NoTls)
}

#[test]
fn connections_are_encrypted_where_the_address_says_so() {
    let server = server();
    let name = new_name(server);
    let parent = tempfile::tempdir().unwrap();
    let folder = StateFolder::open(parent.path()).unwrap();
    let own = format!("sslrootcert={}", server.folder.join("authority.pem").display());
    let open = |host: &str, query: &str| {
        let url = format!("postgres://postgres@{host}:{}/{name}?{query}", server.port);
        let url = url.parse::<DatabaseUrl>().unwrap();
        let table = Table::open(&folder, Some(&url))?;
        let text = "SELECT CAST(ssl AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        table.database.query(text, Vec::new())
    };
    for query in [format!("sslmode=verify-full&{own}"), format!("{own}&sslmode=require")] {
        assert_eq!(open("localhost", &query).unwrap(), [[Value::Text("true".into())]], "{query}");
    }
    for query in ["", "sslmode=disable", "sslmode=prefer"] {
        assert_eq!(open("localhost", query).unwrap(), [[Value::Text("false".into())]], "{query}");
    }
    // Nobody that is known vouches for it; it is another host's; nobody can vouch.
    for (host, query) in [("localhost", "sslmode=require"), ("127.0.0.1", &format!("sslmode=require&{own}"))]
    {
        match open(host, query) {
            Err(JobsError::Database(reason)) => assert!(reason.contains("certificate"), "{reason}"),
            other => panic!("{host}: {other:?}"),
        }
    }
    for file in ["nowhere.pem", "extensions"] {
        let query = format!("sslmode=require&sslrootcert={}", server.folder.join(file).display());
        match open("localhost", &query) {
            Err(JobsError::Tls(reason)) => assert!(reason.contains(file), "{reason}"),
            other => panic!("{file}: {other:?}"),
        }
    }
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
    let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    if is_root {
        chown(folder.join("server.key"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setting = |name: &str, value: &Path| format!("{name}={}", value.display());
    let certificate = setting("ssl_cert_file", &folder.join("server.pem"));
    let key = setting("ssl_key_file", &folder.join("server.key"));
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
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"])
        .args(["-c", "ssl=on", "-c", &certificate, "-c", &key, "-p", &port.to_string(), "-k"])
        .arg(&folder)
        .arg("-D")
        .arg(&data)
        .env("DATA", &folder)
        .current_dir(&folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while connect(&folder, port).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "PostgreSQL does not start: see {}",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Server { folder, port, _keeper: keeper }
}
