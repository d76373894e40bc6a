/// What can go wrong in a kernel call. Shape errors are bugs of the caller; the rest are the machine's.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum KernelError {
    #[error("{op}: {what} is {got}, expected {expected}")]
    Shape { op: &'static str, what: &'static str, got: usize, expected: usize },
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory { what: &'static str, bytes: usize },
    /// What it was is that shard's error.
    #[error("another shard of the model has failed")]
    Left,
    #[error("{device}: {message}")]
    Device { device: &'static str, message: String },
}
