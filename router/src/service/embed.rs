//! From texts to vectors, and from a query and texts to scores.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy, truncate_encodings,
};
use tokenizers::{PostProcessor, Tokenizer};
use weirgate_engine::{EmbedHandle, EmbedInput, EmbedTicket};

use super::error::{Failure, ServiceError, ValidationError};
use super::prompt::tokenizer_error;
use super::{Account, Service, Validator};
use crate::residency::Queue;

/// Texts that one thread tokenizes at a time.
const TEXTS_PER_JOB: usize = 16;
/// Most texts of a request, as at OpenAI.
const MAX_TEXTS: usize = 2048;

/// An embedder's thread, and what is fixed about its model.
pub(crate) struct Embedding {
    pub handle: EmbedHandle,
    pub profile: EmbedProfile,
}

/// How a model wants its texts, and what its vectors mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EmbedProfile {
    /// Texts to put before others, by name.
    pub prompts: BTreeMap<String, String>,
    /// Which of them is put before where none is named.
    pub default_prompt: Option<String>,
    /// Of cross-encoders.
    pub scores: Option<Scores>,
}

/// What a cross-encoder's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scores {
    /// A score is its sigmoid.
    pub sigmoid: bool,
}

/// One text, however it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextInput {
    Text(String),
    /// Ids as the client sent them; nothing is added.
    Tokens(Vec<i64>),
    /// What a cross-encoder compares.
    Pair(Arc<str>, String),
}

/// Texts to be embedded, not yet validated.
#[derive(Debug, Clone)]
pub(crate) struct EmbedRequest {
    /// Where the dialect has its texts, for messages.
    pub field: &'static str,
    pub texts: Vec<TextInput>,
    /// Longer texts lose their ends; else they are refused.
    pub truncate: bool,
    /// Tokens of a text, where the request allows fewer than the model.
    pub max_tokens: Option<usize>,
    /// The name of a prompt to put before each text.
    pub prompt_name: Option<String>,
    /// Elements of a vector, where fewer are wanted.
    pub dimensions: Option<usize>,
    /// Vectors have length one.
    pub normalize: bool,
}

impl EmbedRequest {
    /// Whole vectors of length one, of texts that must fit.
    pub fn new(field: &'static str, texts: Vec<TextInput>) -> Self {
        Self {
            field,
            texts,
            truncate: false,
            max_tokens: None,
            prompt_name: None,
            dimensions: None,
            normalize: true,
        }
    }
}

/// Vectors in the order of the texts.
pub(crate) struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// Of all texts, special ones included.
    pub tokens: usize,
}

impl Service {
    /// The vectors of texts. Where all places are taken, the request waits in `queue`, or is refused.
    ///
    /// # Errors
    /// A model that makes none; texts or wishes that break the rules; a full or failed engine.
    pub async fn embed(
        &self,
        request: EmbedRequest,
        queue: Option<&Queue>,
    ) -> Result<Embedded, ServiceError> {
        let embedding = self.engine.embedder().await.inspect_err(|error| self.refuse(error))?;
        let (dimensions, normalize) = (request.dimensions, request.normalize);
        let limit = embedding.handle.limits().dimensions;
        if let Some(given) = dimensions
            && !(1..=limit).contains(&given)
        {
            return Err(self.refused(ValidationError::Range {
                field: "dimensions",
                min: "1".to_owned(),
                max: limit.to_string(),
                given: given.to_string(),
            }));
        }
        let mut embedded = self.compute(embedding, request, queue).await?;
        for vector in &mut embedded.vectors {
            vector.truncate(dimensions.unwrap_or(limit));
            if normalize {
                to_length_one(vector);
            }
        }
        Ok(embedded)
    }

    /// How well each of the texts answers the query: probabilities, unless the model's scores are none or `raw` ones are
    /// wanted.
    ///
    /// # Errors
    /// As for [`Service::embed`].
    pub async fn rank(
        &self,
        field: &'static str,
        query: &str,
        texts: Vec<String>,
        (truncate, raw): (bool, bool),
    ) -> Result<(Vec<f32>, Embedded), ServiceError> {
        let ranker = self.engine.ranker().map_err(|error| self.refused(error))?;
        let query: Arc<str> = query.into();
        let pairs = texts.into_iter().map(|text| TextInput::Pair(query.clone(), text)).collect();
        let request = EmbedRequest { truncate, ..EmbedRequest::new(field, pairs) };
        let embedded = self.compute(ranker, request, None).await?;
        let sigmoid = ranker.profile.scores.is_some_and(|scores| scores.sigmoid) && !raw;
        let score = |vector: &Vec<f32>| {
            let score = vector.first().copied().unwrap_or_default();
            if sigmoid { 1.0 / (1.0 + (-score).exp()) } else { score }
        };
        let scores = embedded.vectors.iter().map(score).collect();
        Ok((scores, embedded))
    }

    /// Books a request that was refused before it took a place.
    fn refused(&self, error: ValidationError) -> ServiceError {
        let error = error.into();
        self.refuse(&error);
        error
    }

    async fn compute(
        &self,
        embedding: &Embedding,
        request: EmbedRequest,
        queue: Option<&Queue>,
    ) -> Result<Embedded, ServiceError> {
        let mut account = match queue {
            Some(queue) => self.admit_in_turn(queue).await?,
            None => self.admit_one()?,
        };
        let computed = self.book(embedding, request, &mut account).await;
        match computed {
            Ok((vectors, tokens)) => {
                account.succeed();
                Ok(Embedded { vectors, tokens })
            }
            Err(error) => {
                account.fail(&error);
                Err(error)
            }
        }
    }

    async fn book(
        &self,
        embedding: &Embedding,
        request: EmbedRequest,
        account: &mut Account,
    ) -> Result<(Vec<Vec<f32>>, usize), ServiceError> {
        let inputs = self.tokenize_texts(embedding, request).await?;
        let tokens = inputs.iter().map(|input| input.tokens.len()).sum();
        account.validated(tokens, 0);
        let ticket = embedding.handle.submit(inputs)?;
        account.scheduled();
        let vectors = in_time(ticket, self.patience).await?;
        Ok((vectors, tokens))
    }

    async fn tokenize_texts(
        &self,
        embedding: &Embedding,
        request: EmbedRequest,
    ) -> Result<Vec<EmbedInput>, ServiceError> {
        let rules = Arc::new(Rules::new(embedding, &request, self.validator.clone())?);
        let parts = in_parts(request.texts).into_iter().enumerate().map(|(number, part)| {
            let (tokenizer, rules) = (self.vocabulary.tokenizer.clone(), rules.clone());
            self.on_worker(move || {
                let each = (number * TEXTS_PER_JOB..).zip(part);
                each.map(|(at, text)| rules.tokenize(&tokenizer, at, text)).collect::<Result<Vec<_>, _>>()
            })
        });
        // No more at a time than are worked on, so that a request of many texts leaves room for others between its parts.
        let parts: Vec<_> = stream::iter(parts).buffered(self.workers.threads()).try_collect().await?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// Texts in the same order, [`TEXTS_PER_JOB`] together.
fn in_parts(mut texts: Vec<TextInput>) -> Vec<Vec<TextInput>> {
    let mut parts = Vec::with_capacity(texts.len().div_ceil(TEXTS_PER_JOB));
    while !texts.is_empty() {
        let rest = texts.split_off(texts.len().min(TEXTS_PER_JOB));
        parts.push(std::mem::replace(&mut texts, rest));
    }
    parts
}

/// The vectors, unless they take longer than a request may.
async fn in_time(ticket: EmbedTicket, patience: Duration) -> Result<Vec<Vec<f32>>, ServiceError> {
    let vectors = ticket.vectors();
    let outcome = if patience.is_zero() {
        vectors.await
    } else {
        tokio::time::timeout(patience, vectors).await.map_err(|_| Failure::Deadline)?
    };
    outcome.map_err(|_| Failure::Engine.into())
}

/// What holds for every text of a request.
struct Rules {
    field: &'static str,
    limit: usize,
    truncate: bool,
    prompt: Option<String>,
    validator: Validator,
}

impl Rules {
    fn new(
        embedding: &Embedding,
        request: &EmbedRequest,
        validator: Validator,
    ) -> Result<Self, ValidationError> {
        let (field, given) = (request.field, request.texts.len());
        if given > MAX_TEXTS {
            return Err(ValidationError::TooMany { field, limit: MAX_TEXTS, given });
        }
        let profile = &embedding.profile;
        let name = request.prompt_name.as_ref();
        let unknown = |name: &String| {
            let known: Vec<&str> = profile.prompts.keys().map(String::as_str).collect();
            let message = format!("{name:?} is none of the model's prompts ({})", known.join(", "));
            ValidationError::Field { field: "prompt_name", message }
        };
        let prompt = match name.or(profile.default_prompt.as_ref()) {
            Some(name) => Some(profile.prompts.get(name).ok_or_else(|| unknown(name))?.clone()),
            None => None,
        };
        let most = embedding.handle.limits().max_tokens;
        let limit = request.max_tokens.map_or(most, |asked| asked.min(most));
        Ok(Self { field, limit, truncate: request.truncate, prompt, validator })
    }

    fn tokenize(
        &self,
        tokenizer: &Tokenizer,
        index: usize,
        text: TextInput,
    ) -> Result<EmbedInput, ServiceError> {
        let input = match text {
            TextInput::Tokens(ids) => {
                let check = |id: &i64| self.validator.token(self.field, *id);
                let mut tokens = ids.iter().map(check).collect::<Result<Vec<_>, _>>()?;
                if self.truncate {
                    tokens.truncate(self.limit);
                }
                EmbedInput { tokens, types: Vec::new() }
            }
            TextInput::Text(text) => {
                let prompt = self.prompt.as_deref().unwrap_or_default();
                self.encode(tokenizer, &format!("{prompt}{text}"), None)?
            }
            TextInput::Pair(query, text) => self.encode(tokenizer, &query, Some(&text))?,
        };
        let (limit, given) = (self.limit, input.tokens.len());
        if given > limit {
            return Err(ValidationError::TextLength { field: self.field, index, limit, given }.into());
        }
        if given == 0 {
            return Err(ValidationError::EmptyInput.into());
        }
        Ok(input)
    }

    /// A text or a pair with its special tokens; what is too long loses its end, a pair that of the longer part first.
    fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        pair: Option<&str>,
    ) -> Result<EmbedInput, ServiceError> {
        let encode = |text: &str| tokenizer.encode_fast(text, false).map_err(tokenizer_error);
        let (mut first, mut second) = (encode(text)?, pair.map(encode).transpose()?);
        if self.truncate {
            let added =
                tokenizer.get_post_processor().map_or(0, |processor| processor.added_tokens(pair.is_some()));
            let cut = TruncationParams {
                max_length: self.limit.saturating_sub(added),
                strategy: TruncationStrategy::LongestFirst,
                direction: TruncationDirection::Right,
                stride: 0,
            };
            (first, second) = truncate_encodings(first, second, &cut).map_err(tokenizer_error)?;
        }
        let encoding = tokenizer.post_process(first, second, true).map_err(tokenizer_error)?;
        let types = if pair.is_some() { encoding.get_type_ids().to_vec() } else { Vec::new() };
        Ok(EmbedInput { tokens: encoding.get_ids().to_vec(), types })
    }
}

/// Divides by the Euclidean norm; a vector of zeros stays one.
fn to_length_one(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}
