//! The model store: every model on this machine seen as one list, whatever layout its files have, and one store of
//! our own in Ollama's layout that models are created in, pulled into and deleted from.
//!
//! ```no_run
//! use weirgate_store::{Store, StoreSettings};
//!
//! let store = Store::open(StoreSettings { models: Some("/var/lib/models".into()), ..StoreSettings::default() })?;
//! for entry in store.list() {
//!     println!("{} {} {}", entry.name, entry.digest.hex(), entry.size);
//! }
//! let entry = store.find("llama3")?;
//! let files = entry.location.open();
//! # Ok::<(), weirgate_store::StoreError>(())
//! ```
//!
//! Files are the truth, and every look-up reads what is there; what their headers say is read once and kept in an
//! index that is made anew from them. All calls block; they are made from threads that may.

mod create;
mod details;
mod entry;
mod error;
mod index;
mod jan;
mod layout;
mod manifest;
mod modelfile;
mod name;
mod own;
mod registry;
mod show;
mod store;
mod template;

pub use create::{Base, CreateRequest, read_modelfile};
pub use entry::{
    Details, Entry, Kind, LoadSettings, Location, Message, ModelSettings, Parameters, Progress, PromptPieces,
    Report,
};
pub use error::StoreError;
pub use modelfile::{
    Command, MAX_MODELFILE_BYTES, Modelfile, ModelfileError, ParameterError, ParameterType, parameter_type,
    read_parameters,
};
pub use name::{DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, Digest, ModelName, NameError};
pub use registry::{Credentials, RegistryError, RegistrySettings, Transfer};
pub use show::{SHORT_ARRAY, Show, TensorInfo};
pub use store::{Store, StoreSettings};
pub use template::{Conversation, MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES, Template, TemplateError};
