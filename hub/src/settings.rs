//! Which hub, which cache, whose token: the variables of the official clients.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::HubError;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How the hub is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubSettings {
    /// `HF_ENDPOINT`; scheme, host and maybe a path, with no slash at its end.
    pub endpoint: String,
    pub token: Option<Token>,
    /// Folder with one `models--org--name` folder a model.
    pub cache: PathBuf,
    /// Never use the network.
    pub offline: bool,
    /// `HF_HUB_USER_AGENT_ORIGIN`.
    pub user_agent_origin: Option<String>,
    /// `SSL_CERT_FILE`: certificates (PEM) to trust in place of the built-in ones.
    pub certificates: Option<PathBuf>,
}

/// A secret; never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(String);

impl Token {
    /// # Errors
    /// [`HubError::Token`] for text that a header cannot carry.
    pub fn new(text: &str) -> Result<Self, HubError> {
        if text.chars().all(|c| c.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(HubError::Token)
        }
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubSettings {
    /// Reads the variables through `env`; `cache` goes before all of them.
    ///
    /// # Errors
    /// [`HubError::NoCacheFolder`], [`HubError::Token`].
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>, cache: Option<PathBuf>) -> Result<Self, HubError> {
        let get = |name: &str| env(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("huggingface")))
            .or_else(|| path("HOME").map(|folder| folder.join(".cache/huggingface")));
        let cache = cache
            .or_else(|| path("HF_HUB_CACHE"))
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or(HubError::NoCacheFolder)?;
        let token = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN"]
            .into_iter()
            .find_map(get)
            .or_else(|| stored_token(path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")))?.as_path()));
        Ok(Self {
            endpoint: get("HF_ENDPOINT")
                .map_or_else(|| DEFAULT_ENDPOINT.to_owned(), |url| url.trim_end_matches('/').to_owned()),
            token: token.as_deref().map(Token::new).transpose()?,
            cache,
            offline: get("HF_HUB_OFFLINE").is_some_and(|text| is_true(&text)),
            user_agent_origin: get("HF_HUB_USER_AGENT_ORIGIN"),
            certificates: path("SSL_CERT_FILE"),
        })
    }
}

fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
}

/// Where the official command-line client leaves the token of a login.
fn stored_token(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> HubSettings {
        let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        HubSettings::from_env(&env, None).unwrap()
    }

    #[test]
    fn the_cache_is_where_the_official_clients_put_it() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/h"), ("HF_HOME", "/data")], "/data/hub"),
            (&[("HF_HOME", "/data"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HUB_CACHE", "/d"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/d"),
            (&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub"),
        ];
        for (variables, cache) in cases {
            assert_eq!(resolve(variables).cache, PathBuf::from(cache), "{variables:?}");
        }
        assert!(matches!(HubSettings::from_env(&|_| None, None), Err(HubError::NoCacheFolder)));
    }

    #[test]
    fn tokens_in_their_order_and_never_shown() {
        let all =
            [("HOME", "/h"), ("HF_API_TOKEN", "c"), ("HUGGING_FACE_HUB_TOKEN", "b"), ("HF_TOKEN", "hf_a\n")];
        assert_eq!(resolve(&all).token.unwrap().secret(), "hf_a");
        assert_eq!(resolve(&all[..3]).token.unwrap().secret(), "b");
        assert_eq!(resolve(&all[..2]).token.unwrap().secret(), "c");
        assert!(!format!("{:?}", resolve(&all)).contains("hf_a"));
        let env = |name: &str| (name == "HF_TOKEN").then(|| "a\nb".to_owned());
        assert!(matches!(HubSettings::from_env(&env, Some("/c".into())), Err(HubError::Token)));
    }

    #[test]
    fn a_stored_login_is_used() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_stored\n").unwrap();
        let settings = resolve(&[("HF_HOME", home.path().to_str().unwrap())]);
        assert_eq!(settings.token.unwrap().secret(), "hf_stored");
    }

    #[test]
    fn offline_and_endpoint() {
        for (text, offline) in [("1", true), ("TRUE", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(resolve(&[("HOME", "/h"), ("HF_HUB_OFFLINE", text)]).offline, offline, "{text:?}");
        }
        assert_eq!(resolve(&[("HOME", "/h")]).endpoint, "https://huggingface.co");
        assert_eq!(resolve(&[("HOME", "/h"), ("HF_ENDPOINT", "http://m:1/hf/")]).endpoint, "http://m:1/hf");
    }
}
