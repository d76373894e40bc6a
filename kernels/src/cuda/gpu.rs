//! What the CUDA device asks of a GPU: the real one behind its driver, or the emulation that runs the same kernels on the
//! host. Nothing above this line knows which.

use crate::KernelError;
use crate::cuda::Kernel;
use crate::cuda::dense::DenseProduct;
use crate::cuda::tensor_map::{Boxes, TensorMap};

type Result<T> = std::result::Result<T, KernelError>;

/// A kernel launch: how many blocks, and shared memory beyond what the kernel declares itself. Threads per block are
/// the kernel's own ([`Kernel::threads`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    pub grid: [u32; 3],
    pub dynamic_shared: u32,
}

impl Launch {
    /// `blocks` in one dimension.
    pub const fn blocks(blocks: u32) -> Self {
        Self::grid(blocks, 1, 1)
    }

    pub const fn grid(x: u32, y: u32, z: u32) -> Self {
        Self { grid: [x, y, z], dynamic_shared: 0 }
    }

    pub const fn with_shared(self, bytes: u32) -> Self {
        Self { dynamic_shared: bytes, ..self }
    }
}

/// The one parameter of a kernel: a structure of plain values and device addresses that its `.cu` file declares too.
///
/// # Safety
/// `repr(C)`, without padding or references, field by field what the kernel declares.
#[allow(unsafe_code)]
pub unsafe trait KernelArgs: Copy {}

/// Bytes of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    pub free: usize,
    pub total: usize,
}

/// What kernels are picked and sized by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    pub name: String,
    /// Compute capability, `(9, 0)` for Hopper.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
}

impl GpuInfo {
    /// Whether warpgroups multiply (`csrc/hopper.h`): compute capability 9.0 does, and none before or after it.
    pub fn has_warpgroups(&self) -> bool {
        self.capability == (9, 0)
    }
}

/// Device memory; given back when dropped, after everything issued before.
pub trait GpuMemory: Send {
    /// Where it starts on the device, aligned to 16 bytes at least.
    fn address(&self) -> u64;
    /// Bytes.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One GPU and one stream on it: everything happens in the order it is asked for, and later than the call returns
/// except where it says so. Ranges outside the memory are refused.
#[allow(unsafe_code)]
pub trait Gpu: Send + 'static {
    type Memory: GpuMemory;
    type Event: Send;
    /// Recorded launches, to be done again with one call.
    type Graph: Send;

    fn info(&self) -> &GpuInfo;
    fn memory_info(&self) -> Result<MemoryInfo>;

    /// `bytes` bytes of undefined contents; `what` names them in the error.
    fn allocate(&self, what: &'static str, bytes: usize) -> Result<Self::Memory>;
    /// Sets every byte of `len` bytes from `offset` on.
    fn fill(&self, to: &Self::Memory, offset: usize, len: usize, byte: u8) -> Result<()>;
    /// Copies from the host, by way of pinned staging memory: `bytes` may change as soon as this returns.
    fn upload(&self, to: &Self::Memory, offset: usize, bytes: &[u8]) -> Result<()>;
    /// Copies to the host, and waits for that.
    fn download(&self, from: &Self::Memory, offset: usize, bytes: &mut [u8]) -> Result<()>;
    /// Copies the beginnings of several memories to the host, and waits once for all of them.
    fn collect(&self, pieces: &mut [(&Self::Memory, &mut [u8])]) -> Result<()>;

    /// What a kernel copies boxes of a matrix by; where [`GpuInfo::has_warpgroups`].
    ///
    /// # Errors
    /// When the matrix does not fulfil what [`Boxes`] says.
    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap>;

    /// Runs a kernel.
    ///
    /// # Safety
    /// `args` is the structure that the kernel declares, and the addresses in it are of memory that lives until the
    /// kernel has run and is as long as the kernel's contract says. Where it is recorded, that memory may be given back,
    /// by the thread that replays: the record is then of no use any more.
    unsafe fn launch<A: KernelArgs>(&self, kernel: Kernel, launch: Launch, args: &A) -> Result<()>;

    /// Makes a dense product by a library for matrices. False, and nothing has happened, where there is no library, or
    /// none that takes this shape.
    ///
    /// # Safety
    /// The addresses are of memory that lives until the product is made, of the sizes that [`DenseProduct`] says.
    unsafe fn multiply(&self, _product: &DenseProduct) -> Result<bool> {
        Ok(false)
    }
    /// From here on, launches of this thread are recorded and not done. Nothing else may be asked for meanwhile: no memory,
    /// no copies, no waits.
    fn begin_capture(&self) -> Result<()>;
    /// What was launched since [`Gpu::begin_capture`], which is always followed by this.
    ///
    /// # Errors
    /// Something could not be recorded. Nothing of it was done then, and nothing is recorded any more.
    fn end_capture(&self) -> Result<Self::Graph>;
    /// Does recorded launches again, with the arguments they had, in the stream's order; false, and nothing is done, if
    /// memory of this GPU has been given back since they were recorded, as they may use it.
    fn replay(&self, graph: &Self::Graph) -> Result<bool>;
    /// Whether [`Gpu::replay`] would do it.
    fn is_replayable(&self, graph: &Self::Graph) -> bool;

    /// Marks this place in the stream.
    fn record(&self) -> Result<Self::Event>;
    /// Waits until everything before the mark has happened.
    fn wait(&self, event: &Self::Event) -> Result<()>;
    /// Waits for everything asked for so far; reports what went wrong in it.
    fn synchronize(&self) -> Result<()>;
}
