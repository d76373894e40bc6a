//! DNS rebinding: a page whose name suddenly points to this machine would reach a server that listens on loopback
//! (CVE-2024-28224). Such a page says its own name in `Host`; who may say which name is decided here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::origins::matches;
use crate::config::RouterConfig;

/// The names under which a server on loopback may be called, or `None` where any will do: elsewhere the network
/// decides who comes and by which name (a container's, a service's), and models are changed with a key, which no such
/// page has.
#[derive(Clone)]
pub(super) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    /// Beside addresses and `localhost`: this machine's own name, and those of the allowed origins.
    pub fn new(config: &RouterConfig) -> Self {
        let guarded = config.listen.ip().is_loopback() && config.api_keys.is_empty();
        let named = || {
            let machine = rustix::system::uname().nodename().to_str().map(str::to_lowercase);
            config.cors_allow_origin.iter().filter_map(|origin| host_of(origin)).chain(machine).collect()
        };
        Self(guarded.then(named))
    }

    fn allow(&self, host: &str) -> bool {
        let Some(named) = &self.0 else { return true };
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        host == "localhost"
            || host.ends_with(".localhost")
            // A page under an address is where it says that it is.
            || host.parse::<IpAddr>().is_ok()
            || named.iter().any(|pattern| matches(pattern, &host))
    }
}

/// The host of an origin, which may have a `*`: neither scheme nor port. Of an application's scheme it is no host, and
/// any host only where any origin may come.
fn host_of(origin: &str) -> Option<String> {
    let (scheme, authority) = origin.split_once("://").unwrap_or(("http", origin));
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_end_matches('/');
    (matches!(scheme, "http" | "https") && (host != "*" || origin == "*")).then(|| host.to_ascii_lowercase())
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
        let cors_allow_origin = named.iter().map(|origin| (*origin).to_owned()).collect();
        Hosts::new(&RouterConfig { cors_allow_origin, ..crate::tests::config() })
    }

    fn check(hosts: &Hosts, allowed: &[&str], refused: &[&str]) {
        for host in allowed {
            assert!(hosts.allow(host), "{host}");
        }
        for host in refused {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn only_addresses_and_names_that_are_this_machines_or_chosen_pass() {
        let machine = rustix::system::uname().nodename().to_str().unwrap().to_owned();
        check(
            &hosts(&[
                "https://App.example:8443",
                "http://*.lan",
                "http://weirgate:*",
                // Any extension, any page of one port: no host of these is this server's.
                "chrome-extension://*",
                "http://*:3000",
            ]),
            &[
                "localhost",
                "LOCALHOST:3000",
                "a.localhost",
                "127.0.0.1:80",
                "[::1]:3000",
                "10.0.0.7",
                &machine,
                &format!("{machine}:3000"),
                "app.example",
                "APP.example:1",
                "box.lan:3000",
                "weirgate:3000",
            ],
            &[
                "evil.example",
                "localhost.evil.example",
                "127.0.0.1.evil.example",
                "",
                "a b",
                "app.example.evil",
                "lan",
                "lan.evil.example",
                // A network can be made to say anything of these.
                "router",
                "printer:631",
                "box.local",
                "metadata.internal",
                "localhost.",
            ],
        );
        check(&hosts(&["*"]), &["evil.example", "router"], &["a b"]);
    }

    /// Containers and services call each other by names of their own.
    #[test]
    fn off_loopback_and_behind_keys_any_name_passes() {
        for config in [
            RouterConfig { listen: "0.0.0.0:0".parse().unwrap(), ..crate::tests::config() },
            RouterConfig { api_keys: vec!["key".into()], ..crate::tests::config() },
        ] {
            check(&Hosts::new(&config), &["weirgate:3000", "weirgate.models.svc.cluster.local"], &[]);
        }
    }
}
