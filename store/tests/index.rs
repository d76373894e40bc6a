//! The index: what it saves, and that the files are the truth whatever becomes of it.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::path::{Path, PathBuf};

use kit::{demo_files, labelled_gguf, settings};
use rusqlite::Connection;
use weirgate_store::{Entry, Store, StoreSettings};

/// GGUF files with a header alone, which nobody can say of whether they embed, and one model that is whole.
const HEADERS: u32 = 5;
const MODELS: u32 = HEADERS + 1;

/// A store of our own beside a folder of loose files.
struct Places {
    folder: tempfile::TempDir,
}

impl Places {
    fn new() -> Self {
        let places = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(places.loose()).unwrap();
        for number in 0..HEADERS {
            places.put(number, "llama");
        }
        demo_files(&places.loose().join("whole"));
        places
    }

    fn loose(&self) -> PathBuf {
        self.folder.path().join("loose")
    }

    fn index(&self) -> PathBuf {
        self.folder.path().join("own/.weirgate/index.sqlite3")
    }

    /// Model `number` of architecture `family`.
    fn put(&self, number: u32, family: &str) {
        let bytes = labelled_gguf(&format!("number {number}"));
        let at = bytes.windows(5).position(|window| window == b"llama").unwrap();
        let bytes = [&bytes[..at], family.as_bytes(), &bytes[at + 5..]].concat();
        fs::write(self.loose().join(format!("m{number}.gguf")), bytes).unwrap();
    }

    fn open(&self) -> Store {
        let own = settings(&self.folder.path().join("own"));
        Store::open(StoreSettings { folders: vec![self.loose()], ..own }).unwrap()
    }

    /// What a store opened now lists, with whether each is an embedder.
    fn list(&self) -> Vec<(String, String, bool)> {
        let store = self.open();
        let known =
            |entry: Entry| (entry.name.clone(), entry.details.family.clone(), store.is_embedder(&entry));
        let mut all: Vec<_> = store.list().into_iter().map(known).collect();
        all.sort();
        all
    }
}

fn sql(file: &Path, text: &str) {
    Connection::open(file).unwrap().execute_batch(text).unwrap();
}

fn count(file: &Path, kind: &str) -> u32 {
    let select = "SELECT count(*) FROM facts WHERE kind = ?1";
    Connection::open(file).unwrap().query_row(select, [kind], |row| row.get(0)).unwrap()
}

#[test]
fn headers_are_read_once() {
    let places = Places::new();
    let truth = places.list();
    assert_eq!(truth.len() as u32, MODELS);
    assert_eq!((count(&places.index(), "details"), count(&places.index(), "embedder")), (MODELS, 1));
    // The next start takes what is written there.
    sql(&places.index(), "UPDATE facts SET value = replace(value, 'llama', 'other') WHERE kind = 'details'");
    sql(&places.index(), "UPDATE facts SET value = 'true' WHERE kind = 'embedder'");
    let others = places.list();
    let told = |(name, family, embedder): &(String, String, bool)| {
        family == "other" && *embedder == (name == "whole")
    };
    assert!(others.iter().all(told), "{others:?}");
    // A file that changes is another one.
    places.put(0, "qwen2");
    assert_eq!(places.list()[0], ("m0".to_owned(), "qwen2".to_owned(), false));
    assert_eq!(places.list()[1..], others[1..]);
}

#[test]
fn a_damaged_index_is_made_anew_from_the_files() {
    let places = Places::new();
    let truth = places.list();
    let whole = fs::read(places.index()).unwrap();
    let zeroed: Vec<u8> = [&whole[..1000], &vec![0; whole.len() - 1000]].concat();
    let damages: [(&str, &dyn Fn()); 8] = [
        ("removed", &|| fs::remove_file(places.index()).unwrap()),
        ("empty", &|| fs::write(places.index(), b"").unwrap()),
        ("noise", &|| fs::write(places.index(), vec![0x5a; 10_000]).unwrap()),
        ("cut", &|| fs::write(places.index(), &whole[..whole.len() / 2]).unwrap()),
        ("zeroed", &|| fs::write(places.index(), &zeroed).unwrap()),
        ("another version", &|| sql(&places.index(), "PRAGMA user_version = 99; DROP TABLE facts")),
        ("no table", &|| sql(&places.index(), "DROP TABLE facts")),
        ("no JSON", &|| sql(&places.index(), "UPDATE facts SET value = '{'")),
    ];
    for (what, damage) in damages {
        damage();
        assert_eq!(places.list(), truth, "{what}");
        assert_eq!(count(&places.index(), "details"), MODELS, "{what}");
    }
}

#[test]
fn without_an_index_all_is_as_with_it() {
    let places = Places::new();
    let truth = places.list();
    fs::remove_file(places.index()).unwrap();
    fs::create_dir_all(places.index().join("in the way")).unwrap();
    assert_eq!(places.list(), truth);
    // One that another process keeps to itself is left alone.
    fs::remove_dir_all(places.index()).unwrap();
    assert_eq!(places.list(), truth);
    let other = Connection::open(places.index()).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE; DELETE FROM facts").unwrap();
    assert_eq!(places.list(), truth);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(count(&places.index(), "details"), MODELS);
}

#[test]
fn several_processes_share_one_index() {
    let places = Places::new();
    let truth = places.list();
    fs::remove_file(places.index()).unwrap();
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..8).map(|_| scope.spawn(|| places.list())).collect();
        for list in lists {
            assert_eq!(list.join().unwrap(), truth);
        }
    });
    assert_eq!(count(&places.index(), "details"), MODELS);
}
