//! The hub's HTTP interface: a listing, and files at a commit.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::http::{Origin, agent_config, header_text, without_query};
use crate::id::{Commit, FileName, ModelId, Revision};
use crate::select::Sibling;
use crate::settings::{HubSettings, Token};

const MAX_REDIRECTS: usize = 5;
/// Far above the listing of the largest repositories.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Tries of a request that the hub answers with "too many" or "broken".
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
}

/// What the hub says about a model.
pub(crate) struct ModelInfo {
    pub sha: Commit,
    pub siblings: Vec<Sibling>,
}

/// What names a file's content: its sha256 for large files, another hash for small ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Etag(String);

impl Etag {
    /// Reads a header's value. It becomes a file name, so only what hashes are made of is let through.
    fn parse(header: &str) -> Option<Self> {
        let text = header.strip_prefix("W/").unwrap_or(header).trim_matches('"');
        let valid = (1..=128).contains(&text.len())
            && !text.starts_with('.')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        valid.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The content's sha256 in lower case, if that is what this is.
    pub fn sha256(&self) -> Option<&str> {
        let valid = self.0.len() == 64 && self.0.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        valid.then_some(self.0.as_str())
    }
}

pub(crate) struct FileMeta {
    pub etag: Etag,
    pub size: Option<u64>,
}

/// An answer to a request for a file's bytes.
pub(crate) struct Content {
    pub body: Box<dyn Read>,
    /// Position of the first byte in the file.
    pub from: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

impl Client {
    pub fn new(settings: &HubSettings) -> Result<Self, HubError> {
        let endpoint = settings.endpoint.clone();
        let origin =
            Origin::of(&endpoint).ok_or_else(|| HubError::Endpoint { endpoint: endpoint.clone() })?;
        let user_agent = match &settings.user_agent_origin {
            Some(origin) => format!("weirgate/{}; origin/{origin}", env!("CARGO_PKG_VERSION")),
            None => concat!("weirgate/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let config = agent_config(user_agent, settings.certificates.as_deref())?;
        Ok(Self { agent: config.build().into(), endpoint, origin, token: settings.token.clone() })
    }

    /// The commit that `revision` means, and the files there.
    pub fn model_info(&self, id: &ModelId, revision: &Revision) -> Result<ModelInfo, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        let revision_in_url = revision.as_str().replace('/', "%2F");
        let url = format!("{}/api/models/{id}/revision/{revision_in_url}?blobs=true", self.endpoint);
        let mut response = self.request(Method::Get, &url, None)?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&url, &response, id, Some(revision)));
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_LISTING_BYTES)
            .read_to_vec()
            .map_err(|error| HubError::Unreachable { url: url.clone(), problem: error.to_string() })?;
        let malformed = |problem: String| HubError::Protocol { url: url.clone(), problem };
        let answer: Answer = serde_json::from_slice(&text)
            .map_err(|error| malformed(format!("not the listing of a model: {error}")))?;
        let sha = Commit::parse(&answer.sha)
            .ok_or_else(|| malformed(format!("{:?} is not a commit", answer.sha)))?;
        Ok(ModelInfo { sha, siblings: answer.siblings })
    }

    /// Hash and size of a file.
    pub fn file_meta(&self, id: &ModelId, commit: &Commit, file: &FileName) -> Result<FileMeta, HubError> {
        let url = self.file_url(id, commit, file);
        let response = self.request(Method::Head, &url, None)?;
        let redirected = response.status().is_redirection();
        if !redirected && response.status() != StatusCode::OK {
            return Err(self.refusal(&url, &response, id, None));
        }
        let headers = response.headers();
        // A redirect's own length is not the file's.
        let (etag, size) = if redirected || headers.contains_key("x-linked-etag") {
            (header_text(headers, "x-linked-etag"), header_text(headers, "x-linked-size"))
        } else {
            (
                header_text(headers, header::ETAG.as_str()),
                header_text(headers, header::CONTENT_LENGTH.as_str()),
            )
        };
        let etag = etag.and_then(Etag::parse).ok_or_else(|| HubError::Protocol {
            url: url.clone(),
            problem: "the answer has no usable ETag, so this is not a model hub".to_owned(),
        })?;
        Ok(FileMeta { etag, size: size.and_then(|size| size.parse().ok()) })
    }

    /// The file's bytes, from `from` on if the server can do that, else from its start.
    pub fn content(
        &self,
        id: &ModelId,
        commit: &Commit,
        file: &FileName,
        from: u64,
    ) -> Result<Content, HubError> {
        let url = self.file_url(id, commit, file);
        let response = self.request(Method::Get, &url, (from > 0).then_some(from))?;
        let start = match response.status() {
            StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => 0,
            StatusCode::PARTIAL_CONTENT => range_start(response.headers()).ok_or_else(|| {
                HubError::Protocol { url: url.clone(), problem: "a part without Content-Range".to_owned() }
            })?,
            _ => return Err(self.refusal(&url, &response, id, None)),
        };
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // What is there already does not belong to this file: nothing of it is kept.
            return Ok(Content { body: Box::new(std::io::empty()), from: 0 });
        }
        Ok(Content { body: Box::new(response.into_body().into_reader()), from: start })
    }

    fn file_url(&self, id: &ModelId, commit: &Commit, file: &FileName) -> String {
        format!("{}/{id}/resolve/{commit}/{}", self.endpoint, file.as_str().replace('+', "%2B"))
    }

    /// Sends a request, again after a short pause when the hub is busy, and follows redirects. The token goes to the
    /// hub's own origin alone. A HEAD stops at a redirect elsewhere: that answer has the hub's own headers.
    fn request(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            let response = self.follow(method, url, from)?;
            if response.status() != StatusCode::TOO_MANY_REQUESTS && !response.status().is_server_error() {
                return Ok(response);
            }
            std::thread::sleep(pause);
            pause *= 2;
        }
        self.follow(method, url, from)
    }

    fn follow(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(method, &url, from)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let problem =
                |problem: &str| HubError::Protocol { url: url.clone(), problem: problem.to_owned() };
            let location = header_text(response.headers(), header::LOCATION.as_str())
                .ok_or_else(|| problem("a redirect to nowhere"))?;
            let here = Origin::of(&url).ok_or_else(|| problem("not an address"))?;
            let target = here
                .follow(location)
                .ok_or_else(|| problem("a redirect to something unreadable, or from https to http"))?;
            let there = Origin::of(&target);
            if method == Method::Head && there.as_ref() != Some(&here) {
                return Ok(response);
            }
            url = target;
        }
        Err(HubError::Protocol { url, problem: "too many redirects".to_owned() })
    }

    fn send(&self, method: Method, url: &str, from: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        if let Some(token) = &self.token
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request
            .call()
            .map_err(|error| HubError::Unreachable { url: without_query(url), problem: error.to_string() })
    }

    /// Turns an answer that is no success into what it means.
    fn refusal(
        &self,
        url: &str,
        response: &Response<Body>,
        id: &ModelId,
        revision: Option<&Revision>,
    ) -> HubError {
        let token = if self.token.is_some() { "a token" } else { "no token" };
        let endpoint = self.endpoint.clone();
        let id = id.clone();
        match (response.status().as_u16(), header_text(response.headers(), "x-error-code"), revision) {
            (_, Some("GatedRepo"), _) => HubError::Gated { id, endpoint, token },
            (_, Some("RevisionNotFound"), Some(revision)) => {
                HubError::RevisionNotFound { id, revision: revision.clone() }
            }
            (404, _, Some(_)) => HubError::NotFound { id, endpoint },
            (status @ (401 | 403), _, _) => HubError::Refused { id, status, token },
            (status, _, _) => HubError::Status { url: without_query(url), status },
        }
    }
}

/// The start of `Content-Range: bytes START-END/TOTAL`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = header_text(headers, header::CONTENT_RANGE.as_str())?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_become_file_names_only_when_they_are_hashes() {
        let hash = "a".repeat(64);
        assert_eq!(Etag::parse(&format!("\"{hash}\"")).unwrap().sha256(), Some(hash.as_str()));
        assert_eq!(Etag::parse("W/\"abc-1\"").unwrap().as_str(), "abc-1");
        assert_eq!(Etag::parse("\"abc\"").unwrap().sha256(), None);
        for bad in ["", "\"\"", "\"../x\"", "\"..\"", "\"a/b\"", "\"a b\"", "\"a\0\""] {
            assert_eq!(Etag::parse(bad), None, "{bad:?}");
        }
    }
}
