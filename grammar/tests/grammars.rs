//! Grammars over small vocabularies, compared with what the specification itself says.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "support/maskbench.rs"]
mod maskbench;
#[path = "support/schemas.rs"]
mod schemas;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use maskbench::taken;
use serde_json::json;
use weirgate_engine::{Grammar, GrammarSource};
use weirgate_grammar::{Compiled, Compiler, GrammarError, GrammarSpec, Limits, Vocabulary, Whitespace};

/// Every byte, and some longer tokens.
fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend(["ab", "{\"", "\":", "true", "  ", "é", "\"}", "12"].map(|text| text.as_bytes().to_vec()));
    // Never allowed.
    tokens.push(Vec::new());
    Vocabulary::from_bytes(tokens)
}

fn compiler() -> Compiler {
    Compiler::new(vocabulary(), 1 << 20).expect("a vocabulary")
}

fn compile(spec: &GrammarSpec) -> Result<Arc<Compiled>, GrammarError> {
    compiler().compile(spec, &Limits::default(), &AtomicBool::new(false))
}

fn schema(value: serde_json::Value) -> GrammarSpec {
    GrammarSpec::JsonSchema(value.to_string())
}

fn takes(compiled: &Compiled, text: &str) -> bool {
    let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
    taken(compiled, vocabulary().len(), &bytes, &mut Vec::new()).expect("no fault").is_none()
}

fn check(spec: &GrammarSpec, right: &[&str], wrong: &[&str]) {
    let compiled = compile(spec).expect("compiles");
    for text in right {
        assert!(takes(&compiled, text), "{spec:?} must take {text:?}");
    }
    for text in wrong {
        assert!(!takes(&compiled, text), "{spec:?} must not take {text:?}");
    }
}

#[test]
fn each_kind_of_grammar_takes_its_texts_and_no_others() {
    check(
        &GrammarSpec::Regex("a(bc)?|[0-9]{2,3}".into()),
        &["a", "abc", "12", "123"],
        &["", "ab", "1", "1234"],
    );
    check(
        &GrammarSpec::Choice(vec!["yes".into(), "ye\"s\n".into()]),
        &["yes", "ye\"s\n"],
        &["ye", "yess", ""],
    );
    check(&GrammarSpec::JsonObject, &["{}", r#"{"a":[1,null]}"#], &["[]", "1", r#"{"a":}"#, "{ }"]);
    check(&GrammarSpec::Lark("start: \"x\" start \"y\" | \"z\"".into()), &["z", "xxzyy"], &["xz", "zy"]);
    let object = schema(json!({
        "type": "object",
        "properties": { "b": { "type": "integer" }, "a": { "enum": ["x", "é"] } },
        "required": ["b"],
        "additionalProperties": false,
    }));
    check(
        &object,
        &[r#"{"b":1}"#, r#"{"b":-20,"a":"é"}"#],
        // Keys come in the schema's order, without blanks.
        &[r#"{"a":"x","b":1}"#, r#"{"b": 1}"#, r#"{"b":1.5}"#, r#"{"b":1,"c":2}"#, "{}"],
    );
    check(&schema(json!(true)), &["1", "\"\"", "[]"], &["tru", ""]);
}

#[test]
fn blanks_where_they_are_wanted() {
    let spec =
        schema(json!({ "type": "object", "properties": { "b": { "type": "array" } }, "required": ["b"] }));
    let flexible = compiler().with_whitespace(Whitespace::Flexible);
    let compiled = flexible.compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles");
    for text in [r#"{"b":[1,2]}"#, "{ \"b\" : [ 1 ,\n\t\t2 ] }"] {
        assert!(takes(&compiled, text), "{text:?}");
    }
    for text in
        ["{\"b b\":[]}".to_owned(), format!("{{{}\"b\":[]}}", " ".repeat(65)), "{\"b\":[1 2]}".to_owned()]
    {
        assert!(!takes(&compiled, &text), "{text:?}");
    }
    check(&spec, &[r#"{"b":[1,2]}"#], &[r#"{ "b":[]}"#, r#"{"b": []}"#, r#"{"b":[1, 2]}"#]);
}

#[test]
fn a_schema_cannot_relax_itself() {
    let spec =
        schema(json!({ "type": "string", "minLength": 2, "x-guidance": { "whitespace_flexible": true } }));
    check(&spec, &["\"ab\""], &["\"a\"", " \"ab\""]);
    let lenient = schema(json!({ "uniqueItems": true, "x-guidance": { "lenient": true } }));
    assert!(
        matches!(compile(&lenient), Err(GrammarError::Keyword { keyword, path, .. }) if keyword == "uniqueItems" && path.is_empty())
    );
}

#[test]
fn masks_allow_exactly_the_tokens_that_can_be_continued() {
    let compiled = compile(&GrammarSpec::Regex("(ab|12|é)+".into())).expect("compiles");
    let mut grammar = compiled.start();
    let allowed = |grammar: &mut dyn Grammar| {
        let vocab = vocabulary().len();
        let mut mask = vec![0u32; vocab.div_ceil(32) + 1];
        grammar.fill_mask(&mut mask).expect("a mask");
        assert!(
            mask[vocab / 32] >> (vocab % 32) == 0 && mask[vocab.div_ceil(32)] == 0,
            "beyond the vocabulary"
        );
        (0..vocab as u32).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect::<Vec<_>>()
    };
    // 'a', '1', the first byte of 'é', "ab", 'é', "12".
    assert_eq!(allowed(grammar.as_mut()), [0x31, 0x61, 0xc3, 256, 261, 263]);
    assert!(!grammar.is_final().expect("no fault"));
    grammar.advance(0xc3).expect("allowed");
    assert_eq!(allowed(grammar.as_mut()), [0xa9]);
    grammar.advance(0xa9).expect("allowed");
    assert!(grammar.is_final().expect("no fault"));
    grammar.rollback(2).expect("taken before");
    assert_eq!(allowed(grammar.as_mut()), [0x31, 0x61, 0xc3, 256, 261, 263]);
    assert!(grammar.advance(0x62).is_err());
    assert!(grammar.fill_mask(&mut [0; 9]).is_err(), "an error stays");
    // Other sequences of the same grammar are not concerned.
    assert_eq!(allowed(compiled.start().as_mut()).len(), 6);
}

#[test]
fn a_token_of_thousands_of_bytes_does_not_end_the_process() {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend([b"a".repeat(5_000), b"a".repeat(900)]);
    let compiler = Compiler::new(Vocabulary::from_bytes(tokens), 1 << 20).expect("a vocabulary");
    let spec = GrammarSpec::Regex("a*".into());
    let compiled = compiler.compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles");
    let mut mask = vec![0u32; 9];
    compiled.start().fill_mask(&mut mask).expect("a mask");
    assert_eq!((mask[3] >> (b'a' - 96) & 1, mask[8]), (1, 0b10), "the longest token never occurs");
}

#[test]
fn a_complete_text_is_final_and_nothing_follows() {
    let compiled = compile(&GrammarSpec::Choice(vec!["ab".into()])).expect("compiles");
    let mut grammar = compiled.start();
    grammar.advance(256).expect("allowed");
    let mut mask = vec![0u32; 9];
    grammar.fill_mask(&mut mask).expect("a mask");
    assert_eq!(mask, [0; 9]);
    assert!(grammar.is_final().expect("no fault"));
    assert!(grammar.advance(256).is_err());
}

#[test]
fn refusals_name_their_limit_or_keyword() {
    let limits =
        Limits { bytes: 200, depth: 4, properties: 2, regex_bytes: 60, repetition: 50, ..Limits::default() };
    let refuse = |spec: GrammarSpec| {
        let result = compiler().compile(&spec, &limits, &AtomicBool::new(false));
        result.expect_err("refused").to_string()
    };
    let starts = |spec, want: &str| {
        let got = refuse(spec);
        assert!(got.starts_with(want), "{got:?} instead of {want:?}");
    };
    starts(
        schema(json!({ "title": "x".repeat(300) })),
        "the grammar's size in bytes is 312; the limit is 200",
    );
    starts(
        schema(json!({ "a": { "a": { "a": { "a": { "a": 1 } } } } })),
        "the grammar's nesting depth is 5; the limit is 4",
    );
    starts(
        schema(json!({ "properties": { "a": {}, "b": {}, "c": {} } })),
        "the grammar's number of properties is 3;",
    );
    starts(
        GrammarSpec::Regex("(a{10}){6}".into()),
        "the grammar's regular expression's repetition count is 60;",
    );
    starts(GrammarSpec::Regex("a".repeat(61)), "the grammar's regular expression's size in bytes is 61;");
    starts(GrammarSpec::Regex("(".into()), "the regular expression is malformed");
    starts(GrammarSpec::JsonSchema("{".into()), "the schema is not JSON");
    starts(schema(json!(3)), "the schema is not JSON");
    starts(
        schema(json!({ "items": { "uniqueItems": true } })),
        "the schema's keyword 'uniqueItems' at '/items' is not supported",
    );
    starts(GrammarSpec::Choice(Vec::new()), "the grammar cannot produce any text");
    starts(schema(json!(false)), "the grammar cannot produce any text");
}

#[test]
fn hostile_grammars_fail_before_a_generation_begins() {
    let many: serde_json::Map<_, _> =
        (0..600).map(|i| (format!("p{i}"), json!({ "type": "string" }))).collect();
    for spec in [
        GrammarSpec::Regex("((a{1,100}){1,100}){1,100}".into()),
        schema(json!({ "$ref": "#" })),
        schema(json!({ "type": "object", "properties": many })),
        GrammarSpec::Lark("start: start".into()),
        GrammarSpec::Lark("".into()),
    ] {
        assert!(compile(&spec).is_err(), "{spec:?}");
    }
    let late = Limits { time: Duration::ZERO, ..Limits::default() };
    let error =
        compiler().compile(&GrammarSpec::JsonObject, &late, &AtomicBool::new(false)).expect_err("late");
    assert!(matches!(error, GrammarError::Limit { what: "compile time", .. }));
    let error = compiler().compile(&GrammarSpec::JsonObject, &Limits::default(), &AtomicBool::new(true));
    assert_eq!(error.expect_err("cancelled"), GrammarError::Cancelled);
}

#[test]
fn a_grammar_is_compiled_once_while_the_cache_has_room() {
    let compiler = Compiler::new(vocabulary(), 200_000).expect("a vocabulary");
    let get = |text: &str| {
        let spec = GrammarSpec::Regex(text.into());
        compiler.compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles")
    };
    let (a, b) = (get("a+"), get("b+"));
    assert!(a.bytes() > 60_000 && a.bytes() < 70_000);
    assert!(Arc::ptr_eq(&a, &get("a+")) && Arc::ptr_eq(&b, &get("b+")));
    get("c+");
    // Three fit; the fourth takes the place of the one not used for the longest time.
    get("a+");
    get("d+");
    assert!(Arc::ptr_eq(&a, &get("a+")) && !Arc::ptr_eq(&b, &get("b+")));
}

/// A `tokenizer.json` of three special and some ordinary tokens.
fn tokenizer_json(model: serde_json::Value, decoder: serde_json::Value) -> Vec<u8> {
    let added = json!([{ "id": 0, "content": "<s>", "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false }]);
    json!({ "version": "1.0", "added_tokens": added, "model": model, "decoder": decoder, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "truncation": null, "padding": null })
    .to_string()
    .into_bytes()
}

fn token_bytes(model: serde_json::Value, decoder: serde_json::Value) -> Vec<Vec<u8>> {
    let vocabulary = Vocabulary::from_tokenizer_json(&tokenizer_json(model, decoder)).expect("a vocabulary");
    (0..vocabulary.len() as u32).map(|id| vocabulary.bytes(id).to_vec()).collect()
}

#[test]
fn token_bytes_of_each_kind_of_tokenizer() {
    let bpe = |vocab| json!({ "type": "BPE", "vocab": vocab, "merges": [], "unk_token": null });
    // GPT-2's table: Ġ is the space, Ċ the newline, Ã© the two bytes of é.
    assert_eq!(
        token_bytes(
            bpe(json!({ "<s>": 0, "Ġa": 1, "Ċ": 2, "Ã©": 3 })),
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true })
        ),
        [&b""[..], b" a", b"\n", "é".as_bytes()]
    );
    let fallback = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
        { "type": "ByteFallback" }, { "type": "Fuse" } ] });
    assert_eq!(
        token_bytes(bpe(json!({ "<s>": 0, "▁a": 1, "<0x0A>": 2, "<0xE2>": 3, "é": 4 })), fallback),
        [&b""[..], b" a", b"\n", b"\xe2", "é".as_bytes()]
    );
    let pieces = json!({ "type": "WordPiece", "vocab": { "<s>": 0, "[UNK]": 1, "un": 2, "##like": 3, ",": 4, "{": 5 },
        "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100 });
    let decoder = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    assert_eq!(token_bytes(pieces, decoder), [&b""[..], b"", b" un", b"like", b",", b" {"]);
}

#[test]
fn json_of_tokens_that_bring_blanks_along() {
    let words = ["<s>", "[UNK]", "{", "}", "\"", ":", ",", "##\"", "##n", "1", "##2", "[", "]"];
    let vocab: serde_json::Map<String, serde_json::Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let model = json!({ "type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100 });
    let decoder = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
    let vocabulary = Vocabulary::from_tokenizer_json(&tokenizer_json(model, decoder)).expect("a vocabulary");
    let compiler = Compiler::new(vocabulary, 1 << 20).expect("a vocabulary");
    let spec = schema(
        json!({ "type": "object", "properties": { "n": { "type": "array", "items": { "type": "integer" } } },
        "required": ["n"], "additionalProperties": false }),
    );
    let compiled = compiler.compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles");
    let take = |tokens: &[&str]| {
        let ids: Vec<u32> = tokens
            .iter()
            .map(|token| words.iter().position(|word| word == token).expect("a word") as u32)
            .collect();
        taken(compiled.as_ref(), words.len(), &ids, &mut Vec::new()).expect("no fault")
    };
    // As the decoder writes it: ` { "n" : [ 12, 1 ] }`.
    assert_eq!(take(&["{", "\"", "##n", "##\"", ":", "[", "1", "##2", ",", "1", "]", "}"]), None);
    // ` { "n "`: another name.
    assert_eq!(take(&["{", "\"", "##n", "\""]), Some(3));
}

#[test]
fn forced_text_comes_as_the_tokenizer_writes_it() {
    let vocab = json!({ "<s>": 0, "{": 1, "\"": 2, "n": 3, "a": 4, "m": 5, "e": 6, ":": 7, "na": 8, "me": 9,
        "name": 10, "1": 11, "}": 12 });
    let merges = json!([["n", "a"], ["m", "e"], ["na", "me"]]);
    let model = json!({ "type": "BPE", "vocab": vocab, "merges": merges, "unk_token": null });
    let decoder =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let vocabulary = Vocabulary::from_tokenizer_json(&tokenizer_json(model, decoder)).expect("a vocabulary");
    let compiler = Compiler::new(vocabulary, 1 << 20).expect("a vocabulary");
    let spec = GrammarSpec::Regex("\\{\"name\":[1a]\\}".into());
    let compiled = compiler.compile(&spec, &Limits::default(), &AtomicBool::new(false)).expect("compiles");
    let mut grammar = compiled.start();
    assert_eq!(grammar.forced().expect("no fault"), [1, 2, 10, 2, 7]);
    for token in [1, 2, 10, 2, 7] {
        grammar.advance(token).expect("forced");
    }
    assert!(grammar.forced().expect("no fault").is_empty());
    grammar.advance(11).expect("allowed");
    assert_eq!(grammar.forced().expect("no fault"), [12]);
}

#[test]
fn maskbench_smoke() {
    let Some(cases) = maskbench::cases() else {
        println!("skipped: the shared MaskBench sample is not there");
        return;
    };
    let compiler = compiler();
    let tokenize = |text: &str| text.bytes().map(u32::from).collect();
    let outcomes: Vec<_> =
        cases.iter().step_by(14).map(|case| maskbench::run(&compiler, &tokenize, case)).collect();
    let right = outcomes.iter().filter(|outcome| outcome.is_right()).count();
    let accepted: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.invalid_accepted).collect();
    println!("{right} of {} right", outcomes.len());
    assert!(accepted.is_empty(), "invalid, but accepted: {accepted:?}");
    assert!(outcomes.len() >= 99 && right * 100 >= outcomes.len() * 78, "{right} of {}", outcomes.len());
}
