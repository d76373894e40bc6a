//! Addresses of PostgreSQL databases.

use std::path::PathBuf;
use std::str::FromStr;

use ::postgres::Config;
use ::postgres::config::SslMode;
use serde::{Deserialize, Serialize};

use crate::error::JobsError;

/// `postgres://user:password@host:port/name`, with libpq's parameters. `sslmode=require` and `verify-full` both encrypt and
/// check the server's certificate and name, against the authorities in the PEM file `sslrootcert` or else those that
/// browsers trust; without either, nothing is encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseUrl(String);

/// What an address says.
pub(super) struct Address {
    pub config: Config,
    pub encrypted: bool,
    /// `sslrootcert`.
    pub authorities: Option<PathBuf>,
}

impl DatabaseUrl {
    /// # Errors
    /// [`JobsError::Url`], [`JobsError::Tls`].
    pub(super) fn parse(&self) -> Result<Address, JobsError> {
        let DatabaseUrl(text) = self;
        let wrong = || JobsError::Url(without_secrets(text));
        let (base, query) = text.rsplit_once('?').unwrap_or((text.as_str(), ""));
        let mut authorities = None;
        // The driver knows neither of these.
        let known = query.split('&').filter_map(|parameter| match parameter.split_once('=') {
            Some(("sslrootcert", path)) => {
                authorities = Some(path);
                None
            }
            Some(("sslmode", "verify-full")) => Some("sslmode=require"),
            _ => Some(parameter),
        });
        let known: Vec<&str> = known.filter(|parameter| !parameter.is_empty()).collect();
        let mut own = base.to_owned();
        if !known.is_empty() {
            own += &format!("?{}", known.join("&"));
        }
        let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        let config: Config = own.parse().ok().filter(|_| is_url).ok_or_else(wrong)?;
        let encrypted = config.get_ssl_mode() == SslMode::Require;
        if authorities.is_some() && !encrypted {
            return Err(JobsError::Tls("`sslrootcert` needs `sslmode=verify-full`".to_owned()));
        }
        let authorities = authorities.map(|path| decoded(path).map(PathBuf::from).ok_or_else(wrong));
        Ok(Address { config, encrypted, authorities: authorities.transpose()? })
    }
}

/// An address, or what was meant to be one, without password and parameters.
fn without_secrets(text: &str) -> String {
    let before = |text: &str, ends: &[char]| text.split(ends).next().unwrap_or_default().to_owned();
    let Some((user, host)) = text.rsplit_once('@') else { return before(text, &['?']) };
    let (scheme, user) = user.split_once("//").unwrap_or(("", user));
    format!("{scheme}//{}:…@{}", before(user, &[':', '?']), before(host, &['?']))
}

/// Text whose bytes may be written as `%2F`.
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend(piece.as_bytes().get(2..)?);
    }
    String::from_utf8(bytes).ok()
}

impl FromStr for DatabaseUrl {
    type Err = JobsError;

    fn from_str(text: &str) -> Result<Self, JobsError> {
        let url = Self(text.to_owned());
        url.parse()?;
        Ok(url)
    }
}

/// Without the password.
impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The parameters of libpq's manual, and how they are put into an address.
    #[test]
    fn an_address_says_whether_to_encrypt_and_whom_to_trust() {
        for (query, expected) in [
            ("", Some((false, None))),
            ("?sslmode=disable", Some((false, None))),
            ("?sslmode=prefer&connect_timeout=3", Some((false, None))),
            ("?sslmode=require", Some((true, None))),
            ("?connect_timeout=3&sslmode=verify-full", Some((true, None))),
            ("?sslrootcert=%2Fca%20s.pem&sslmode=verify-full", Some((true, Some("/ca s.pem")))),
            ("?sslrootcert=ca.pem&sslmode=require", Some((true, Some("ca.pem")))),
            ("?sslrootcert=ca.pem", None),
            ("?sslrootcert=%2&sslmode=require", None),
            ("?sslmode=verify-ca", None),
            ("?sslmode=often", None),
            ("?nothing=1", None),
        ] {
            let parsed = format!("postgres://me:p%3Fw@host/jobs{query}").parse::<DatabaseUrl>();
            let said = parsed.and_then(|url| url.parse()).ok().map(|address| {
                assert_eq!(address.config.get_password(), Some(&b"p?w"[..]));
                (address.encrypted, address.authorities)
            });
            let expected = expected.map(|(encrypted, path)| (encrypted, path.map(PathBuf::from)));
            assert_eq!(said, expected, "{query}");
        }
        assert!(matches!("mysql://host".parse::<DatabaseUrl>(), Err(JobsError::Url(_))));
    }

    #[test]
    fn what_is_no_address_is_told_without_its_secrets() {
        for (text, told) in [
            ("mysql://me:secret@host/jobs", "mysql://me:…@host/jobs"),
            ("postgres://me:se@cr:et@host/jobs?sslmode=often", "postgres://me:…@host/jobs"),
            ("postgres://host/jobs?password=secret&sslmode=often", "postgres://host/jobs"),
            ("postgres://me:se?cret@host/jobs?sslmode=often", "postgres://me:…@host/jobs"),
            ("me:secret@host", "//me:…@host"),
        ] {
            let error = text.parse::<DatabaseUrl>().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(error.split('"').nth(1), Some(told), "{text}");
        }
    }
}
