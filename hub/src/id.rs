//! Names that reach URLs and paths, each with a strict grammar, so that none can climb out of the cache.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name part; the hub's own limit.
const MAX_PART: usize = 96;
const MAX_REVISION: usize = 200;
const MAX_FILE_NAME: usize = 200;

/// A name that is refused before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error(
        "{given:?} is not a model id; expected `name` or `org/name` of letters, digits, `-`, `_` and `.`, \
         with no `.` or `-` at either end and no `--` or `..`, at most {MAX_PART} characters each"
    )]
    Model { given: String },
    #[error(
        "{given:?} is not a revision; expected a branch, tag, commit or refs/pr/N of letters, digits, `-`, `_`, `.` \
         and `/`, with no part empty or starting with `.`, at most {MAX_REVISION} characters"
    )]
    Revision { given: String },
}

/// `org/name`, or the bare `name` of the hub's oldest models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelId(String);

impl ModelId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelId {
    type Err = IdError;

    fn from_str(given: &str) -> Result<Self, IdError> {
        let parts: Vec<&str> = given.split('/').collect();
        if parts.len() <= 2 && parts.iter().all(|part| is_name(part)) {
            return Ok(Self(given.to_owned()));
        }
        Err(IdError::Model { given: given.to_owned() })
    }
}

fn is_name(part: &str) -> bool {
    (1..=MAX_PART).contains(&part.len())
        && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !part.starts_with(['.', '-'])
        && !part.ends_with(['.', '-'])
        && !part.contains("--")
        && !part.contains("..")
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Branch, tag, commit or `refs/pr/N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, if this is one written out.
    pub(crate) fn as_commit(&self) -> Option<Commit> {
        Commit::parse(&self.0)
    }
}

impl FromStr for Revision {
    type Err = IdError;

    fn from_str(given: &str) -> Result<Self, IdError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        if given.len() <= MAX_REVISION && given.split('/').all(is_part) {
            return Ok(Self(given.to_owned()));
        }
        Err(IdError::Revision { given: given.to_owned() })
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A git commit: 40 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit(String);

impl Commit {
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 40 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        valid.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file at the top of a repository, or in a folder there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileName(String);

impl FileName {
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |part: &str| {
            (1..=MAX_FILE_NAME).contains(&part.len())
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
        };
        let (folder, name) = text.split_once('/').unwrap_or(("folder", text));
        (plain(folder) && plain(name)).then(|| Self(text.to_owned()))
    }

    /// The folder that it is in, where it is not at the top.
    pub fn folder(&self) -> Option<&str> {
        self.0.split_once('/').map(|(folder, _)| folder)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_ids_follow_the_hub_grammar() {
        for good in ["gpt2", "org/name", "Qwen/Qwen2.5-0.5B-Instruct", "a/b_c", "01-ai/Yi-6B"] {
            assert_eq!(good.parse::<ModelId>().map(|id| id.to_string()), Ok(good.to_owned()));
        }
        let long = "x".repeat(97);
        let bad = [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "../etc",
            "a/..",
            "a/.b",
            "a/b.",
            "a--b/c",
            "a/b c",
            "a/b\0",
            "a\\b",
            "a/b%2e",
            "ä/b",
            "a/b?x",
            "a/b#x",
            "http://host/x",
            "-a/b",
            "a/$(id)",
            &long,
        ];
        for bad in bad {
            assert_eq!(bad.parse::<ModelId>(), Err(IdError::Model { given: bad.to_owned() }), "{bad:?}");
        }
    }

    #[test]
    fn revisions_cannot_climb() {
        for good in ["main", "v1.0", "refs/pr/3", "feature/x-y_z", "0123456789abcdef0123456789abcdef01234567"]
        {
            assert!(good.parse::<Revision>().is_ok(), "{good:?}");
        }
        for bad in ["", "/", "a/../b", "..", ".git", "a//b", "a/", "/a", "a b", "a?b", "a%2fb", "a\n"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commits_and_file_names() {
        assert!(Commit::parse("0123456789abcdef0123456789abcdef01234567").is_some());
        assert!(Commit::parse("0123456789abcdef0123456789abcdef0123456").is_none());
        assert!(Commit::parse("../3456789abcdef0123456789abcdef01234567").is_none());
        for bad in ["", ".", "..", ".x", "a/b/c", "a/", "/a", "../a", "a/..", "a/.b", "a\\b", "a\0"] {
            assert!(FileName::parse(bad).is_none(), "{bad:?}");
        }
        assert_eq!(FileName::parse("1_Pooling/config.json").unwrap().folder(), Some("1_Pooling"));
        assert!(FileName::parse("model-00001-of-00002.safetensors").is_some());
    }
}
