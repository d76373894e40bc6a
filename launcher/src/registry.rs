//! Users and passwords for registries, as `docker login` writes them down.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::Path;

use serde::Deserialize;

use crate::error::LauncherError;

/// Docker's `config.json`; what else it has is none of ours.
#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

/// `auth` is `user:password` in base64.
#[derive(Deserialize)]
struct Entry {
    auth: String,
}

/// User and password by host.
///
/// # Errors
/// A file that cannot be read or is of another form.
pub fn credentials(path: &Path) -> Result<BTreeMap<String, (String, String)>, LauncherError> {
    let read = || -> Result<BTreeMap<String, (String, String)>, Error> {
        let text = std::fs::read_to_string(path)?;
        let config: DockerConfig = serde_json::from_str(&text)?;
        let decode = |(host, entry): (String, Entry)| {
            let problem = || {
                Error::new(
                    ErrorKind::InvalidData,
                    format!("`auth` of {host}: not a user and a password in base64"),
                )
            };
            let plain = base64(&entry.auth).and_then(|bytes| String::from_utf8(bytes).ok());
            let (user, password) =
                plain.as_deref().and_then(|text| text.split_once(':')).ok_or_else(problem)?;
            Ok((host_of(&host).to_owned(), (user.to_owned(), password.to_owned())))
        };
        config.auths.into_iter().map(decode).collect()
    };
    read().map_err(|source| LauncherError::RegistryAuth { path: path.to_owned(), source })
}

/// Docker writes hosts, and for its own registry an address.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

/// RFC 4648, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648.
    #[test]
    fn base64_of_the_standard() {
        for (coded, plain) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64(coded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(base64("Zm9*"), None);
    }

    #[test]
    fn dockers_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            credentials(&path)
        };
        let text = r#"{"auths": {"reg.example:5000": {"auth": "bWU6c2VjOnJldA=="}, "https://index.docker.io/v1/": {"auth": "YTpi"}}, "credsStore": "x"}"#;
        let pair = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        let expected = [("index.docker.io", pair("a", "b")), ("reg.example:5000", pair("me", "sec:ret"))];
        assert_eq!(read(text).unwrap(), expected.map(|(host, pair)| (host.to_owned(), pair)).into());
        for bad in ["{", "{}", r#"{"auths": {"h": {"auth": "!"}}}"#, r#"{"auths": {"h": {"auth": "YWI="}}}"#]
        {
            assert!(matches!(read(bad), Err(LauncherError::RegistryAuth { .. })), "{bad}");
        }
        assert!(credentials(Path::new("/nonexistent/config.json")).is_err());
    }
}
