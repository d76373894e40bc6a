//! The emulated GPU: the same kernels, compiled for the host (`csrc/emulate`), on memory between guards.
//!
//! It is compiled with this crate wherever a C++ compiler builds it, so that every test may use it, and no binary
//! refers to it, so that none carries it.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use super::dense::{ColumnMajor, ColumnMatrix, DenseProduct, FactorType};
use super::emulated_group::Sums;
use super::gpu::{Gpu, GpuInfo, GpuMemory, KernelArgs, Launch, MemoryInfo};
use super::kernel::{Kernel, emulated};
use super::tensor_map::{Boxes, TensorMap};
use crate::KernelError;

type Result<T> = std::result::Result<T, KernelError>;

const DEVICE: &str = "emulated GPU";
/// Fills memory that nobody has written yet: NaN to every float type.
const POISON: u8 = 0xff;
/// Fills what lies between a guard page and the memory it guards.
const SLACK: u8 = 0xa5;
/// What addresses are multiples of: no kernel may count on more.
const ALIGN: usize = 16;
const PAGE: usize = 1 << 12;

/// Which kernels have run to their end on some emulated GPU of this process.
static RAN: [AtomicBool; Kernel::ALL.len()] = [const { AtomicBool::new(false) }; Kernel::ALL.len()];

/// A kernel as `KERNEL` declares it.
#[repr(C)]
pub(super) struct Entry {
    name: *const c_char,
    run: unsafe extern "C" fn(*const c_void),
    args_size: usize,
    threads: u32,
}

// SAFETY: constants that nobody writes.
unsafe impl Sync for Entry {}

unsafe extern "C" {
    fn emulate_open() -> *mut c_void;
    fn emulate_close(room: *mut c_void);
    fn emulate_launch(
        room: *mut c_void,
        entry: *const Entry,
        grid: *const u32,
        dynamic_shared: usize,
        args: *const c_void,
        place: *mut u32,
    ) -> *const c_char;
    fn emulate_watch();
}

/// An emulated GPU. Everything has happened when a call returns.
pub struct Emulator {
    info: GpuInfo,
    /// Where blocks run.
    room: NonNull<c_void>,
    /// Whether it has a library for matrices, and how many products that made.
    library: bool,
    products: Cell<usize>,
    /// How often each kernel was launched.
    launched: RefCell<HashMap<Kernel, usize>>,
    /// How many memories were given back.
    freed: Arc<AtomicU64>,
    recording: Recording,
}

/// What is being recorded on a GPU, if anything is.
pub(super) type Recording = Arc<Mutex<Option<EmulatedGraph>>>;

pub(super) fn lock(recording: &Recording) -> MutexGuard<'_, Option<EmulatedGraph>> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work with the arguments that it had.
pub struct EmulatedGraph {
    work: Vec<Recorded>,
    /// How many memories had been given back.
    freed: u64,
}

impl EmulatedGraph {
    pub(super) fn push(&mut self, work: Recorded) {
        self.work.push(work);
    }
}

pub(super) enum Recorded {
    Kernel {
        kernel: Kernel,
        launch: Launch,
        /// The bytes of the arguments.
        args: Vec<Line>,
    },
    Product(DenseProduct),
    Sum {
        sums: Sums,
        address: u64,
        len: usize,
    },
}

/// Bytes aligned as any kernel's arguments.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Line([u8; 64]);

// SAFETY: the room belongs to this value alone, and nothing in it stays with a thread between launches.
unsafe impl Send for Emulator {}

impl Emulator {
    pub fn new() -> Result<Self> {
        static WATCH: Once = Once::new();
        // SAFETY: sets signal handlers, which end the process in any case.
        WATCH.call_once(|| unsafe { emulate_watch() });
        // SAFETY: no arguments.
        let room = NonNull::new(unsafe { emulate_open() });
        let room = room.ok_or(KernelError::OutOfMemory { what: "emulation", bytes: 0 })?;
        let info = GpuInfo { name: DEVICE.to_owned(), capability: (8, 0), multiprocessors: 4 };
        Ok(Self {
            info,
            room,
            library: false,
            products: Cell::new(0),
            launched: RefCell::default(),
            freed: Arc::default(),
            recording: Recording::default(),
        })
    }

    /// One with a library for matrices: plain loops over what [`DenseProduct::column_major`] says.
    pub fn with_library() -> Result<Self> {
        let mut emulator = Self::new()?;
        emulator.library = true;
        Ok(emulator)
    }

    /// The same as a chip of compute capability `capability`; by itself it is one of 8.0.
    #[must_use]
    pub fn with_capability(mut self, capability: (u32, u32)) -> Self {
        self.info.capability = capability;
        self
    }

    /// How often a kernel was launched, recorded launches not counted.
    pub fn launches(&self, kernel: Kernel) -> usize {
        self.launched.borrow().get(&kernel).copied().unwrap_or(0)
    }

    /// How many products the library made.
    pub fn products(&self) -> usize {
        self.products.get()
    }

    /// The kernels that have run to their end on no emulated GPU of this process.
    pub fn never_run() -> impl Iterator<Item = Kernel> {
        Kernel::ALL.iter().copied().filter(|&kernel| !RAN[kernel as usize].load(Ordering::Relaxed))
    }

    pub(super) fn recording(&self) -> Recording {
        Arc::clone(&self.recording)
    }

    /// As the driver does while a stream is captured.
    fn not_while_recording(&self, what: &'static str) -> Result<()> {
        match *lock(&self.recording) {
            Some(_) => Err(failure(format!("{what} cannot be recorded"))),
            None => Ok(()),
        }
    }

    /// # Safety
    /// As for [`Gpu::launch`]; `args` points to the structure that the kernel declares.
    unsafe fn run(&self, kernel: Kernel, launch: Launch, args: *const c_void) -> Result<()> {
        let mut place = [0; 3];
        // SAFETY: the room is this value's and not in use (`Emulator` is not `Sync`); the caller vouches for `args`.
        let error = unsafe {
            emulate_launch(
                self.room.as_ptr(),
                emulated::entry(kernel),
                launch.grid.as_ptr(),
                launch.dynamic_shared as usize,
                args,
                place.as_mut_ptr(),
            )
        };
        if error.is_null() {
            RAN[kernel as usize].store(true, Ordering::Relaxed);
            return Ok(());
        }
        // SAFETY: a string literal.
        let error = unsafe { CStr::from_ptr(error) }.to_string_lossy();
        Err(failure(format!("{}, block {place:?}: {error}", kernel.name())))
    }
}

/// The value of a code of E4M3: a sign, four bits of exponent with bias 7, three of mantissa; all ones is not a number.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match (code & 127, exponent) {
        (127, _) => f64::NAN,
        (_, 0) => mantissa / 512.0,
        _ => (8.0 + mantissa) * 2f64.powi(exponent - 10),
    };
    if code & 128 == 0 { size } else { -size }
}

/// Whether the library takes a product: as NVIDIA's does, one of eight bits only where everything lies on multiples of 16
/// bytes (<https://docs.nvidia.com/cuda/cublas/#cublasltmatmul>).
fn takes(product: &DenseProduct) -> bool {
    let ColumnMajor { a, b, d } = product.column_major();
    let on_sixteen = |matrix: &ColumnMatrix, size: u64| {
        let extents = [matrix.address, matrix.leading * size, matrix.rows * size];
        extents.iter().all(|extent| extent.is_multiple_of(16))
    };
    product.factors != FactorType::E4M3 || on_sixteen(&a, 1) && on_sixteen(&b, 1) && on_sixteen(&d, 4)
}

/// `d = aᵀ · b` in the terms of BLAS, sums in f64.
///
/// # Safety
/// The addresses are of as many elements as the matrices have, which nobody else writes.
unsafe fn multiply_columns(product: &DenseProduct) {
    let factors = product.column_major();
    let at = |matrix: &ColumnMatrix, row: u64, column: u64| (row + column * matrix.leading) as usize;
    let value = |matrix: &ColumnMatrix, row: u64, column: u64| {
        let start = std::ptr::with_exposed_provenance::<u8>(matrix.address as usize);
        let at = at(matrix, row, column) * product.factors.size();
        // SAFETY: the caller's promise.
        unsafe {
            match product.factors {
                FactorType::F16 => {
                    half::f16::from_bits(start.add(at).cast::<u16>().read_unaligned()).to_f64()
                }
                FactorType::BF16 => {
                    half::bf16::from_bits(start.add(at).cast::<u16>().read_unaligned()).to_f64()
                }
                FactorType::E4M3 => e4m3(start.add(at).read()),
            }
        }
    };
    let (a, b, d) = (factors.a, factors.b, factors.d);
    let out = std::ptr::with_exposed_provenance_mut::<f32>(d.address as usize);
    for column in 0..d.columns {
        for row in 0..d.rows {
            let sum: f64 = (0..a.rows).map(|k| value(&a, k, row) * value(&b, k, column)).sum();
            // SAFETY: the caller's promise.
            unsafe { out.add(at(&d, row, column)).write_unaligned(sum as f32) };
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, and no launch is running.
        unsafe { emulate_close(self.room.as_ptr()) }
    }
}

fn failure(message: String) -> KernelError {
    KernelError::Device { device: DEVICE, message }
}

/// Memory that ends at a page nobody may touch, and begins less than a page after another.
pub struct EmulatedMemory {
    map: NonNull<u8>,
    pages: usize,
    start: NonNull<u8>,
    len: usize,
    /// The emulator's.
    freed: Arc<AtomicU64>,
}

// SAFETY: owns its mapping, which is the same to every thread.
unsafe impl Send for EmulatedMemory {}

impl EmulatedMemory {
    fn new(what: &'static str, len: usize, freed: Arc<AtomicU64>) -> Result<Self> {
        let out_of_memory = KernelError::OutOfMemory { what, bytes: len };
        let room = len.checked_next_multiple_of(ALIGN).ok_or(out_of_memory.clone())?;
        let pages = room.checked_next_multiple_of(PAGE).and_then(|inner| inner.checked_add(2 * PAGE));
        let pages = pages.ok_or(out_of_memory.clone())?;
        // SAFETY: a new anonymous mapping.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(out_of_memory);
        }
        let map = NonNull::new(map.cast::<u8>()).ok_or(out_of_memory.clone())?;
        // SAFETY: inside the mapping, whose first and last pages stay closed.
        let start = unsafe { map.add(pages - PAGE - room) };
        let memory = Self { map, pages, start, len, freed };
        // SAFETY: whole pages of the mapping; then written within them.
        unsafe {
            let inner = memory.map.as_ptr().add(PAGE);
            if libc::mprotect(inner.cast(), pages - 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return Err(out_of_memory);
            }
            inner.write_bytes(SLACK, pages - 2 * PAGE);
            memory.start.as_ptr().write_bytes(POISON, len);
        }
        Ok(memory)
    }

    /// The bytes between the guard pages that are nobody's.
    fn slack(&self) -> impl Iterator<Item = u8> {
        // SAFETY: inside the mapping, initialised in `new`.
        let inner = unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().add(PAGE).cast_const(), self.pages - 2 * PAGE)
        };
        let before = self.start.as_ptr().addr() - inner.as_ptr().addr();
        let (head, rest) = inner.split_at(before);
        head.iter().chain(rest.iter().skip(self.len)).copied()
    }

    fn range(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(failure(format!("{len} bytes from {offset} on of {}", self.len)));
        }
        // SAFETY: inside the memory.
        Ok(unsafe { self.start.add(offset) })
    }
}

impl GpuMemory for EmulatedMemory {
    fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        let intact = self.slack().all(|byte| byte == SLACK);
        // SAFETY: mapped in `new`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.pages) };
        // A kernel wrote where it must not; the test that ran it must not pass.
        assert!(
            intact || std::thread::panicking(),
            "a write past an end of {} bytes of device memory",
            self.len
        );
    }
}

impl Gpu for Emulator {
    type Memory = EmulatedMemory;
    type Event = ();
    type Graph = EmulatedGraph;

    fn info(&self) -> &GpuInfo {
        &self.info
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        Ok(MemoryInfo { free: 1 << 30, total: 1 << 30 })
    }

    fn allocate(&self, what: &'static str, bytes: usize) -> Result<EmulatedMemory> {
        self.not_while_recording("an allocation")?;
        EmulatedMemory::new(what, bytes, Arc::clone(&self.freed))
    }

    fn fill(&self, to: &EmulatedMemory, offset: usize, len: usize, byte: u8) -> Result<()> {
        self.not_while_recording("a fill")?;
        let to = to.range(offset, len)?;
        // SAFETY: the range is inside the memory, which kernels alone write besides, none of them now.
        unsafe { to.as_ptr().write_bytes(byte, len) };
        Ok(())
    }

    fn upload(&self, to: &EmulatedMemory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.not_while_recording("an upload")?;
        let to = to.range(offset, bytes.len())?;
        // SAFETY: as in `fill`; host slices do not lie in device memory.
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(&self, from: &EmulatedMemory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.not_while_recording("a download")?;
        let from = from.range(offset, bytes.len())?;
        // SAFETY: as in `upload`.
        unsafe { from.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn collect(&self, pieces: &mut [(&EmulatedMemory, &mut [u8])]) -> Result<()> {
        pieces.iter_mut().try_for_each(|(from, bytes)| self.download(from, 0, bytes))
    }

    /// As `csrc/emulate/hopper.cpp` reads it.
    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        if let Some(what) = boxes.violation() {
            return Err(failure(format!("{what}: {boxes:?}")));
        }
        let tag = u64::from_le_bytes(*b"tensormp");
        let &Boxes { address, rows, columns, stride, box_rows, .. } = boxes;
        let mut words = [0; 16];
        for (word, value) in words.iter_mut().zip([tag, address, rows, columns, stride, box_rows.into()]) {
            *word = value;
        }
        Ok(TensorMap(words))
    }

    unsafe fn launch<A: KernelArgs>(&self, kernel: Kernel, launch: Launch, args: &A) -> Result<()> {
        let entry = emulated::entry(kernel);
        if entry.args_size != size_of::<A>() || entry.threads != kernel.threads() {
            return Err(failure(format!(
                "{} takes {} bytes and {} threads, not {} and {}",
                kernel.name(),
                entry.args_size,
                entry.threads,
                size_of::<A>(),
                kernel.threads()
            )));
        }
        if let Some(graph) = &mut *lock(&self.recording) {
            let mut lines = vec![Line([0; 64]); size_of::<A>().div_ceil(size_of::<Line>())];
            // SAFETY: as many bytes as the structure has, and room for them.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    std::ptr::from_ref(args).cast::<u8>(),
                    lines.as_mut_ptr().cast::<u8>(),
                    size_of::<A>(),
                );
            }
            graph.work.push(Recorded::Kernel { kernel, launch, args: lines });
            return Ok(());
        }
        *self.launched.borrow_mut().entry(kernel).or_default() += 1;
        // SAFETY: the caller vouches for `args`, whose size is the kernel's.
        unsafe { self.run(kernel, launch, std::ptr::from_ref(args).cast()) }
    }

    fn begin_capture(&self) -> Result<()> {
        self.not_while_recording("a capture")?;
        let freed = self.freed.load(Ordering::SeqCst);
        *lock(&self.recording) = Some(EmulatedGraph { work: Vec::new(), freed });
        Ok(())
    }

    fn end_capture(&self) -> Result<EmulatedGraph> {
        lock(&self.recording).take().ok_or_else(|| failure("nothing is being recorded".to_owned()))
    }

    fn replay(&self, graph: &EmulatedGraph) -> Result<bool> {
        self.not_while_recording("a replay")?;
        if !self.is_replayable(graph) {
            return Ok(false);
        }
        for work in &graph.work {
            // SAFETY: who recorded it vouched for memory that lives until it is given back, and none was.
            unsafe {
                match work {
                    Recorded::Kernel { kernel, launch, args } => {
                        self.run(*kernel, *launch, args.as_ptr().cast())?;
                    }
                    Recorded::Product(product) => multiply_columns(product),
                    Recorded::Sum { sums, address, len } => sums.make(*address, *len)?,
                }
            }
        }
        Ok(true)
    }

    fn is_replayable(&self, graph: &EmulatedGraph) -> bool {
        graph.freed == self.freed.load(Ordering::SeqCst)
    }

    unsafe fn multiply(&self, product: &DenseProduct) -> Result<bool> {
        let made = self.library && takes(product);
        if made {
            self.products.update(|count| count + 1);
            if let Some(graph) = &mut *lock(&self.recording) {
                graph.work.push(Recorded::Product(*product));
                return Ok(true);
            }
            // SAFETY: device memory is this process's, and no kernel is running; the rest is the caller's promise.
            unsafe { multiply_columns(product) };
        }
        Ok(made)
    }

    fn record(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self, (): &()) -> Result<()> {
        self.not_while_recording("a wait")
    }

    fn synchronize(&self) -> Result<()> {
        self.not_while_recording("a wait")
    }
}
