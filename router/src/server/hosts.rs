//! DNS rebinding: a page whose name suddenly points to this machine would reach a server that listens on loopback
//! (CVE-2024-28224). Such a page says its own name in `Host`; who may say which name is decided here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::RouterConfig;

/// The names under which a server on loopback may be called, or `None` where any will do: elsewhere the network
/// decides who comes, and a key is what no such page has.
#[derive(Clone)]
pub(super) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    /// Beside the machine's own names, those of the allowed origins.
    pub fn new(config: &RouterConfig) -> Self {
        let guarded = config.listen.ip().is_loopback() && config.api_keys.is_empty();
        let named = || config.cors_allow_origin.iter().filter_map(|origin| host_of(origin)).collect();
        Self(guarded.then(named))
    }

    fn allow(&self, host: &str) -> bool {
        let Some(named) = &self.0 else { return true };
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // A name without a dot is the local network's; a page's is not.
        (!host.is_empty() && !host.contains('.'))
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok()
            || named.contains(&host)
    }
}

fn host_of(origin: &str) -> Option<String> {
    Some(origin.parse::<Uri>().ok()?.host()?.to_ascii_lowercase())
}

/// Refuses a request that came under a name that is not this server's.
pub(super) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    // Every browser sends the header; its absence is no attack.
    if host.is_none_or(|host| host.to_str().is_ok_and(|host| hosts.allow(host))) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "This server does not go by that name: see `Host`.").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(named: &[&str]) -> Hosts {
        Hosts(Some(named.iter().filter_map(|origin| host_of(origin)).collect()))
    }

    #[test]
    fn only_the_machines_own_names_and_those_of_the_origins_pass() {
        let hosts = hosts(&["https://App.example:8443"]);
        for host in [
            "localhost",
            "LOCALHOST:3000",
            "a.localhost",
            "127.0.0.1:80",
            "[::1]:3000",
            "10.0.0.7",
            "weirgate:3000",
            "app.example",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
            "app.example.evil",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
        assert!(Hosts(None).allow("evil.example"));
    }
}
