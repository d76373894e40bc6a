//! Pages of other sites: from where a browser may call.
//!
//! text-generation-inference lets any page read its answers unless origins are named; Ollama refuses pages that are
//! neither this machine's nor named. Each is so under its own profile. What changes models is refused to foreign pages
//! everywhere: a browser sends some requests without asking first.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::api::Foreign;
use crate::config::{Profile, RouterConfig};

/// Ollama's: pages of this machine, on any port, and applications' own.
const LOCAL_HOSTS: [&str; 4] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"];
const LOCAL_SCHEMES: [&str; 5] = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

/// Who may call from a browser.
#[derive(Clone)]
pub(super) struct Origins {
    /// By the operator; one `*` in each stands for anything.
    named: Arc<[String]>,
    profile: Profile,
}

impl Origins {
    pub fn new(config: &RouterConfig) -> Self {
        Self { named: config.cors_allow_origin.clone().into(), profile: config.profile }
    }

    fn is_named(&self, origin: &str) -> bool {
        self.named.iter().any(|pattern| matches(pattern, origin))
    }

    /// Whether the headers are those of a page that has no business here.
    fn is_foreign(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return false };
        let Ok(origin) = origin.to_str() else { return true };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let own = origin.split_once("://").is_some_and(|(_, authority)| Some(authority) == host);
        !(own || is_local(origin) || self.is_named(origin))
    }

    /// What browsers are told. Unlike text-generation-inference's, they may send a key.
    pub fn cors(&self) -> CorsLayer {
        let ollama = self.profile == Profile::Ollama;
        let any = (self.named.is_empty() && !ollama) || self.named.iter().any(|origin| origin == "*");
        let allowed = if any {
            AllowOrigin::any()
        } else {
            let origins = self.clone();
            AllowOrigin::predicate(move |origin: &HeaderValue, _| {
                origin.to_str().is_ok_and(|origin| origins.is_named(origin) || (ollama && is_local(origin)))
            })
        };
        let cors = CorsLayer::new().allow_origin(allowed);
        if ollama {
            let methods =
                [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
            cors.allow_methods(methods).allow_headers(AllowHeaders::mirror_request())
        } else {
            let own = [Method::GET, Method::POST];
            // Jan's routes have two more.
            let more = [Method::PUT, Method::DELETE].into_iter().filter(|_| self.profile == Profile::Jan);
            cors.allow_methods(own.into_iter().chain(more).collect::<Vec<_>>())
                .allow_headers([header::CONTENT_TYPE, header::AUTHORIZATION])
        }
    }
}

/// Whether `text` is what `pattern` says; one `*` in it stands for anything.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some((head, tail)) => {
            text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail)
        }
        None => pattern == text,
    }
}

fn is_local(origin: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let on = |rest: &str, host: &&str| {
        rest.strip_prefix(*host).is_some_and(|port| {
            port.strip_prefix(':').map_or(port.is_empty(), |port| port.parse::<u16>().is_ok())
        })
    };
    rest.is_some_and(|rest| LOCAL_HOSTS.iter().any(|host| on(rest, host)))
        || LOCAL_SCHEMES.iter().any(|scheme| origin.starts_with(scheme))
}

/// Whether another site's page has the answer as a picture, a frame or a link: browsers name no origin then.
fn is_embedded(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    !headers.contains_key(header::ORIGIN) && matches!(site, Some(b"cross-site" | b"same-site"))
}

/// Marks the requests of foreign pages, and refuses them where Ollama does.
pub(super) async fn check(State(origins): State<Origins>, mut request: Request, next: Next) -> Response {
    if origins.is_foreign(request.headers()) {
        if origins.profile == Profile::Ollama {
            return StatusCode::FORBIDDEN.into_response();
        }
        request.extensions_mut().insert(Foreign);
    } else if is_embedded(request.headers()) {
        request.extensions_mut().insert(Foreign);
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_foreign(origins: &Origins, origin: &'static str, host: &'static str) -> bool {
        let headers = [(header::ORIGIN, origin), (header::HOST, host)];
        let value = |(name, value)| (name, HeaderValue::from_static(value));
        origins.is_foreign(&headers.into_iter().map(value).collect())
    }

    /// The defaults are Ollama's (reference/dialects.md §1.18).
    #[test]
    fn pages_of_this_machine_and_named_ones_are_at_home() {
        let named = ["https://app.example".to_owned(), "http://10.0.0.*".to_owned()];
        let origins = Origins { named: named.into(), profile: Profile::Ollama };
        for origin in [
            "http://localhost",
            "https://localhost:1",
            "http://127.0.0.1:8080",
            "http://0.0.0.0",
            "http://[::1]:3000",
            "app://x",
            "file://",
            "tauri://localhost",
            "vscode-webview://abc",
            "vscode-file://abc",
            "https://app.example",
            "http://10.0.0.7",
            "http://models.lan:3000",
        ] {
            assert!(!is_foreign(&origins, origin, "models.lan:3000"), "{origin}");
        }
        for origin in [
            "http://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost:80@evil.example",
            "http://localhost:",
            "null",
            "",
            "http://app.example",
            "https://app.example:1",
            "http://models.lan",
            "http://10.0.1.7",
        ] {
            assert!(is_foreign(&origins, origin, "models.lan:3000"), "{origin}");
        }
        assert!(!origins.is_foreign(&HeaderMap::new()), "no browser");
    }
}
