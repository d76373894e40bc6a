//! Templates against what Go's own text/template makes of them (tools/templates/go/main.go), and their limits.

// Test code, though outside of what clippy takes for tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde::Deserialize;
use serde_json::{Value, json};
use weirgate_store::{Conversation, MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES, Template, TemplateError};

#[derive(Deserialize)]
struct Goldens {
    data: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    #[serde(default)]
    expected: String,
    #[serde(default)]
    fails: bool,
}

fn render(text: &str, data: &Value) -> Result<String, TemplateError> {
    Template::parse(text)?.render(data)
}

#[test]
fn templates_do_what_they_do_in_go() {
    let goldens: Goldens = serde_json::from_str(include_str!("goldens/templates.json")).unwrap();
    assert!(goldens.cases.len() > 50);
    for case in goldens.cases {
        let text = render(&case.template, &goldens.data);
        match case.fails {
            true => assert!(text.is_err(), "{}: {text:?}", case.name),
            false => assert_eq!(text.unwrap(), case.expected, "{}", case.name),
        }
    }
}

#[test]
fn hostile_templates_end() {
    let data = json!({ "L": vec!["x"; 1000], "T": "y".repeat(100_000), "P": { "type": "any", "x": vec![0; 10_000] } });
    let nested = |depth: usize| "{{ if .L }}".repeat(depth) + &"{{ end }}".repeat(depth);
    let parens = |depth: usize| format!("{{{{ {}.T{} }}}}", "(".repeat(depth), ")".repeat(depth));
    let doubling =
        "{{ $s := \"xxxxxxxx\" }}".to_owned() + &"{{ $s = print $s $s }}".repeat(60) + "{{ len $s }}";
    let elses = format!("{{{{ if .X }}}}{}{{{{ end }}}}", "{{ else if .X }}".repeat(10_000));
    let cases = [
        ("x".repeat(MAX_TEMPLATE_BYTES + 1), TemplateError::TooLong { got: MAX_TEMPLATE_BYTES + 1 }),
        (nested(10_000), TemplateError::TooDeep),
        (parens(60_000), TemplateError::TooDeep),
        (elses, TemplateError::TooDeep),
        (
            "{{ range .L }}{{ range $.L }}{{ range $.L }}{{ end }}{{ end }}{{ end }}".to_owned(),
            TemplateError::TooManySteps,
        ),
        ("{{ range .L }}{{ $.T }}{{ end }}".to_owned(), TemplateError::TooMuchOutput),
        (
            "{{ range .L }}{{ $x := json $.L }}{{ $y := json $.L }}{{ end }}".to_owned(),
            TemplateError::TooMuchOutput,
        ),
        (doubling, TemplateError::TooMuchOutput),
        ("{{ $b := 1 }}".repeat(2_000), TemplateError::TooManyVariables),
    ];
    for (text, expected) in cases {
        let start: String = text.chars().take(60).collect();
        assert_eq!(render(&text, &data), Err(expected), "{start}");
    }
    // What reads or copies a lot at once is as many steps as it takes.
    let looping = |action: &str| format!("{{{{ range .L }}}}{{{{ {action} }}}}{{{{ end }}}}");
    let long = "y".repeat(100_000);
    let many = "{{ $b := 1 }}".repeat(900);
    for text in [
        looping("$x := printf \"%.0s\" $.T"),
        looping("$x := len (slice $.T 0 0)"),
        looping("$x := eq $.T $.T"),
        looping(&format!("$x := \"{long}\"")),
        looping(&format!("$x := $.{long}")),
        looping("$x := $.P.ToTypeScriptType"),
        format!("{{{{ $a := 1 }}}}{many}{}", looping("$x := print $a $a $a $a")),
        format!("{{{{ $a := 1 }}}}{many}{}", looping("$a = 2 }}{{ $a = 2 }}{{ $a = 2 }}{{ $a = 2")),
    ] {
        let start: String = text.chars().take(60).collect();
        assert_eq!(render(&text, &data), Err(TemplateError::TooManySteps), "{start}");
    }
    let wide = render("{{ printf \"%999999999d\" 1 }}", &data).unwrap();
    assert!(wide.len() < MAX_OUTPUT_BYTES, "{}", wide.len());
}

#[test]
fn a_loop_that_is_left_costs_what_it_visited() {
    let data = json!({ "L": vec![0; 300], "Long": vec![0; 200_000] });
    let text = "{{ range .L }}{{ range $.L }}{{ range $.Long }}{{ break }}{{ end }}{{ end }}{{ end }}x";
    let started = std::time::Instant::now();
    assert_eq!(render(text, &data).unwrap(), "x");
    // Copying the list each time takes minutes.
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn the_turns_of_a_chat_share_their_steps() {
    let text = "{{ .Prompt }}".to_owned() + &"{{ printf \"%.0s\" .Prompt }}".repeat(1_000);
    let template = Template::parse(&text).unwrap();
    let said = "y".repeat(4_000);
    let turns = |count: usize| -> Vec<(&str, &str)> {
        [("user", said.as_str()), ("assistant", "a")].into_iter().cycle().take(2 * count).collect()
    };
    assert!(template.prompt(&conversation(&turns(2))).is_ok());
    assert_eq!(template.prompt(&conversation(&turns(40))), Err(TemplateError::TooManySteps));
}

proptest::proptest! {
    /// Whatever a stranger sends is read or refused, and run or refused.
    #[test]
    fn no_template_is_a_panic(
        pieces in proptest::collection::vec(
            "\\{\\{-?|-?\\}\\}|if|range|with|else|end|break|\\$x|:=|=|\\.|\\.L|\\.T|index|slice|len|printf|eq|[0-9]{1,3}|\"%[a-z]\"|\\(|\\)|\\|| |\\PC",
            0..30,
        ),
    ) {
        let data = json!({ "L": ["a", 1, { "T": 2.5 }], "T": "é<", "N": null });
        let _ = render(&pieces.join(" "), &data);
        let _ = render(&pieces.concat(), &data);
    }
}

fn conversation(messages: &[(&str, &str)]) -> Conversation {
    let messages =
        messages.iter().map(|(role, content)| json!({ "role": role, "content": content })).collect();
    Conversation { messages, ..Conversation::default() }
}

#[derive(Deserialize)]
struct Chats {
    messages: Vec<Value>,
    cases: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    name: String,
    template: String,
    /// Where they are others than those of all.
    messages: Option<Vec<Value>>,
    think: Option<Value>,
    fill: Option<(String, String)>,
    expected: String,
}

/// The formats that Ollama's own templates are named by, and templates that ask for `.Thinking`, `.ToolName` and
/// `.Suffix`. The expected texts are written by hand, by the documentation of text/template and of the models.
#[test]
fn chats_are_written_as_their_models_expect_them() {
    let chats: Chats = serde_json::from_str(include_str!("goldens/chats.json")).unwrap();
    assert_eq!(chats.cases.len(), 29);
    for case in chats.cases {
        let conversation = Conversation {
            messages: case.messages.unwrap_or_else(|| chats.messages.clone()),
            think: case.think,
            fill: case.fill,
            ..Conversation::default()
        };
        let text = Template::parse(&case.template).unwrap().prompt(&conversation).unwrap();
        assert_eq!(text, case.expected, "{}", case.name);
    }
}

const CHATML: &str = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n{{ .Response }}<|im_end|>\n";

/// The expected texts are ChatML as its authors define it.
#[test]
fn a_template_of_one_turn_is_run_turn_by_turn() {
    let template = Template::parse(CHATML).unwrap();
    let prompt = |messages| template.prompt(&conversation(messages)).unwrap();
    assert_eq!(prompt(&[("user", "Hi")]), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    let turns = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("user", "D")];
    assert_eq!(
        prompt(&turns),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n\
         <|im_start|>user\nC\n\nD<|im_end|>\n<|im_start|>assistant\n"
    );
    // A reply that has been begun is gone on with.
    assert_eq!(
        prompt(&[("user", "A"), ("assistant", "B")]),
        "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB"
    );
}

#[test]
fn a_template_without_a_response_gets_one_at_its_end() {
    let template = Template::parse("{{ .System }} {{ .Prompt }}>").unwrap();
    let text = template.prompt(&conversation(&[("user", "A"), ("assistant", "B"), ("user", "C")])).unwrap();
    assert_eq!(text, " A>B C>");
}

#[test]
fn a_template_of_messages_gets_all_of_them() {
    let text = "{{ .System }}#{{ range .Messages }}[{{ .Role }}:{{ .Content }}{{ range .ToolCalls }}{{ .Function.Name }}\
                {{ .Function.Arguments }}{{ end }}]{{ end }}{{ range .Tools }}{{ .Function.Name }}{{ . }}{{ end }}\
                {{ if .IsThinkSet }}{{ .Think }}{{ .ThinkLevel }}{{ end }}";
    let template = Template::parse(text).unwrap();
    let call = json!({ "function": { "name": "add", "arguments": { "a": 1 } } });
    let tool = json!({ "type": "function", "function": { "name": "add" } });
    let conversation = Conversation {
        messages: vec![
            json!({ "role": "system", "content": "S" }),
            json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
            json!({ "role": "tool", "content": "1" }),
            json!({ "role": "tool", "content": "2" }),
        ],
        tools: vec![tool],
        think: Some(json!("high")),
        ..Conversation::default()
    };
    assert_eq!(
        template.prompt(&conversation).unwrap(),
        "S#[system:S][assistant:add{\"a\":1}][tool:1][tool:2]add{\"type\":\"function\",\"function\":{\"name\":\"add\"}}truehigh"
    );
    assert!(template.mentions("ToolCalls") && !template.mentions("Suffix"));
}

#[test]
fn text_is_filled_in_between() {
    let template = Template::parse("<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>").unwrap();
    let fill = Some(("a".to_owned(), "b".to_owned()));
    let text = template.prompt(&Conversation { fill, ..Conversation::default() }).unwrap();
    assert_eq!(text, "<PRE>a<SUF>b<MID>");
}
