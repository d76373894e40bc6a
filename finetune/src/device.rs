//! What a training is computed on.

use candle_core::Device;

/// The first GPU, where this was built for one and there is one, and what it is called.
#[cfg(feature = "cuda")]
pub(crate) fn choose() -> (Device, String) {
    match Device::new_cuda(0) {
        Ok(device) => (device, "cuda:0".to_owned()),
        Err(error) => (Device::Cpu, format!("cpu (no GPU can be used: {error})")),
    }
}

/// The CPU; and what it is called.
#[cfg(not(feature = "cuda"))]
pub(crate) fn choose() -> (Device, String) {
    (Device::Cpu, "cpu".to_owned())
}
