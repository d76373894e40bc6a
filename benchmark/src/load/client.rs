//! One streamed request over HTTP, with the time of every token.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::Instant;

use super::api::{Api, Counts, Prompt, Said, error_kind};
use super::record::Record;
use super::sse::EventReader;
use super::workload::{self, RequestSpec};

/// Kept connections that may turn out to be closed before a request is given up.
const MOST_CLOSED: usize = 3;

/// A server under load.
pub struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    key: Option<String>,
    pub api: Api,
    pub model: String,
    timeout: Duration,
    prompts: Prompts,
}

/// How prompts of a given length are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prompts {
    /// Random ids below this vocabulary size; exact.
    TokenIds(u32),
    /// Words, so many for a token, after so many tokens that are always there (a template's).
    Words { per_token: f64, overhead: f64 },
}

impl Prompts {
    pub fn make(&self, spec: &RequestSpec) -> Prompt {
        match *self {
            Self::TokenIds(vocab) => Prompt::TokenIds(
                spec.prompt
                    .iter()
                    .flat_map(|piece| workload::token_ids(piece.seed, piece.tokens, vocab))
                    .collect(),
            ),
            Self::Words { per_token, overhead } => {
                let mut overhead = overhead;
                let mut text = String::new();
                for piece in &spec.prompt {
                    // The template's tokens are taken off the first piece that has room for them.
                    let taken = overhead.min(piece.tokens as f64 - 1.0).max(0.0);
                    overhead -= taken;
                    let words = ((piece.tokens as f64 - taken) * per_token).round().max(1.0);
                    text += &workload::text(piece.seed, words as usize);
                }
                Prompt::Text(text.trim_end().to_owned())
            }
        }
    }
}

/// Where and how to ask.
pub struct Target {
    pub url: String,
    pub api: Api,
    pub key: Option<String>,
    /// `None`: what the server lists first.
    pub model: Option<String>,
    pub timeout: Duration,
    /// Vocabulary size, for prompts of token ids.
    pub token_ids: Option<u32>,
}

impl Client {
    /// Finds out the model's name and how many tokens a word is.
    ///
    /// # Errors
    /// When the server does not answer, or refuses a small request.
    pub async fn connect(target: Target) -> Result<Self> {
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build();
        let ids = target.token_ids;
        ensure!(ids.is_none() || target.api == Api::Completions, "--token-ids needs --api completions");
        let mut client = Self {
            http: HttpClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(usize::MAX)
                .build(connector),
            base: target.url.trim_end_matches('/').to_owned(),
            key: target.key,
            api: target.api,
            model: String::new(),
            timeout: target.timeout,
            prompts: ids.map_or(Prompts::Words { per_token: 1.0, overhead: 0.0 }, Prompts::TokenIds),
        };
        client.model = match target.model {
            Some(model) => model,
            None => client.first_model().await.unwrap_or_else(|| "tgi".to_owned()),
        };
        if ids.is_none() {
            client.prompts = client.calibrate().await?;
        }
        Ok(client)
    }

    async fn first_model(&self) -> Option<String> {
        let response = self.send(Method::GET, "/v1/models", Bytes::new()).await.ok()?;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let list: Value = serde_json::from_slice(&body).ok()?;
        list["data"][0]["id"].as_str().map(str::to_owned)
    }

    /// Two prompts of known words tell how many tokens a word is and how many a template adds.
    async fn calibrate(&self) -> Result<Prompts> {
        const WORDS: [usize; 2] = [20, 400];
        let mut tokens = [0.0; 2];
        for (words, tokens) in WORDS.into_iter().zip(&mut tokens) {
            let prompt = Prompt::Text(workload::text(1, words).trim_end().to_owned());
            let record = self.ask(&prompt, 1, Instant::now(), Duration::ZERO).await;
            if let Some(error) = record.error {
                anyhow::bail!(
                    "a first request of {words} words to {}{} failed: {error}",
                    self.base,
                    self.api.path()
                );
            }
            let counted =
                record.prompt_tokens.context("the server does not say how many tokens a prompt has")?;
            *tokens = counted as f64;
        }
        let [few, many] = tokens;
        let [less, more] = WORDS.map(|words| words as f64);
        ensure!(many > few, "the server counts {few} tokens for {less} words and {many} for {more}");
        let per_token = (more - less) / (many - few);
        Ok(Prompts::Words { per_token, overhead: (few - less / per_token).max(0.0) })
    }

    /// One request, begun now. Its times count from `epoch`; `due` is when it should have begun.
    pub async fn run(&self, spec: &RequestSpec, epoch: Instant, due: Duration) -> Record {
        self.ask(&self.prompts.make(spec), spec.output_tokens, epoch, due).await
    }

    async fn ask(&self, prompt: &Prompt, tokens: usize, epoch: Instant, due: Duration) -> Record {
        let body = Bytes::from(self.api.body(&self.model, prompt, tokens).to_string());
        let mut record = Record::new(due, epoch.elapsed());
        let outcome = tokio::time::timeout(self.timeout, self.stream(body, epoch, &mut record)).await;
        record.end = epoch.elapsed().as_secs_f64();
        record.error = match outcome {
            Ok(result) => result.err(),
            Err(_) => Some("timeout".to_owned()),
        };
        if record.error.is_none() && record.tokens.is_empty() {
            record.error = Some("no tokens".to_owned());
        }
        record
    }

    async fn stream(&self, body: Bytes, epoch: Instant, record: &mut Record) -> Result<(), String> {
        let response = self.post(body).await.map_err(|_| "connection".to_owned())?;
        let status = response.status();
        let mut body = response.into_body();
        if status != StatusCode::OK {
            return Err(refusal(status, body).await);
        }
        let mut reader = EventReader::default();
        let mut counts = Counts::default();
        let mut complete = false;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| "broken stream".to_owned())?;
            let now = epoch.elapsed().as_secs_f64();
            let Some(bytes) = frame.data_ref() else { continue };
            for event in reader.push(bytes).map_err(|_| "endless event".to_owned())? {
                if event == b"[DONE]" {
                    complete = true;
                    continue;
                }
                let event: Value =
                    serde_json::from_slice(&event).map_err(|_| "event is not JSON".to_owned())?;
                match self.api.read(&event, &mut counts) {
                    Said::Token => record.tokens.push(now),
                    Said::Error(kind) => return Err(kind),
                    Said::Nothing => {}
                }
                complete |= event.get("generated_text").is_some_and(Value::is_string);
            }
        }
        record.prompt_tokens = counts.prompt;
        record.output_tokens = counts.output.unwrap_or(record.tokens.len() as u64);
        if complete { Ok(()) } else { Err("stream ended early".to_owned()) }
    }

    /// A server may close a kept connection just when it is used again, without having answered: then another one is
    /// used, as every client does.
    async fn post(&self, body: Bytes) -> Result<Response<Incoming>> {
        for _ in 0..MOST_CLOSED {
            match self.send(Method::POST, self.api.path(), body.clone()).await {
                Err(error) if was_closed(&error) => {}
                outcome => return outcome,
            }
        }
        self.send(Method::POST, self.api.path(), body).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let uri: Uri = format!("{}{path}", self.base).parse().context("--url")?;
        let mut request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        Ok(self.http.request(request.body(Full::new(body))?).await?)
    }
}

/// Whether the server closed the connection before it sent a byte of an answer.
fn was_closed(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(|error| error.is_incomplete_message() || error.is_canceled())
}

/// The kind of a refusal: its status and, where the body says one, its type.
async fn refusal(status: StatusCode, body: Incoming) -> String {
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let json: Option<Value> = serde_json::from_slice(&bytes).ok();
    let kind = json.as_ref().and_then(|body| body.get("error").map(|error| error_kind(body, error)));
    kind.map_or_else(|| status.as_u16().to_string(), |kind| format!("{} {kind}", status.as_u16()))
}

#[cfg(test)]
mod tests {
    use super::super::workload::Piece;
    use super::*;

    #[test]
    fn words_make_up_for_the_template() {
        let prompts = Prompts::Words { per_token: 0.5, overhead: 20.0 };
        let spec = |tokens: &[usize]| RequestSpec {
            prompt: tokens.iter().map(|tokens| Piece { seed: 1, tokens: *tokens }).collect(),
            output_tokens: 1,
        };
        let words = |tokens: &[usize]| match prompts.make(&spec(tokens)) {
            Prompt::Text(text) => text.split_whitespace().count(),
            Prompt::TokenIds(_) => 0,
        };
        assert_eq!(words(&[120]), 50);
        assert_eq!(words(&[100, 40]), 60);
        assert_eq!(words(&[10]), 1);
    }

    #[test]
    fn token_ids_are_exact() {
        let spec = RequestSpec {
            prompt: vec![Piece { seed: 1, tokens: 10 }, Piece { seed: 2, tokens: 5 }],
            output_tokens: 1,
        };
        let Prompt::TokenIds(ids) = Prompts::TokenIds(1000).make(&spec) else { unreachable!() };
        assert_eq!(ids.len(), 15);
    }
}
