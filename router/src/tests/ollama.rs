//! Ollama's routes.

use serde_json::{Value, json};

use super::tools::HERMES;
use super::*;
use crate::config::Profile;

const THINKING: &str =
    "{{ enable_thinking }}{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}";

fn generate(more: Value) -> Value {
    merged(json!({"model": "test/model", "prompt": "Hi", "options": {"temperature": 0}}), more)
}

fn chat(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    merged(json!({"model": "test/model", "messages": messages, "options": {"temperature": 0}}), more)
}

fn whole(more: Value) -> Value {
    merged(more, json!({"stream": false}))
}

fn writing(script: &str, template: &str) -> TestServer {
    let mut config = config();
    config.limits.max_total_tokens = Some(600);
    config.limits.max_input_tokens = Some(599);
    config.limits.payload_limit = 100_000;
    TestServer::writing(script, template, config)
}

impl Answer {
    /// The lines of a stream, in the one framing that every client reads.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        assert_eq!(
            (self.status, &self.headers["content-type"]),
            (StatusCode::OK, &"application/x-ndjson".parse().unwrap())
        );
        assert!(self.text.ends_with('\n') && !self.text.contains("\n\n") && !self.text.starts_with('\n'));
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What the last object must have, beside its text.
#[track_caller]
fn check_figures(last: &Value, prompt: u64, output: u64) {
    assert_eq!(last["done"], true);
    assert_eq!(
        (last["prompt_eval_count"].as_u64(), last["eval_count"].as_u64()),
        (Some(prompt), Some(output))
    );
    for duration in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
        assert!(last[duration].as_u64().unwrap() > 0, "{duration}");
    }
    assert!(last["total_duration"].as_u64() >= last["eval_duration"].as_u64());
    let created = last["created_at"].as_str().unwrap();
    assert!(created.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(created).is_ok(), "{created}");
}

#[tokio::test]
async fn a_generated_text_comes_as_lines_and_as_one_object() {
    let server = TestServer::new();
    let lines = server.post("/api/generate", generate(json!({}))).await.lines();
    let (last, parts) = lines.split_last().unwrap();
    let text: String = parts.iter().map(|part| part["response"].as_str().unwrap()).collect();
    assert_eq!(text, SCRIPT);
    assert!(parts.iter().all(|part| part["done"] == false && part["model"] == "test/model"));
    assert!(parts.iter().all(|part| part.get("done_reason").is_none() && part.get("eval_count").is_none()));
    assert_eq!((&last["response"], &last["done_reason"]), (&json!(""), &json!("stop")));
    // "user: Hi\nbot: ", then the script's bytes and the end.
    check_figures(last, 14, SCRIPT.len() as u64 + 1);
    let context: Vec<u64> =
        last["context"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(context.len(), 14 + SCRIPT.len() + 1);
    assert_eq!(
        (context[0], context[14], context.last()),
        (u64::from(b'u'), u64::from(b'H'), Some(&u64::from(END)))
    );

    let answer = server.post("/api/generate", whole(generate(json!({})))).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let answer = answer.json();
    assert_eq!((&answer["response"], &answer["context"]), (&json!(SCRIPT), &last["context"]));
    check_figures(&answer, 14, SCRIPT.len() as u64 + 1);
}

#[tokio::test]
async fn a_chat_comes_as_lines_and_as_one_object() {
    let server = TestServer::new();
    let lines = server.post("/api/chat", chat(json!({}))).await.lines();
    let (last, parts) = lines.split_last().unwrap();
    let text: String = parts.iter().map(|part| part["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, SCRIPT);
    assert!(parts.iter().all(|part| part["message"]["role"] == "assistant" && part["done"] == false));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    assert!(last.get("context").is_none());
    check_figures(last, 14, SCRIPT.len() as u64 + 1);
    let answer = server.post("/api/chat", whole(chat(json!({})))).await.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": SCRIPT}));
    assert_eq!(answer["done_reason"], "stop");
}

#[tokio::test]
async fn the_body_is_json_whatever_it_is_called() {
    let server = TestServer::new();
    for content_type in ["application/x-www-form-urlencoded", "text/plain"] {
        let request = Request::post("/api/generate").header("content-type", content_type);
        let body = Body::from(whole(generate(json!({}))).to_string());
        let answer = server.send(request.body(body).unwrap()).await;
        assert_eq!((answer.status, &answer.json()["response"]), (StatusCode::OK, &json!(SCRIPT)));
    }
}

#[tokio::test]
async fn nothing_to_generate_loads_or_unloads() {
    let server = TestServer::new();
    for (path, body, text) in [
        ("/api/generate", json!({"model": "test/model"}), "response"),
        ("/api/generate", json!({"model": "TEST/Model:latest", "prompt": ""}), "response"),
        ("/api/chat", json!({"model": "test/model", "messages": []}), "message"),
        ("/api/chat", json!({"name": "test/model"}), "message"),
    ] {
        for (keep_alive, reason) in
            [(json!(null), "load"), (json!("5m"), "load"), (json!(0), "unload"), (json!("0s"), "unload")]
        {
            let body = merged(body.clone(), json!({"keep_alive": keep_alive}));
            let lines = server.post(path, body.clone()).await.lines();
            assert_eq!(lines.len(), 1);
            assert_eq!((&lines[0]["done"], &lines[0]["done_reason"]), (&json!(true), &json!(reason)));
            assert!(lines[0].get(text).is_some() && lines[0].get("eval_count").is_none());
            assert_eq!(server.post(path, whole(body)).await.json()["done_reason"], reason);
        }
    }
}

#[tokio::test]
async fn the_number_of_tokens_is_exact_and_says_so() {
    let server = writing(&"x".repeat(590), TEMPLATE);
    for (options, count, reason) in [
        (json!({"num_predict": 10}), 10, "length"),
        (json!({"num_predict": 1}), 1, "length"),
        // The prompt has 14 of the context's tokens.
        (json!({"num_predict": -2, "num_ctx": 32}), 18, "length"),
        (json!({"num_predict": -2}), 586, "length"),
        // Until the model ends it, contexts being shifted on the way.
        (json!({"num_predict": -1, "num_ctx": 100}), 591, "stop"),
        (json!({"num_ctx": 32}), 320, "length"),
        (json!({"num_predict": 100, "num_ctx": 32}), 100, "length"),
        (json!({"num_predict": 100.7, "num_ctx": 32}), 100, "length"),
    ] {
        let options = merged(options, json!({"temperature": 0}));
        let answer = server.post("/api/generate", whole(generate(json!({"options": options})))).await.json();
        assert_eq!(
            (&answer["eval_count"], &answer["done_reason"]),
            (&json!(count), &json!(reason)),
            "{options}"
        );
        let unshifted = generate(json!({"options": options, "shift": false}));
        let unshifted =
            server.post("/api/generate", whole(unshifted)).await.json()["eval_count"].as_u64().unwrap();
        let room = options["num_ctx"].as_u64().unwrap_or(600) - 14;
        assert_eq!(unshifted, room.min(count), "{options}");
    }
    server.idle().await;
}

#[tokio::test]
async fn a_long_prompt_is_cut_or_refused() {
    let server = writing(SCRIPT, TEMPLATE);
    let long = |more: Value| whole(generate(merged(json!({"prompt": "y".repeat(700), "raw": true}), more)));
    let cut = server
        .post("/api/generate", long(json!({"options": {"num_ctx": 50, "num_predict": 1}})))
        .await
        .json();
    assert_eq!((&cut["prompt_eval_count"], &cut["eval_count"]), (&json!(49), &json!(1)));
    let refused = server.post("/api/generate", long(json!({"truncate": false}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let text = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(text.contains("context") && text.contains("exceed"), "{text}");
    // A chat loses its oldest messages, whole ones.
    let messages: Vec<Value> = (0..40)
        .map(|n| json!({"role": if n % 2 == 0 {"user"} else {"assistant"}, "content": format!("n{n:02}")}))
        .collect();
    let body = chat(json!({"messages": messages[..39], "options": {"num_ctx": 60, "num_predict": 1}}));
    let answer = server.post("/api/chat", whole(body)).await.json();
    // "assistant: n35\nuser: n36\nassistant: n37\nuser: n38\nbot: ": 10 for each question, 15 for each answer, 5.
    assert_eq!(answer["prompt_eval_count"], 15 + 10 + 15 + 10 + 5);
}

#[tokio::test]
async fn a_context_goes_before_the_prompt() {
    let server = TestServer::new();
    let first = server
        .post("/api/generate", whole(generate(json!({"options": {"temperature": 0, "num_predict": 3}}))))
        .await
        .json();
    let next = generate(json!({"context": first["context"]}));
    let next = server.post("/api/generate", whole(next)).await.json();
    assert_eq!(next["prompt_eval_count"], 14 + 3 + 14);
    let tokens = next["context"].as_array().unwrap();
    assert_eq!(&tokens[..17], first["context"].as_array().unwrap().as_slice());
    let foreign = server.post("/api/generate", whole(generate(json!({"context": [1, 99999]})))).await;
    assert_eq!(foreign.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn systems_and_prompts_reach_the_template_and_raw_prompts_do_not() {
    let server = TestServer::new();
    let rendered = async |more: Value| {
        let body = generate(merged(more, json!({"_debug_render_only": true})));
        server.post("/api/generate", body).await.json()["_debug_info"]["rendered_template"].clone()
    };
    assert_eq!(rendered(json!({})).await, "user: Hi\nbot: ");
    assert_eq!(rendered(json!({"system": "Be brief."})).await, "system: Be brief.\nuser: Hi\nbot: ");
    assert_eq!(rendered(json!({"raw": true})).await, "Hi");
    let body = chat(json!({"_debug_render_only": true, "messages": [
        {"role": "SYSTEM", "content": "s"}, {"role": "user", "content": "a"}, {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]}));
    let text = server.post("/api/chat", body).await.json()["_debug_info"]["rendered_template"].clone();
    assert_eq!(text, "system: s\nuser: a\n\nb\nassistant: c\nuser: d\nbot: ");
    let raw = server.post("/api/generate", whole(generate(json!({"raw": true})))).await.json();
    assert_eq!(raw["prompt_eval_count"], 2);
    assert!(raw.get("context").is_none());
}

#[tokio::test]
async fn stop_strings_are_held_back_and_not_shown() {
    let server = TestServer::new();
    let options = json!({"temperature": 0, "stop": ["o, x", "wör"]});
    let lines = server.post("/api/generate", generate(json!({"options": options}))).await.lines();
    let parts: Vec<&str> = lines.iter().map(|line| line["response"].as_str().unwrap()).collect();
    assert_eq!(parts, ["H", "e", "l", "l", "o, ", ""]);
    assert_eq!(lines.last().unwrap()["done_reason"], "stop");
}

#[tokio::test]
async fn formats_are_obeyed_after_the_thinking() {
    let server = writing("yes", TEMPLATE);
    let schema = json!({"enum": ["yes", "no"]});
    for (format, text) in [(schema.clone(), "\"yes\""), (json!(""), "yes"), (json!(null), "yes")] {
        let answer = server.post("/api/chat", whole(chat(json!({"format": format})))).await.json();
        assert_eq!((&answer["message"]["content"], &answer["done_reason"]), (&json!(text), &json!("stop")));
    }
    let body = generate(json!({"format": "json", "options": {"temperature": 0, "num_predict": 20}}));
    let text =
        server.post("/api/generate", whole(body)).await.json()["response"].as_str().unwrap().to_owned();
    assert!(text.trim_start().starts_with('{'), "{text}");
    let thinker = writing("Hm.</think>\"yes\"", THINKING);
    let answer =
        thinker.post("/api/chat", whole(chat(json!({"format": schema, "think": true})))).await.json();
    assert_eq!(answer["message"], json!({"role": "assistant", "content": "\"yes\"", "thinking": "Hm."}));
}

#[tokio::test]
async fn thinking_is_told_apart() {
    let server = writing("Let me see.\n</think>\n\nYes.", THINKING);
    let lines = server.post("/api/chat", chat(json!({"think": true}))).await.lines();
    let of =
        |field: &str| lines.iter().filter_map(|line| line["message"][field].as_str()).collect::<String>();
    assert_eq!((of("thinking").trim_end(), of("content").as_str()), ("Let me see.", "Yes."));
    let answer = server.post("/api/generate", whole(generate(json!({"think": "low"})))).await.json();
    assert_eq!(
        (answer["thinking"].as_str().unwrap().trim_end(), &answer["response"]),
        ("Let me see.", &json!("Yes."))
    );
    for (think, told) in [(json!(true), "True"), (json!(false), "False")] {
        let body = chat(json!({"think": think, "_debug_render_only": true}));
        let text = server.post("/api/chat", body).await.json()["_debug_info"]["rendered_template"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(text.starts_with(told), "{text}");
    }
    let show = server.post("/api/show", json!({"model": "test/model"})).await.json();
    assert_eq!(show["capabilities"], json!(["completion", "tools", "thinking"]));
}

#[tokio::test]
async fn calls_are_objects_and_come_whole() {
    let script = "Hm.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 23}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
    let server = writing(script, HERMES);
    let integer = json!({"type": "integer"});
    let add = json!({"type": "object", "properties": {"a": integer, "b": integer}, "required": ["a", "b"]});
    let tools = json!([
        {"type": "function", "function": {"name": "add", "description": "adds", "parameters": add}},
        {"type": "function", "function": {"name": "now"}},
    ]);
    let expected = [("add", json!({"a": 1, "b": 23})), ("now", json!({}))];
    let check = |calls: Vec<&Value>| {
        for (at, (call, (name, arguments))) in calls.iter().zip(&expected).enumerate() {
            assert_eq!(call["function"], json!({"index": at, "name": name, "arguments": arguments}));
            assert!(call["id"].as_str().unwrap().starts_with("call_"));
        }
        assert_eq!(calls.len(), 2);
    };
    let answer = server.post("/api/chat", whole(chat(json!({"tools": tools})))).await.json();
    check(answer["message"]["tool_calls"].as_array().unwrap().iter().collect());
    assert_eq!((&answer["message"]["content"], &answer["done_reason"]), (&json!("Hm.\n"), &json!("stop")));
    let lines = server.post("/api/chat", chat(json!({"tools": tools}))).await.lines();
    check(lines.iter().filter_map(|line| line["message"]["tool_calls"].as_array()).flatten().collect());
    // No tools are none.
    let answer = server.post("/api/chat", whole(chat(json!({"tools": []})))).await.json();
    assert!(answer["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_tokens() {
    let server = TestServer::new();
    let asked =
        chat(json!({"logprobs": true, "top_logprobs": 3, "options": {"temperature": 0, "num_predict": 4}}));
    let lines = server.post("/api/chat", asked.clone()).await.lines();
    let entries: Vec<&Value> =
        lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().collect();
    assert_eq!(entries.len(), 4);
    for (entry, byte) in entries.iter().zip(SCRIPT.bytes()) {
        assert_eq!(
            (entry["token"].as_str().unwrap(), &entry["bytes"]),
            (&*char::from(byte).to_string(), &json!([byte]))
        );
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        let top: Vec<f64> = entry["top_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|top| top["logprob"].as_f64().unwrap())
            .collect();
        assert!(top.len() == 3 && top.is_sorted_by(|a, b| a >= b));
    }
    let answer = server.post("/api/chat", whole(asked)).await.json();
    assert_eq!(answer["logprobs"].as_array().unwrap().len(), 4);
    for none in [json!({}), json!({"logprobs": false, "top_logprobs": 3})] {
        assert!(server.post("/api/chat", whole(chat(none))).await.json().get("logprobs").is_none());
    }
    let plain = server.post("/api/generate", whole(generate(json!({"logprobs": true})))).await.json();
    assert!(plain["logprobs"][0].get("top_logprobs").is_none());
}

#[tokio::test]
async fn refusals_have_ollamas_texts_and_statuses() {
    let server = TestServer::new();
    for (path, body, status, text) in [
        ("/api/generate", json!({}), 400, "model is required"),
        ("/api/chat", json!({"model": ""}), 400, "model is required"),
        ("/api/generate", generate(json!({"model": "x"})), 404, "model 'x' not found"),
        ("/api/chat", chat(json!({"model": "x:7b"})), 404, "model 'x:7b' not found"),
        ("/api/chat", json!({"model": "x", "keep_alive": 0}), 404, "model 'x' not found"),
        ("/api/show", json!({"model": "x"}), 404, "model 'x' not found"),
        (
            "/api/generate",
            generate(json!({"raw": true, "system": "s"})),
            400,
            "raw mode does not support template, system, or context",
        ),
        (
            "/api/generate",
            generate(json!({"raw": true, "context": [1]})),
            400,
            "raw mode does not support template, system, or context",
        ),
        ("/api/generate", generate(json!({"suffix": "x"})), 400, "\"test/model\" does not support insert"),
        (
            "/api/generate",
            generate(json!({"images": ["aGk="]})),
            400,
            "this model is missing data required for image input",
        ),
        (
            "/api/generate",
            generate(json!({"format": "xml"})),
            400,
            "invalid format: \"xml\"; expected \"json\" or a valid JSON Schema object",
        ),
        ("/api/chat", chat(json!({"think": true})), 400, "\"test/model\" does not support thinking"),
        (
            "/api/chat",
            chat(json!({"think": "much"})),
            400,
            "invalid think value: \"much\" (must be \"high\", \"medium\", \"low\", true, or false)",
        ),
        (
            "/api/chat",
            chat(json!({"logprobs": true, "top_logprobs": 21})),
            400,
            "top_logprobs must be between 0 and 20",
        ),
        (
            "/api/generate",
            generate(json!({"top_logprobs": -1})),
            400,
            "top_logprobs must be between 0 and 20",
        ),
        (
            "/api/generate",
            generate(json!({"options": {"top_k": "a"}})),
            400,
            "option \"top_k\" must be of type integer",
        ),
        ("/api/generate", generate(json!({"keep_alive": "5"})), 400, "invalid keep_alive: \"5\""),
        ("/api/embed", json!({"model": "test/model", "input": ["a", 1]}), 400, "invalid input type"),
        (
            "/api/embed",
            json!({"model": "test/model", "input": "a"}),
            400,
            "\"test/model\" does not support embeddings",
        ),
        (
            "/api/embeddings",
            json!({"model": "test/model", "prompt": "a"}),
            400,
            "\"test/model\" does not support embeddings",
        ),
        ("/api/embed", json!({"model": "x", "input": "a"}), 404, "model 'x' not found"),
    ] {
        let answer = server.post(path, body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (status, json!({"error": text})),
            "{path} {body}"
        );
    }
    let send = async |body: &str| {
        let answer = server.send(Request::post("/api/chat").body(Body::from(body.to_owned())).unwrap()).await;
        (answer.status.as_u16(), answer.json()["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(send("").await, (400, "missing request body".to_owned()));
    assert_eq!(send("{\"model\": ").await.0, 400);
    assert_eq!(send("{\"model\": 3}").await.0, 400);
    server.idle().await;
}

#[tokio::test]
async fn a_full_server_says_that_it_is_busy() {
    let mut config = config();
    (config.limits.max_concurrent_requests, config.residency.max_queue) = (1, 1);
    let server = held(config);
    let ask = || {
        let server = server.clone();
        tokio::spawn(async move { server.post("/api/generate", generate(json!({}))).await.lines() })
    };
    let first = ask();
    server.until(|stats| stats.live_requests == 1).await;
    // Requests of other dialects are told at once; Ollama's wait for a place, as long as there is one to wait in.
    assert_eq!(server.post("/generate", greedy(json!({}))).await.status, StatusCode::TOO_MANY_REQUESTS);
    let second = ask();
    residency::queued(&server, 1).await;
    let refused = server.post("/api/generate", generate(json!({}))).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers["retry-after"], "1");
    let busy = "server busy, please try again.  maximum pending requests exceeded";
    assert_eq!(refused.json(), json!({"error": busy}));
    assert_eq!(server.metric("tgi_request_failure{err=\"overloaded\"}").await, 2.0, "each counts once");
    server.gate.reopen();
    for waited in [first, second] {
        assert_eq!(waited.await.unwrap().last().unwrap()["done_reason"], "stop");
    }
    // One that leaves while it waits leaves its place.
    server.gate.shut();
    let (first, second) = (ask(), ask());
    residency::queued(&server, 1).await;
    first.abort();
    second.abort();
    residency::queued(&server, 0).await;
    server.gate.reopen();
    server.idle().await;
}

#[tokio::test]
async fn a_failure_in_the_middle_is_the_last_line() {
    let server = held(config());
    server.gate.allow(3);
    let asked = post("/api/chat", &chat(json!({"options": {"num_predict": 150}})));
    let mut body = server.open(asked).await.into_body();
    assert!(body.frame().await.is_some());
    server.state.service.dispatcher.fail_all(crate::service::Failure::Engine);
    let rest = body.collect().await.unwrap().to_bytes();
    let last = rest.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    let last: Value = serde_json::from_slice(last).unwrap();
    assert_eq!(last, json!({"error": "Request failed during generation: the engine failed"}));
    server.gate.reopen();
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let server = held(config());
    server.gate.allow(3);
    let mut response = server.open(post("/api/generate", &generate(json!({})))).await.into_body();
    assert!(response.frame().await.is_some());
    drop(response);
    server.gate.reopen();
    server.idle().await;
}

#[tokio::test]
async fn the_model_is_listed_shown_and_running() {
    let server = TestServer::new();
    let tags = server.get("/api/tags").await.json();
    let listed = &tags["models"][0];
    assert_eq!(
        (&listed["name"], &listed["model"]),
        (&json!("test/model:latest"), &json!("test/model:latest"))
    );
    assert!(listed["digest"].as_str().unwrap().chars().all(|c| c.is_ascii_hexdigit()));
    assert!(chrono::DateTime::parse_from_rfc3339(listed["modified_at"].as_str().unwrap()).is_ok());
    let running = server.get("/api/ps").await.json();
    let running = &running["models"][0];
    assert_eq!((&running["name"], &running["digest"]), (&listed["name"], &listed["digest"]));
    let expires = chrono::DateTime::parse_from_rfc3339(running["expires_at"].as_str().unwrap()).unwrap();
    assert!(expires.timestamp() > chrono::Utc::now().timestamp() + 200 * 365 * 86400, "for ever");
    let asked = json!({"name": "test/model", "system": "Be.", "options": {"stop": ["a", "b"], "top_k": 3}});
    let shown = server.post("/api/show", asked).await.json();
    assert_eq!((&shown["template"], &shown["system"]), (&json!(TEMPLATE), &json!("Be.")));
    let parameters = shown["parameters"].as_str().unwrap();
    assert!(parameters.contains("stop                           \"a\"\nstop "), "{parameters}");
    assert!(shown["modelfile"].as_str().unwrap().contains("\nFROM test/model:latest\n"));
    assert!(shown["model_info"].is_object() && shown["details"]["families"].is_array());
    let version = server.get("/api/version").await.json()["version"].as_str().unwrap().to_owned();
    assert_eq!(version, concat!("0.14.0+weirgate.", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn probes_may_send_head() {
    for (profile, greets) in [
        (Profile::OpenAi, true),
        (Profile::Ollama, true),
        (Profile::Jan, true),
        (Profile::Tgi, false),
        (Profile::Management, false),
    ] {
        let mut config = config();
        config.profile = profile;
        let server = TestServer::with(config);
        for path in ["/", "/api/tags", "/api/version"] {
            let answer = server.send(Request::head(path).body(Body::empty()).unwrap()).await;
            assert_eq!((answer.status, answer.text.as_str()), (StatusCode::OK, ""), "{profile:?} {path}");
        }
        let greeting = server.get("/").await;
        let text = if greets { "Ollama is running" } else { "" };
        assert_eq!((greeting.text.as_str(), greeting.status), (text, StatusCode::OK), "{profile:?}");
        if greets {
            assert!(greeting.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
        }
    }
}

#[tokio::test]
async fn without_its_key_a_request_is_refused_in_ollamas_form() {
    let mut config = config();
    config.api_keys = vec!["secret".into()];
    let server = TestServer::with(config);
    let answer = server.post("/api/generate", generate(json!({}))).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::UNAUTHORIZED, json!({"error": "unauthorized"})));
}
