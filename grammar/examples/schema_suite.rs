//! JSON-Schema-Test-Suite by keyword and draft, as Markdown: `schema_suite CASES.jsonl TOKENIZER.json`.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "../tests/support/maskbench.rs"]
#[allow(dead_code)]
mod maskbench;

use std::collections::BTreeMap;

use maskbench::{Case, Outcome};
use tokenizers::Tokenizer;
use weirgate_grammar::{Compiler, Vocabulary};

const DRAFTS: [&str; 5] = ["draft4", "draft6", "draft7", "draft2019-09", "draft2020-12"];

/// What became of some schemas.
#[derive(Default, Clone, Copy)]
struct Count {
    schemas: usize,
    right: usize,
    refused: usize,
    /// Schemas of which a valid instance is rejected, and none else is wrong.
    narrow: usize,
    /// Schemas of which an invalid instance is accepted.
    wide: usize,
}

impl Count {
    fn add(&mut self, outcome: &Outcome) {
        self.schemas += 1;
        self.right += usize::from(outcome.is_right());
        self.refused += usize::from(outcome.refused.is_some());
        let wide = !outcome.invalid_accepted.is_empty() || !outcome.faults.is_empty();
        self.wide += usize::from(wide);
        self.narrow += usize::from(!wide && !outcome.valid_rejected.is_empty());
    }

    /// `right / schemas`, with what is neither right nor refused.
    fn cell(self) -> String {
        if self.schemas == 0 {
            return String::new();
        }
        let marks = [(self.narrow, 'n'), (self.wide, 'w')];
        let marks =
            marks.iter().filter(|(count, _)| *count > 0).map(|(count, mark)| format!(" {count}{mark}"));
        format!("{}/{}{}", self.right, self.schemas, marks.collect::<String>())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [cases, tokenizer] = arguments.as_slice() else {
        println!("skipped: CASES.jsonl and TOKENIZER.json were not given");
        return;
    };
    let json = std::fs::read(tokenizer).expect("a tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(&json).expect("a tokenizer");
    let tokenize = |text: &str| tokenizer.encode_fast(text, false).expect("tokenizes").get_ids().to_vec();
    let vocabulary = Vocabulary::from_tokenizer_json(&json).expect("a vocabulary");
    let compiler = Compiler::new(vocabulary, 1 << 20).expect("a vocabulary");

    let mut counts: BTreeMap<String, [Count; DRAFTS.len()]> = BTreeMap::new();
    let mut totals = [Count::default(); DRAFTS.len()];
    let mut wrong = Vec::new();
    for line in std::fs::read_to_string(cases).expect("cases").lines() {
        let case: Case = serde_json::from_str(line).expect("a case");
        let (head, _) = case.name.split_once(": ").expect("a name");
        let (draft, keyword) = head.split_once(' ').expect("a draft");
        let at = DRAFTS.iter().position(|known| *known == draft).expect("a draft");
        let outcome = maskbench::run(&compiler, &tokenize, &case);
        counts.entry(keyword.to_owned()).or_default()[at].add(&outcome);
        totals[at].add(&outcome);
        wrong.extend(outcome.invalid_accepted.iter().map(|line| format!("accepted: {line}")));
        wrong.extend(
            outcome
                .valid_rejected
                .iter()
                .filter(|one| one.order.is_none())
                .map(|one| format!("rejected: {}", one.line)),
        );
        wrong.extend(outcome.faults.iter().map(|line| format!("fault: {line}")));
    }
    println!("| keyword | {} |\n|---|{}", DRAFTS.join(" | "), "---:|".repeat(DRAFTS.len()));
    for (keyword, row) in counts {
        println!("| {keyword} | {} |", row.map(Count::cell).join(" | "));
    }
    println!("| **all** | {} |", totals.map(Count::cell).join(" | "));
    println!("| refused | {} |", totals.map(|count| count.refused.to_string()).join(" | "));
    println!(
        "\nInvalid instances accepted, and valid ones rejected also with their keys in the schema's order:\n"
    );
    println!("```text\n{}\n```", wrong.join("\n"));
}
