//! NVIDIA's driver: which GPUs there are, and one of them as a [`Gpu`](super::Gpu). Nothing is linked; where there is no
//! driver, that is an answer, not an error.

#![allow(unsafe_code)]

mod cache;
mod cublaslt;
mod error;
mod images;
mod libraries;
mod memory;
mod modules;
mod nccl;
mod nvidia;
mod nvrtc;
mod probe;
mod tensor_map;

pub use cublaslt::ProductOrigin;
pub use error::{DeviceError, Version};
pub use memory::{NvidiaEvent, NvidiaMemory};
pub use modules::{CompileSettings, Compiled, KernelOrigin, compile_kernels, embedded_toolkit};
pub use nccl::{SumOrigin, connect};
pub use nvidia::{NvidiaGpu, NvidiaGraph};
pub use probe::{CudaDevice, Device, DeviceChoice, device_count};
