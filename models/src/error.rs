/// Why a checkpoint cannot be served. Every message names the file, and the tensor or key where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{file}: {message}")]
    File { file: String, message: String },
    #[error("{file}: key '{key}': {message}")]
    Config { file: String, key: String, message: String },
    #[error("{file}: tensor '{tensor}': {message}")]
    Tensor { file: String, tensor: String, message: String },
    #[error("{file}: architecture '{architecture}' is not supported; supported: {supported}")]
    UnsupportedArchitecture { file: String, architecture: String, supported: String },
    #[error("the model cannot be split into {count} shards: {what} is {size}")]
    Shards { what: &'static str, size: usize, count: usize },
    #[error("RoPE factor {factor} is out of bounds, expected 1 to 1000000")]
    RopeFactor { factor: f64 },
}
