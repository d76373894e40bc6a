//! The API keys: those typed, and those in a file.

use std::path::Path;

use crate::error::{ArgumentError, LauncherError};

/// Every key that clients may send; empty where none was asked for.
///
/// # Errors
/// An empty key, and a file that cannot be read or holds none: a server meant to be guarded must not start open.
pub fn api_keys(
    flag: &'static str,
    typed: Vec<String>,
    file: Option<&Path>,
) -> Result<Vec<String>, LauncherError> {
    let mut keys = typed;
    if keys.iter().any(String::is_empty) {
        return Err(ArgumentError::EmptyApiKey { flag }.into());
    }
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| LauncherError::KeyFile {
            flag,
            path: path.to_owned(),
            source,
        })?;
        let named = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = keys.len();
        keys.extend(named.map(str::to_owned));
        if keys.len() == before {
            return Err(LauncherError::NoKeyInFile { flag, path: path.to_owned() });
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn typed_keys_and_those_of_the_file_all_count() {
        let file = file("# of the team\nfirst\n\n  second  \n");
        let keys = api_keys("api-key", vec!["typed".into()], Some(file.path())).unwrap();
        assert_eq!(keys, ["typed", "first", "second"]);
        assert!(api_keys("api-key", Vec::new(), None).unwrap().is_empty());
    }

    #[test]
    fn what_would_leave_the_server_open_is_refused() {
        let empty = file("# none yet\n\n");
        assert!(matches!(
            api_keys("api-key", Vec::new(), Some(empty.path())),
            Err(LauncherError::NoKeyInFile { .. })
        ));
        let missing = Path::new("/nonexistent/keys");
        assert!(matches!(api_keys("api-key", Vec::new(), Some(missing)), Err(LauncherError::KeyFile { .. })));
        assert!(api_keys("api-key", vec![String::new()], None).is_err());
    }
}
