//! What every client of a model server on the network does alike: times, certificates, origins.

use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

use crate::error::HubError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the start of an answer, and for each further piece of it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of an agent that leaves redirects and statuses to its caller and gets files as they are.
///
/// # Errors
/// [`HubError::Certificates`] for a file without usable certificates.
pub fn agent_config(
    user_agent: String,
    certificates: Option<&Path>,
) -> Result<ConfigBuilder<AgentScope>, HubError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(user_agent)
        // A compressed answer would have another length than the file.
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT));
    Ok(match certificates {
        Some(path) => config.tls_config(trusting(path)?),
        None => config,
    })
}

fn trusting(path: &Path) -> Result<TlsConfig, HubError> {
    let refused = |problem: String| HubError::Certificates { path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| refused(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(refused("no certificate in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

/// Where credentials may go: scheme, host and port of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` for what is no http or https address.
    pub fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self { scheme, host, port: uri.port_u16().unwrap_or(default_port) })
    }

    pub fn root(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    pub fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address that a `Location` in an answer from here means; `None` for one that cannot be read, or that leads
    /// from https to http.
    pub fn follow(&self, location: &str) -> Option<String> {
        let target = match location {
            path if path.starts_with('/') && !path.starts_with("//") => format!("{}{path}", self.root()),
            absolute => absolute.to_owned(),
        };
        let there = Self::of(&target)?;
        (there.is_https() || !self.is_https()).then_some(target)
    }
}

/// A header's value as text.
pub fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Signed addresses carry their signature in the query; it does not belong in a log.
pub fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_with_their_ports() {
        assert_eq!(Origin::of("https://A.b/x"), Origin::of("https://a.b:443/y?z"));
        for other in ["http://a.b/x", "https://a.b:444/", "https://c.b/", "https://a.b.evil/"] {
            assert_ne!(Origin::of("https://a.b/"), Origin::of(other), "{other}");
        }
        for bad in ["ftp://a", "a/b", "", "file:///etc/passwd"] {
            assert_eq!(Origin::of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn locations_lead_on() {
        let here = Origin::of("https://a.b/x").unwrap();
        assert_eq!(here.follow("/y?z=1").unwrap(), "https://a.b:443/y?z=1");
        assert_eq!(here.follow("https://c.d/y").unwrap(), "https://c.d/y");
        for bad in ["http://a.b/y", "//c.d/y", "y", "file:///etc/passwd", ""] {
            assert_eq!(here.follow(bad), None, "{bad:?}");
        }
    }
}
