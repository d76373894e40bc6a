//! Sums, caps and gates (`csrc/elementwise.cu`).
#![allow(unsafe_code)]

use super::gpu::{Gpu, Launch};
use super::kernel::Kernel;
use super::memory::{CudaBuf, kernel_args, size};
use crate::contract::{check_room, product};
use crate::{Activation, KernelError};

type Result<T> = std::result::Result<T, KernelError>;

kernel_args!(AddArgs { acc: u64, x: u64, len: u64 });
kernel_args!(SoftcapArgs { x: u64, len: u64, cap: f32 });
kernel_args!(ActivateArgs { x: u64, len: u64 });
kernel_args!(GatedArgs { out: u64, gate_up: u64, rows: u64, width: u32 });

/// Enough threads for `len` elements, but no more blocks than keep the GPU busy.
fn spread<G: Gpu>(gpu: &G, kernel: Kernel, len: usize) -> Launch {
    let most = gpu.info().multiprocessors.saturating_mul(16).max(1);
    let wanted = len.div_ceil(kernel.threads() as usize);
    Launch::blocks(u32::try_from(wanted).unwrap_or(u32::MAX).min(most))
}

pub(super) fn add<G: Gpu>(gpu: &G, acc: &mut CudaBuf<G>, x: &CudaBuf<G>, len: usize) -> Result<()> {
    check_room("add", "elements of acc", len, acc.len())?;
    check_room("add", "elements of x", len, x.len())?;
    if len == 0 {
        return Ok(());
    }
    let args = AddArgs { acc: acc.address(), x: x.address(), len: len as u64 };
    // SAFETY: `len` elements of both buffers, checked above.
    unsafe { gpu.launch(Kernel::Add, spread(gpu, Kernel::Add, len), &args) }
}

pub(super) fn softcap<G: Gpu>(gpu: &G, x: &mut CudaBuf<G>, cap: f32, len: usize) -> Result<()> {
    check_room("softcap", "elements of x", len, x.len())?;
    if len == 0 {
        return Ok(());
    }
    let args = SoftcapArgs { x: x.address(), len: len as u64, cap };
    // SAFETY: `len` elements, checked above.
    unsafe { gpu.launch(Kernel::Softcap, spread(gpu, Kernel::Softcap, len), &args) }
}

/// `x = act(x)`, element by element.
pub(super) fn activate<G: Gpu>(gpu: &G, x: &mut CudaBuf<G>, act: Activation, len: usize) -> Result<()> {
    check_room("activate", "elements of x", len, x.len())?;
    if len == 0 {
        return Ok(());
    }
    let kernel = match act {
        Activation::Silu => Kernel::ActivateSilu,
        Activation::Gelu => Kernel::ActivateGelu,
        Activation::GeluTanh => Kernel::ActivateGeluTanh,
        Activation::Relu => Kernel::ActivateRelu,
        Activation::Tanh => Kernel::ActivateTanh,
    };
    let args = ActivateArgs { x: x.address(), len: len as u64 };
    // SAFETY: `len` elements, checked above.
    unsafe { gpu.launch(kernel, spread(gpu, kernel, len), &args) }
}

pub(super) fn gated<G: Gpu>(
    gpu: &G,
    out: &mut CudaBuf<G>,
    gate_up: &CudaBuf<G>,
    act: Activation,
    (rows, width): (usize, usize),
) -> Result<()> {
    const OP: &str = "gated";
    let len = product(&[rows, width]);
    check_room(OP, "elements of out", len, out.len())?;
    check_room(OP, "elements of gate_up", product(&[2, rows, width]), gate_up.len())?;
    if len == 0 {
        return Ok(());
    }
    let kernel = match act {
        Activation::Silu => Kernel::GatedSilu,
        Activation::Gelu => Kernel::GatedGelu,
        Activation::GeluTanh => Kernel::GatedGeluTanh,
        Activation::Relu | Activation::Tanh => {
            let message = format!("no kernel for a gate of {act:?}, which no supported model has");
            return Err(KernelError::Device { device: "cuda", message });
        }
    };
    let (rows, width) = (rows as u64, size(OP, "width", width)?);
    let args = GatedArgs { out: out.address(), gate_up: gate_up.address(), rows, width };
    // SAFETY: `rows * width` elements of `out` and twice as many of `gate_up`, checked above.
    unsafe { gpu.launch(kernel, spread(gpu, kernel, len), &args) }
}
