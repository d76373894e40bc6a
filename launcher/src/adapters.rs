//! The adapters of `--lora-adapters`: what was typed, and where they are on disk.

use std::path::PathBuf;

use weirgate_hub::{Hub, HubError, HubSettings, ModelId, Revision};
use weirgate_router::LoraAdapter;

use crate::error::ArgumentError;

/// An adapter as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSource {
    /// What requests call it.
    pub name: String,
    pub place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder, or a GGUF file.
    Local(PathBuf),
    Hub {
        id: ModelId,
        revision: Revision,
    },
}

/// A list as TGI takes it: `id`, `id@revision`, `name=path` or `name=path@revision`, separated by commas, where what is no
/// path on this machine is an id on the hub.
///
/// # Errors
/// An entry of another form, or a path that leads nowhere.
pub fn sources(typed: &str) -> Result<Vec<AdapterSource>, ArgumentError> {
    typed.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(source).collect()
}

fn source(entry: &str) -> Result<AdapterSource, ArgumentError> {
    let malformed = || ArgumentError::LoraFormat { adapter: entry.to_owned() };
    if entry.matches('@').count() > 1 || entry.matches('=').count() > 1 {
        return Err(malformed());
    }
    let (rest, revision) =
        entry.split_once('@').map_or((entry, None), |(rest, revision)| (rest, Some(revision)));
    let (name, from) = rest.split_once('=').unwrap_or((rest, rest));
    if name.is_empty() || from.is_empty() || revision.is_some_and(str::is_empty) {
        return Err(malformed());
    }
    Ok(AdapterSource { name: name.to_owned(), place: place(from, revision)? })
}

fn place(from: &str, revision: Option<&str>) -> Result<Place, ArgumentError> {
    let path = PathBuf::from(from);
    let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if path.is_dir() || gguf && path.is_file() {
        return Ok(Place::Local(path));
    }
    if gguf || from.starts_with(['/', '.', '~']) {
        return Err(ArgumentError::LoraPath { path });
    }
    let refused = |error| ArgumentError::LoraId { adapter: from.to_owned(), error };
    let id = from.parse().map_err(refused)?;
    let revision = revision.unwrap_or("main").parse().map_err(refused)?;
    Ok(Place::Hub { id, revision })
}

/// Finds the adapters, downloading them where needed.
///
/// # Errors
/// What the hub client says.
pub fn locate(sources: Vec<AdapterSource>, hub: &HubSettings) -> Result<Vec<LoraAdapter>, HubError> {
    let locate = |AdapterSource { name, place }| {
        let path = match place {
            Place::Local(path) => path,
            Place::Hub { id, revision } => Hub::new(hub.clone())?.snapshot(&id, &revision)?.folder,
        };
        Ok(LoraAdapter { name, path })
    };
    sources.into_iter().map(locate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(name: &str, id: &str, revision: &str) -> AdapterSource {
        let place = Place::Hub { id: id.parse().unwrap(), revision: revision.parse().unwrap() };
        AdapterSource { name: name.into(), place }
    }

    /// The forms of reference/tgi.md §2a.
    #[test]
    fn entries_are_ids_and_named_paths() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let file = folder.path().join("adapter.gguf");
        std::fs::write(&file, b"").unwrap();
        let local =
            |name: &str, path: PathBuf| AdapterSource { name: name.into(), place: Place::Local(path) };
        assert_eq!(
            sources(&format!(
                "org/a, org/b@v1 ,c={path},d={path}@main,e=org/f@refs/pr/1,g={}",
                file.display()
            )),
            Ok(vec![
                hub("org/a", "org/a", "main"),
                hub("org/b", "org/b", "v1"),
                local("c", folder.path().into()),
                local("d", folder.path().into()),
                hub("e", "org/f", "refs/pr/1"),
                local("g", file),
            ])
        );
        assert_eq!(sources(""), Ok(Vec::new()));
    }

    #[test]
    fn other_forms_are_refused() {
        for entry in ["a@b@c", "a=b=c", "=b", "a=", "a@", "@main", "a=@x"] {
            let error = sources(entry).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid LoRA adapter format: {entry}"));
        }
        for (entry, named) in
            [("a=/nowhere", "/nowhere"), ("a=x.gguf", "x.gguf"), ("a=../../x/../y", "../../x")]
        {
            let error = sources(entry).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("neither a folder"), "{error}");
        }
        assert!(sources("a=b/c/d").is_err());
    }
}
