//! What templates render.

mod parity;
mod python;

use serde_json::json;

use super::*;

/// Far more than any test renders.
const ROOM: usize = 1 << 20;

fn templates(sources: &[(&str, &str)]) -> Templates {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    Templates::new(Sources {
        templates: owned(sources),
        special_tokens: owned(&[("bos_token", "<s>"), ("eos_token", "</s>")]),
    })
}

fn template(source: &str) -> Templates {
    templates(&[("default", source)])
}

fn conversation(messages: serde_json::Value) -> Conversation {
    let messages = messages.as_array().unwrap().iter().map(|m| m.as_object().unwrap().clone()).collect();
    Conversation { messages, ..Conversation::default() }
}

fn render(source: &str, messages: serde_json::Value) -> Result<String, TemplateError> {
    template(source).render(&conversation(messages), ROOM)
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
    let render = |source: &str| template(source).render(&chat, ROOM).unwrap();
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
fn a_prompt_without_end_is_stopped() {
    let source = "{% for a in range(9999) %}{{ messages[0].content }}{% endfor %}";
    let error = template(source).render(&conversation(hello()), 1000).unwrap_err();
    assert_eq!(error.to_string(), "the prompt has more than 1000 bytes");
}

#[test]
fn a_broken_template_fails_the_requests_that_need_it() {
    let broken = templates(&[("default", "{{ messages[0].content }}"), ("tool_use", "{% if %}")]);
    assert!(broken.broken().unwrap().contains("syntax error"));
    let mut chat = conversation(hello());
    assert_eq!(broken.render(&chat, ROOM).unwrap(), "Hello");
    chat.tools = Some(Vec::new());
    assert!(matches!(broken.render(&chat, ROOM), Err(TemplateError::Jinja(_))));
    assert_eq!(
        template(&"x".repeat(256 * 1024 + 1)).broken().unwrap().split(';').next(),
        Some("the template has 262145 bytes")
    );
}

#[test]
fn the_tool_template_is_used_for_tools() {
    let named = templates(&[("default", "default"), ("tool_use", "tool_use"), ("rag", "rag")]);
    let mut chat = conversation(hello());
    assert_eq!(named.render(&chat, ROOM).unwrap(), "default");
    chat.tools = Some(Vec::new());
    assert_eq!(named.render(&chat, ROOM).unwrap(), "tool_use");
    let no_default = templates(&[("tool_use", "tool_use"), ("rag", "rag")]);
    assert_eq!(no_default.render(&chat, ROOM).unwrap(), "tool_use");
    chat.tools = None;
    assert_eq!(no_default.render(&chat, ROOM), Err(TemplateError::Missing));
}

#[test]
fn the_final_message_is_continued() {
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let mut chat = conversation(
        json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi, I am "}]),
    );
    assert_eq!(
        template(source).render(&chat, ROOM).unwrap(),
        "[user]Hi</s>\n[assistant]Hi, I am </s>\n[assistant]"
    );
    chat.continue_final_message = true;
    assert_eq!(template(source).render(&chat, ROOM).unwrap(), "[user]Hi</s>\n[assistant]Hi, I am ");
}

#[test]
fn a_continued_message_is_cut_where_the_template_leaves_it() {
    let render = |source: &str, content: serde_json::Value| {
        let mut chat = conversation(
            json!([{"role": "user", "content": "I"}, {"role": "assistant", "content": content}]),
        );
        chat.continue_final_message = true;
        template(source).render(&chat, ROOM)
    };
    let plain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    let trimming = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}";
    assert_eq!(render(plain, json!("I am ")).unwrap(), "[I][I am ");
    assert_eq!(render(trimming, json!("I am ")).unwrap(), "[I][I am");
    let parts = "{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endfor %}";
    assert_eq!(
        render(
            parts,
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "image"}])
        )
        .unwrap(),
        "[][a][b"
    );
    for (source, content) in
        [("{{ messages[0].content }}", json!("gone")), (plain, json!(null)), (plain, json!([]))]
    {
        assert!(matches!(render(source, content), Err(TemplateError::Jinja(_))));
    }
}

#[test]
fn a_conversation_says_whether_the_answer_is_begun() {
    let source = "{% if add_generation_prompt %}yes{% else %}no{% endif %} {{ messages[0].content }}";
    let mut chat = conversation(hello());
    chat.add_generation_prompt = Some(false);
    assert_eq!(template(source).render(&chat, ROOM).unwrap(), "no Hello");
    chat.add_generation_prompt = Some(true);
    assert_eq!(template(source).render(&chat, ROOM).unwrap(), "yes Hello");
    chat.continue_final_message = true;
    let error = template(source).render(&chat, ROOM).unwrap_err();
    assert_eq!(error.to_string(), "`continue_final_message` and `add_generation_prompt` cannot both be true");
}

#[test]
fn variables_are_the_templates_but_for_the_servers_own() {
    let source = "{{ enable_thinking }} {{ bos_token }} {{ documents[0].title }}";
    let mut chat = conversation(hello());
    chat.documents = Some(vec![json!({"title": "T", "text": "x"})]);
    chat.variables = json!({"enable_thinking": false, "bos_token": "<b>"}).as_object().unwrap().clone();
    assert_eq!(template(source).render(&chat, ROOM).unwrap(), "False <b> T");
    for name in ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"] {
        chat.variables = [(name.to_owned(), json!([]))].into_iter().collect();
        let error = template(source).render(&chat, ROOM).unwrap_err();
        assert_eq!(error.to_string(), format!("`chat_template_kwargs` cannot set `{name}`"));
    }
}

#[test]
fn null_fields_are_absent_and_reasoning_has_its_names() {
    let source = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}";
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": [], "reasoning": "r"},
                          {"role": "tool", "content": {"a": null}, "thinking": null}]);
    assert_eq!(
        render(source, messages).unwrap(),
        "{\"thinking\": \"r\", \"role\": \"assistant\", \"tool_calls\": [], \"reasoning\": \"r\", \"reasoning_content\": \"r\"}\n\
         {\"role\": \"tool\", \"content\": {\"a\": null}}\n"
    );
    assert!(render(source, json!([])).is_err());
}

#[test]
fn what_is_set_in_a_generation_block_stays_there() {
    // As a call block of Jinja's, which transformers makes of it.
    let source = "{% set x = 1 %}{% for m in messages %}{%- generation -%}{% set x = 2 %}{{ m.content }}{{ x }}{%- endgeneration -%}{{ x }}{% endfor %}";
    assert_eq!(render(source, hello()).unwrap(), "Hello21");
}
