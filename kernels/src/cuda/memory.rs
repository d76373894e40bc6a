//! What lies in device memory, by element.

use super::gpu::{Gpu, GpuMemory};
use crate::KernelError;

type Result<T> = std::result::Result<T, KernelError>;

/// Activations and parameters of the CUDA device: f32.
pub struct CudaBuf<G: Gpu> {
    memory: G::Memory,
    len: usize,
}

impl<G: Gpu> CudaBuf<G> {
    pub(super) fn zeroed(gpu: &G, what: &'static str, len: usize) -> Result<Self> {
        let bytes = len.saturating_mul(size_of::<f32>());
        let memory = gpu.allocate(what, bytes)?;
        gpu.fill(&memory, 0, bytes, 0)?;
        Ok(Self { memory, len })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn memory(&self) -> &G::Memory {
        &self.memory
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }
}

/// Memory that grows to the largest size asked for. What was in it is lost when it grows.
pub(super) struct Scratch<G: Gpu> {
    memory: Option<G::Memory>,
}

impl<G: Gpu> Default for Scratch<G> {
    fn default() -> Self {
        Self { memory: None }
    }
}

impl<G: Gpu> Scratch<G> {
    /// Memory of at least `bytes` bytes. Grows in the first steps alone: every engine starts with a step of the largest
    /// shape.
    pub(super) fn fit(&mut self, gpu: &G, what: &'static str, bytes: usize) -> Result<&G::Memory> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            self.memory = None;
            self.memory = Some(gpu.allocate(what, bytes)?);
        }
        self.memory.as_ref().ok_or(KernelError::OutOfMemory { what, bytes })
    }

    /// What there is.
    pub(super) fn get(&self) -> Option<&G::Memory> {
        self.memory.as_ref()
    }

    /// The same as [`Scratch::fit`], filled with zeros when it grows.
    pub(super) fn fit_zeroed(&mut self, gpu: &G, what: &'static str, bytes: usize) -> Result<&G::Memory> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            gpu.fill(self.fit(gpu, what, bytes)?, 0, bytes, 0)?;
        }
        self.fit(gpu, what, bytes)
    }
}

/// A structure for [`super::gpu::KernelArgs`], field by field as the kernel declares it.
macro_rules! kernel_args {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct $name {
            $($field: $kind,)*
        }

        // SAFETY: `repr(C)`, plain values and addresses, in the order of the kernel's structure.
        #[allow(unsafe_code)]
        unsafe impl $crate::cuda::gpu::KernelArgs for $name {}
    };
}
pub(super) use kernel_args;

/// A size as kernels take it.
pub(super) fn size(op: &'static str, what: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| KernelError::Shape { op, what, got: value, expected: u32::MAX as usize })
}

/// The bytes of plain values.
pub(super) trait Bytes {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
}

macro_rules! plain {
    ($($kind:ty),*) => {
        $(#[allow(unsafe_code)]
        impl Bytes for [$kind] {
            fn bytes(&self) -> &[u8] {
                // SAFETY: numbers have no padding, and any byte is a `u8`.
                unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val(self)) }
            }

            fn bytes_mut(&mut self) -> &mut [u8] {
                // SAFETY: as above, and any bytes are a number.
                unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().cast(), size_of_val(self)) }
            }
        })*
    };
}
plain!(u32, f32);
