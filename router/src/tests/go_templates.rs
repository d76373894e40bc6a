//! Models whose template is Go's, as those of Ollama's registry: what they can do is what models with Jinja can.

use super::*;
use crate::residency::Layers;

const THINKING: &str = "{{ range .Messages }}{{ .Role }}: {{ with .Thinking }}<think>{{ . }}</think>{{ end }}{{ .Content }}\n{{ end }}{{ if .IsThinkSet }}{{ if .Think }}/think{{ .ThinkLevel }}{{ else }}/no_think{{ end }}{{ end }}bot: <think>\n";
const TOOLS: &str = "{{ range .Tools }}{{ .Function.Name }}({{ .Function.Parameters.Required }});{{ end }}{{ range .Messages }}[{{ .Role }}{{ range .ToolCalls }} <tool_call>{{ .Function.Index }}:{{ .Function.Name }}{{ .Function.Arguments }}{{ end }}{{ with .ToolName }} name={{ . }}{{ end }}{{ with .ToolCallID }} id={{ . }}{{ end }} {{ .Content }}]{{ end }}";
const INSERT: &str =
    "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}:{{ end }}";

fn serving(script: &str, template: &str) -> TestServer {
    over(TEMPLATE, script, template)
}

/// A model whose checkpoint has the template `jinja`.
fn over(jinja: &str, script: &str, template: &str) -> TestServer {
    let mut config = config();
    config.limits.max_total_tokens = Some(600);
    config.limits.max_input_tokens = Some(599);
    config.limits.payload_limit = 100_000;
    let gate = Gate::open();
    let layers = Layers { template: Some(template.into()), ..Layers::default() };
    let card = Card { layers, ..Card::default() };
    let loaded = Loaded { card, ..loaded(script, jinja, &config, gate.clone()) };
    TestServer::of_loaded(loaded, &config, gate)
}

fn body(more: Value) -> Value {
    let mut body = json!({"model": "test/model", "stream": false, "options": {"temperature": 0}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn hi(more: Value) -> Value {
    let mut body = body(json!({"messages": [{"role": "user", "content": "Hi"}]}));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn rendered(server: &TestServer, path: &str, mut body: Value) -> String {
    body["_debug_render_only"] = json!(true);
    let answer = server.post(path, body).await.json();
    answer["_debug_info"]["rendered_template"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn capabilities(server: &TestServer) -> Value {
    server.post("/api/show", json!({"model": "test/model"})).await.json()["capabilities"].clone()
}

#[tokio::test]
async fn thinking_is_told_apart_and_switched() {
    let server = serving("Let me see.\n</think>\n\nYes.", THINKING);
    let message = server.post("/api/chat", hi(json!({"think": true}))).await.json()["message"].clone();
    assert_eq!(
        (message["thinking"].as_str().unwrap().trim_end(), &message["content"]),
        ("Let me see.", &json!("Yes."))
    );
    for think in [json!({}), json!({"think": "low"}), json!({"think": true})] {
        let mut asked = body(json!({"prompt": "Hi"}));
        asked.as_object_mut().unwrap().extend(think.as_object().unwrap().clone());
        let answer = server.post("/api/generate", asked).await.json();
        let thinking = answer["thinking"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!((thinking.trim_end(), &answer["response"]), ("Let me see.", &json!("Yes.")));
    }
    for (think, told) in [
        (json!(true), "/think"),
        (json!("high"), "/thinkhigh"),
        (json!(false), "/no_think"),
        (json!(null), ""),
    ] {
        let expected = format!("user: Hi\n{told}bot: <think>\n");
        let chat = rendered(&server, "/api/chat", hi(json!({"think": think}))).await;
        let generated =
            rendered(&server, "/api/generate", body(json!({"prompt": "Hi", "think": think}))).await;
        assert_eq!((chat, generated), (expected.clone(), expected));
    }
    // OpenAI's clients say it in the words of Jinja templates.
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, "temperature": 0,
                      "chat_template_kwargs": {"enable_thinking": false}});
    let answer = server.post("/v1/chat/completions", chat.clone()).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "Yes.");
    let told = server.post("/chat_tokenize", chat).await.json()["templated_text"].clone();
    assert_eq!(told, "user: Hi\n/no_thinkbot: <think>\n");
    assert_eq!(capabilities(&server).await, json!(["completion", "tools", "thinking"]));
    let plain = serving(SCRIPT, INSERT);
    let refused = plain.post("/api/chat", hi(json!({"think": true}))).await;
    assert_eq!(refused.json(), json!({"error": "\"test/model\" does not support thinking"}));
}

#[tokio::test]
async fn a_format_holds_from_the_end_of_the_thinking() {
    let server = serving("Hm.</think>\"yes\"", THINKING);
    let schema = json!({"enum": ["yes", "no"]});
    let answer = server.post("/api/chat", hi(json!({"format": schema}))).await.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": "\"yes\"", "thinking": "Hm."}));
    let answer = server.post("/api/generate", body(json!({"prompt": "Hi", "format": schema}))).await.json();
    assert_eq!((&answer["response"], &answer["thinking"]), (&json!("\"yes\""), &json!("Hm.")));
}

/// As with templates that are older than `.Thinking`.
#[tokio::test]
async fn a_model_that_reasons_does_so_under_any_template() {
    let server = over("{{ messages }}{# </think> #}", "<think>Hm.</think>Yes.", "{{ .Prompt }}");
    let answer = server.post("/api/chat", hi(json!({}))).await.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": "Yes.", "thinking": "Hm."}));
    assert_eq!(capabilities(&server).await, json!(["completion", "tools", "thinking"]));
}

#[tokio::test]
async fn earlier_thinking_calls_and_results_reach_the_template() {
    let server = serving(SCRIPT, THINKING);
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "Hm"},
                          {"role": "user", "content": "c"}]);
    let text = rendered(&server, "/api/chat", body(json!({"messages": messages}))).await;
    assert_eq!(text, "user: a\nassistant: <think>Hm</think>b\nuser: c\nbot: <think>\n");

    let server = serving(SCRIPT, TOOLS);
    let call = |name: &str, arguments: Value| json!({"function": {"name": name, "arguments": arguments}});
    let messages = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call("f", json!({"x": 1})), call("g", json!({}))]},
        {"role": "tool", "content": "1", "tool_name": "f"},
        {"role": "tool", "content": "2", "tool_name": "g", "tool_call_id": "c2"},
    ]);
    let expected =
        "[user Hi][assistant <tool_call>0:f{\"x\":1} <tool_call>1:g{} ][tool name=f 1][tool name=g id=c2 2]";
    assert_eq!(rendered(&server, "/api/chat", body(json!({"messages": messages}))).await, expected);
    // The same as OpenAI's clients send it.
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let messages = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call("c1", "f", "{\"x\": 1}"), call("c2", "g", "{}")]},
        {"role": "tool", "content": "1", "name": "f"},
        {"role": "tool", "content": "2", "name": "g", "tool_call_id": "c2"},
    ]);
    let answer = server.post("/chat_tokenize", json!({"messages": messages})).await.json();
    assert_eq!(answer["templated_text"], expected);
}

#[tokio::test]
async fn calls_are_written_as_the_template_writes_them() {
    let script = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    let server = serving(script, TOOLS);
    let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": parameters}}]);
    let asked = hi(json!({"tools": tools}));
    assert_eq!(rendered(&server, "/api/chat", asked.clone()).await, "add([\"a\"]);[user Hi]");
    let message = server.post("/api/chat", asked).await.json()["message"].clone();
    let function = json!({"index": 0, "name": "add", "arguments": {"a": 1}});
    assert_eq!((&message["tool_calls"][0]["function"], &message["content"]), (&function, &json!("")));
    // A template that has no place for tools has them said.
    let server = serving(SCRIPT, THINKING);
    let text = rendered(&server, "/api/chat", hi(json!({"tools": tools}))).await;
    assert!(text.starts_with("user: Hi\n---\n[{") && text.contains("\"add\""), "{text}");
}

#[tokio::test]
async fn a_template_with_a_suffix_fills_in() {
    let server = serving(SCRIPT, INSERT);
    assert_eq!(capabilities(&server).await, json!(["completion", "tools", "insert"]));
    let asked = body(json!({"prompt": "a", "suffix": "b"}));
    assert_eq!(rendered(&server, "/api/generate", asked.clone()).await, "<PRE>a<SUF>b<MID>");
    let answer = server.post("/api/generate", asked).await.json();
    assert_eq!(
        (&answer["prompt_eval_count"], &answer["response"]),
        (&json!("<PRE>a<SUF>b<MID>".len()), &json!(SCRIPT))
    );
    assert_eq!(rendered(&server, "/api/generate", body(json!({"prompt": "a"}))).await, "a:");
    let completion = json!({"prompt": "a", "suffix": "b", "max_tokens": 2});
    let usage = server.post("/v1/completions", completion).await.json()["usage"].clone();
    assert_eq!(usage["prompt_tokens"], "<PRE>a<SUF>b<MID>".len());
    // The request's own template decides.
    let server = serving(SCRIPT, THINKING);
    let own = |template: &str| body(json!({"prompt": "a", "suffix": "b", "template": template}));
    assert_eq!(rendered(&server, "/api/generate", own(INSERT)).await, "<PRE>a<SUF>b<MID>");
    for template in ["", "{{ .Prompt }}"] {
        let refused = server.post("/api/generate", own(template)).await;
        assert_eq!(refused.json(), json!({"error": "\"test/model\" does not support insert"}));
    }
    let broken = server.post("/api/generate", own("{{ if }}")).await;
    assert!(broken.json()["error"].as_str().unwrap().contains("template line 1"), "{}", broken.text);
}

#[tokio::test]
async fn a_long_chat_loses_its_oldest_messages() {
    let template = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}bot: ";
    let server = serving(SCRIPT, template);
    let role = |n: usize| if n.is_multiple_of(2) { "user" } else { "assistant" };
    let messages: Vec<Value> =
        (0..39).map(|n| json!({"role": role(n), "content": format!("n{n:02}")})).collect();
    let asked = body(json!({"messages": messages, "options": {"num_ctx": 60, "num_predict": 1}}));
    let answer = server.post("/api/chat", asked).await.json();
    // "assistant: n35\nuser: n36\nassistant: n37\nuser: n38\nbot: ": 10 for each question, 15 for each answer, 5.
    assert_eq!(answer["prompt_eval_count"], 15 + 10 + 15 + 10 + 5);
}

#[tokio::test]
async fn a_template_that_cannot_be_read_fails_its_requests() {
    let server = serving(SCRIPT, "{{ if }}");
    let refused = server.post("/api/chat", hi(json!({}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.json()["error"].as_str().unwrap().contains("template line 1"), "{}", refused.text);
    let raw = body(json!({"prompt": "Hi", "raw": true}));
    assert_eq!(server.post("/api/generate", raw).await.json()["response"], SCRIPT);
}
