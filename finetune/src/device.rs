//! What a training is computed on.

use candle_core::Device;

/// The first GPU, where this was built for one and there is one, and what it is called.
#[cfg(feature = "cuda")]
pub(crate) fn choose() -> (Device, String) {
    match Device::new_cuda(0) {
        Ok(device) => (device, "cuda:0".to_owned()),
        Err(error) => {
            // Behind its first line there may be a backtrace.
            let error = error.to_string();
            let reason = error.lines().next().unwrap_or_default();
            (Device::Cpu, format!("cpu (no GPU can be used: {reason})"))
        }
    }
}

/// The CPU, and what it is called.
#[cfg(not(feature = "cuda"))]
pub(crate) fn choose() -> (Device, String) {
    (Device::Cpu, "cpu".to_owned())
}
