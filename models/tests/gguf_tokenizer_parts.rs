//! What surrounds the vocabulary of a GGUF tokenizer: special tokens, templates, pre-tokenizers; and SentencePiece's
//! merging against its definition, on random text.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::Tokenizer;
use weirgate_models::{GenerationConfig, Gguf, GgufValue, GgufWriter, ModelFiles};

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const BYTE: i32 = 6;

/// A vocabulary-only file: tokens with their types, and further keys.
fn files(model: &str, tokens: &[(&str, i32)], keys: Vec<(&str, GgufValue)>) -> ModelFiles {
    let mut writer = GgufWriter::new();
    let texts = tokens.iter().map(|(text, _)| (*text).to_owned()).collect();
    let types = tokens.iter().map(|(_, kind)| *kind).collect();
    writer.set("tokenizer.ggml.model", GgufValue::String(model.into()));
    writer.set("tokenizer.ggml.tokens", GgufValue::Strings(texts));
    writer.set("tokenizer.ggml.token_type", GgufValue::I32s(types));
    writer.set("general.architecture", GgufValue::String("llama".into()));
    keys.into_iter().for_each(|(key, value)| writer.set(key, value));
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    Gguf::from_bytes("t.gguf", bytes).unwrap().into()
}

fn tokenizer(files: &ModelFiles) -> Tokenizer {
    Tokenizer::from_bytes(&*files.read("tokenizer.json").unwrap().unwrap()).unwrap()
}

fn file(files: &ModelFiles, name: &str) -> Value {
    serde_json::from_slice(&files.read(name).unwrap().unwrap()).unwrap()
}

fn text(text: &str) -> GgufValue {
    GgufValue::String(text.into())
}

fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode(text, special).unwrap().get_ids().to_vec()
}

/// A SentencePiece vocabulary over `a` to `d` and the space, with scores that are all different.
fn pieces() -> Vec<(String, i32)> {
    let mut tokens: Vec<(String, i32)> =
        vec![("<unk>".into(), UNKNOWN), ("<s>".into(), CONTROL), ("</s>".into(), CONTROL)];
    tokens.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
    let letters = ["▁", "a", "b", "c", "d"];
    // In an order that has no pattern, so that long pieces come before short ones too.
    let mut joined = Vec::new();
    for (i, x) in letters.iter().enumerate() {
        for (j, y) in letters.iter().enumerate() {
            joined.push(((i * 7 + j * 3) % 11, format!("{x}{y}")));
            for (k, z) in letters.iter().enumerate().filter(|(k, _)| (i + j + k) % 2 == 0) {
                joined.push(((i * 5 + j * 2 + k) % 13, format!("{x}{y}{z}")));
            }
        }
    }
    joined.sort();
    tokens.extend(joined.into_iter().map(|(_, piece)| (piece, NORMAL)));
    tokens.extend(letters.map(|letter| (letter.to_owned(), NORMAL)));
    tokens
}

fn sentencepiece(tokens: &[(String, i32)], mut keys: Vec<(&str, GgufValue)>) -> ModelFiles {
    let scores = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { -(id as f32) }).collect();
    keys.push(("tokenizer.ggml.scores", GgufValue::F32s(scores)));
    let tokens: Vec<(&str, i32)> = tokens.iter().map(|(text, kind)| (text.as_str(), *kind)).collect();
    files("llama", &tokens, keys)
}

/// SentencePiece's definition: while any two neighbours make a token, join those of the best score, leftmost first.
fn join(text: &str, ids: &HashMap<&str, u32>) -> Vec<u32> {
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let best = symbols
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| Some((*ids.get(pair.concat().as_str())?, at)))
            .min();
        let Some((_, at)) = best else {
            break;
        };
        let right = symbols.remove(at + 1);
        symbols[at].push_str(&right);
    }
    let bytes = |symbol: &str| symbol.bytes().map(|byte| u32::from(byte) + 3).collect::<Vec<_>>();
    symbols.iter().flat_map(|symbol| ids.get(symbol.as_str()).map_or(bytes(symbol), |id| vec![*id])).collect()
}

#[test]
fn sentencepiece_joins_by_score() {
    let tokens = pieces();
    let known = tokens.iter().enumerate().filter(|(_, (_, kind))| *kind == NORMAL);
    let known: HashMap<&str, u32> = known.map(|(id, (text, _))| (text.as_str(), id as u32)).collect();
    let tokenizer = tokenizer(&sentencepiece(&tokens, Vec::new()));
    let mut state = 1u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for _ in 0..20_000 {
        let text: String =
            (0..1 + next(20)).map(|_| ['a', 'b', 'c', 'd', ' ', 'é'][next(6) as usize]).collect();
        assert_eq!(ids(&tokenizer, &text, false), join(&text, &known), "{text:?}");
    }
    assert_eq!(tokenizer.decode(&ids(&tokenizer, " dad  é", false), false).unwrap(), " dad  é");
}

#[test]
fn text_begins_and_ends_as_the_file_says() {
    let tokens = pieces();
    let around = |keys| {
        let tokenizer = tokenizer(&sentencepiece(&tokens, keys));
        let all = ids(&tokenizer, "a", true);
        let plain = ids(&tokenizer, "a", false);
        let at = all.windows(plain.len()).position(|window| window == plain).unwrap();
        (all[..at].to_vec(), all[at + plain.len()..].to_vec())
    };
    assert_eq!(around(Vec::new()), (vec![1], vec![]));
    let flags = |bos, eos| {
        vec![
            ("tokenizer.ggml.add_bos_token", GgufValue::Bool(bos)),
            ("tokenizer.ggml.add_eos_token", GgufValue::Bool(eos)),
        ]
    };
    assert_eq!(around(flags(true, true)), (vec![1], vec![2]));
    assert_eq!(around(flags(false, false)), (vec![], vec![]));
    let mut other = flags(true, false);
    other.push(("tokenizer.ggml.bos_token_id", GgufValue::U32(2)));
    assert_eq!(around(other), (vec![2], vec![]));
    let mut outside = flags(true, false);
    outside.push(("tokenizer.ggml.bos_token_id", GgufValue::U32(9999)));
    let message = sentencepiece(&tokens, outside).read("tokenizer.json").unwrap_err().to_string();
    assert!(message.contains("t.gguf: key 'tokenizer.ggml.bos_token_id': at byte "), "{message}");
}

#[test]
fn text_alone_never_makes_a_control_token() {
    let mut tokens = pieces();
    tokens.extend([("<s".into(), NORMAL), ("<".into(), NORMAL), ("s".into(), NORMAL), (">".into(), NORMAL)]);
    let mut tokenizer = tokenizer(&sentencepiece(&tokens, Vec::new()));
    assert!(ids(&tokenizer, "<s>", false).contains(&1));
    tokenizer.set_encode_special_tokens(true);
    assert!(!ids(&tokenizer, "<s>", false).contains(&1));
}

/// A byte-level vocabulary of single bytes.
fn bytes() -> Vec<(String, i32)> {
    let printable = |byte: u32| (33..127).contains(&byte) || (161..256).contains(&byte) && byte != 173;
    let mut moved = 256;
    (0..256u32)
        .map(|byte| {
            let code = if printable(byte) { byte } else { (moved += 1, moved - 1).1 };
            (char::from_u32(code).unwrap().to_string(), NORMAL)
        })
        .collect()
}

fn byte_level(pre: &str, more: &[(&str, i32)], keys: Vec<(&'static str, GgufValue)>) -> ModelFiles {
    let bytes = bytes();
    let mut tokens: Vec<(&str, i32)> = bytes.iter().map(|(text, kind)| (text.as_str(), *kind)).collect();
    tokens.extend(more);
    let merges = GgufValue::Strings(vec!["a b".into(), "x y".into()]);
    let mut all = vec![("tokenizer.ggml.pre", text(pre)), ("tokenizer.ggml.merges", merges)];
    all.extend(keys);
    files("gpt2", &tokens, all)
}

/// The words that the pre-tokenizer cuts `text` into.
fn words(pre: &str, text: &str) -> Vec<String> {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};
    let tokenizer = tokenizer(&byte_level(pre, &[], Vec::new()));
    let mut cut = PreTokenizedString::from(text);
    tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
    let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
}

#[test]
fn words_are_cut_as_the_file_says() {
    let text = "I'LL pay $12345 for HelloWorld!!\n\n  ok";
    for (pre, expected) in [
        ("gpt-2", &["I", "'", "LL", " pay", " $", "12345", " for", " HelloWorld", "!!", "\n\n ", " ok"][..]),
        ("llama-bpe", &["I", "'LL", " pay", " $", "123", "45", " for", " HelloWorld", "!!\n\n", " ", " ok"]),
        (
            "qwen2",
            &["I", "'LL", " pay", " $", "1", "2", "3", "4", "5", " for", " HelloWorld", "!!\n\n", " ", " ok"],
        ),
        ("gpt-4o", &["I'LL", " pay", " $", "123", "45", " for", " Hello", "World", "!!\n\n", " ", " ok"]),
        (
            "smollm",
            &[
                "I",
                "'",
                "LL",
                " pay",
                " $",
                "1",
                "2",
                "3",
                "4",
                "5",
                " for",
                " HelloWorld",
                "!!",
                "\n\n ",
                " ok",
            ],
        ),
    ] {
        assert_eq!(words(pre, text), expected, "{pre}");
    }
    let message = byte_level("unheard-of", &[], Vec::new()).read("tokenizer.json").unwrap_err().to_string();
    assert!(message.contains("'unheard-of' is not supported; these are: default, gpt-2"), "{message}");
}

/// Vectors of tokenizers whose vocabulary is not at hand: a word is at least one token, and most words are few.
#[test]
fn vectors_bound_the_number_of_words() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/gguf-vocab");
    for pre in ["llama-bpe", "qwen2"] {
        let read = |end: &str| std::fs::read_to_string(folder.join(format!("{pre}.gguf.{end}")));
        let (Ok(texts), Ok(ids)) = (read("inp"), read("out")) else {
            println!("skipped: {} has no vectors of {pre}", folder.display());
            return;
        };
        for (text, ids) in texts.split("\n__ggml_vocab_test__\n").zip(ids.lines()) {
            let (words, tokens) = (words(pre, text).len(), ids.split_whitespace().count());
            assert!(
                words <= tokens && tokens <= 8 * words,
                "{pre}: {words} words, {tokens} tokens: {text:?}"
            );
        }
    }
}

#[test]
fn byte_level_tokens_join_and_special_ones_stand_alone() {
    let more = [("ab", NORMAL), ("xyz", NORMAL), ("<|end|>", CONTROL), ("<think>", USER)];
    let tokenizer = tokenizer(&byte_level("gpt-2", &more, Vec::new()));
    assert_eq!(ids(&tokenizer, "ab<|end|>a<think>", false), [256, 258, 97, 259]);
    assert_eq!(tokenizer.decode(&[256, 258, 259], true).unwrap(), "ab<think>");
    // A merge into a token that does not exist ("xy") is left out; a whole word only where the kind says so.
    assert_eq!(ids(&tokenizer, "xyz", false).len(), 3);
    let whole = self::tokenizer(&byte_level("llama-bpe", &more, Vec::new()));
    assert_eq!(ids(&whole, "xyz", false), [257]);
}

#[test]
fn templates_and_special_tokens_are_carried() {
    let more = [("<|begin|>", CONTROL), ("<|im_end|>", CONTROL), ("<|eot_id|>", NORMAL), ("</s>", CONTROL)];
    let keys = vec![
        ("tokenizer.ggml.bos_token_id", GgufValue::U32(256)),
        ("tokenizer.ggml.eos_token_id", GgufValue::U32(259)),
        ("tokenizer.ggml.padding_token_id", GgufValue::U32(u32::MAX)),
        ("tokenizer.ggml.eot_token_id", GgufValue::U32(5)),
        ("tokenizer.chat_template", text("one")),
    ];
    let files = byte_level("gpt-2", &more, keys.clone());
    let settings = file(&files, "tokenizer_config.json");
    assert_eq!(settings, json!({"bos_token": "<|begin|>", "eos_token": "</s>", "chat_template": "one"}));
    // `<|im_end|>` ends a turn by its name; `<|eot_id|>` is no control token here.
    assert_eq!(
        file(&files, "generation_config.json"),
        json!({"eos_token_id": [259, 5, 257], "bos_token_id": 256})
    );

    let mut named = keys;
    named.push(("tokenizer.chat_template.tool_use", text("two")));
    let settings = file(&byte_level("gpt-2", &more, named), "tokenizer_config.json");
    let expected = json!([{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]);
    assert_eq!(settings["chat_template"], expected);
}

#[test]
fn generation_settings_come_from_the_file() {
    let mut writer = GgufWriter::new();
    for (key, value) in [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.tokens", GgufValue::Strings(vec!["a".into(), "b".into()])),
        ("tokenizer.ggml.eos_token_id", GgufValue::U32(1)),
        ("llama.context_length", GgufValue::U32(8)),
        ("llama.embedding_length", GgufValue::U32(8)),
        ("llama.feed_forward_length", GgufValue::U32(8)),
        ("llama.block_count", GgufValue::U32(1)),
        ("llama.attention.head_count", GgufValue::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-6)),
    ] {
        writer.set(key, value);
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    let files: ModelFiles = Gguf::from_bytes("t.gguf", bytes).unwrap().into();
    assert_eq!(GenerationConfig::read(&files).unwrap().eos_token_ids, [1]);
}

#[test]
fn unusable_tokenizers_name_the_key() {
    let tokens: [(&str, i32); 2] = [("a", NORMAL), ("b", NORMAL)];
    let message = |files: &ModelFiles| files.read("tokenizer.json").unwrap_err().to_string();
    let unknown = message(&files("t5", &tokens, Vec::new()));
    assert!(
        unknown.contains("key 'tokenizer.ggml.model': at byte ") && unknown.contains("'t5'"),
        "{unknown}"
    );
    let scores = message(&files("llama", &tokens, Vec::new()));
    assert!(scores.contains("key 'tokenizer.ggml.scores': is missing"), "{scores}");
    let scores =
        message(&files("llama", &tokens, vec![("tokenizer.ggml.scores", GgufValue::F32s(vec![0.0]))]));
    assert!(scores.contains("has 1 entries, there are 2 tokens"), "{scores}");
    let merges = message(&files(
        "gpt2",
        &tokens,
        vec![("tokenizer.ggml.merges", GgufValue::Strings(vec!["ab".into()]))],
    ));
    assert!(merges.contains("key 'tokenizer.ggml.merges'") && merges.contains("element 0"), "{merges}");
}
