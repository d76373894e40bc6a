//! The API key: one layer around every route, with a short list of those that are open.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api::{docs, openai};
use crate::service::Tenant;

/// Open to all, as in TGI: what probes, scrapers and listings read.
const OPEN: [&str; 8] = ["/", "/health", "/ping", "/livez", "/readyz", "/metrics", "/info", "/v1/models"];

/// The accepted keys, as digests: comparing those takes the same time whatever was sent.
#[derive(Clone)]
pub(super) struct ApiKeys(Arc<[[u8; 32]]>);

impl ApiKeys {
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Who a key belongs to: the tenant is the key's digest cut to 64 bits.
    fn tenant(&self, given: &[u8]) -> Option<Tenant> {
        let given = digest(given);
        let matches = self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        let salt = given.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        bool::from(matches).then_some(Tenant(salt))
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through if no key is set, the route is open, or it brings a key.
pub(super) async fn check(State(keys): State<ApiKeys>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = request.method() == Method::GET && (OPEN.contains(&path) || docs::is_open(path));
    if keys.0.is_empty() || open {
        return next.run(request).await;
    }
    match bearer(&request).and_then(|key| keys.tenant(key)) {
        Some(tenant) => {
            request.extensions_mut().insert(tenant);
            next.run(request).await
        }
        None if path.starts_with("/v1/") => openai::unauthorized(),
        None => StatusCode::UNAUTHORIZED.into_response(),
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
