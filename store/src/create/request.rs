use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::entry::{Message, Parameters};
use crate::modelfile::{Command, Modelfile, read_parameters};
use crate::name::{Digest, ModelName};

/// Why a Modelfile that names a file of the server is refused.
pub const FROM_PATHS_REFUSED: &str = "files of the server are not read; send the file to /api/blobs and name its digest, as in `FROM @sha256:…`";

/// A model to be made.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub name: ModelName,
    pub base: Base,
    /// Blobs of the store by their file names: a GGUF adapter, or the files of a PEFT folder. Replaces the base's.
    pub adapter: Vec<(String, Digest)>,
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

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// A model of any layout; pulled where it is not here.
    Model(String),
    /// Blobs of the store by their file names: GGUF files, or a safetensors folder's files.
    Files(Vec<(String, Digest)>),
    /// A GGUF file or safetensors folder of this machine. Only for paths that the operator chose.
    Path(PathBuf),
}

impl CreateRequest {
    /// A model called `name` with nothing but its base.
    pub fn new(name: ModelName, base: Base) -> Self {
        Self {
            name,
            base,
            adapter: Vec::new(),
            template: None,
            system: None,
            parameters: Parameters::new(),
            messages: Vec::new(),
            licenses: Vec::new(),
            quantize: None,
        }
    }

    /// What `modelfile` asks for. Paths in it are taken as they are below `folder`, where that is given, and refused
    /// otherwise.
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
                Command::From(value) => request.add_from(value, folder)?,
                Command::Adapter(value) => match blob(value)? {
                    Some(digest) => request.adapter.push((format!("{}.gguf", request.adapter.len()), digest)),
                    None => return Err(StoreError::invalid(FROM_PATHS_REFUSED)),
                },
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

    fn add_from(&mut self, value: &str, folder: Option<&Path>) -> Result<(), StoreError> {
        if let Some(digest) = blob(value)? {
            match &mut self.base {
                Base::Files(files) => files.push((format!("{}.gguf", files.len()), digest)),
                base => *base = Base::Files(vec![("0.gguf".to_owned(), digest)]),
            }
            return Ok(());
        }
        let path_like =
            value.starts_with(['/', '.', '~']) || value.contains('\\') || value.ends_with(".gguf");
        self.base = match (path_like || value.parse::<ModelName>().is_err(), folder) {
            (false, _) => Base::Model(value.to_owned()),
            (true, None) => return Err(StoreError::invalid(FROM_PATHS_REFUSED)),
            (true, Some(folder)) => {
                let refused = || StoreError::invalid(FROM_PATHS_REFUSED);
                let path = crate::layout::confined(folder, &folder.join(value)).ok_or_else(refused)?;
                Base::Path(path)
            }
        };
        Ok(())
    }
}

/// The digest in `@sha256:…`; `None` for what is none.
fn blob(value: &str) -> Result<Option<Digest>, StoreError> {
    match value.strip_prefix('@') {
        Some(digest) => Ok(Some(digest.parse()?)),
        None if value.starts_with("sha256:") || value.starts_with("sha256-") => Ok(Some(value.parse()?)),
        None => Ok(None),
    }
}
