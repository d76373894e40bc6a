//! Unpredictable numbers for seeds and ids (not for secrets).

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number no client can foresee: the standard library's hasher keys come from the system's generator.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// `{prefix}-{32 hexadecimal digits}`, unique within the process and beyond.
pub(crate) fn id(prefix: &str) -> String {
    format!("{prefix}-{}", digits())
}

/// 32 hexadecimal digits that nothing else has.
pub(crate) fn digits() -> String {
    format!("{:016x}{:016x}", seed(), seed())
}
