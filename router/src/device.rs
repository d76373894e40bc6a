//! What the models of this process are computed on.

use std::sync::Once;

use weirgate_engine::{CudaDevice, Device, DeviceChoice, DeviceError, device_count};

use crate::config::{DeviceSetting, EngineSettings};
use crate::error::RouterError;

/// Finds the device that the settings ask for; where that is the CPU for want of a GPU, the log says so once.
///
/// # Errors
/// When a GPU was asked for by name and cannot be used.
pub(crate) fn choose(settings: &EngineSettings) -> Result<Device, RouterError> {
    static SAID: Once = Once::new();
    let choice = match settings.device {
        DeviceSetting::Auto => DeviceChoice::Auto,
        DeviceSetting::Cpu => DeviceChoice::Cpu,
        DeviceSetting::Cuda(number) => DeviceChoice::Cuda(number),
    };
    let device = Device::choose(choice)?;
    if let Device::Cpu { reason: Some(reason) } = &device {
        SAID.call_once(|| tracing::info!("computing on the CPU: {reason}"));
    }
    Ok(device)
}

/// The GPUs of a model in `num_shard` parts, the first of which is on `first`.
///
/// # Errors
/// When there are too few, or one of them cannot be used.
pub(crate) fn of_shards(first: &CudaDevice, num_shard: usize) -> Result<Vec<CudaDevice>, RouterError> {
    first.and_next(num_shard).map_err(|error| match error {
        DeviceError::TooFewDevices { wanted, first, found } => {
            RouterError::NotEnoughDevices { num_shard: wanted, first, found: found.saturating_sub(first) }
        }
        error => error.into(),
    })
}

/// How many GPUs there are for the parts of a model: of those that the driver shows, from the first that may be used on.
/// 0 where the settings want none, or there is no driver.
pub fn gpus_for_shards(device: DeviceSetting) -> usize {
    match device {
        DeviceSetting::Cpu => 0,
        DeviceSetting::Auto => device_count(),
        DeviceSetting::Cuda(first) => device_count().saturating_sub(first),
    }
}
