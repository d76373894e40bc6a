use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let tokens =
        vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    ChatTemplate::new(vec![(DEFAULT.to_owned(), source.to_owned())], tokens)
}

fn conversation(messages: serde_json::Value) -> Conversation {
    let messages = messages.as_array().unwrap().iter().map(|m| m.as_object().unwrap().clone()).collect();
    Conversation { messages, ..Conversation::default() }
}

fn render(source: &str, messages: serde_json::Value) -> Result<String, TemplateError> {
    template(source).render(&conversation(messages))
}

fn hello() -> serde_json::Value {
    json!([{"role": "user", "content": "Hello"}])
}

#[test]
fn block_tags_leave_no_line_behind() {
    let source = "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\nU: {{ m['content'] }}\n  {% endif %}\n{% endfor %}\nA:";
    assert_eq!(render(source, hello()).unwrap(), "<s>\nU: Hello\nA:");
}

#[test]
fn loop_controls_methods_and_slices_work_as_in_python() {
    let source = "{%- for m in messages[::-1] -%}{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}\
                  {{ m.content.strip().upper() }}{{ m.get('name', '?') }}|{%- endfor -%}\
                  {{ messages[1:]|length }}{{ messages[0].content.split(' ')[-1] }}";
    let messages = json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": " a "},
                          {"role": "user", "content": "b", "name": "Bo"}]);
    assert_eq!(render(source, messages).unwrap(), "BBo|A?|2kind");
}

#[test]
fn tojson_is_pythons() {
    let mut chat = conversation(hello());
    chat.tools = Some(vec![json!({"z": 1, "a": ["é<b>", 1.0, 1e20, 1e-7, null, true], "o": {}, "l": []})]);
    let render = |source: &str| template(source).render(&chat).unwrap();
    assert_eq!(
        render("{{ tools[0]|tojson }}"),
        r#"{"z": 1, "a": ["é<b>", 1.0, 1e+20, 1e-07, null, true], "o": {}, "l": []}"#
    );
    assert_eq!(
        render("{{ tools[0]|tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}"),
        r#"{"a":["\u00e9<b>",1.0,1e+20,1e-07,null,true],"l":[],"o":{},"z":1}"#
    );
    assert_eq!(
        render("{{ {'b': [1, {'c': 'x'}], 'e': []}|tojson(indent=2) }}"),
        "{\n  \"b\": [\n    1,\n    {\n      \"c\": \"x\"\n    }\n  ],\n  \"e\": []\n}"
    );
}

#[test]
fn raise_exception_reads_as_in_tgi() {
    let error = render("{{ raise_exception('Roles must alternate') }}", hello()).unwrap_err();
    assert_eq!(error.to_string(), "syntax error: Roles must alternate (in <string>:1)");
}

#[test]
fn generation_tags_print_nothing() {
    let source = "{% for m in messages %}\n{% generation %}\n{{ m.content }}{% endgeneration %}\n{%- generation -%} ! {%- endgeneration -%}\n{% endfor %}\n";
    assert_eq!(render(source, hello()).unwrap(), "Hello!");
}

#[test]
fn a_year_is_a_year() {
    let year = render("{{ strftime_now('%Y') }}", hello()).unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024);
    assert!(render("{{ strftime_now('%Q') }}", hello()).is_err());
}

#[test]
fn an_endless_template_is_stopped() {
    let source =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
    assert_eq!(render(source, hello()).unwrap_err().to_string(), "the template takes too many steps");
}

#[test]
fn no_template_and_a_broken_one_fail_the_request() {
    assert_eq!(
        ChatTemplate::new(Vec::new(), Vec::new()).render(&conversation(hello())),
        Err(TemplateError::Missing)
    );
    assert!(matches!(render("{% if %}", hello()), Err(TemplateError::Jinja(_))));
}

#[test]
fn the_tool_template_is_used_for_tools() {
    let named = |name: &str| (name.to_owned(), name.to_owned());
    let templates = ChatTemplate::new(vec![named("default"), named("tool_use")], Vec::new());
    let mut chat = conversation(hello());
    assert_eq!(templates.render(&chat).unwrap(), "default");
    chat.tools = Some(Vec::new());
    assert_eq!(templates.render(&chat).unwrap(), "tool_use");
}

#[test]
fn the_final_message_is_continued() {
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let mut chat = conversation(
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi, I am "}]),
    );
    assert_eq!(
        template(source).render(&chat).unwrap(),
        "[user]Hi</s>\n[assistant]Hi, I am </s>\n[assistant]"
    );
    chat.continue_final_message = true;
    assert_eq!(template(source).render(&chat).unwrap(), "[user]Hi</s>\n[assistant]Hi, I am");
}

/// Real models' templates, where the collection is at hand (`WEIRGATE_CHAT_TEMPLATES`).
#[test]
fn published_templates_render() {
    let folder = std::env::var("WEIRGATE_CHAT_TEMPLATES")
        .unwrap_or_else(|_| "../../shared/data/chat-templates".to_owned());
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no chat templates in {folder}");
        return;
    };
    let mut seen = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let chat = conversation(json!([{"role": "user", "content": "Why is the sky blue?"},
            {"role": "assistant", "content": "Rayleigh."}, {"role": "user", "content": "Thanks, goodbye"}]));
        let rendered = template(&source).render(&chat);
        if path.to_string_lossy().contains("firefunction") {
            // It adds variables of its own (`functions`, `datetime`) to strings; without them Jinja refuses, too.
            assert!(rendered.unwrap_err().to_string().contains("undefined"));
        } else {
            let text = rendered.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(
                text.contains("Why is the sky blue?") && text.contains("Thanks, goodbye"),
                "{}",
                path.display()
            );
        }
        seen += 1;
    }
    assert!(seen > 0);
}
