//! Manifests as registries and other programs may write them: whatever one says, a model is described or refused, and
//! nothing outside of the store is looked at.
//!
//!     cargo +nightly fuzz run manifest fuzz/corpus/manifest -- -max_len=4096
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use weirgate_store::{Location, Store, StoreSettings};

struct Place {
    folder: PathBuf,
    store: Arc<Store>,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("weirgate-fuzz-{}", std::process::id()));
    let settings = StoreSettings { ollama: vec![folder.clone()], ..StoreSettings::default() };
    fs::create_dir_all(folder.join("manifests/registry.ollama.ai/library/m")).expect("a folder");
    fs::create_dir_all(folder.join("blobs")).expect("a folder");
    Place { store: Arc::new(Store::open(settings).expect("a store")), folder }
});

fuzz_target!(|data: &[u8]| {
    let Place { folder, store } = &*PLACE;
    fs::write(folder.join("manifests/registry.ollama.ai/library/m/latest"), data).expect("a manifest");
    for entry in store.list() {
        if let Location::Folder(path) | Location::Gguf(path) = &entry.location {
            assert!(path.starts_with(folder), "{}", path.display());
        }
        let _ = store.settings(&entry);
        let _ = store.show(&entry, true);
        assert!(store.is_current(&entry));
    }
    let _ = store.find("m");
});
