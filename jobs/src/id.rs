//! Names of jobs and data sets.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

/// A version 4 UUID in lower case. Unique, not secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

/// Text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID")]
pub struct NoId;

impl Id {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        // The standard library's hasher keys come from the system's generator.
        let draw = || RandomState::new().build_hasher().finish();
        let (high, low) = (draw(), draw());
        let (version, variant) = ((high & 0xfff) | 0x4000, (low >> 48 & 0x3fff) | 0x8000);
        let (first, second, node) = (high >> 32, high >> 16 & 0xffff, low & 0xffff_ffff_ffff);
        Self(format!("{first:08x}-{second:04x}-{version:04x}-{variant:04x}-{node:012x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        let fits = |(at, byte): (usize, u8)| if hyphen(at) { byte == b'-' } else { byte.is_ascii_hexdigit() };
        if text.len() == 36 && text.bytes().enumerate().all(fits) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(NoId)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4_and_differ() {
        let all: std::collections::HashSet<Id> = (0..1000).map(|_| Id::random()).collect();
        assert_eq!(all.len(), 1000);
        for id in all {
            let text = id.as_str();
            assert_eq!(text.as_bytes()[14], b'4', "{text}");
            assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
            assert_eq!(text.parse(), Ok(id.clone()));
        }
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "..",
            "3fa85f64-5717-4562-b3fc-2c963f66afa",
            "3fa85f64-5717-4562-b3fc-2c963f66afg6",
            "3fa85f6-45717-4562-b3fc-2c963f66afa6",
        ] {
            assert_eq!(text.parse::<Id>(), Err(NoId), "{text}");
        }
        let upper: Id = "3FA85F64-5717-4562-B3FC-2C963F66AFA6".parse().unwrap();
        assert_eq!(upper.as_str(), "3fa85f64-5717-4562-b3fc-2c963f66afa6");
    }
}
