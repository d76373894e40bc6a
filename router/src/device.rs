//! What the models of this process are computed on.

use std::sync::Once;

use weirgate_engine::{Device, DeviceChoice};

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
