//! NDJSON: one object and a line feed each, nothing between them.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;

use super::errors::Refusal;
use super::reply::{Parts, Shape, Telling};
use crate::residency::{Lease, Queue};
use crate::service::{Event, Generation, Request, ServiceError};
use crate::tools::Calls;

/// Answers a request by the model it leased, line by line or as one object. Where all of the model's places are taken, it
/// waits for one. Errors are answered, too: they are booked where they come from.
pub(super) async fn answer(
    queue: &Queue,
    lease: Lease,
    request: Request,
    shape: Shape,
    calls: Option<Calls>,
    streams: bool,
) -> Response {
    let answered = async {
        let account = lease.service.admit_in_turn(queue).await?;
        let generation = lease.service.generate(request, account).await?;
        let telling = Telling::new(shape, &lease, calls, &generation);
        let answer = Answer { telling, generation, _lease: lease };
        if streams { answer.streamed().await } else { answer.whole().await }
    };
    answered.await.unwrap_or_else(Refusal::into_response)
}

/// An answer under way. Dropping it cancels what is left, and gives the model back.
struct Answer {
    telling: Telling,
    generation: Generation,
    _lease: Lease,
}

impl Answer {
    /// The whole answer as one object.
    ///
    /// # Errors
    /// What ended the generation before its time.
    async fn whole(mut self) -> Result<Response, Refusal> {
        let mut all = Parts::default();
        while let Some(event) = self.generation.next().await {
            match event? {
                Event::Prompt(_) => {}
                Event::Token(token) => all.append(self.telling.token(token)),
                Event::End(end) => {
                    let (parts, last) = self.telling.end(&end, &self.generation);
                    all.append(parts);
                    return Ok(Json(self.telling.shape().object(all, Some(last))).into_response());
                }
            }
        }
        Err(ServiceError::Incomplete.into())
    }

    /// The answer as it comes.
    ///
    /// # Errors
    /// A refusal by the engine: it can still be told by a status.
    async fn streamed(mut self) -> Result<Response, Refusal> {
        self.generation.started().await?;
        Ok(respond(Lines { answer: Some(self), ready: VecDeque::new() }))
    }
}

struct Lines {
    /// `None` after the last line was queued.
    answer: Option<Answer>,
    ready: VecDeque<Value>,
}

impl Lines {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            let answer = self.answer.as_mut()?;
            match answer.generation.next().await {
                Some(Ok(Event::Prompt(_))) => {}
                Some(Ok(Event::Token(token))) => {
                    let parts = answer.telling.token(token);
                    self.queue(parts);
                }
                Some(Ok(Event::End(end))) => {
                    let (parts, last) = answer.telling.end(&end, &answer.generation);
                    let object = answer.telling.shape().object(Parts::default(), Some(last));
                    self.queue(parts);
                    self.finish(object);
                }
                Some(Err(error)) => self.fail(error),
                None => self.fail(ServiceError::Incomplete),
            }
        }
    }

    fn queue(&mut self, parts: Parts) {
        if let Some(answer) = self.answer.as_ref().filter(|_| !parts.is_empty()) {
            self.ready.push_back(answer.telling.shape().object(parts, None));
        }
    }

    fn fail(&mut self, error: ServiceError) {
        // A struct of a string always serializes.
        self.finish(serde_json::to_value(Refusal::from(error).body()).unwrap_or_default());
    }

    fn finish(&mut self, line: Value) {
        self.ready.push_back(line);
        self.answer = None;
    }
}

fn respond(lines: Lines) -> Response {
    let lines = stream::unfold(lines, |mut lines| async move {
        let line = lines.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))), lines))
    });
    ndjson(Body::from_stream(lines))
}

/// A single object, in the form that the request asked for.
pub(super) fn single(object: Value, streams: bool) -> Response {
    if streams { ndjson(Body::from(format!("{object}\n"))) } else { Json(object).into_response() }
}

pub(super) fn ndjson(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
