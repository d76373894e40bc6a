//! What loads go by, beside the settings.

use weirgate_engine::Device;

use super::Turns;
use crate::config::EngineSettings;
use crate::device;
use crate::memory::{GpuMemory, Machine, Memory};

/// The machine that models are loaded on, and how patient loads are.
pub(crate) struct Conditions {
    pub memory: Box<dyn Memory>,
    /// That of the GPU which models are computed on, where there is one.
    pub gpu: Option<Box<dyn Memory>>,
    pub turns: Turns,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { memory: Box::new(Machine), gpu: None, turns: Turns::default() }
    }
}

impl Conditions {
    /// Those of this machine, where models are computed as `engine` says.
    pub fn of(engine: &EngineSettings) -> Self {
        let gpu: Option<Box<dyn Memory>> = match device::choose(engine) {
            Ok(Device::Cuda(device)) => {
                Some(Box::new(GpuMemory { device, fraction: engine.cuda_memory_fraction }))
            }
            Ok(Device::Cpu { .. }) | Err(_) => None,
        };
        Self { gpu, ..Self::default() }
    }
}
