//! Pulls from a registry that misbehaves.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kit::fake::{Hosted, Registry as _, Reply, Request, Server};
use kit::{blob_files, check_integrity, lines, open, settings};
use weirgate_store::{
    Base, CreateRequest, Credentials, Digest, Progress, RegistryError, RegistrySettings, Store, StoreError,
    StoreSettings, Transfer,
};

const INSECURE: Transfer = Transfer { insecure: true };

/// Content that is cut into seven parts.
fn content() -> Vec<u8> {
    (0..700_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hosted() -> (Hosted, String) {
    let bytes = content();
    let digest = Digest::of(&bytes).to_string();
    (Hosted::new(bytes), digest)
}

fn pull(store: &Arc<Store>, name: &str) -> Result<Vec<Progress>, StoreError> {
    lines(|report| store.pull(name, INSECURE, report))
}

/// The registry's error, whoever else got it too.
fn registry_error(result: Result<Vec<Progress>, StoreError>) -> RegistryError {
    match result.unwrap_err().cause() {
        StoreError::Registry(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pull_brings_the_model_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (model, digest) = hosted();
    let manifest = model.manifest.clone();
    let server = Server::start(move |request| model.reply(request));
    let lines = pull(&store, &server.model()).unwrap();
    let mut status: Vec<&str> = lines.iter().map(|line| line.status.as_str()).collect();
    status.dedup();
    let short = |digest: &str| format!("pulling {}", &digest[7..19]);
    assert_eq!((status[0], status[1]), ("pulling manifest", short(&digest).as_str()));
    assert_eq!(status[status.len() - 3..], ["verifying sha256 digest", "writing manifest", "success"]);
    let last = lines.iter().rfind(|line| line.digest == digest).unwrap();
    assert_eq!((last.total, last.completed), (700_000, 700_000));
    let ranges = server.requests_of(&digest);
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    let entry = store.find(&server.model()).unwrap();
    assert_eq!(entry.digest, Digest::of(&manifest));
    assert_eq!(store.settings(&entry).unwrap().system.unwrap(), "Be brief.");
    assert_eq!(blob_files(folder.path()).len(), 3);
    check_integrity(folder.path());
    // A second pull fetches the manifest alone.
    let before = server.requests().len();
    pull(&store, &server.model()).unwrap();
    assert_eq!(server.requests().len(), before + 1);
}

#[test]
fn a_pull_goes_on_where_the_registry_died() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (model, digest) = hosted();
    let dead = Arc::new(AtomicBool::new(true));
    let (flag, wanted) = (Arc::clone(&dead), digest.clone());
    // While it is dying, half of each part comes, once; then nothing.
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let server = Server::start(move |request| {
        let mut reply = model.reply(request);
        if flag.load(Ordering::Relaxed) && request.path.contains(&wanted) {
            if count.fetch_add(1, Ordering::Relaxed) >= 4 {
                return Reply::status(503);
            }
            reply.cut_after = Some(50_000);
        }
        reply
    });
    let error = registry_error(pull(&store, &server.model()));
    assert!(
        matches!(error, RegistryError::GivenUp { digest: given } if given.to_string() == digest),
        "{error:?}"
    );
    assert!(matches!(store.find(&server.model()), Err(StoreError::ModelNotFound(_))));
    let left = blob_files(folder.path());
    assert!(left.iter().all(|name| name.contains("-partial")), "{left:?}");

    dead.store(false, Ordering::Relaxed);
    drop(store);
    let before = server.requests_of(&digest).len();
    pull(&open(folder.path()), &server.model()).unwrap();
    let fetched: usize = server.requests_of(&digest)[before..]
        .iter()
        .map(|r| r.range().map_or(0, |(from, to)| to + 1 - from))
        .sum();
    assert_eq!(fetched, 700_000 - 4 * 50_000);
    check_integrity(folder.path());
    assert_eq!(blob_files(folder.path()).len(), 3);
}

/// Connections that stay open and bring nothing are given up, and gone on with where they were.
#[test]
fn a_registry_that_stalls_is_given_up() {
    const FOREVER: Duration = Duration::from_secs(3600);
    let folder = tempfile::tempdir().unwrap();
    let own = settings(folder.path());
    let registry =
        RegistrySettings { read_timeout: Duration::from_millis(200), tries: 2, ..own.registry.clone() };
    let store = Arc::new(Store::open(StoreSettings { registry, ..own }).unwrap());
    let (model, digest) = hosted();
    let stalls = Arc::new(AtomicBool::new(true));
    let served = AtomicUsize::new(0);
    let (flag, wanted) = (Arc::clone(&stalls), digest.clone());
    // Some stop within their answers, the others before they begin.
    let server = Server::start(move |request| {
        let reply = model.reply(request);
        if !flag.load(Ordering::Relaxed) || !request.path.contains(&wanted) {
            return reply;
        }
        if served.fetch_add(1, Ordering::Relaxed) >= 4 {
            std::thread::sleep(FOREVER);
        }
        Reply { pause: FOREVER, ..reply }
    });
    let error = registry_error(pull(&store, &server.model()));
    assert!(
        matches!(error, RegistryError::GivenUp { digest: given } if given.to_string() == digest),
        "{error:?}"
    );
    assert!(matches!(store.find(&server.model()), Err(StoreError::ModelNotFound(_))));
    stalls.store(false, Ordering::Relaxed);
    let before = server.requests_of(&digest).len();
    pull(&store, &server.model()).unwrap();
    let requests = server.requests_of(&digest);
    let fetched: usize =
        requests[before..].iter().map(|r| r.range().map_or(0, |(from, to)| to + 1 - from)).sum();
    // A piece of an answer is 16 KiB.
    assert_eq!(fetched, 700_000 - 4 * (16 << 10));
    check_integrity(folder.path());
}

/// What the registry has in another repository is not sent again; where it does not give it, it is.
#[test]
fn content_of_another_repository_is_mounted() {
    for mounts in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let (model, digest) = hosted();
        let server = Server::start(move |request| match request.method.as_str() {
            "GET" => model.reply(request),
            "HEAD" => Reply::status(404),
            "POST" if mounts && request.path.contains("mount=") => Reply::status(201),
            "POST" | "PATCH" => Reply::status(202).with("Location", "/v2/n/copy/blobs/uploads/1"),
            _ => Reply::status(201),
        });
        pull(&store, &server.model()).unwrap();
        let copy = format!("{}/n/copy", server.address);
        let base = Base::Model(server.model());
        let request = CreateRequest::new(copy.parse().unwrap(), base);
        lines(|report| store.create(&request, report)).unwrap();
        lines(|report| store.push(&copy, INSECURE, report)).unwrap();
        let asked = server.requests_of("mount=");
        let weights = asked.iter().filter(|request| request.path.contains(&digest[7..]));
        let from: Vec<bool> = weights.map(|request| request.path.contains("from=n%2Fm")).collect();
        assert_eq!(from, [true], "{asked:?}");
        // Told by the end of its upload.
        let sent = server.requests_of("digest=");
        let is_weights = |request: &&Request| request.path.contains(&digest[7..]);
        assert_eq!(sent.iter().filter(is_weights).count(), usize::from(!mounts), "{sent:?}");
        assert!(sent.iter().any(|request| !is_weights(&request)), "the config is a new one");
    }
}

#[test]
fn content_that_is_not_what_it_should_be_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (model, digest) = hosted();
    let good = Arc::new(AtomicBool::new(false));
    let (flag, wanted) = (Arc::clone(&good), digest.clone());
    let server = Server::start(move |request| {
        let mut reply = model.reply(request);
        if !flag.load(Ordering::Relaxed) && request.path.contains(&wanted) {
            reply.body[10] ^= 1;
        }
        reply
    });
    let error = registry_error(pull(&store, &server.model()));
    assert!(
        matches!(error, RegistryError::DigestMismatch { want, got } if want.to_string() == digest && got != want),
        "{error:?}"
    );
    assert!(blob_files(folder.path()).is_empty(), "{:?}", blob_files(folder.path()));
    good.store(true, Ordering::Relaxed);
    pull(&store, &server.model()).unwrap();
    check_integrity(folder.path());
}

#[test]
fn a_registry_without_ranges_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (model, _) = hosted();
    let server = Server::start(move |request| {
        let headers = Default::default();
        model.reply(&Request { headers, ..request.clone() })
    });
    pull(&open(folder.path()), &server.model()).unwrap();
    check_integrity(folder.path());
}

#[test]
fn endless_and_lying_registries_are_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let limited = |limit| {
        Arc::new(Store::open(StoreSettings { max_blob_bytes: limit, ..settings(folder.path()) }).unwrap())
    };
    let (model, _) = hosted();
    // More than was promised: what is too much is not read.
    let server = Server::start(move |request| {
        let mut reply = model.reply(request);
        if request.range().is_some() {
            reply.body.extend(vec![7; 50_000_000]);
        }
        reply
    });
    pull(&limited(1 << 30), &server.model()).unwrap();
    check_integrity(folder.path());
    let (large, _) = hosted();
    let server = Server::start(move |request| large.reply(request));
    let too_large = pull(&limited(1000), &server.model()).unwrap_err().to_string();
    assert!(too_large.contains("more than 1000 bytes"), "{too_large}");
    // More than the disk has.
    let size = |size: &str| {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{size}}},"layers":[]}}"#,
            Digest::of(b"x")
        );
        Server::start(move |_| Reply::status(200).with_body(text.clone()))
    };
    let full = pull(&limited(u64::MAX), &size("9000000000000000000").model()).unwrap_err().to_string();
    assert!(full.contains("the disk is full: 9000000000000000000 bytes needed"), "{full}");
    let endless = Server::start(|_| Reply::status(200).with_body(vec![b' '; 8 << 20]));
    assert!(pull(&limited(1000), &endless.model()).is_err());
}

#[test]
fn digests_of_a_manifest_are_checked_before_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for bad in ["sha256:../../../../../../../../tmp/evil", "sha256:", "../x", "", "sha256-%2e%2e%2f"] {
        let text = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{bad}","size":3}},"layers":[]}}"#);
        let server = Server::start(move |_| Reply::status(200).with_body(text.clone()));
        let error = registry_error(pull(&store, &server.model()));
        assert!(
            matches!(&error, RegistryError::Manifest(problem) if problem.contains("invalid digest")),
            "{error:?}"
        );
        assert_eq!(server.requests().len(), 1);
    }
    assert!(blob_files(folder.path()).is_empty());
}

fn with_credentials(folder: &std::path::Path, server: &Server) -> Arc<Store> {
    let credentials = Credentials { user: "me".to_owned(), password: "secret".to_owned() };
    let host = server.address.to_string();
    let own = settings(folder);
    let registry = RegistrySettings { credentials: [(host, credentials)].into(), ..own.registry.clone() };
    Arc::new(Store::open(StoreSettings { registry, ..own }).unwrap())
}

/// Of the two that the registry below gives.
const READS: &str = "Bearer R3AD";
const WRITES: &str = "Bearer WR1TE";

/// The model behind tokens, one to read it and one to write it, too, which are given to who says `me:secret`. What is
/// written is taken, and forgotten.
fn behind_token(realm: Option<String>) -> Server {
    let (model, _) = hosted();
    Server::start(move |request| {
        let realm =
            realm.clone().unwrap_or_else(|| format!("http://{}/token", request.header("host").unwrap()));
        if request.path.starts_with("/token") {
            // "me:secret" in base64.
            let known = request.header("authorization") == Some("Basic bWU6c2VjcmV0");
            let asked = |scope: &str| {
                let query = format!("service=reg&scope=repository%3An%2Fm%3A{scope}");
                request.path.ends_with(&format!("?{query}"))
            };
            let token = match (asked("pull"), asked("pull%2Cpush")) {
                (true, _) => READS,
                (_, true) => WRITES,
                _ => "",
            };
            return match token.strip_prefix("Bearer ").filter(|_| known) {
                Some(token) => Reply::status(200).with_body(format!(r#"{{"token":"{token}"}}"#)),
                None => Reply::status(401),
            };
        }
        let writes = !matches!(request.method.as_str(), "GET" | "HEAD");
        let token = request.header("authorization");
        if token == Some(WRITES) || (token == Some(READS) && !writes) {
            return match request.method.as_str() {
                "POST" | "PATCH" => Reply::status(202).with("Location", "/v2/n/m/blobs/uploads/1"),
                "PUT" => Reply::status(201),
                _ => model.reply(request),
            };
        }
        let scope = if writes { "pull,push" } else { "pull" };
        let challenge = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:n/m:{scope}\"");
        Reply::status(401).with("WWW-Authenticate", challenge)
    })
}

#[test]
fn a_challenge_is_answered_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = behind_token(None);
    let error = registry_error(pull(&open(folder.path()), &server.model()));
    assert_eq!(error.to_string(), "unauthorized: access denied");
    pull(&with_credentials(folder.path(), &server), &server.model()).unwrap();
    check_integrity(folder.path());
    // One token serves all requests but those that were under way.
    assert!(server.requests_of("/token").len() <= 2);

    let stubborn = Server::start(|_| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
    let error = registry_error(pull(&with_credentials(folder.path(), &stubborn), &stubborn.model()));
    assert_eq!(error, RegistryError::Unauthorized);
    let sent: Vec<Option<String>> =
        stubborn.requests().iter().map(|r| r.header("authorization").map(str::to_owned)).collect();
    assert_eq!(sent, [None, Some("Basic bWU6c2VjcmV0".to_owned())]);
}

/// What reads may not write: a push gets a token of its own for that, on the way.
#[test]
fn a_push_asks_for_a_token_that_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let server = behind_token(None);
    let store = with_credentials(folder.path(), &server);
    pull(&store, &server.model()).unwrap();
    let system = "Be long.";
    let mut request = CreateRequest::new(server.model().parse().unwrap(), Base::Model(server.model()));
    request.system = Some(system.to_owned());
    lines(|report| store.create(&request, report)).unwrap();
    let push = |store: &Arc<Store>| lines(|report| store.push(&server.model(), INSECURE, report));
    let before = server.requests().len();
    let progress = push(&store).unwrap();
    assert_eq!(progress.last().unwrap().status, "success");
    let asked = server.requests().split_off(before);
    let scopes: Vec<&str> = asked
        .iter()
        .filter_map(|request| request.path.split_once("n%2Fm%3A"))
        .map(|(_, scope)| scope)
        .collect();
    assert_eq!(scopes, ["pull", "pull%2Cpush"]);
    // All that was taken was sent under the second one; the first try under the other is what asked for it.
    let written: Vec<&Request> =
        asked.iter().filter(|r| !matches!(r.method.as_str(), "GET" | "HEAD")).collect();
    assert_eq!((written[0].method.as_str(), written[0].header("authorization")), ("POST", Some(READS)));
    assert!(
        written[1..].iter().all(|request| request.header("authorization") == Some(WRITES)),
        "{written:?}"
    );
    let digest = Digest::of(system.as_bytes()).hex();
    assert!(written.iter().any(|request| request.method == "PUT" && request.path.contains(&digest)));
    let last = written.last().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str()), ("PUT", "/v2/n/m/manifests/latest"));
    // Without a password there is no token, and nothing is written.
    let before = server.requests().len();
    assert_eq!(registry_error(push(&open(folder.path()))), RegistryError::Unauthorized);
    assert!(
        server.requests()[before..].iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD"))
    );
}

#[test]
fn credentials_go_to_no_foreign_realm_and_along_no_redirect() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = Server::start(|_| Reply::status(200).with_body(r#"{"token":"x"}"#));
    let realm = format!("http://localhost:{}/token", foreign.address.port());
    let server = behind_token(Some(realm));
    let error = registry_error(pull(&with_credentials(folder.path(), &server), &server.model()));
    assert!(
        matches!(&error, RegistryError::ForeignRealm { realm, .. } if realm.starts_with("http://localhost:")),
        "{error:?}"
    );
    assert!(foreign.requests().is_empty());

    // Another port of the same host is another origin.
    let realm = format!("http://127.0.0.1:{}/token", foreign.address.port());
    let server = behind_token(Some(realm.clone()));
    let error = registry_error(pull(&with_credentials(folder.path(), &server), &server.model()));
    let origin = realm.strip_suffix("/token").unwrap();
    assert!(matches!(&error, RegistryError::ForeignRealm { realm, .. } if realm == origin), "{error:?}");
    assert!(error.to_string().contains(&format!("http://{}", server.address)), "{error}");
    assert!(foreign.requests().is_empty());

    // Blobs lie elsewhere; they come from there without what the registry was told.
    let (model, digest) = hosted();
    let elsewhere = model.clone();
    let storage = Server::start(move |request| elsewhere.reply(request));
    let base = format!("http://{}", storage.address);
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
        Some(_) if request.path.contains("/blobs/") => {
            Reply::status(307).with("Location", format!("{base}{}", request.path))
        }
        Some(_) => model.reply(request),
    });
    pull(&with_credentials(folder.path(), &server), &server.model()).unwrap();
    assert_eq!(storage.requests_of(&digest).len(), 7);
    assert!(storage.requests().iter().all(|request| request.header("authorization").is_none()));
    check_integrity(folder.path());
}

#[test]
fn connections_go_only_where_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::status(200));
    let port = server.address.port();
    let store =
        |registry| Arc::new(Store::open(StoreSettings { registry, ..settings(folder.path()) }).unwrap());
    let closed = store(RegistrySettings::default());
    for host in [
        server.address.to_string(),
        format!("localhost:{port}"),
        format!("0.0.0.0:{port}"),
        "10.0.0.1".to_owned(),
    ] {
        let error = registry_error(pull(&closed, &format!("{host}/n/m")));
        assert!(matches!(error, RegistryError::PrivateAddress(_)), "{host}: {error:?}");
    }
    let listed =
        store(RegistrySettings { allowed_hosts: vec!["hf.co".to_owned()], ..RegistrySettings::default() });
    let error = registry_error(pull(&listed, &server.model()));
    assert_eq!(error, RegistryError::HostNotAllowed(server.address.to_string()));
    let open = open(folder.path());
    let insecure =
        lines(|report| open.pull(&format!("http://{}", server.model()), Transfer::default(), report));
    assert_eq!(registry_error(insecure).to_string(), "insecure protocol http");
    // A redirect is no way around.
    assert!(server.requests().is_empty());
    let address = server.address;
    let leading = Server::start(move |_| {
        Reply::status(302).with("Location", format!("http://localhost:{}/x", address.port()))
    });
    let error = registry_error(pull(&open, &leading.model()));
    assert!(matches!(error, RegistryError::PrivateAddress(host) if host == "localhost"));
    assert!(server.requests().is_empty());
}

#[test]
fn pulls_of_one_name_share_one_download() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (model, digest) = hosted();
    let server =
        Server::start(move |request| Reply { pause: Duration::from_millis(30), ..model.reply(request) });
    let name = server.model();
    let results: Vec<Vec<Progress>> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4)
            .map(|index| {
                let (store, name) = (&store, &name);
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(30 * index));
                    pull(store, name).unwrap()
                })
            })
            .collect();
        // One who gives up does not stop the others.
        let quitter = store.pull(&name, INSECURE, &mut |_| ControlFlow::Break(()));
        assert!(matches!(quitter, Err(StoreError::Canceled)));
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    for lines in results {
        assert_eq!(lines.last().unwrap().status, "success");
        assert_eq!(lines.iter().rfind(|line| line.digest == digest).unwrap().completed, 700_000);
    }
    assert_eq!(server.requests_of(&digest).len(), 7);
    assert_eq!(server.requests_of("manifests").len(), 1);
}

/// A hub with one repository: a listing, and files by their hashes.
fn hub() -> Server {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", content()),
    ];
    Server::start(move |request| {
        if request.path.starts_with("/api/models/org/tiny/revision/main") {
            let siblings: Vec<serde_json::Value> = files
                .iter()
                .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
                .collect();
            let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings });
            return Reply::status(200).with_body(listing.to_string());
        }
        let file =
            files.iter().find(|(name, _)| request.path == format!("/org/tiny/resolve/{COMMIT}/{name}"));
        match file {
            None => Reply::status(404),
            Some((_, bytes)) => {
                let reply = Reply::status(200).with("ETag", format!("\"{}\"", Digest::of(bytes).hex()));
                Reply { pause: Duration::from_millis(5), ..reply.with_body(bytes.clone()) }
            }
        }
    })
}

#[test]
fn hub_downloads_are_shared_and_reported_too() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("hub");
    let store = Arc::new(
        Store::open(StoreSettings { hub_caches: vec![cache.clone()], ..settings(folder.path()) }).unwrap(),
    );
    let server = hub();
    let env = |name: &str| (name == "HF_ENDPOINT").then(|| format!("http://{}", server.address));
    let hub = weirgate_hub::HubSettings::from_env(&env, Some(cache)).unwrap();
    let (id, revision) = ("org/tiny".parse().unwrap(), "main".parse().unwrap());
    let pulls: Vec<Vec<Progress>> = std::thread::scope(|scope| {
        let pull = || lines(|report| store.pull_from_hub(&hub, &id, &revision, report)).unwrap();
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(pull)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    for lines in pulls {
        assert_eq!(lines.last().unwrap().status, "success");
        let bytes = lines.iter().rfind(|line| line.status == "pulling org/tiny").unwrap();
        assert_eq!((bytes.completed, bytes.total), (700_004, 700_004));
    }
    assert_eq!(store.find("org/tiny").unwrap().details.format, "safetensors");
    let weights = server.requests_of("model.safetensors");
    assert_eq!(weights.iter().filter(|request| request.method == "GET").count(), 1);
    let missing = lines(|report| store.pull_from_hub(&hub, &"org/none".parse().unwrap(), &revision, report));
    assert!(matches!(missing.unwrap_err().cause(), StoreError::Hub(weirgate_hub::HubError::NotFound { .. })));
}

#[test]
fn a_pull_that_nobody_waits_for_stops() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (model, digest) = hosted();
    let slow = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&slow);
    let server = Server::start(move |request| {
        let pause = Duration::from_millis(if flag.load(Ordering::Relaxed) { 100 } else { 0 });
        Reply { pause, ..model.reply(request) }
    });
    let canceled = store.pull(&server.model(), INSECURE, &mut |progress| {
        if progress.completed > 30_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(canceled, Err(StoreError::Canceled)), "{canceled:?}");
    slow.store(false, Ordering::Relaxed);
    let before = server.requests_of(&digest).len();
    assert!(before < 7);
    pull(&store, &server.model()).unwrap();
    let fetched: usize = server.requests_of(&digest)[before..]
        .iter()
        .map(|r| r.range().map_or(0, |(from, to)| to + 1 - from))
        .sum();
    assert!(fetched < 700_000, "{fetched}");
    check_integrity(folder.path());
    assert!(fs::read_dir(folder.path().join("blobs")).unwrap().count() == 3);
}
