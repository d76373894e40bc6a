//! Templates that take what they can get, in processes of their own as in the server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::*;

fn conversation(messages: serde_json::Value) -> Conversation {
    let messages = messages.as_array().unwrap().iter().map(|m| m.as_object().unwrap().clone()).collect();
    Conversation { messages, ..Conversation::default() }
}

fn hello() -> serde_json::Value {
    json!([{"role": "user", "content": "Hello"}])
}

/// This test program, as a template process: it runs the one test below.
pub(super) fn worker_command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "service::template::tests::worker", "--ignored", "--test-threads=1"]);
    command
}

#[test]
#[ignore = "is the process that the other tests talk to"]
fn worker() {
    run();
}

fn sandboxed(source: &str) -> ChatTemplate {
    let owned = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    ChatTemplate::new(vec![owned("default", source)], vec![owned("bos_token", "<s>")])
}

/// Templates made to use up memory, one way each. Without a bound each takes gigabytes or ends the process.
const GREEDY: [(&str, &str); 14] = [
    (
        "a string joined to itself",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    ),
    (
        "a string added to itself",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    ),
    (
        "a string repeated",
        "{% set n = namespace(l=[]) %}{% for i in range(99) %}{% set n.l = [n.l, 'x' * (i + 9999999)] %}{% endfor %}",
    ),
    (
        "a growing replacement",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s | replace('x', 'xx') %}{% endfor %}",
    ),
    (
        "a growing replacement by method",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s.replace('x', 'xx') %}{% endfor %}",
    ),
    ("a wide number", "{{ '%999999999d' | format(1) }}"),
    ("a wide number by method", "{{ '{:999999999d}'.format(1) }}"),
    (
        "a growing join",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = [n.s, n.s] | join(n.s) %}{% endfor %}",
    ),
    (
        "a growing join by method",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s.join([n.s, n.s]) %}{% endfor %}",
    ),
    (
        "a captured block",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}",
    ),
    ("a wide indentation", "{{ 'a\\nb' | indent(9999999999) }}{{ [1] | tojson(indent=9999999999) }}"),
    ("a wide justification", "{{ 'a'.center(9999999999) }}"),
    (
        "a list within a list",
        "{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}{% for i in range(99999) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}",
    ),
    (
        "a list that doubles",
        "{% set n = namespace(l=[1,2,3,4]) %}{% for i in range(60) %}{% set n.l = (n.l + n.l) | list %}{% endfor %}",
    ),
];

#[test]
fn what_takes_too_much_memory_ends_its_own_process_only() {
    for (name, source) in GREEDY {
        let template = sandboxed(source);
        assert_eq!(template.broken(), None, "{name}");
        let error = template.render(&conversation(hello())).expect_err(name);
        let refused =
            matches!(error, TemplateError::TooLarge | TemplateError::TooSlow | TemplateError::Jinja(_));
        assert!(refused, "{name}: {error}");
    }
}

/// Statements and expressions that random templates are made of; `E` is an expression.
const STATEMENTS: [&str; 11] = [
    "{% set n.a = E %}",
    "{% set n.b = E %}",
    "{{ E }}",
    "{% for i in range(40) %}S{% endfor %}",
    "{% for i in E %}S{% endfor %}",
    "{% if E %}S{% else %}S{% endif %}",
    "{% set t %}S{% endset %}{% set n.a = t %}",
    "{% macro m(x) %}S{{ m(E) }}{% endmacro %}{{ m(E) }}",
    "{% filter replace('x', E) %}S{% endfilter %}",
    "{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{% for i in range(40) %}S{% break %}{% endfor %}",
];
const EXPRESSIONS: [&str; 24] = [
    "n.a",
    "n.b",
    "messages",
    "messages[0].content",
    "'xxxxxxxx'",
    "[n.a, n.b]",
    "{'k': n.a}",
    "i",
    "99999",
    "none",
    "E ~ E",
    "E + E",
    "E * E",
    "E * 999999",
    "E | replace('x', 'xx')",
    "E | join(E)",
    "E.join([E, E])",
    "E | list",
    "E | indent(E)",
    "E | tojson(indent=E)",
    "E.center(E)",
    "'%s' | format(E)",
    "E[::-1]",
    "E | string | upper",
];

/// A template of depth at most `depth`, the same for the same numbers.
fn random_template(numbers: &mut impl FnMut(usize) -> usize, shape: &str, depth: usize) -> String {
    let mut out = String::new();
    for c in shape.chars() {
        let parts: &[&str] = match c {
            'S' => &STATEMENTS,
            'E' => &EXPRESSIONS,
            c => {
                out.push(c);
                continue;
            }
        };
        let simple = if c == 'S' { 3 } else { 10 };
        let part = parts[numbers(if depth == 0 { simple } else { parts.len() })];
        if c == 'E' && part.contains(' ') {
            out.push_str(&format!("({})", random_template(numbers, part, depth.saturating_sub(1))));
        } else {
            out.push_str(&random_template(numbers, part, depth.saturating_sub(1)));
        }
    }
    out
}

#[test]
fn random_templates_end_in_a_text_or_an_error() {
    let mut state = 42_u64;
    // Knuth's MMIX generator; its high bits.
    let mut numbers = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let (mut texts, mut refused, mut ended) = (0, 0, 0);
    for _ in 0..150 {
        let source = random_template(&mut numbers, "{% set n = namespace(a='xxxxxxxx', b=['x']) %}SSSSS", 4);
        match sandboxed(&source).render(&conversation(hello())) {
            Ok(_) => texts += 1,
            Err(TemplateError::Jinja(_)) => refused += 1,
            Err(TemplateError::TooLarge | TemplateError::TooSlow) => ended += 1,
            Err(error) => panic!("{error}: {source}"),
        }
    }
    eprintln!("{texts} texts, {refused} refused, {ended} ended");
    assert!(texts > 0 && refused > 0 && ended > 0, "{texts} {refused} {ended}");
}

#[test]
fn the_next_conversation_gets_a_new_process() {
    let source = "{% if messages[0].content == 'grow' %}{% set n = namespace(s='xxxxxxxx') %}\
                  {% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{% endif %}{{ messages[0].content }}";
    let template = sandboxed(source);
    let say = |text: &str| template.render(&conversation(json!([{"role": "user", "content": text}])));
    assert_eq!(say("one").unwrap(), "one");
    assert_eq!(
        say("grow").unwrap_err().to_string(),
        "the template takes more than 256 MiB of memory, or nests too deeply"
    );
    assert_eq!(say("two").unwrap(), "two");
}

#[test]
fn a_process_that_was_killed_is_replaced() {
    let template = sandboxed("{{ messages[0].content }}");
    assert_eq!(template.render(&conversation(hello())).unwrap(), "Hello");
    // Whatever is left of it at the next conversation: nothing, its status, or some of its threads.
    for wait in [0, 1, 10] {
        let worker = children().pop().expect("one process");
        assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(wait));
        assert_eq!(template.render(&conversation(hello())).unwrap(), "Hello");
    }
}

/// It is stopped, so that it has its conversation and has not answered when it is killed.
#[test]
fn a_process_that_is_killed_at_work_is_replaced() {
    let template = sandboxed("{{ messages[0].content }}");
    assert_eq!(template.render(&conversation(hello())).unwrap(), "Hello");
    let worker = children().pop().expect("one process");
    assert!(Command::new("kill").args(["-STOP", &worker]).status().unwrap().success());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            assert!(Command::new("kill").args(["-KILL", &worker]).status().unwrap().success());
        });
        assert_eq!(template.render(&conversation(hello())).unwrap(), "Hello");
    });
}

#[test]
fn the_kernel_bounds_the_process() {
    let template = sandboxed("{{ messages[0].content }}");
    assert_eq!(template.broken(), None);
    let worker = children().pop().expect("one process");
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.trim_start_matches(name).split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(limit("Max core file size"), 0);
    let first_to_go = std::fs::read_to_string(format!("/proc/{worker}/oom_score_adj")).unwrap();
    assert_eq!(first_to_go.trim(), "1000");
    let mapped = mapped_now(&worker);
    let room = limit("Max address space").checked_sub(mapped).unwrap();
    assert!(room <= 256 << 20, "{room} bytes left");
    drop(template);
    assert!(!Path::new(&format!("/proc/{worker}")).exists(), "the process outlives its templates");
}

fn mapped_now(process: &str) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    statm.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 4096
}

/// Processes that this thread has started and that live.
fn children() -> Vec<String> {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn arguments_are_objects_where_the_template_takes_them() {
    let chat = conversation(json!([{"role": "assistant", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": [1]}"}},
        {"id": "2", "type": "function", "function": {"name": "g", "arguments": "not JSON"}}]}]));
    let objects = sandboxed(
        "{% for c in messages[0].tool_calls %}{{ c.id }}{{ c.function.arguments | tojson }}{% endfor %}",
    );
    assert_eq!(objects.render(&chat).unwrap(), r#"1{"a": [1]}2"not JSON""#);
    let text = sandboxed("{% for c in messages[0].tool_calls %}{{ c.function.arguments + ';' }}{% endfor %}");
    assert_eq!(text.render(&chat).unwrap(), r#"{"a": [1]};not JSON;"#);
}

#[test]
fn no_template_and_a_broken_one_fail_the_request() {
    let chat = conversation(hello());
    assert_eq!(ChatTemplate::new(Vec::new(), Vec::new()).render(&chat), Err(TemplateError::Missing));
    let broken = sandboxed("{% if %}");
    assert!(broken.broken().unwrap().contains("syntax error"));
    assert!(broken.render(&chat).unwrap_err().to_string().contains("syntax error"));
    assert_eq!(sandboxed(&"(".repeat(200_000)).broken(), None, "plain text");
    assert!(sandboxed(&format!("{{{{ {} }}}}", "(".repeat(200_000))).broken().is_some());
}
