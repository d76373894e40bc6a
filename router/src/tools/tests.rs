use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use weirgate_engine::GrammarSource;
use weirgate_grammar::{Compiler, Limits, Vocabulary};

use super::*;

/// One or two calls as each family's own template or model card writes them, and what a client is to get.
struct Sample {
    format: &'static dyn Format,
    text: &'static str,
    calls: usize,
}

const CITY: &str = r#"{"city": "O'Fallon \"MO\"", "days": 3}"#;

const SAMPLES: [Sample; 14] = [
    Sample {
        format: &hermes::FORMAT,
        text: "<tool_call>\n{\"name\": \"weather\", \"arguments\": CITY}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
        calls: 2,
    },
    Sample { format: &llama::FORMAT, text: "{\"name\": \"weather\", \"parameters\": CITY}", calls: 1 },
    Sample {
        format: &llama::FORMAT,
        text: "<|python_tag|>{\"name\": \"weather\", \"parameters\": CITY}",
        calls: 1,
    },
    Sample { format: &json::FORMAT, text: "{\"name\": \"weather\", \"arguments\": CITY}", calls: 1 },
    Sample {
        format: &mistral::LIST,
        text: "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": CITY}, {\"name\": \"now\", \"arguments\": {}}]",
        calls: 2,
    },
    Sample {
        format: &mistral::NAMED,
        text: "[TOOL_CALLS]weather[ARGS]CITY[TOOL_CALLS]now[ARGS]{}",
        calls: 2,
    },
    Sample {
        format: &phi::FORMAT,
        text: "<|tool_call|>[{\"name\": \"weather\", \"arguments\": CITY}, {\"name\": \"now\", \"arguments\": {}}]<|/tool_call|>",
        calls: 2,
    },
    Sample {
        format: &granite::FORMAT,
        text: "<|tool_call|>[{\"name\": \"weather\", \"arguments\": CITY}, {\"name\": \"now\", \"arguments\": {}}]",
        calls: 2,
    },
    Sample {
        format: &deepseek::FORMAT,
        text: "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\nCITY\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls: 2,
    },
    Sample {
        format: &command_r::PLUS,
        text: "Action:\n```json\n[\n    {\n        \"tool_name\": \"weather\",\n        \"parameters\": CITY\n    },\n    {\n        \"tool_name\": \"now\",\n        \"parameters\": {}\n    }\n]```",
        calls: 2,
    },
    Sample {
        format: &command_r::R7B,
        text: "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"weather\", \"parameters\": CITY},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>",
        calls: 2,
    },
    Sample {
        format: &functionary::V3_1,
        text: "<function=weather>CITY</function><function=now>{}</function>",
        calls: 2,
    },
    Sample { format: &functionary::V3_2, text: "weather\nCITY>>>now\n{}", calls: 2 },
    Sample {
        format: &pythonic::FORMAT,
        text: "[weather(city=\"O'Fallon \\\"MO\\\"\", days=3), now()]",
        calls: 2,
    },
];

fn tools() -> Vec<Tool> {
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "metric": {"type": "boolean"},
    }, "required": ["city"]});
    let none = json!({"type": "object", "properties": {}});
    let tool = |name: &str, parameters| Tool { name: name.into(), parameters, strict: true };
    vec![tool("weather", weather), tool("now", none)]
}

fn calls(format: &'static dyn Format, required: bool) -> Calls {
    Calls { format, tools: tools(), required, parallel: true, content: None }
}

/// The number of tokens that a plan takes of a text in bytes, and whether it may end there.
fn take(calls: &Calls, thinking: &Thinking, text: &str) -> (usize, bool) {
    let vocabulary = Vocabulary::from_bytes((0..=255).map(|byte| vec![byte]).collect());
    let compiler = Compiler::new(vocabulary, 1 << 20).unwrap();
    let plan = calls.plan(thinking).unwrap();
    let staged = compiler.compile_plan(&plan, &Limits::default(), &AtomicBool::new(false)).unwrap();
    let mut grammar = staged.start();
    for (at, byte) in text.bytes().enumerate() {
        if grammar.advance(u32::from(byte)).is_err() {
            return (at, false);
        }
    }
    (text.len(), grammar.is_final().unwrap())
}

#[derive(Debug, Default, PartialEq)]
struct Read {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
}

/// Reads a text in pieces of so many characters.
fn read(calls: Option<Calls>, thinking: Thinking, text: &str, size: usize) -> Read {
    let mut reader = Reader::new(calls, thinking);
    let characters: Vec<char> = text.chars().collect();
    let mut pieces: Vec<Piece> =
        characters.chunks(size).flat_map(|chunk| reader.push(&chunk.iter().collect::<String>())).collect();
    pieces.extend(reader.finish());
    let mut read = Read::default();
    let mut ids = std::collections::HashSet::new();
    for piece in pieces {
        match piece {
            Piece::Reasoning(text) => read.reasoning.push_str(&text),
            Piece::Content(text) => read.content.push_str(&text),
            Piece::Call { index, id, name } => {
                assert_eq!(index, read.calls.len());
                assert!(ids.insert(id), "ids differ");
                read.calls.push((name, String::new()));
            }
            Piece::Arguments { index, text } => read.calls[index].1.push_str(&text),
        }
    }
    read
}

#[test]
fn every_formats_own_text_is_taken_and_read_however_it_is_cut() {
    for sample in SAMPLES {
        let text = sample.text.replace("CITY", CITY);
        let name = sample.format.name();
        assert_eq!(
            take(&calls(sample.format, false), &Thinking::None, &text),
            (text.len(), true),
            "{name}: {text}"
        );
        let wanted: Vec<(String, Value)> = [("weather", CITY), ("now", "{}")][..sample.calls]
            .iter()
            .map(|(name, arguments)| ((*name).to_owned(), serde_json::from_str(arguments).unwrap()))
            .collect();
        for size in [1, 2, 3, 7, 1000] {
            let read = read(Some(calls(sample.format, false)), Thinking::None, &text, size);
            let got: Vec<_> = read
                .calls
                .into_iter()
                .map(|(name, arguments)| (name, serde_json::from_str(&arguments).unwrap()))
                .collect();
            assert_eq!((got, read.content.as_str()), (wanted.clone(), ""), "{name} in pieces of {size}");
        }
    }
}

#[test]
fn a_required_call_is_all_there_is_and_an_optional_one_is_free_until_it_begins() {
    for sample in SAMPLES.iter().filter(|sample| !sample.text.starts_with("<|python_tag|>")) {
        let text = sample.text.replace("CITY", CITY);
        let name = sample.format.name();
        let required = calls(sample.format, true);
        assert_eq!(take(&required, &Thinking::None, &text), (text.len(), true), "{name}");
        assert_eq!(take(&required, &Thinking::None, "Hello"), (0, false), "{name}");
        let free = calls(sample.format, false);
        assert_eq!(take(&free, &Thinking::None, "Hello [1] {\"a\": 2}"), (18, true), "{name}");
        // Nothing but the tools that there are, with arguments that are valid.
        for (from, to) in [("weather", "wether"), ("city", "town"), ("3", "0"), ("\"days\"", "\"day\"")] {
            let wrong = text.replace(from, to);
            if wrong != text {
                let (taken, _) = take(&required, &Thinking::None, &wrong);
                assert!(taken < wrong.len(), "{name} took {wrong}");
            }
        }
        let cut = &text[..text.len() - 1];
        assert!(!take(&required, &Thinking::None, cut).1, "{name} may not end within a call");
    }
}

#[test]
fn one_call_at_a_time_where_that_is_asked_for() {
    let one = Calls { parallel: false, ..calls(&hermes::FORMAT, true) };
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    assert_eq!(take(&one, &Thinking::None, call), (call.len(), true));
    assert_eq!(take(&one, &Thinking::None, &format!("{call}\n{call}")), (call.len(), false));
}

const MARKS: Reasoning = Reasoning { open: "<think>", close: "</think>" };

#[test]
fn reasoning_is_told_from_content_and_calls() {
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let text = format!("Let <tool_call> me see.\n</think>\n\nI look.\n{call}");
    for (thinking, text) in
        [(Thinking::Begun(MARKS), text.clone()), (Thinking::Possible(MARKS), format!("<think>\n{text}"))]
    {
        for required in [false, true] {
            let text = if required { text.replace("\n\nI look.\n", "") } else { text.clone() };
            let calls = calls(&hermes::FORMAT, required);
            if thinking == Thinking::Begun(MARKS) || !required {
                assert_eq!(take(&calls, &thinking, &text), (text.len(), true), "{text}");
            }
            for size in [1, 4, 1000] {
                let got = read(Some(calls.clone()), thinking, &text, size);
                assert_eq!(got.reasoning, "Let <tool_call> me see.\n");
                assert_eq!(got.content, if required { "" } else { "I look.\n" });
                assert_eq!(got.calls, [("now".to_owned(), "{}".to_owned())]);
            }
        }
    }
    let got = read(None, Thinking::Possible(MARKS), "Plain <think> text", 3);
    assert_eq!(got, Read { content: "Plain <think> text".into(), ..Read::default() });
    let got = read(None, Thinking::Begun(MARKS), "cut <|", 2);
    assert_eq!(got, Read { reasoning: "cut <|".into(), ..Read::default() });
}

#[test]
fn text_that_only_looks_like_a_call_comes_whole() {
    for (format, text) in [
        (&hermes::FORMAT as &dyn Format, "a <tool_ca and <tool"),
        (&llama::FORMAT, "{\"nam: {\"name\": x"),
        (&functionary::V3_2, "alloy\n>>>x"),
        (&pythonic::FORMAT, "[weather"),
    ] {
        for size in [1, 3, 100] {
            let got = read(Some(calls_static(format)), Thinking::None, text, size);
            assert_eq!(got, Read { content: text.into(), ..Read::default() }, "{}", format.name());
        }
    }
    let got = read(Some(calls(&functionary::V3_2, false)), Thinking::None, "all\nHi. >>>now\n{}", 2);
    assert_eq!((got.content.as_str(), got.calls.len()), ("Hi. ", 1));
}

fn calls_static(format: &dyn Format) -> Calls {
    let known = FORMATS.into_iter().chain([&llama::FORMAT as &dyn Format]);
    let format = known.into_iter().find(|known| known.name() == format.name()).unwrap();
    calls(format, false)
}

#[test]
fn templates_are_recognised() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/chat-templates");
    if !folder.exists() {
        println!("skipped: the shared chat templates are not there");
        return;
    }
    for (file, name, reasons) in [
        ("CohereForAI-c4ai-command-r-plus-tool_use", "command-r", false),
        ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command-r7b", true),
        ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", false),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", false),
        ("Qwen-Qwen2.5-7B-Instruct", "hermes", false),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek", true),
        ("llama-cpp-deepseek-r1", "deepseek", true),
        ("fireworks-ai-llama-3-firefunction-v2", "firefunction", false),
        ("google-gemma-2-2b-it", "json", false),
        ("microsoft-Phi-3.5-mini-instruct", "json", false),
        ("meetkai-functionary-medium-v3.1", "functionary-3.1", false),
        ("meetkai-functionary-medium-v3.2", "functionary-3.2", false),
        ("meta-llama-Llama-3.1-8B-Instruct", "llama", false),
        ("meta-llama-Llama-3.2-3B-Instruct", "llama", false),
        ("meta-llama-Llama-3.3-70B-Instruct", "llama", false),
        ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", false),
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{file}.jinja"))).unwrap();
        assert_eq!(recognise(&text).name(), name, "{file}");
        assert_eq!(Reasoning::recognise(&text).is_some(), reasons, "{file}");
    }
}

#[test]
fn objects_are_closed_only_where_that_is_safe() {
    let open =
        json!({"type": "object", "properties": {"a": {"type": "object", "properties": {}}}, "allOf": [{}]});
    let got = closed(&open);
    assert_eq!(got.get("additionalProperties"), None);
    assert_eq!(got["properties"]["a"]["additionalProperties"], json!(false));
    let stated = json!({"properties": {}, "additionalProperties": {"type": "string"}});
    assert_eq!(closed(&stated), stated);
}
