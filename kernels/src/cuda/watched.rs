//! A GPU that counts what it is asked for, and fails when it is told to. For tests, as the emulation is.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::dense::DenseProduct;
use super::gpu::{Gpu, GpuInfo, KernelArgs, Launch, MemoryInfo};
use super::kernel::Kernel;
use super::tensor_map::{Boxes, TensorMap};
use crate::KernelError;

type Result<T> = std::result::Result<T, KernelError>;

/// A GPU behind a [`Watch`].
pub struct Watched<G: Gpu> {
    gpu: G,
    watch: Arc<Watch>,
    recording: Cell<bool>,
}

/// What a GPU was asked for so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub allocations: u64,
    /// Of kernels, those that were only recorded not counted.
    pub launches: u64,
    pub captures: u64,
    /// Those that were done.
    pub replays: u64,
    /// How often the host waited: for copies to it, for events, for the whole stream.
    pub waits: u64,
}

/// Looks on while the GPU is another thread's.
pub struct Watch {
    allocations: AtomicU64,
    launches: AtomicU64,
    captures: AtomicU64,
    replays: AtomicU64,
    waits: AtomicU64,
    calls_left: AtomicU64,
    /// Bytes that somebody else has.
    taken: AtomicU64,
    refuses_captures: AtomicBool,
}

impl Watch {
    pub fn counts(&self) -> Counts {
        Counts {
            allocations: self.allocations.load(SeqCst),
            launches: self.launches.load(SeqCst),
            captures: self.captures.load(SeqCst),
            replays: self.replays.load(SeqCst),
            waits: self.waits.load(SeqCst),
        }
    }

    /// So many calls still do what they are asked for; all others fail, as all calls do once a GPU has gone wrong.
    pub fn fail_after(&self, calls: u64) {
        self.calls_left.store(calls, SeqCst);
    }

    /// So many bytes fewer are free than without it.
    pub fn take_memory(&self, bytes: u64) {
        self.taken.store(bytes, SeqCst);
    }

    /// From here on nothing can be recorded.
    pub fn refuse_captures(&self) {
        self.refuses_captures.store(true, SeqCst);
    }

    fn call(&self) -> Result<()> {
        let left = self.calls_left.fetch_update(SeqCst, SeqCst, |left| match left {
            u64::MAX => Some(left),
            left => left.checked_sub(1),
        });
        let message = || "an illegal memory access was encountered (injected)".to_owned();
        left.map(|_| ()).map_err(|_| KernelError::Device { device: "cuda", message: message() })
    }
}

impl<G: Gpu> Watched<G> {
    pub fn new(gpu: G) -> (Self, Arc<Watch>) {
        let zero = || AtomicU64::new(0);
        let watch = Arc::new(Watch {
            allocations: zero(),
            launches: zero(),
            captures: zero(),
            replays: zero(),
            waits: zero(),
            calls_left: AtomicU64::new(u64::MAX),
            taken: zero(),
            refuses_captures: AtomicBool::new(false),
        });
        (Self { gpu, watch: Arc::clone(&watch), recording: Cell::new(false) }, watch)
    }

    fn waits(&self) -> Result<()> {
        self.watch.waits.fetch_add(1, SeqCst);
        self.watch.call()
    }
}

impl<G: Gpu> Gpu for Watched<G> {
    type Memory = G::Memory;
    type Event = G::Event;
    type Graph = G::Graph;

    fn info(&self) -> &GpuInfo {
        self.gpu.info()
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        let info = self.gpu.memory_info()?;
        Ok(MemoryInfo { free: info.free.saturating_sub(self.watch.taken.load(SeqCst) as usize), ..info })
    }

    fn allocate(&self, what: &'static str, bytes: usize) -> Result<G::Memory> {
        self.watch.call()?;
        self.watch.allocations.fetch_add(1, SeqCst);
        self.gpu.allocate(what, bytes)
    }

    fn fill(&self, to: &G::Memory, offset: usize, len: usize, byte: u8) -> Result<()> {
        self.watch.call()?;
        self.gpu.fill(to, offset, len, byte)
    }

    fn upload(&self, to: &G::Memory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.watch.call()?;
        self.gpu.upload(to, offset, bytes)
    }

    fn download(&self, from: &G::Memory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.waits()?;
        self.gpu.download(from, offset, bytes)
    }

    fn collect(&self, pieces: &mut [(&G::Memory, &mut [u8])]) -> Result<()> {
        self.waits()?;
        self.gpu.collect(pieces)
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        self.watch.call()?;
        self.gpu.tensor_map(boxes)
    }

    unsafe fn launch<A: KernelArgs>(&self, kernel: Kernel, launch: Launch, args: &A) -> Result<()> {
        self.watch.call()?;
        if !self.recording.get() {
            self.watch.launches.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise.
        unsafe { self.gpu.launch(kernel, launch, args) }
    }

    unsafe fn multiply(&self, product: &DenseProduct) -> Result<bool> {
        self.watch.call()?;
        // SAFETY: the caller's promise.
        unsafe { self.gpu.multiply(product) }
    }

    fn begin_capture(&self) -> Result<()> {
        self.watch.call()?;
        self.watch.captures.fetch_add(1, SeqCst);
        self.gpu.begin_capture()?;
        self.recording.set(true);
        Ok(())
    }

    fn end_capture(&self) -> Result<G::Graph> {
        self.recording.set(false);
        let graph = self.gpu.end_capture();
        self.watch.call()?;
        if self.watch.refuses_captures.load(SeqCst) {
            let message = "this stream cannot be captured (injected)".to_owned();
            return Err(KernelError::Device { device: "cuda", message });
        }
        graph
    }

    fn replay(&self, graph: &G::Graph) -> Result<bool> {
        self.watch.call()?;
        let done = self.gpu.replay(graph)?;
        self.watch.replays.fetch_add(u64::from(done), SeqCst);
        Ok(done)
    }

    fn is_replayable(&self, graph: &G::Graph) -> bool {
        self.gpu.is_replayable(graph)
    }

    fn record(&self) -> Result<G::Event> {
        self.watch.call()?;
        self.gpu.record()
    }

    fn wait(&self, event: &G::Event) -> Result<()> {
        self.waits()?;
        self.gpu.wait(event)
    }

    fn synchronize(&self) -> Result<()> {
        self.waits()?;
        self.gpu.synchronize()
    }
}
