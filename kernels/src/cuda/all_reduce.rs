//! What the shards of a model add up between their ops.
#![allow(unsafe_code)]

use super::gpu::Gpu;
use super::memory::{Bytes, CudaBuf};
use crate::contract::check_room;
use crate::{AllReduce, KernelError};

const OP: &str = "all_reduce";

/// On the devices where the group can, else by way of the host, which adds up in the members' order in `sums`.
pub(super) fn all_reduce<G: Gpu>(
    (gpu, sums): (&G, &mut Vec<f32>),
    x: &mut CudaBuf<G>,
    len: usize,
    group: &mut dyn AllReduce,
) -> Result<(), KernelError> {
    check_room(OP, "elements of x", len, x.len())?;
    if let Some(devices) = group.on_devices() {
        // SAFETY: the buffer is as long; it is the step's, whose ops are all in this device's stream, and memory is given
        // back after what the stream does with it.
        return unsafe { devices.sum(x.address(), len) };
    }
    sums.resize(len.max(sums.len()), 0.0);
    let Some(values) = sums.get_mut(..len) else { return Ok(()) };
    gpu.download(x.memory(), 0, values.bytes_mut())?;
    group.sum(values)?;
    gpu.upload(x.memory(), 0, values.bytes())
}
