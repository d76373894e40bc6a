//! Disks that fill up in the middle of things.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod kit;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kit::fake::{Hosted, Registry as _, Server};
use kit::{SmallDisk, blob, blob_files, check_integrity, lines, name, open};
use weirgate_store::{Base, CreateRequest, Digest, Store, StoreError, Transfer};

/// There was room for it when it began.
#[test]
fn a_download_that_a_disk_has_no_more_room_for_says_so_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path().join("small"), 1 << 20) else { return };
    let store = open(&disk.0);
    let model = Hosted::new((0..700_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    let filler = disk.0.join("filler");
    let fills = Arc::new(AtomicBool::new(true));
    let (flag, path) = (Arc::clone(&fills), filler.clone());
    let server = Server::start(move |request| {
        if request.path.contains("/blobs/") && flag.swap(false, Ordering::SeqCst) {
            // As much as there is.
            let _ = fs::write(&path, vec![1; 1 << 20]);
        }
        model.reply(request)
    });
    let pull = || lines(|report| store.pull(&server.model(), Transfer { insecure: true }, report));
    let error = pull().unwrap_err();
    assert!(matches!(error.cause(), StoreError::DiskFull { free: 0, .. }), "{error:?}");
    assert!(matches!(store.find(&server.model()), Err(StoreError::ModelNotFound(_))));
    assert!(!fills.load(Ordering::SeqCst), "it had begun");
    fs::remove_file(filler).unwrap();
    pull().unwrap();
    check_integrity(&disk.0);
    assert_eq!(store.list().len(), 1);
}

fn demo(store: &Store) -> Vec<(String, Digest)> {
    let files = weirgate_demo_model::FILES.iter();
    files.map(|(name, contents)| ((*name).to_owned(), blob(store, contents))).collect()
}

/// Neither is anything half made left, nor is what was there before lost.
#[test]
fn a_model_that_a_disk_has_no_room_for_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let size = weirgate_demo_model::FILES.iter().map(|(_, contents)| contents.len() as u64).sum::<u64>();
    // Once for the checkpoint that is sent, and a half for what is made of it.
    let Some(disk) = SmallDisk::mount(folder.path().join("small"), size + size / 2) else { return };
    let store = open(&disk.0);
    let files = demo(&store);
    let before = blob_files(&disk.0);
    let made = lines(|report| store.create(&CreateRequest::new(name("m"), Base::Files(files)), report));
    assert!(matches!(made, Err(StoreError::DiskFull { .. })), "{made:?}");
    assert_eq!(blob_files(&disk.0), before);
    assert!(store.list().is_empty());
}

#[test]
fn a_quantization_that_a_disk_has_no_room_for_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let size = weirgate_demo_model::FILES.iter().map(|(_, contents)| contents.len() as u64).sum::<u64>();
    // Twice for the checkpoint and the model that is made of it; half as much would be needed for what is made of that.
    let room = 2 * size + size / 4;
    let Some(disk) = SmallDisk::mount(folder.path().join("small"), room) else { return };
    let store = open(&disk.0);
    let files = demo(&store);
    lines(|report| store.create(&CreateRequest::new(name("m"), Base::Files(files)), report)).unwrap();
    let before = blob_files(&disk.0);
    let request = CreateRequest {
        quantize: Some("q8_0".to_owned()),
        ..CreateRequest::new(name("small"), Base::Model("m".to_owned()))
    };
    let made = lines(|report| store.create(&request, report));
    assert!(matches!(made, Err(StoreError::DiskFull { .. })), "{made:?}");
    assert_eq!(blob_files(&disk.0), before);
    let names: Vec<String> = store.list().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["m:latest"]);
}
