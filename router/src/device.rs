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
    first.and_next(num_shard).map_err(in_terms_of_shards)
}

fn in_terms_of_shards(error: DeviceError) -> RouterError {
    match error {
        DeviceError::TooFewDevices { wanted, first, found } => {
            RouterError::NotEnoughDevices { num_shard: wanted, first, found: found.saturating_sub(first) }
        }
        error => error.into(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_gpus_are_an_error_that_says_how_many_there_are() {
        let few = in_terms_of_shards(DeviceError::TooFewDevices { wanted: 4, first: 1, found: 3 });
        assert_eq!(
            few.to_string(),
            "not enough cuda devices: `num_shard` is 4 but only found 2 CUDA devices from cuda:1 on"
        );
        let other = in_terms_of_shards(DeviceError::NoDriver).to_string();
        assert_eq!(other, "`device`: no NVIDIA driver was found (libcuda.so.1)");
    }

    #[test]
    fn the_cpu_has_no_gpus_for_shards() {
        assert_eq!(gpus_for_shards(DeviceSetting::Cpu), 0);
        assert_eq!(gpus_for_shards(DeviceSetting::Cuda(usize::MAX)), 0);
    }
}
