use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::entry::{Message, Parameters};
use crate::modelfile::{Command, MAX_MODELFILE_BYTES, Modelfile, read_parameters};
use crate::name::{Digest, ModelName};

/// Why a Modelfile that names a file of the server is refused.
const FROM_PATHS_REFUSED: &str = "files of the server are read from `--modelfile-folder` alone; send the file to /api/blobs and name its digest, as in `FROM @sha256:…`";

/// A model to be made.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub name: ModelName,
    pub base: Base,
    /// A GGUF adapter, a PEFT folder or its files, or a model for its adapter. Replaces the base's.
    pub adapter: Option<Base>,
    /// Go template text.
    pub template: Option<String>,
    pub system: Option<String>,
    /// Go before those of the base; `stop` replaces its stops.
    pub parameters: Parameters,
    /// Replace those of the base.
    pub messages: Vec<Message>,
    /// Added to those of the base.
    pub licenses: Vec<String>,
    /// A quantization by llama.cpp's name, in any case.
    pub quantize: Option<String>,
}

/// Where weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A model of any layout; pulled where it is not here.
    Model(String),
    /// Blobs of the store by their file names: GGUF files, or the files of a safetensors folder.
    Files(Vec<(String, Digest)>),
    /// A GGUF file or safetensors folder of this machine. Only for what the operator lets be named.
    Path(PathBuf),
}

impl CreateRequest {
    /// A model called `name` with nothing but its base.
    pub fn new(name: ModelName, base: Base) -> Self {
        Self {
            name,
            base,
            adapter: None,
            template: None,
            system: None,
            parameters: Parameters::new(),
            messages: Vec::new(),
            licenses: Vec::new(),
            quantize: None,
        }
    }

    /// What `modelfile` asks for. Paths in it are of files in `folder`, where that is given, and refused otherwise.
    ///
    /// # Errors
    /// [`FROM_PATHS_REFUSED`], bad digests, unknown or mistyped parameters.
    pub fn from_modelfile(
        name: ModelName,
        modelfile: &Modelfile,
        folder: Option<&Path>,
    ) -> Result<Self, StoreError> {
        let mut request = Self::new(name, Base::Files(Vec::new()));
        let mut parameters = Vec::new();
        for command in &modelfile.commands {
            match command {
                Command::From(value) => request.base = named(value, Some(request.base), folder)?,
                Command::Adapter(value) => {
                    request.adapter = Some(named(value, request.adapter, folder)?);
                }
                Command::Parameter(name, value) => parameters.push((name.as_str(), value.as_str())),
                Command::Template(text) => request.template = Some(text.clone()),
                Command::System(text) => request.system = Some(text.clone()),
                Command::License(text) => request.licenses.push(text.clone()),
                Command::Message(message) => request.messages.push(message.clone()),
            }
        }
        request.parameters =
            read_parameters(parameters).map_err(|error| StoreError::invalid(error.to_string()))?;
        Ok(request)
    }
}

/// What `FROM` or `ADAPTER` names. Several blobs are the files of one checkpoint; of anything else the last one counts.
fn named(value: &str, before: Option<Base>, folder: Option<&Path>) -> Result<Base, StoreError> {
    if let Some(digest) = blob(value)? {
        let mut files = match before {
            Some(Base::Files(files)) => files,
            _ => Vec::new(),
        };
        files.push((format!("{}.gguf", files.len()), digest));
        return Ok(Base::Files(files));
    }
    let path_like = value.starts_with(['/', '.', '~']) || value.contains('\\') || value.ends_with(".gguf");
    if path_like || value.parse::<ModelName>().is_err() {
        return Ok(Base::Path(offered(folder, value)?));
    }
    Ok(Base::Model(value.to_owned()))
}

/// The Modelfile at `path` in the folder whose files may be named.
///
/// # Errors
/// [`FROM_PATHS_REFUSED`]; what is wrong with it.
pub fn read_modelfile(folder: Option<&Path>, path: &str) -> Result<Modelfile, StoreError> {
    let path = offered(folder, path)?;
    if !path.is_file() {
        return Err(StoreError::invalid(FROM_PATHS_REFUSED));
    }
    let file = File::open(path).map_err(StoreError::io("the Modelfile"))?;
    let mut bytes = Vec::new();
    // One byte more than a Modelfile may have: it is refused by its length.
    file.take(MAX_MODELFILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("the Modelfile"))?;
    Modelfile::from_bytes(&bytes)
        .map_err(|error| StoreError::invalid(format!("error reading modelfile: {error}")))
}

/// A file in the folder whose files may be named.
fn offered(folder: Option<&Path>, path: &str) -> Result<PathBuf, StoreError> {
    let refused = || StoreError::invalid(FROM_PATHS_REFUSED);
    let folder = folder.ok_or_else(refused)?;
    crate::layout::confined(folder, &folder.join(path)).ok_or_else(refused)
}

/// The digest in `@sha256:…`; `None` for what is none.
fn blob(value: &str) -> Result<Option<Digest>, StoreError> {
    match value.strip_prefix('@') {
        Some(digest) => Ok(Some(digest.parse()?)),
        None if value.starts_with("sha256:") || value.starts_with("sha256-") => Ok(Some(value.parse()?)),
        None => Ok(None),
    }
}
