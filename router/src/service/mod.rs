//! From a dialect's request to tokens with text. The only part of the router that talks to the engine.

mod account;
mod adapters;
mod beside;
mod constraint;
mod context;
mod detokenizer;
mod dispatcher;
mod embed;
mod engine;
mod error;
mod generation;
mod guard;
mod health;
mod prompt;
pub(crate) mod random;
mod request;
mod stop_strings;
mod template;
mod text;
mod validation;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weirgate_engine::EngineHandle;
use weirgate_types::{GenerateRequest, Selection, TokenId};

use crate::metrics::{Metrics, Reading};
use crate::residency::Queue;
use crate::telemetry::Tracer;
use crate::tools::{ModelForms, Thinking};
pub(crate) use account::Account;
pub(crate) use adapters::{AdapterError, Adapters};
pub(crate) use beside::{Beside, MakeRoom, Unstarted};
use constraint::Enforced;
pub(crate) use constraint::{
    Checks, Constraint, Field, Grammars, Guided, SchemaCheck, guided, response_format, tgi_grammar,
};
pub(crate) use context::ContextLimit;
use context::Room;
pub(crate) use dispatcher::Dispatcher;
pub(crate) use embed::{EmbedProfile, EmbedRequest, Embedded, Embedding, Scores, TextInput};
pub(crate) use engine::Engine;
pub(crate) use error::{Failure, ServiceError, ToolError, ValidationError};
pub(crate) use generation::{Event, Facts, Generation, SequenceEnd, Step, StopReason, Token, TopToken};
pub(crate) use guard::Guard;
pub(crate) use health::{Health, State};
pub(crate) use prompt::Placed;
pub(crate) use request::{MaxNewTokens, Parameters, Prompt, Request, Tenant, TextOptions};
use stop_strings::StopSet;
pub use template::{COMMAND as TEMPLATE_COMMAND, run as run_templates};
pub use template::{ChatTemplate, Conversation, TemplateError};
use text::SequenceText;
pub(crate) use text::Vocabulary;
pub(crate) use validation::Validator;
pub(crate) use workers::WorkerPool;

/// One model, ready to serve.
pub(crate) struct Service {
    pub validator: Validator,
    pub vocabulary: Vocabulary,
    /// Between the texts of requests and the templates.
    pub guard: Arc<Guard>,
    pub template: Arc<ChatTemplate>,
    /// Only of models that fill in text before a suffix.
    pub completion_template: Option<Arc<ChatTemplate>>,
    pub workers: WorkerPool,
    pub grammars: Grammars,
    /// How the model calls tools and reasons.
    pub forms: ModelForms,
    pub engine: Engine,
    pub adapters: Adapters,
    pub dispatcher: Arc<Dispatcher>,
    /// One per request under way, of `places`.
    pub permits: Arc<Semaphore>,
    pub places: usize,
    pub metrics: Arc<Metrics>,
    pub tracer: Tracer,
    pub health: Health,
    /// An engine that makes no step for this long is not healthy; zero: never.
    pub watchdog: Duration,
    /// How long a request may take; zero: as long as it does.
    pub patience: Duration,
}

/// A request that can be handed to the engine.
struct Prepared<'a> {
    engine: &'a EngineHandle,
    generate: GenerateRequest,
    constraint: Option<Enforced>,
    characters: usize,
    thinking: Thinking,
}

impl Service {
    /// Takes a place for each of `requests` requests, or refuses at once.
    pub fn admit(&self, requests: usize) -> Result<Vec<Account>, ServiceError> {
        let refuse = |error: ServiceError| {
            (0..requests).for_each(|_| self.refuse(&error));
            error
        };
        self.check_ready().map_err(refuse)?;
        let many = u32::try_from(requests).map_err(|_| refuse(ServiceError::Overloaded))?;
        let permits = self.permits.clone().try_acquire_many_owned(many);
        let mut permits = permits.map_err(|_| refuse(ServiceError::Overloaded))?;
        let places: Vec<OwnedSemaphorePermit> = (0..requests).filter_map(|_| permits.split(1)).collect();
        let open = |permit| Account::open(self.metrics.clone(), &self.tracer, permit);
        Ok(places.into_iter().map(open).collect())
    }

    /// Takes the one place of a single request.
    pub fn admit_one(&self) -> Result<Account, ServiceError> {
        self.admit(1)?.pop().ok_or(ServiceError::Overloaded)
    }

    /// The same, waiting in `queue` where all places are taken.
    pub async fn admit_in_turn(&self, queue: &Queue) -> Result<Account, ServiceError> {
        let refuse = |error: ServiceError| {
            self.refuse(&error);
            error
        };
        self.check_ready().map_err(refuse)?;
        let permit = match self.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = queue.enter().ok_or(ServiceError::Overloaded).map_err(refuse)?;
                let permit = self.permits.clone().acquire_owned().await;
                // Much may have happened meanwhile.
                self.check_ready().map_err(refuse)?;
                permit.map_err(|_| refuse(ServiceError::Overloaded))?
            }
        };
        Ok(Account::open(self.metrics.clone(), &self.tracer, permit))
    }

    /// Books a request that was refused before it took a place.
    pub fn refuse(&self, error: &ServiceError) {
        Account::refuse(&self.metrics, &self.tracer, error);
    }

    /// Whether new requests are taken, and if not, why.
    pub fn check_ready(&self) -> Result<(), ServiceError> {
        match self.health.state() {
            State::Ready if self.is_stalled() => {
                Err(ServiceError::Unavailable("the engine makes no progress"))
            }
            State::Ready => Ok(()),
            State::Draining => Err(ServiceError::Unavailable("it is shutting down")),
            State::Failed(_) => Err(ServiceError::Unavailable("the engine failed")),
        }
    }

    /// What the metrics show of this moment.
    pub fn reading(&self) -> Reading {
        Reading { engine: self.engine.stats(), adapters: self.adapters.reading() }
    }

    /// Requests under way have seen no step for too long.
    pub fn is_stalled(&self) -> bool {
        !self.watchdog.is_zero() && self.engine.stats().since_last_step >= self.watchdog
    }

    /// Validates a request and hands it to the engine. Failures are booked on `account`.
    pub async fn generate(&self, request: Request, mut account: Account) -> Result<Generation, ServiceError> {
        match self.prepare(&request, &mut account).await {
            Ok(prepared) => self.submit(prepared, &request, account),
            Err(error) => {
                account.fail(&error);
                Err(error)
            }
        }
    }

    /// Starts all requests of one call, or none: if one is refused, each of them fails with its error.
    pub async fn generate_all(&self, requests: Vec<Request>) -> Result<Vec<Generation>, ServiceError> {
        let mut accounts = self.admit(requests.len())?.into_iter();
        let mut generations: Vec<Generation> = Vec::new();
        for request in requests {
            let Some(account) = accounts.next() else { break };
            match self.generate(request, account).await {
                Ok(generation) => generations.push(generation),
                Err(error) => {
                    generations.into_iter().for_each(|generation| generation.abandon(&error));
                    accounts.for_each(|mut account| account.fail(&error));
                    return Err(error);
                }
            }
        }
        Ok(generations)
    }

    async fn prepare(&self, request: &Request, account: &mut Account) -> Result<Prepared<'_>, ServiceError> {
        let deadline = (!self.patience.is_zero()).then(|| Instant::now() + self.patience);
        let engine = self.engine.generator()?;
        self.validator.check_parameters(request)?;
        let adapter = self.adapters.resolve(request.parameters.adapter.as_deref())?;
        let context = request.context.as_ref();
        let mut prompt = self.tokenize_prompt(&request.prompt, context).await?;
        if let Some(last) = request.truncate {
            prompt.tokens.drain(..prompt.tokens.len().saturating_sub(last));
        }
        let Room { max_new_tokens, shift } = self.room(request, &mut prompt.tokens)?;
        let constraint = match &request.parameters.constraint {
            Some(constraint) => Some(self.grammars.compile(constraint, prompt.thinking).await?),
            None => None,
        };
        account.validated(prompt.tokens.len(), max_new_tokens);
        let id = engine.next_id();
        let generate = self.validator.lower(id, request, prompt.tokens.into(), max_new_tokens);
        let generate = GenerateRequest { deadline, shift, adapter, ..generate };
        Ok(Prepared {
            engine,
            generate,
            constraint,
            characters: prompt.characters,
            thinking: prompt.thinking,
        })
    }

    /// How much the request may generate, its prompt cut where it asks for that.
    fn room(&self, request: &Request, prompt: &mut Vec<TokenId>) -> Result<Room, ServiceError> {
        let (parameters, validator) = (&request.parameters, &self.validator);
        let Some(context) = &request.context else {
            let max_new_tokens = validator.check_lengths(parameters, prompt.len())?;
            return Ok(Room { max_new_tokens, shift: None });
        };
        validator.check_grammar(parameters)?;
        let preceding = context.preceding.iter().map(|id| validator.token("context", *id));
        prompt.splice(0..0, preceding.collect::<Result<Vec<_>, _>>()?);
        let begins_with_mark = prompt.first().is_some_and(|id| self.vocabulary.is_special(*id));
        let most = validator.max_total_tokens;
        Ok(context.fit(prompt, begins_with_mark, parameters.max_new_tokens, most)?)
    }

    fn submit(
        &self,
        prepared: Prepared<'_>,
        request: &Request,
        mut account: Account,
    ) -> Result<Generation, ServiceError> {
        let Prepared { engine, generate, constraint, characters, thinking } = prepared;
        let seed = match generate.sampling.selection {
            Selection::Random { seed } => Some(seed),
            Selection::Greedy => None,
        };
        let stops = StopSet::new(&request.parameters.stop);
        let prompt = generate.prompt.clone();
        let vocabulary = self.vocabulary.showing(&request.marks);
        let text = || SequenceText::new(vocabulary.clone(), &prompt, stops.clone(), request.text);
        let texts = (0..generate.n).map(|_| text()).collect();
        let mailbox = self.dispatcher.open(generate.id);
        let checks = constraint.as_ref().and_then(|constraint| constraint.checks.clone());
        let submitted = match constraint {
            Some(constraint) => engine.submit_constrained(generate, constraint.grammar),
            None => engine.submit(generate),
        };
        match submitted {
            Ok(ticket) => self.dispatcher.attach(ticket),
            Err(reason) => {
                let error = ServiceError::from(reason);
                account.fail(&error);
                return Err(error);
            }
        }
        let facts = Facts { prompt, seed, prompt_characters: characters, thinking, checks };
        Ok(Generation::new(facts, mailbox, texts, self.vocabulary.clone(), account))
    }
}
