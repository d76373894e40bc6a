//! The crates' dependencies point one way (docs/architecture.md). Checked against `cargo metadata` and the sources.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Normal (not dev, not build) dependencies of every workspace member.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let deps = package["dependencies"].as_array().expect("dependencies");
        let normal = deps.iter().filter(|dep| dep["kind"].is_null());
        let names = normal.map(|dep| dep["name"].as_str().expect("name").to_owned()).collect();
        all.insert(package["name"].as_str().expect("name").to_owned(), names);
    }
    all
}

#[test]
fn dependencies_point_one_way() {
    let all = dependencies();
    assert!(all.len() >= 8, "found only {:?}", all.keys());
    let forbidden: &[(&str, &[&str])] = &[
        ("weirgate-types", &["weirgate-", "tokio", "axum"]),
        ("weirgate-kernels", &["weirgate-", "tokio", "axum", "tokenizers", "serde_json"]),
        ("weirgate-models", &["weirgate-", "tokio", "axum", "tokenizers"]),
        (
            "weirgate-engine",
            &["weirgate-router", "weirgate-hub", "tokio", "axum", "tokenizers", "serde_json"],
        ),
        (
            "weirgate-store",
            &["weirgate-router", "weirgate-engine", "weirgate-kernels", "weirgate-grammar", "tokio", "axum"],
        ),
        ("weirgate-text", &["weirgate-router", "weirgate-engine", "weirgate-kernels", "tokio", "axum"]),
        ("weirgate-finetune", &["weirgate-router", "weirgate-engine", "weirgate-kernels", "tokio", "axum"]),
        ("weirgate-hub", &["weirgate-", "tokio", "axum"]),
        ("weirgate-grammar", &["weirgate-router", "weirgate-kernels", "weirgate-models", "tokio", "axum"]),
        ("weirgate-router", &["weirgate-kernels", "cudarc", "candle"]),
        ("weirgate-benchmark", &["weirgate-router", "axum"]),
        (
            "weirgate-jobs",
            &[
                "weirgate-router",
                "weirgate-engine",
                "weirgate-kernels",
                "weirgate-store",
                "weirgate-hub",
                "axum",
            ],
        ),
    ];
    for (package, banned) in forbidden {
        for dependency in &all[*package] {
            let bad = banned.iter().any(|prefix| dependency.starts_with(prefix));
            assert!(!bad, "{package} must not depend on {dependency}");
        }
    }
    for (package, dependencies) in &all {
        for top in ["weirgate", "weirgate-finetune"] {
            assert!(
                !dependencies.iter().any(|dependency| dependency == top),
                "{package} must not depend on {top}"
            );
        }
    }
}

/// All Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path());
    let files = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

#[test]
fn dialects_do_not_know_each_other() {
    let api = root().join("router/src/api");
    let folders: Vec<PathBuf> = fs::read_dir(&api)
        .expect("router/src/api")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.is_dir())
        .collect();
    let names: Vec<String> =
        folders.iter().map(|p| p.file_name().expect("name").to_string_lossy().into_owned()).collect();
    assert!(names.len() >= 4, "found only {names:?}");
    // `docs` describes all of them; the platforms' routes answer requests of the others, so they may use TGI's and OpenAI's, and
    // the management API has OpenAI's routes, too. Jan's models lie among OpenAI's routes, and errors have its form. Responses
    // and Anthropic's messages are chats of OpenAI's in other words.
    let may_use = |user: &str, other: &str| {
        user == "docs"
            || other == "docs"
            || (user == "platforms" && ["tgi", "openai"].contains(&other))
            || (["management", "jan", "responses", "anthropic"].contains(&user) && other == "openai")
    };
    for (folder, own) in folders.iter().zip(&names) {
        for path in sources(folder) {
            let text = fs::read_to_string(&path).expect("source");
            for other in names.iter().filter(|name| *name != own && !may_use(own, name)) {
                let uses = text.contains(&format!("api::{other}"))
                    || text.contains(&format!("super::super::{other}"));
                assert!(!uses, "{} uses the dialect {other}", path.display());
            }
        }
    }
}
