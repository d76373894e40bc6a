//! The API keys: one layer around every route, with a short list of those that are open.
//!
//! A key has a role: to use models, or to change which there are as well. Where no key is set, models can be changed
//! from this machine alone: over a listener on a loopback address.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api::{Role, anthropic, docs, management, ollama, openai};
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
    keys: Arc<[Key]>,
    /// What may be done without a key, but for [`Guard::is_open`].
    keyless: Option<Role>,
    guard_info: bool,
    profile: Profile,
}

struct Key {
    digest: [u8; 32],
    role: Role,
}

impl Guard {
    pub fn new(config: &RouterConfig) -> Self {
        let key = |role| move |key: &String| Key { digest: digest(key.as_bytes()), role };
        let (users, admins) = (&config.api_keys, &config.admin_api_keys);
        let keyless = match (users.is_empty(), admins.is_empty()) {
            (false, _) => None,
            (true, true) if config.listen.ip().is_loopback() => Some(Role::Admin),
            (true, _) => Some(Role::User),
        };
        Self {
            keys: users.iter().map(key(Role::User)).chain(admins.iter().map(key(Role::Admin))).collect(),
            keyless,
            guard_info: config.guard_info,
            profile: config.profile,
        }
    }

    fn is_open(&self, method: &Method, path: &str) -> bool {
        let open =
            OPEN.contains(&path) || docs::is_open(path) || (!self.guard_info && INFORMATION.contains(&path));
        open && matches!(*method, Method::GET | Method::HEAD)
    }

    /// In the words of the dialect that the path belongs to. TGI says nothing.
    fn refusal(&self, path: &str) -> Response {
        if anthropic::is_own(path) {
            anthropic::unauthorized()
        } else if path.starts_with("/v1/") && self.profile != Profile::Tgi {
            openai::unauthorized()
        } else if management::is_own(path) {
            management::unauthorized()
        } else if path.starts_with("/api/") {
            ollama::unauthorized()
        } else {
            StatusCode::UNAUTHORIZED.into_response()
        }
    }

    /// Who a key belongs to, and what they may do: the tenant is the key's digest cut to 64 bits.
    fn identify(&self, given: &[u8]) -> Option<(Tenant, Role)> {
        let given = digest(given);
        let (mut known, mut admin) = (Choice::from(0), Choice::from(0));
        for key in self.keys.iter() {
            let same = key.digest.ct_eq(&given);
            known |= same;
            admin |= same & Choice::from(u8::from(key.role == Role::Admin));
        }
        let salt = given.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let role = if bool::from(admin) { Role::Admin } else { Role::User };
        bool::from(known).then_some((Tenant(salt), role))
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Lets a request through if no key is set, the route is open, or it brings a key.
pub(super) async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let identified = key(&request).and_then(|key| guard.identify(key));
    let role = match (identified, guard.keyless) {
        (Some((tenant, role)), _) => {
            request.extensions_mut().insert(tenant);
            role
        }
        (None, Some(role)) => role,
        (None, None) if guard.is_open(request.method(), request.uri().path()) => Role::User,
        (None, None) => return guard.refusal(request.uri().path()),
    };
    request.extensions_mut().insert(role);
    next.run(request).await
}

/// The key of the one `Authorization: Bearer …` header; on Anthropic's routes, that of its `x-api-key`, too.
fn key(request: &Request) -> Option<&[u8]> {
    let one = |name: HeaderName| {
        let mut values = request.headers().get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
    };
    if request.headers().contains_key(header::AUTHORIZATION) || !anthropic::is_own(request.uri().path()) {
        let (scheme, key) = one(header::AUTHORIZATION)?.split_at_checked(7)?;
        return scheme.eq_ignore_ascii_case(b"bearer ").then_some(key);
    }
    one(HeaderName::from_static("x-api-key"))
}
