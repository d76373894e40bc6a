//! One registry's HTTP interface.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, SendBody};
use weirgate_hub::http::{Origin, agent_config, header_text, without_query};

use super::address::{PRIVATE, PublicResolver};
use super::auth::{Challenge, base64, percent};
use super::{Credentials, RegistryError, RegistrySettings, Transfer};
use crate::manifest::{MANIFEST_TYPE, MAX_MANIFEST_BYTES};
use crate::name::{Digest, ModelName};

const MAX_REDIRECTS: usize = 5;
/// Largest answer of a token service.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// Access to all registries.
pub(crate) struct Registry {
    agent: Agent,
    pub(super) settings: RegistrySettings,
}

impl Registry {
    /// # Errors
    /// [`RegistryError::Certificates`].
    pub fn new(settings: &RegistrySettings) -> Result<Self, RegistryError> {
        let user_agent = concat!("weirgate/", env!("CARGO_PKG_VERSION")).to_owned();
        let config = agent_config(user_agent, settings.certificates.as_deref())?
            .timeout_recv_response(Some(settings.read_timeout))
            .timeout_per_read(Some(settings.read_timeout))
            .build();
        let mut private_hosts = settings.private_hosts.clone();
        // A proxy is the operator's choice, wherever it is.
        private_hosts.extend(config.proxy().map(|proxy| proxy.host().to_owned()));
        let resolver = PublicResolver { private_hosts, inner: DefaultResolver::default() };
        let agent = Agent::with_parts(config, DefaultConnector::default(), resolver);
        Ok(Self { agent, settings: settings.clone() })
    }

    /// Begins to talk about `name`.
    ///
    /// # Errors
    /// [`RegistryError::HostNotAllowed`].
    pub(super) fn session(&self, name: &ModelName, transfer: Transfer) -> Result<Session<'_>, RegistryError> {
        let host = name.host();
        self.check_host(host)?;
        let scheme = if transfer.insecure { "http" } else { "https" };
        let root = format!("{scheme}://{host}");
        let origin = Origin::of(&root).ok_or_else(|| RegistryError::HostNotAllowed(host.to_owned()))?;
        let credentials = self.settings.credentials.get(host).cloned();
        let repository = format!("{root}/v2/{}/{}", name.namespace(), name.model());
        Ok(Session { registry: self, origin, repository, credentials, authorization: Mutex::new(None) })
    }

    fn check_host(&self, host: &str) -> Result<(), RegistryError> {
        let allowed = &self.settings.allowed_hosts;
        if allowed.is_empty() || allowed.iter().any(|known| known.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(RegistryError::HostNotAllowed(host.to_owned()))
    }

    /// Asks for the file at `url`, without credentials. Plain http only of hosts that may be in private networks.
    ///
    /// # Errors
    /// [`RegistryError::HostNotAllowed`], [`RegistryError::Insecure`], and those of the network.
    pub(super) fn file(&self, url: &str, call: &Call<'_>) -> Result<Response<Body>, RegistryError> {
        let shown = || without_query(url);
        let origin = Origin::of(url)
            .ok_or_else(|| RegistryError::Protocol { url: shown(), problem: "not an address".to_owned() })?;
        let uri: Option<Uri> = url.parse().ok();
        let authority = uri.as_ref().and_then(Uri::authority).map(|authority| authority.as_str().to_owned());
        // A user's name in an address is there to deceive.
        let authority = authority.filter(|authority| !authority.contains('@'));
        self.check_host(&authority.ok_or_else(|| RegistryError::HostNotAllowed(shown()))?)?;
        if !origin.is_https() && !self.settings.private_hosts.iter().any(|host| host == origin.host()) {
            return Err(RegistryError::Insecure);
        }
        let session = Session {
            registry: self,
            origin,
            repository: String::new(),
            credentials: None,
            authorization: Mutex::new(None),
        };
        session.send(url, call)
    }
}

/// A conversation about one repository.
pub(super) struct Session<'a> {
    pub registry: &'a Registry,
    origin: Origin,
    /// Address of the repository.
    repository: String,
    credentials: Option<Credentials>,
    /// The last that was asked for and given.
    authorization: Mutex<Option<String>>,
}

/// A request that can be sent again.
pub(super) struct Call<'c> {
    pub method: Method,
    pub headers: Vec<(header::HeaderName, String)>,
    pub body: Option<CallBody<'c>>,
}

/// A body that can be made again.
pub(super) struct CallBody<'c> {
    /// Bytes.
    pub length: u64,
    pub make: &'c dyn Fn() -> Box<dyn Read>,
}

impl Call<'_> {
    pub fn new(method: Method) -> Self {
        Self { method, headers: Vec::new(), body: None }
    }

    pub fn with(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Session<'_> {
    pub fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.repository)
    }

    pub fn uploads_url(&self, mount: Option<(&Digest, &str)>) -> String {
        let query = mount
            .map(|(digest, from)| format!("?mount={}&from={}", percent(&digest.to_string()), percent(from)));
        format!("{}/blobs/uploads/{}", self.repository, query.unwrap_or_default())
    }

    pub fn manifest_url(&self, tag: &str) -> String {
        format!("{}/manifests/{tag}", self.repository)
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// [`RegistryError::ManifestNotFound`], and those of the network.
    pub fn manifest(&self, tag: &str) -> Result<Vec<u8>, RegistryError> {
        let url = self.manifest_url(tag);
        let mut response = self.send(&url, &Call::new(Method::GET).with(header::ACCEPT, MANIFEST_TYPE))?;
        match response.status() {
            StatusCode::OK => read_limited(&mut response, MAX_MANIFEST_BYTES, &url),
            StatusCode::NOT_FOUND => Err(RegistryError::ManifestNotFound),
            status => Err(RegistryError::Status { url, status: status.as_u16() }),
        }
    }

    /// Sends a request, answers one challenge, and follows redirects of GET and HEAD.
    ///
    /// # Errors
    /// [`RegistryError::Unauthorized`], and those of the network.
    pub fn send(&self, url: &str, call: &Call<'_>) -> Result<Response<Body>, RegistryError> {
        let mut challenged = false;
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&url, call)?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && Origin::of(&url).as_ref() == Some(&self.origin) {
                if challenged {
                    return Err(RegistryError::Unauthorized);
                }
                challenged = true;
                self.answer(response.headers())?;
            } else if status.is_redirection() && matches!(call.method, Method::GET | Method::HEAD) {
                url = self.location(&url, response.headers())?;
            } else {
                return Ok(response);
            }
        }
        Err(RegistryError::Protocol { url: without_query(&url), problem: "too many redirects".to_owned() })
    }

    /// Where a `Location` in an answer of `url` leads.
    pub fn location(&self, url: &str, headers: &HeaderMap) -> Result<String, RegistryError> {
        let problem =
            |problem: &str| RegistryError::Protocol { url: without_query(url), problem: problem.to_owned() };
        let location = header_text(headers, header::LOCATION.as_str())
            .ok_or_else(|| problem("a redirect to nowhere"))?;
        let here = Origin::of(url).ok_or_else(|| problem("not an address"))?;
        here.follow(location)
            .ok_or_else(|| problem("a redirect to something unreadable, or from https to http"))
    }

    fn send_once(&self, url: &str, call: &Call<'_>) -> Result<Response<Body>, RegistryError> {
        let mut request = Request::builder().method(call.method.clone()).uri(url);
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(authorization) = authorization
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let unsent = |error: ureq::http::Error| RegistryError::Protocol {
            url: without_query(url),
            problem: error.to_string(),
        };
        let sent = match &call.body {
            Some(CallBody { length, make }) => {
                let mut body = make();
                let request = request.header(header::CONTENT_LENGTH, length.to_string());
                self.registry.agent.run(request.body(SendBody::from_reader(&mut body)).map_err(unsent)?)
            }
            None if matches!(call.method, Method::GET | Method::HEAD) => {
                self.registry.agent.run(request.body(()).map_err(unsent)?)
            }
            None => {
                let mut empty: &[u8] = &[];
                let request = request.header(header::CONTENT_LENGTH, "0");
                self.registry.agent.run(request.body(SendBody::from_reader(&mut empty)).map_err(unsent)?)
            }
        };
        sent.map_err(|error| unreachable_or_private(url, &error))
    }

    /// Gets what a challenge asks for.
    fn answer(&self, headers: &HeaderMap) -> Result<(), RegistryError> {
        let header = header_text(headers, header::WWW_AUTHENTICATE.as_str()).unwrap_or_default();
        let basic = self.credentials.as_ref().map(|credentials| {
            let Credentials { user, password } = credentials;
            format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
        });
        let authorization = match Challenge::parse(header) {
            None => return Err(RegistryError::Unauthorized),
            Some(Challenge::Basic) => basic.ok_or(RegistryError::Unauthorized)?,
            Some(Challenge::Bearer { realm, service, scope }) => {
                let mut query = Vec::new();
                query.extend(service.map(|service| format!("service={}", percent(&service))));
                query.extend(scope.map(|scope| format!("scope={}", percent(&scope))));
                let joint = if realm.contains('?') { '&' } else { '?' };
                let url = format!("{realm}{joint}{}", query.join("&"));
                format!("Bearer {}", self.token(&url, basic)?)
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    /// Asks the token service at `url`, which must be of the registry's own origin.
    fn token(&self, url: &str, basic: Option<String>) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm = Origin::of(url);
        if realm.as_ref() != Some(&self.origin) {
            let realm = realm.map(|realm| realm.root()).unwrap_or_default();
            return Err(RegistryError::ForeignRealm { realm, host: self.origin.root() });
        }
        let mut request = self.registry.agent.get(url);
        if let Some(basic) = basic {
            request = request.header(header::AUTHORIZATION, basic);
        }
        let mut response = request.call().map_err(|error| unreachable_or_private(url, &error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(RegistryError::Unauthorized),
            status => return Err(RegistryError::Status { url: without_query(url), status: status.as_u16() }),
        }
        let bytes = read_limited(&mut response, MAX_TOKEN_BYTES, url)?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let usable = |token: &String| token.chars().all(|c| c.is_ascii_graphic());
        token.filter(usable).ok_or(RegistryError::Unauthorized)
    }
}

fn read_limited(response: &mut Response<Body>, limit: u64, url: &str) -> Result<Vec<u8>, RegistryError> {
    let read = response.body_mut().with_config().limit(limit).read_to_vec();
    read.map_err(|error| unreachable_or_private(url, &error))
}

fn unreachable_or_private(url: &str, error: &ureq::Error) -> RegistryError {
    let problem = error.to_string();
    match problem.split_once(PRIVATE) {
        Some((_, host)) => RegistryError::PrivateAddress(host.to_owned()),
        None => RegistryError::Unreachable { url: without_query(url), problem },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses that Ollama asks (reference/dialects.md §1.8, §1.13).
    #[test]
    fn names_lead_to_their_registries() {
        let registry = Registry::new(&RegistrySettings::default()).unwrap();
        for (name, insecure, address) in [
            ("llama3", false, "https://registry.ollama.ai/v2/library/llama3/manifests/latest"),
            ("me/m:7b", false, "https://registry.ollama.ai/v2/me/m/manifests/7b"),
            ("hf.co/user/repo", false, "https://hf.co/v2/user/repo/manifests/latest"),
            ("hf.co/user/repo-GGUF:Q4_K_M", false, "https://hf.co/v2/user/repo-GGUF/manifests/Q4_K_M"),
            ("localhost:5000/a/b:c", true, "http://localhost:5000/v2/a/b/manifests/c"),
        ] {
            let name: ModelName = name.parse().unwrap();
            let session = registry.session(&name, Transfer { insecure }).unwrap();
            assert_eq!(session.manifest_url(name.tag()), address);
        }
    }
}
