//! Tokenizers from GGUF files against the vectors beside them in `../shared/data/gguf-vocab`: texts separated by a
//! line of their own, and a line of token ids for each. Skipped where the folder is missing.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;
use weirgate_models::ModelFiles;

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn vocab_file(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gguf-vocab");
    let path = folder.join(format!("{name}.gguf"));
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {} is missing", path.display());
    None
}

fn tokenizer(path: &Path) -> Tokenizer {
    let files = ModelFiles::open(path).unwrap();
    Tokenizer::from_bytes(&*files.read("tokenizer.json").unwrap().unwrap()).unwrap()
}

fn check(name: &str) {
    let Some(path) = vocab_file(name) else {
        return;
    };
    let tokenizer = tokenizer(&path);
    let texts = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
    let expected = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
    let texts: Vec<&str> = texts.strip_suffix(SEPARATOR).unwrap().split(SEPARATOR).collect();
    let expected: Vec<Vec<u32>> = expected
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    assert!(texts.len() > 40);
    let mut wrong = Vec::new();
    for (text, expected) in texts.iter().zip(&expected) {
        let ids = tokenizer.encode(*text, false).unwrap().get_ids().to_vec();
        if ids != *expected {
            wrong.push(format!("{text:?}\n  ours {ids:?}\n  vector {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), texts.len(), wrong.join("\n"));
    println!("tokenizer | {name} | {} texts", texts.len());
    assert_eq!(texts.len(), expected.len());
}

#[test]
fn gpt_2() {
    check("gpt-2");
}

#[test]
fn llama_spm() {
    check("llama-spm");
}

#[test]
fn phi_3() {
    check("phi-3");
}

#[test]
fn bert_bge() {
    check("bert-bge");
}
