//! Free text, then a grammar: what comes through is compared with what the plan says in words.
#![allow(clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicBool;

use serde_json::json;
use weirgate_engine::{Grammar, GrammarFault, GrammarSource};
use weirgate_grammar::{Compiler, GrammarSpec, Limits, Plan, Rule, Stage, Staged, Trigger, Vocabulary};

const SPECIAL: [&str; 3] = ["<|call|>", "<think>", "</think>"];

/// A byte-level `tokenizer.json`: every byte, `<|call|>` as a special token, the marks of reasoning as added ones.
fn vocabulary() -> Vocabulary {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let other = (0u8..=255).filter(|byte| !printable(byte)).zip('\u{100}'..);
    let own = (0u8..=255).filter(printable).map(|byte| (byte, char::from(byte)));
    let vocab: serde_json::Map<_, _> =
        own.chain(other).map(|(byte, c)| (c.to_string(), json!(byte))).collect();
    let added: Vec<_> = SPECIAL
        .iter()
        .zip(256..)
        .map(|(content, id)| {
            json!({ "id": id, "content": content,
        "special": id == 256, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false })
        })
        .collect();
    let file = json!({ "version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "truncation": null, "padding": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [], "unk_token": null } });
    Vocabulary::from_tokenizer_json(file.to_string().as_bytes()).expect("a vocabulary")
}

fn staged(plan: &Plan) -> Staged {
    let compiler = Compiler::new(vocabulary(), 1 << 20).expect("a vocabulary");
    compiler.compile_plan(plan, &Limits::default(), &AtomicBool::new(false)).expect("compiles")
}

/// A text's tokens: special ones where they are written, else bytes.
fn tokens(text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(at) = SPECIAL.iter().position(|special| rest.starts_with(special)) {
            out.push(256 + at as u32);
            rest = &rest[SPECIAL[at].len()..];
        } else {
            out.extend(c.to_string().bytes().map(u32::from));
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

fn allows(grammar: &mut dyn Grammar, token: u32) -> bool {
    let mut mask = vec![0u32; 9];
    grammar.fill_mask(&mut mask).expect("a mask");
    mask[token as usize / 32] >> (token % 32) & 1 == 1
}

/// Takes a text token by token; the token it stops at, or whether it may end there.
fn take(grammar: &mut dyn Grammar, text: &str) -> Result<bool, usize> {
    for (at, token) in tokens(text).into_iter().enumerate() {
        if !allows(grammar, token) {
            assert!(grammar.advance(token).is_err(), "a token that is not in the mask is refused");
            return Err(at);
        }
        grammar.advance(token).expect("allowed");
    }
    Ok(grammar.is_final().expect("no fault"))
}

fn run(plan: &Plan, text: &str) -> Result<bool, usize> {
    take(staged(plan).start().as_mut(), text)
}

fn trigger(text: &str, at_start: bool) -> Trigger {
    Trigger { text: text.into(), at_start }
}

fn call() -> GrammarSpec {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" }, "b": { "type": "boolean" } },
        "required": ["a"], "additionalProperties": false });
    let one = Rule::Sequence(vec![
        Rule::Text("{\"name\": \"f\", \"arguments\": ".into()),
        Rule::Schema(schema.to_string()),
        Rule::Text("}".into()),
    ]);
    let more = Rule::Sequence(vec![Rule::Text("<|call|>".into()), one.clone()]);
    GrammarSpec::Rule(Rule::Sequence(vec![one, Rule::Many(Box::new(more))]))
}

#[test]
fn text_is_free_until_the_trigger_and_then_only_calls_come_through() {
    let plan = vec![
        Stage::Free { triggers: vec![(trigger("<|call|>", false), 1)], may_end: true },
        Stage::Constrained(call()),
    ];
    assert_eq!(run(&plan, "any {\"name\": text, <| even this"), Ok(true));
    assert_eq!(run(&plan, "x<|call|>"), Ok(false));
    assert_eq!(run(&plan, "x<|call|>{\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": true}}"), Ok(true));
    assert_eq!(
        run(&plan, "<|call|>{\"name\": \"f\", \"arguments\": {\"a\": 1}}<|call|>{\"name\""),
        Ok(false)
    );
    assert_eq!(run(&plan, "x<|call|>{\"name\": \"g"), Err(12));
    assert_eq!(run(&plan, "x<|call|>{\"name\": \"f\", \"arguments\": {\"a\": true"), Err(35));
    assert_eq!(run(&plan, "<|call|>{\"name\": \"f\", \"arguments\": {\"a\": 1}} and"), Err(37));
}

#[test]
fn reasoning_comes_before_the_grammar_and_cannot_be_the_end() {
    let answer = GrammarSpec::Choice(vec!["yes".into(), "no".into()]);
    let plan = vec![
        Stage::Optional { mark: "<think>".into(), taken: 1, otherwise: 2 },
        Stage::Free { triggers: vec![(trigger("</think>", false), 2)], may_end: false },
        Stage::Constrained(answer),
    ];
    assert_eq!(run(&plan, "yes"), Ok(true));
    assert_eq!(run(&plan, "<think>hmm: maybe"), Ok(false));
    assert_eq!(run(&plan, "<think>hmm</think>no"), Ok(true));
    assert_eq!(run(&plan, "<think>hmm</think>maybe"), Err(5));
    assert_eq!(run(&plan, "maybe"), Err(0));
    // The mark counts only at the beginning.
    assert_eq!(run(&plan, "y<think>"), Err(1));
}

#[test]
fn a_rollback_leads_back_over_the_stages() {
    let plan = vec![
        Stage::Optional { mark: "<think>".into(), taken: 1, otherwise: 2 },
        Stage::Free { triggers: vec![(trigger("</think>", false), 2)], may_end: false },
        Stage::Constrained(GrammarSpec::Regex("(ab|ba)+".into())),
    ];
    let staged = staged(&plan);
    let mut grammar = staged.start();
    let grammar = grammar.as_mut();
    assert_eq!(take(grammar, "<think>x</think>abba"), Ok(true));
    grammar.rollback(3).expect("taken before");
    assert!(!allows(grammar, u32::from(b'a')) && allows(grammar, u32::from(b'b')));
    assert_eq!(take(grammar, "b"), Ok(true));
    // To within the reasoning, and on another way.
    grammar.rollback(3).expect("taken before");
    assert_eq!(take(grammar, "y</think>ba"), Ok(true));
    // To the beginning.
    grammar.rollback(6).expect("taken before");
    assert_eq!(take(grammar, "ab"), Ok(true));
    grammar.rollback(1).expect("taken before");
    assert_eq!(take(grammar, "a"), Err(0));
    assert!(matches!(staged.start().rollback(1), Err(GrammarFault::Failed(_))));
}

#[test]
fn a_schema_in_a_rule_is_refused_by_its_place() {
    let part = |schema: serde_json::Value| Rule::Schema(schema.to_string());
    let rule = Rule::AnyOf(vec![
        part(json!({ "type": "object" })),
        part(json!({ "items": { "uniqueItems": true } })),
    ]);
    let compiler = Compiler::new(vocabulary(), 1 << 20).expect("a vocabulary");
    let error = compiler.compile(&GrammarSpec::Rule(rule), &Limits::default(), &AtomicBool::new(false));
    let text = error.expect_err("refused").to_string();
    assert!(text.starts_with("the schema's keyword 'uniqueItems' at '/1/items' is not supported"), "{text}");
}
