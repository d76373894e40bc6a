//! Byte-level BPE: a text is cut into words by a regular expression, each word's bytes are joined by a list of merges.
//! Which expression, `tokenizer.ggml.pre` says by a name.

use serde_json::{Value, json};

use super::super::metadata::Value as Stored;
use super::vocabulary::Vocabulary;
use super::{Parts, template};
use crate::ModelError;

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const PUNCTUATION_FALCON: &str = r"[\p{P}\$\+<=>\^~\|`]+";
const NUMBERS: &str = r"\p{N}+";
const DIGIT: &str = r"\p{N}";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";

/// How a text is cut and what else comes with it.
struct PreTokenizer {
    names: &'static [&'static str],
    /// Applied one after the other, each to the pieces the one before left.
    expressions: &'static [&'static str],
    /// Whether a word that is a token is taken whole, whatever the merges make of it.
    whole_words: bool,
    /// Whether text begins with the begin-of-text token where the file does not say.
    bos: bool,
    /// Whether characters are composed first, as the models were trained.
    compose: bool,
}

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], expressions: &[], whole_words: false, bos: false, compose: false };

static PRE_TOKENIZERS: [PreTokenizer; 10] = [
    PreTokenizer { names: &["default"], expressions: &[PUNCTUATION, GPT_2, NUMBERS, THREE_DIGITS], ..PLAIN },
    PreTokenizer {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
        ],
        expressions: &[GPT_2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        expressions: &[LLAMA_3],
        whole_words: true,
        bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["dbrx", "smaug-bpe"], expressions: &[LLAMA_3], ..PLAIN },
    PreTokenizer { names: &["qwen2"], expressions: &[QWEN_2], compose: true, ..PLAIN },
    PreTokenizer {
        names: &["deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"],
        expressions: &[QWEN_2],
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-4o", "llama4"], expressions: &[GPT_4O], ..PLAIN },
    PreTokenizer { names: &["tekken"], expressions: &[TEKKEN], whole_words: true, bos: true, ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        expressions: &[DIGIT, GPT_2],
        ..PLAIN
    },
    PreTokenizer { names: &["falcon"], expressions: &[PUNCTUATION_FALCON, GPT_2, THREE_DIGITS], ..PLAIN },
];

pub(super) fn parts(vocabulary: &Vocabulary<'_>) -> Result<Parts, ModelError> {
    let pre = find(vocabulary)?;
    let (before, after) = vocabulary.surroundings(pre.bos, false)?;
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let mut steps: Vec<Value> = pre
        .expressions
        .iter()
        .map(|expression| {
            json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
        })
        .collect();
    steps.push(byte_level.clone());
    Ok(Parts {
        normalizer: if pre.compose { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        post_processor: template(vocabulary, before, after),
        decoder: byte_level,
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.whole_words,
            "vocab": vocabulary.map(),
            "merges": merges(vocabulary)?,
        }),
        strip_after_special: false,
    })
}

fn find(vocabulary: &Vocabulary<'_>) -> Result<&'static PreTokenizer, ModelError> {
    let name = vocabulary.metadata.text(PRE)?.unwrap_or("default");
    PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
        let message = format!(
            "'{}' is not supported; these are: {}",
            name.chars().take(40).collect::<String>(),
            names.join(", ")
        );
        vocabulary.metadata.wrong(PRE, &message)
    })
}

/// The name of what `tokenizer.json` does to a text before its merges; `None` where there is none.
pub(super) fn name_of(tokenizer: &Value) -> Option<&'static str> {
    let mut expressions = Vec::new();
    add_expressions(&tokenizer["pre_tokenizer"], &mut expressions)?;
    let compose = match &tokenizer["normalizer"] {
        Value::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    let whole_words = tokenizer["model"]["ignore_merges"] == true;
    let same = |pre: &&PreTokenizer| {
        pre.expressions == expressions && (pre.whole_words, pre.compose) == (whole_words, compose)
    };
    PRE_TOKENIZERS.iter().find(same)?.names.first().copied()
}

/// The expressions that a text is cut by; `None` for a step that is no expression.
fn add_expressions<'a>(step: &'a Value, expressions: &mut Vec<&'a str>) -> Option<()> {
    match step["type"].as_str()? {
        "Sequence" => {
            for step in step["pretokenizers"].as_array()? {
                add_expressions(step, expressions)?;
            }
        }
        "Digits" if step["individual_digits"] == true => expressions.push(DIGIT),
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => {
            expressions.push(step["pattern"]["Regex"].as_str()?);
        }
        "ByteLevel" if step["add_prefix_space"] == false => {
            if step["use_regex"] != false {
                expressions.push(GPT_2);
            }
        }
        _ => return None,
    }
    Some(())
}

/// The merges whose parts and union are tokens; others can never come about.
fn merges<'a>(vocabulary: &Vocabulary<'a>) -> Result<Vec<(&'a str, &'a str)>, ModelError> {
    let metadata = vocabulary.metadata;
    let pairs = metadata
        .list(MERGES, "pairs of tokens", |value| match value {
            // The first part may begin with a space.
            Stored::String(pair) => {
                let from = pair.chars().next()?.len_utf8();
                let at = from + pair.get(from..)?.find(' ')?;
                Some((pair.get(..at)?, pair.get(at + 1..)?))
            }
            _ => None,
        })?
        .ok_or_else(|| metadata.wrong(MERGES, "is missing"))?;
    let mut union = String::new();
    Ok(pairs
        .into_iter()
        .filter(|(left, right)| {
            union.clear();
            union.push_str(left);
            union.push_str(right);
            [left, right, union.as_str()].into_iter().all(|text| vocabulary.id(text).is_some())
        })
        .collect())
}
