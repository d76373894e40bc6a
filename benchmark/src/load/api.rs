//! The three ways of asking for a stream of tokens.

use clap::ValueEnum;
use serde_json::{Value, json};

/// A server's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// TGI: POST /generate_stream
    Tgi,
    /// OpenAI: POST /v1/completions
    Completions,
    /// OpenAI: POST /v1/chat/completions
    Chat,
}

/// A prompt as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    Text(String),
    /// `/v1/completions` only.
    TokenIds(Vec<u32>),
}

/// What one event of a stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// At least one token.
    Token,
    /// What kind of error ended the stream.
    Error(String),
    /// Neither, e.g. the role of a chat's answer.
    Nothing,
}

/// Token counts as the server gives them, where it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub prompt: Option<u64>,
    pub output: Option<u64>,
}

impl Api {
    pub fn path(self) -> &'static str {
        match self {
            Self::Tgi => "/generate_stream",
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }

    /// A greedy request for exactly `tokens` tokens, as far as the server can be told to ignore the end of the text.
    pub fn body(self, model: &str, prompt: &Prompt, tokens: usize) -> Value {
        let prompt = match prompt {
            Prompt::Text(text) => json!(text),
            Prompt::TokenIds(ids) => json!(ids),
        };
        match self {
            Self::Tgi => json!({
                "inputs": prompt,
                "parameters": {"max_new_tokens": tokens, "do_sample": false, "ignore_eos": true, "details": true},
            }),
            Self::Completions => {
                with_options(json!({"model": model, "prompt": prompt, "max_tokens": tokens}))
            }
            Self::Chat => with_options(json!({
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": tokens,
            })),
        }
    }

    /// Reads an event of a stream.
    pub fn read(self, event: &Value, counts: &mut Counts) -> Said {
        if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
            return Said::Error(error_kind(event, error));
        }
        match self {
            Self::Tgi => {
                if let Some(details) = event.get("details") {
                    counts.output = number(details, "generated_tokens").or(counts.output);
                    counts.prompt = number(details, "input_length").or(counts.prompt);
                }
                if event.get("token").is_some_and(|token| !token.is_null()) {
                    Said::Token
                } else {
                    Said::Nothing
                }
            }
            Self::Completions | Self::Chat => {
                if let Some(usage) = event.get("usage") {
                    counts.output = number(usage, "completion_tokens").or(counts.output);
                    counts.prompt = number(usage, "prompt_tokens").or(counts.prompt);
                }
                let choice = event.get("choices").and_then(|choices| choices.get(0));
                let text = |choice: &Value| match self {
                    Self::Chat => {
                        let delta = choice.get("delta")?;
                        ["content", "reasoning_content"]
                            .iter()
                            .find_map(|key| delta.get(key)?.as_str().map(str::len))
                    }
                    _ => choice.get("text")?.as_str().map(str::len),
                };
                if choice.and_then(text).is_some_and(|length| length > 0) {
                    Said::Token
                } else {
                    Said::Nothing
                }
            }
        }
    }
}

fn with_options(mut body: Value) -> Value {
    for (name, value) in [
        ("stream", json!(true)),
        ("stream_options", json!({"include_usage": true})),
        ("temperature", json!(0)),
        ("ignore_eos", json!(true)),
    ] {
        body[name] = value;
    }
    body
}

fn number(object: &Value, key: &str) -> Option<u64> {
    object.get(key)?.as_u64()
}

/// A short name: TGI's `error_type`, OpenAI's `type`, else the text's beginning.
pub fn error_kind(body: &Value, error: &Value) -> String {
    let named = body.get("error_type").or_else(|| error.get("type")).and_then(Value::as_str);
    let text =
        || error.get("message").unwrap_or(error).as_str().map_or_else(|| error.to_string(), str::to_owned);
    named.map_or_else(text, str::to_owned).chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, text: &str) -> (Said, Counts) {
        let mut counts = Counts::default();
        let said = api.read(&serde_json::from_str(text).unwrap(), &mut counts);
        (said, counts)
    }

    #[test]
    fn tgi_events() {
        let token = r#"{"index":1,"token":{"id":5,"text":"","logprob":-1.0,"special":false},"generated_text":null,"details":null}"#;
        assert_eq!(read(Api::Tgi, token), (Said::Token, Counts::default()));
        let last = r#"{"index":2,"token":{"id":5,"text":"a","logprob":0.0,"special":false},"generated_text":"a",
                       "details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":9}}"#;
        assert_eq!(read(Api::Tgi, last), (Said::Token, Counts { prompt: Some(9), output: Some(2) }));
        let error = r#"{"error":"Model is overloaded","error_type":"overloaded"}"#;
        assert_eq!(read(Api::Tgi, error).0, Said::Error("overloaded".to_owned()));
    }

    #[test]
    fn openai_events() {
        let role = r#"{"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}"#;
        assert_eq!(read(Api::Chat, role).0, Said::Nothing);
        let token = r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}"#;
        assert_eq!(read(Api::Chat, token), (Said::Token, Counts::default()));
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
        assert_eq!(read(Api::Chat, usage), (Said::Nothing, Counts { prompt: Some(7), output: Some(3) }));
        let text = r#"{"choices":[{"index":0,"text":" a","finish_reason":null}]}"#;
        assert_eq!(read(Api::Completions, text).0, Said::Token);
        let error = r#"{"error":{"message":"no","type":"server_error"}}"#;
        assert_eq!(read(Api::Chat, error).0, Said::Error("server_error".to_owned()));
    }

    #[test]
    fn bodies_ask_for_the_tokens() {
        let body = Api::Tgi.body("m", &Prompt::Text("x".into()), 5);
        assert_eq!(body["parameters"]["max_new_tokens"], 5);
        let body = Api::Completions.body("m", &Prompt::TokenIds(vec![1, 2]), 5);
        assert_eq!(
            (&body["prompt"], &body["stream"], &body["model"]),
            (&json!([1, 2]), &json!(true), &json!("m"))
        );
        let body = Api::Chat.body("m", &Prompt::Text("x".into()), 5);
        assert_eq!((&body["messages"][0]["content"], &body["max_tokens"]), (&json!("x"), &json!(5)));
    }
}
