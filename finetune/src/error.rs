use weirgate_models::ModelError;
use weirgate_text::{LineError, TextError};

/// Why a training did not start, or ended early.
#[derive(Debug, thiserror::Error)]
pub enum FinetuneError {
    /// A field of the job or one of its hyper-parameters: its value, and what is expected.
    #[error("`{field}` {message}")]
    Field { field: String, message: String },
    #[error("{file}: {message}")]
    File { file: String, message: String },
    /// Lines of the dataset, the first few of those that are wrong.
    #[error("{file}: {}", lines(.errors, .more))]
    Dataset { file: String, errors: Vec<LineError>, more: usize },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Text(#[from] TextError),
    #[error("the computation failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// The loss or a gradient is no number any more.
    #[error("step {step}: the {what} is not finite; a smaller `learning_rate` may help")]
    Diverged { step: usize, what: &'static str },
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
    /// Asked to stop. No failure: whoever trains writes a checkpoint then.
    #[error("interrupted")]
    Interrupted,
}

impl FinetuneError {
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Self::Field { field: field.to_owned(), message: message.into() }
    }

    pub(crate) fn file(file: &std::path::Path, message: impl ToString) -> Self {
        Self::File { file: file.display().to_string(), message: message.to_string() }
    }
}

fn lines(errors: &[LineError], more: &usize) -> String {
    let mut shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if *more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown.join("; ")
}
