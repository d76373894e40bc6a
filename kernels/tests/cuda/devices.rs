//! The device to test, as the tests of encoders ask for it.

pub type Device = weirgate_kernels::cuda::CudaBackend<crate::TestGpu>;

/// How far products may be off: activations are kept as two numbers of 16 bits, off by 2⁻²² of a row's largest at most, and
/// are multiplied with weights that are up to 150 together here.
pub const TOLERANCE: f64 = 5e-5;

pub fn devices(_threads: usize) -> impl Iterator<Item = Device> {
    std::iter::once(crate::device())
}
