use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Setup, on_both};
use crate::{DatasetError, Datasets, Id, NewDataset, Place, StateFolder, Table};

on_both!(
    a_data_set_comes_back_as_it_was,
    what_is_not_valid_leaves_nothing,
    what_a_crash_leaves_is_cleared_away
);

const LINE: &str = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;

fn open(folder: &StateFolder, table: &Arc<Table>) -> Datasets {
    Datasets::open(folder, table.clone(), &Place::Local).unwrap()
}

fn file(name: &str) -> NewDataset {
    NewDataset { name: name.into(), description: Some("Ты".into()), limit: 1 << 20 }
}

/// Every file below `path`, but for the database's.
fn files(path: &Path) -> Vec<String> {
    let below = ["datasets", "incoming"].map(|name| path.join(name));
    let entries = below.iter().filter_map(|path| fs::read_dir(path).ok()).flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn a_data_set_comes_back_as_it_was(setup: &Setup) {
    let (folder, table) = setup.server("a");
    let datasets = open(&folder, &table);
    let content = format!("{LINE}\r\n\n{LINE}");
    let row = datasets.add(&file("train.jsonl"), &mut content.as_bytes()).unwrap();
    assert_eq!((row.name.as_str(), row.description.as_deref()), ("train.jsonl", Some("Ты")));
    assert_eq!(row.metadata["prompts"], 2);
    assert_eq!(row.metadata["responses"], 2);
    assert_eq!(row.metadata["conversations"], 2);
    assert_eq!(row.metadata["bytes"], content.len());
    let mut read = String::new();
    datasets.read(&row.id).unwrap().read_to_string(&mut read).unwrap();
    assert_eq!(read, content);
    let path = datasets.on_disk(&row.id, Path::new("/nowhere"), &|| true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    let metadata = fs::read_to_string(path.with_file_name("metadata.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&metadata).unwrap(), row.metadata);
    let listed = table.datasets().unwrap();
    assert_eq!((listed.len(), &listed[0].id, &listed[0].metadata), (1, &row.id, &row.metadata));
    assert_eq!(table.dataset(&row.id).unwrap().unwrap().name, "train.jsonl");
    assert_eq!(table.dataset(&Id::random()).unwrap(), None);
}

/// Gives a line over and over, and then an error.
struct Breaks(usize);

impl Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::ConnectionReset)?;
        let line = format!("{LINE}\n");
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

fn what_is_not_valid_leaves_nothing(setup: &Setup) {
    let (folder, table) = setup.server("a");
    let datasets = open(&folder, &table);
    let wrong = format!("{LINE}\nwrong\n{LINE}\n[]\n");
    match datasets.add(&file("f"), &mut wrong.as_bytes()) {
        Err(DatasetError::Lines(errors)) => {
            assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 4]);
        }
        other => panic!("{other:?}"),
    }
    let broken = datasets.add(&file("f"), &mut Breaks(5));
    assert!(
        matches!(broken, Err(DatasetError::BrokenOff(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    );
    let large = datasets.add(&NewDataset { limit: 100, ..file("f") }, &mut Breaks(5));
    assert!(matches!(large, Err(DatasetError::TooLarge { limit: 100 })));
    let nul = NewDataset { description: Some("a\0b".into()), ..file("f") };
    assert!(matches!(datasets.add(&nul, &mut LINE.as_bytes()), Err(DatasetError::Nul("description"))));
    assert!(matches!(datasets.add(&file("\0"), &mut LINE.as_bytes()), Err(DatasetError::Nul("name"))));
    assert!(table.datasets().unwrap().is_empty());
    assert!(files(&setup.folder.path().join("a")).is_empty());
}

fn what_a_crash_leaves_is_cleared_away(setup: &Setup) {
    let (folder, table) = setup.server("a");
    let datasets = open(&folder, &table);
    let kept = datasets.add(&file("f"), &mut LINE.as_bytes()).unwrap().id;
    assert_eq!(files(&setup.folder.path().join("a")), [kept.to_string()]);
    drop(datasets);
    let path = setup.folder.path().join("a");
    let put = |folder: &str, name: &str| {
        fs::create_dir_all(path.join(folder).join(name)).unwrap();
        fs::write(path.join(folder).join(name).join("data.jsonl"), LINE).unwrap();
    };
    // An upload under way, one that was kept but not listed, and one that was listed.
    put("incoming", Id::random().as_str());
    let unlisted = Id::random();
    put("datasets", unlisted.as_str());
    fs::create_dir(path.join("incoming").join(unlisted.as_str())).unwrap();
    fs::create_dir(path.join("incoming").join(kept.as_str())).unwrap();
    put("incoming", "x");
    // Of an upload that this server does not know, as of another database.
    let unknown = Id::random();
    put("datasets", unknown.as_str());
    let datasets = open(&folder, &table);
    let mut expected = [kept.to_string(), unknown.to_string()];
    expected.sort();
    let begun = Instant::now();
    loop {
        let mut left = files(&path);
        left.sort();
        if left == expected {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(datasets.read(&kept).is_ok());
}
