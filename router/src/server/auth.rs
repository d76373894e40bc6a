//! The API key: one layer around every route, with a short list of those that are open.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api::{docs, ollama, openai};
use crate::config::{Profile, RouterConfig};
use crate::service::Tenant;

/// Open to all, as in TGI: what probes and browsers of the documentation read.
const OPEN: [&str; 7] = ["/", "/health", "/ping", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"];
/// Open, too, unless [`RouterConfig::guard_info`] says otherwise: what scrapers and listings read.
const INFORMATION: [&str; 3] = ["/metrics", "/info", "/v1/models"];

/// Who is let in, and how others are told.
#[derive(Clone)]
pub(super) struct Guard {
    /// The accepted keys, as digests: comparing those takes the same time whatever was sent.
    keys: Arc<[[u8; 32]]>,
    guard_info: bool,
    profile: Profile,
}

impl Guard {
    pub fn new(config: &RouterConfig) -> Self {
        Self {
            keys: config.api_keys.iter().map(|key| digest(key.as_bytes())).collect(),
            guard_info: config.guard_info,
            profile: config.profile,
        }
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        let open =
            OPEN.contains(&path) || docs::is_open(path) || (!self.guard_info && INFORMATION.contains(&path));
        self.keys.is_empty() || (open && matches!(*method, Method::GET | Method::HEAD))
    }

    /// In the words of the dialect that the path belongs to. TGI says nothing.
    fn refusal(&self, path: &str) -> Response {
        if path.starts_with("/v1/") && self.profile != Profile::Tgi {
            openai::unauthorized()
        } else if path.starts_with("/api/") {
            ollama::unauthorized()
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        }
    }

    /// Who a key belongs to: the tenant is the key's digest cut to 64 bits.
    fn tenant(&self, given: &[u8]) -> Option<Tenant> {
        let given = digest(given);
        let matches = self.keys.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        let salt = given.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        bool::from(matches).then_some(Tenant(salt))
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through if no key is set, the route is open, or it brings a key.
pub(super) async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if guard.is_open(request.method(), path) {
        return next.run(request).await;
    }
    match bearer(&request).and_then(|key| guard.tenant(key)) {
        Some(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        None => guard.refusal(path),
    }
}

/// The key of the one `Authorization: Bearer …` header.
fn bearer(request: &Request) -> Option<&[u8]> {
    let mut values = request.headers().get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}
