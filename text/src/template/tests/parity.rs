//! Every template with every conversation renders as under transformers, or is refused as there. The expected texts'
//! digests are made by `tools/templates/make_goldens.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::*;

/// Mismatches shown in full.
const SHOWN: usize = 3;

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    #[serde(flatten)]
    conversation: Conversation,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat-templates")
}

/// A template of the repository, or one that may only be at hand elsewhere.
fn source(name: &str) -> Option<String> {
    let elsewhere = std::env::var("WEIRGATE_CHAT_TEMPLATES").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/chat-templates").to_owned()
    });
    let folders = [data(), elsewhere.into()];
    folders
        .iter()
        .find_map(|folder| std::fs::read_to_string(folder.join(name).with_added_extension("jinja")).ok())
}

fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn compiled(source: &str) -> Templates {
    let tokens =
        [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
    Templates::new(Sources {
        templates: vec![("default".to_owned(), source.to_owned())],
        special_tokens: tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).to_vec(),
    })
}

/// Deliberate differences: `template` → why, and with which conversations.
#[derive(serde::Deserialize)]
struct Difference {
    conversations: Vec<String>,
}

#[test]
fn templates_render_as_under_transformers() {
    let goldens = std::fs::read_to_string(data().join("goldens.json")).unwrap();
    let goldens: BTreeMap<String, BTreeMap<String, Option<String>>> = serde_json::from_str(&goldens).unwrap();
    let cases = std::fs::read_to_string(data().join("conversations.jsonl")).unwrap();
    let cases: Vec<Case> = cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let differences = std::fs::read_to_string(data().join("differences.json")).unwrap();
    let differences: BTreeMap<String, Difference> = serde_json::from_str(&differences).unwrap();
    let differs = |template: &String, case: &String| {
        differences.get(template).is_some_and(|difference| difference.conversations.contains(case))
    };
    let (mut compared, mut wrong) = (0, Vec::new());
    for (name, expected) in &goldens {
        let Some(source) = source(name) else {
            eprintln!("skipped: {name} is not at hand");
            continue;
        };
        let templates = compiled(&source);
        for case in &cases {
            let ours = templates.render(&case.conversation, ROOM);
            compared += 1;
            let same = ours.as_deref().ok().map(digest) == expected[&case.name];
            if same == differs(name, &case.name) {
                wrong.push(format!("{name} / {}: {ours:?}", case.name));
            }
        }
    }
    eprintln!("{compared} prompts compared");
    assert!(compared >= 11 * cases.len(), "only {compared} prompts compared");
    let shown = wrong.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(
        wrong.is_empty(),
        "{} prompts are not as expected (`make prove-templates` shows how):\n{shown}",
        wrong.len()
    );
}
