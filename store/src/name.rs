//! Names of models as Ollama has them: `[host/][namespace/]model[:tag]`, and content digests. Both become parts of
//! paths and addresses, so each has a strict grammar and nothing else is ever joined to a path.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub const DEFAULT_HOST: &str = "registry.ollama.ai";
pub const DEFAULT_NAMESPACE: &str = "library";
pub const DEFAULT_TAG: &str = "latest";

/// Ollama's own limits.
const MAX_HOST: usize = 350;
const MAX_PART: usize = 80;

/// A name or digest that is refused before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    #[error(
        "invalid model name {given:?}: expected [host/][namespace/]model[:tag] of letters, digits, `_`, `-`, `+` and \
         `.`, each part beginning with a letter, digit or `_`, at most {MAX_PART} characters each ({MAX_HOST} for the host)"
    )]
    Model { given: String },
    #[error("invalid digest format")]
    Digest,
}

/// A full name. Compared and hashed without regard to case, as Ollama looks names up.
#[derive(Debug, Clone)]
pub struct ModelName {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl ModelName {
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn model(&self) -> &str {
        &self.model
    }

    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Where the manifest lies below `manifests/`.
    pub(crate) fn relative_path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag].iter().collect()
    }

    /// All four parts, each given.
    ///
    /// # Errors
    /// [`NameError::Model`] for a part out of its grammar.
    pub(crate) fn from_parts(parts: [&str; 4]) -> Result<Self, NameError> {
        let [host, namespace, model, tag] = parts;
        let valid = is_part(Part::Host, host)
            && is_part(Part::Namespace, namespace)
            && is_part(Part::Other, model)
            && is_part(Part::Other, tag);
        if !valid {
            return Err(NameError::Model { given: parts.join("/") });
        }
        let [host, namespace, model, tag] = parts.map(str::to_owned);
        Ok(Self { host, namespace, model, tag })
    }

    fn key(&self) -> [String; 4] {
        [&self.host, &self.namespace, &self.model, &self.tag].map(|part| part.to_ascii_lowercase())
    }
}

impl PartialEq for ModelName {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ModelName {}

impl std::hash::Hash for ModelName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    /// Fills in the defaults. A leading `https://` is dropped; `http://` is the caller's to allow.
    fn from_str(given: &str) -> Result<Self, NameError> {
        let refused = || NameError::Model { given: given.chars().take(MAX_HOST).collect() };
        let text = given.strip_prefix("https://").unwrap_or(given);
        let (path, tag) = match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, tag),
            _ => (text, DEFAULT_TAG),
        };
        let parts: Vec<&str> = path.split('/').collect();
        let parts = match parts[..] {
            [model] => [DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag],
            [namespace, model] => [DEFAULT_HOST, namespace, model, tag],
            [host, namespace, model] => [host, namespace, model, tag],
            _ => return Err(refused()),
        };
        Self::from_parts(parts).map_err(|_| refused())
    }
}

/// The shortest form that means the same, always with its tag.
impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default_host = self.host.eq_ignore_ascii_case(DEFAULT_HOST);
        if !default_host {
            write!(f, "{}/", self.host)?;
        }
        if !default_host || !self.namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}:{}", self.model, self.tag)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Host,
    Namespace,
    Other,
}

fn is_part(part: Part, text: &str) -> bool {
    let limit = if part == Part::Host { MAX_HOST } else { MAX_PART };
    let fits = |c: char| match c {
        '_' | '-' | '+' => true,
        '.' => part != Part::Namespace,
        ':' => part == Part::Host,
        _ => c.is_ascii_alphanumeric(),
    };
    (1..=limit).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(fits)
}

/// The sha256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn finish(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// 64 lower-case digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The 12 digits that progress lines show.
    pub fn short(&self) -> String {
        self.hex().chars().take(12).collect()
    }

    /// What the content is called in `blobs/`.
    pub(crate) fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }
}

/// Reads `sha256:` or `sha256-` and 64 hexadecimal digits of either case.
impl FromStr for Digest {
    type Err = NameError;

    fn from_str(given: &str) -> Result<Self, NameError> {
        let hex = given.strip_prefix("sha256:").or_else(|| given.strip_prefix("sha256-"));
        let hex = hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = hex.and_then(|hex| hex.get(2 * index..2 * index + 2)).ok_or(NameError::Digest)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NameError::Digest)?;
        }
        Ok(Self(bytes))
    }
}

/// `sha256:` and the digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<[String; 4], NameError> {
        text.parse::<ModelName>().map(|name| [name.host, name.namespace, name.model, name.tag])
    }

    #[test]
    fn defaults_are_filled_in_and_left_out_again() {
        let cases = [
            ("llama3", [DEFAULT_HOST, "library", "llama3", "latest"], "llama3:latest"),
            ("llama3:8b", [DEFAULT_HOST, "library", "llama3", "8b"], "llama3:8b"),
            ("me/llama3", [DEFAULT_HOST, "me", "llama3", "latest"], "me/llama3:latest"),
            ("h:5000/me/m:t", ["h:5000", "me", "m", "t"], "h:5000/me/m:t"),
            ("h/library/m", ["h", "library", "m", "latest"], "h/library/m:latest"),
            ("hf.co/u/Repo-GGUF:Q4_K_M", ["hf.co", "u", "Repo-GGUF", "Q4_K_M"], "hf.co/u/Repo-GGUF:Q4_K_M"),
            ("https://h/n/m", ["h", "n", "m", "latest"], "h/n/m:latest"),
            ("_a+b-c.d", [DEFAULT_HOST, "library", "_a+b-c.d", "latest"], "_a+b-c.d:latest"),
        ];
        for (given, parts, shown) in cases {
            assert_eq!(parse(given).unwrap(), parts.map(str::to_owned), "{given}");
            assert_eq!(given.parse::<ModelName>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_names_are_refused() {
        let long = "x".repeat(81);
        let host = format!("{}/n/m", "h".repeat(351));
        let bad = [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c/d",
            "../a",
            "a/../b",
            "..",
            ".",
            "a:",
            ":a",
            "a:b:c",
            "a b",
            "a\0",
            "a\n",
            "a%2fb",
            "a\\b",
            "-a",
            ".a",
            "a:.",
            "a:..",
            "n.s/m",
            "é",
            "http://h/n/m",
            "a@sha256:0",
            "$(id)",
            &long,
            &host,
        ];
        for given in bad {
            assert!(parse(given).is_err(), "{given:?}");
        }
    }

    #[test]
    fn case_does_not_tell_names_apart() {
        let name: ModelName = "Me/Llama3:8B".parse().unwrap();
        assert_eq!(name, "me/llama3:8b".parse().unwrap());
        assert_eq!(name.to_string(), "Me/Llama3:8B");
    }

    #[test]
    fn digests() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), format!("sha256:{hex}"));
        for good in
            [format!("sha256:{hex}"), format!("sha256-{hex}"), format!("sha256:{}", hex.to_uppercase())]
        {
            assert_eq!(good.parse::<Digest>().unwrap(), Digest::of(b""));
        }
        let bad = [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:../../{}", &hex[6..]),
            format!("sha256:+{}", &hex[1..]),
            format!("sha256:é{}", &hex[2..]),
            format!("sha512:{hex}"),
            "sha256:../../../etc/passwd".to_owned(),
        ];
        for text in bad {
            assert_eq!(text.parse::<Digest>(), Err(NameError::Digest), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_names_are_read_back(
            host in "[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,20}",
            namespace in "[A-Za-z0-9_][A-Za-z0-9_+-]{0,20}",
            model in "[A-Za-z0-9_][A-Za-z0-9_.+-]{0,20}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.+-]{0,20}",
        ) {
            let name = ModelName::from_parts([&host, &namespace, &model, &tag]).unwrap();
            prop_assert_eq!(name.to_string().parse::<ModelName>().unwrap(), name);
        }

        #[test]
        fn no_name_leaves_its_folder(text in "[a./:\\\\~\0 -]{0,24}|\\PC{0,40}") {
            if let Ok(name) = text.parse::<ModelName>() {
                let path = name.relative_path();
                let parts: Vec<Component> = Path::new(&path).components().collect();
                prop_assert_eq!(parts.len(), 4);
                prop_assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))));
            }
        }

        #[test]
        fn digests_are_read_back(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            prop_assert_eq!(digest.file_name().len(), 71);
        }
    }
}
