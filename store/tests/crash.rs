//! Processes that write to one store: one that is killed, fifty times, and several at once.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kit::fake::{Hosted, Registry as _, Reply, Server};
use kit::{blob, blob_files, check_integrity, labelled_gguf, lines, name, open};
use weirgate_store::{Base, CreateRequest, Location, Store, StoreError, Transfer};

const FOLDER: &str = "WEIRGATE_CRASH_TEST_FOLDER";
const REGISTRY: &str = "WEIRGATE_CRASH_TEST_REGISTRY";
/// How many rounds the process makes; without it, as many as it can.
const ROUNDS: &str = "WEIRGATE_CRASH_TEST_ROUNDS";
const KILLS: u64 = 50;

fn fine(result: Result<(), StoreError>) {
    match result {
        Ok(()) | Err(StoreError::ModelNotFound(_) | StoreError::BlobNotFound(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

fn work(store: &Arc<Store>, registry: &str, round: u64) {
    let base = |label: &str| Base::Files(vec![("m.gguf".to_owned(), blob(store, &labelled_gguf(label)))]);
    let mut request =
        CreateRequest::new(name(&format!("made{}", round % 3)), base(&format!("{}", round % 7)));
    request.system = Some(format!("round {round}").repeat(2_000));
    fine(lines(|report| store.create(&request, report)).map(drop));
    fine(store.copy(&format!("made{}", round % 3), &name(&format!("copy{}", round % 2))));
    if round.is_multiple_of(4) {
        fine(lines(|report| store.pull(registry, Transfer { insecure: true }, report)).map(drop));
    }
    fine(store.delete(&format!("made{}", (round + 1) % 3)));
    if round.is_multiple_of(4) {
        fine(store.delete(registry));
    }
}

/// Not a test of its own: what the processes run.
#[test]
#[ignore = "run by the others"]
fn writer() {
    let (Ok(folder), Ok(registry)) = (std::env::var(FOLDER), std::env::var(REGISTRY)) else { return };
    let store = open(Path::new(&folder));
    let rounds = std::env::var(ROUNDS).map_or(u64::MAX, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        work(&store, &registry, round);
    }
}

fn start(folder: &Path, registry: &str, rounds: Option<u64>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "writer"]).env(FOLDER, folder).env(REGISTRY, registry);
    command.envs(rounds.map(|rounds| (ROUNDS, rounds.to_string())));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn processes_that_share_a_store_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let model = Hosted::new(vec![7; 400_000]);
    let server =
        Server::start(move |request| Reply { pause: Duration::from_millis(1), ..model.reply(request) });
    let writers = [0; 3].map(|_| start(folder.path(), &server.model(), Some(40)));
    for writer in writers {
        let output = writer.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    check_integrity(folder.path());
    let store = open(folder.path());
    let left = blob_files(folder.path());
    assert!(left.iter().all(|name| !name.starts_with('.') && !name.contains("-partial")), "{left:?}");
    for entry in store.list() {
        assert!(matches!(entry.location, Location::Gguf(_)), "{entry:?}");
    }
}

#[test]
fn killed_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..400_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let model = Hosted::new(bytes);
    let server =
        Server::start(move |request| Reply { pause: Duration::from_millis(1), ..model.reply(request) });
    let (mut partial, mut temporary, mut listed) = (0, 0, 0);
    let mut kills = 0;
    // More where none of so many was in the middle of a file: that is chance.
    while kills < KILLS || (kills < 10 * KILLS && (partial == 0 || temporary == 0)) {
        let kill = kills;
        kills += 1;
        let mut child = start(folder.path(), &server.model(), None);
        std::thread::sleep(Duration::from_millis(20 + fastrand::u64(0..120)));
        assert!(child.try_wait().unwrap().is_none(), "the writer failed before kill {kill}");
        child.kill().unwrap();
        child.wait().unwrap();
        check_integrity(folder.path());
        let files = blob_files(folder.path());
        partial += usize::from(files.iter().any(|name| name.contains("-partial")));
        temporary += usize::from(files.iter().any(|name| name.starts_with('.')));

        let store = open(folder.path());
        let left: Vec<String> =
            blob_files(folder.path()).into_iter().filter(|name| name.starts_with('.')).collect();
        assert!(left.is_empty(), "kill {kill}: {left:?}");
        for entry in store.list() {
            assert!(matches!(entry.location, Location::Gguf(_)), "kill {kill}: {entry:?}");
            store.settings(&entry).unwrap();
            listed += 1;
        }
        check_integrity(folder.path());
    }
    println!(
        "of {kills} kills, {temporary} left temporary files, {partial} a download; {listed} models seen"
    );
    // It was in the middle of things, or this proves nothing.
    assert!(temporary > 0 && partial > 0 && listed > 0, "{temporary} {partial} {listed}");
}
