//! Memory of the device, and the pinned memory that copies go through.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, CudaStream};

use super::error::DeviceError;
use super::probe::call;
use crate::KernelError;
use crate::cuda::gpu::GpuMemory;

/// Bytes of one pinned segment, and how many there are: while one is filled, the others are on their way.
const SEGMENT: usize = 8 << 20;
const SEGMENTS: usize = 4;
/// Offsets within a segment are multiples of this.
const ALIGN: usize = 64;

/// Device memory. Given back when dropped, once everything in its stream has happened.
pub struct NvidiaMemory {
    address: sys::CUdeviceptr,
    len: usize,
    stream: Arc<CudaStream>,
    /// How many memories of the GPU were given back.
    freed: Arc<AtomicU64>,
}

impl NvidiaMemory {
    pub(super) fn new(
        (stream, freed): (&Arc<CudaStream>, &Arc<AtomicU64>),
        what: &'static str,
        bytes: usize,
    ) -> Result<Self, KernelError> {
        // SAFETY: plain memory, freed in `drop`; the driver gives at least one byte.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => KernelError::OutOfMemory { what, bytes },
            _ => call("cuMemAlloc")(error).into(),
        })?;
        Ok(Self { address, len: bytes, stream: stream.clone(), freed: freed.clone() })
    }

    /// The address of `len` bytes from `offset` on, all of which are inside.
    pub(super) fn at(
        &self,
        op: &'static str,
        offset: usize,
        len: usize,
    ) -> Result<sys::CUdeviceptr, KernelError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.address + offset as u64),
            end => Err(KernelError::Shape {
                op,
                what: "the end of the range",
                got: end.unwrap_or(usize::MAX),
                expected: self.len,
            }),
        }
    }
}

impl GpuMemory for NvidiaMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.len
    }
}

impl Drop for NvidiaMemory {
    fn drop(&mut self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
        if self.stream.context().bind_to_thread().is_ok() {
            let _ = self.stream.synchronize();
            // SAFETY: allocated in `new`, freed only here, and nothing in the stream uses it any more. An error has
            // nobody left to tell.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// An event of the driver's.
pub struct NvidiaEvent {
    handle: sys::CUevent,
    context: Arc<CudaContext>,
}

// SAFETY: an event is a handle that the driver lets any thread use.
unsafe impl Send for NvidiaEvent {}

impl NvidiaEvent {
    pub(super) fn new(context: &Arc<CudaContext>, flags: CUevent_flags) -> Result<Self, DeviceError> {
        let handle = result::event::create(flags).map_err(call("cuEventCreate"))?;
        Ok(Self { handle, context: context.clone() })
    }

    pub(super) fn record(&self, stream: &CudaStream) -> Result<(), DeviceError> {
        // SAFETY: both live.
        unsafe { result::event::record(self.handle, stream.cu_stream()) }.map_err(call("cuEventRecord"))
    }

    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: it lives. One that was never recorded counts as happened.
        unsafe { result::event::synchronize(self.handle) }.map_err(call("cuEventSynchronize"))
    }

    /// Seconds from `earlier` to this one; both came from [`NvidiaGpu::mark`](super::NvidiaGpu::mark) and have happened.
    ///
    /// # Errors
    /// When they have not, or were not.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64, DeviceError> {
        // SAFETY: both live.
        let milliseconds = unsafe { result::event::elapsed(earlier.handle, self.handle) };
        milliseconds.map(|ms| f64::from(ms) / 1e3).map_err(call("cuEventElapsedTime"))
    }
}

impl Drop for NvidiaEvent {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: created in `new`, destroyed only here; the driver waits with it until the event has happened.
            let _ = unsafe { result::event::destroy(self.handle) };
        }
    }
}

/// Memory of the host that the device reads and writes by itself.
struct Pinned {
    start: *mut u8,
    len: usize,
    context: Arc<CudaContext>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DeviceError> {
        // SAFETY: freed in `drop`.
        let start = unsafe { result::malloc_host(len, 0) }.map_err(call("cuMemHostAlloc"))?.cast::<u8>();
        // Rust wants to have seen a value in every byte.
        // SAFETY: as many bytes were allocated.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { start, len, context: context.clone() })
    }

    /// The whole of it. Nothing in the stream may be writing to it.
    fn bytes(&self) -> &[u8] {
        // SAFETY: allocated and initialised in `new`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// As [`Pinned::bytes`], and nothing in the stream may be reading what is changed.
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated in `new`, freed only here; the staging's owner waited for the stream.
            let _ = unsafe { result::free_host(self.start.cast::<c_void>()) };
        }
    }
}

/// A ring of pinned segments for copies to the device, and one buffer for copies back.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    ring: Vec<(Pinned, NvidiaEvent)>,
    /// The segment in use, and how much of it is taken.
    current: usize,
    used: usize,
    back: Pinned,
    /// What was last copied to `back` is there.
    arrived: NvidiaEvent,
}

impl Staging {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        let context = stream.context();
        let segment = || {
            let event = NvidiaEvent::new(context, CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
            Ok((Pinned::new(context, SEGMENT)?, event))
        };
        Ok(Self {
            stream: stream.clone(),
            ring: (0..SEGMENTS).map(|_| segment()).collect::<Result<_, DeviceError>>()?,
            current: 0,
            used: 0,
            back: Pinned::new(context, SEGMENT)?,
            arrived: NvidiaEvent::new(context, CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        })
    }

    /// Copies `bytes` to the device, in the stream's order; they are read before this returns.
    ///
    /// # Safety
    /// `to` is the address of as many bytes, which live until the stream has come so far.
    pub unsafe fn upload(&mut self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut to = to;
        let mut rest = bytes;
        while !rest.is_empty() {
            let free = SEGMENT - self.used;
            let (now, later) = rest.split_at(rest.len().min(free));
            let (start, end) = (self.used, self.used + now.len());
            let Some((pinned, _)) = self.ring.get_mut(self.current) else { return Ok(()) };
            let Some(place) = pinned.bytes_mut().get_mut(start..end) else { return Ok(()) };
            place.copy_from_slice(now);
            // SAFETY: the caller's promise; the segment is written again only after its event.
            unsafe { result::memcpy_htod_async(to, &*place, self.stream.cu_stream()) }
                .map_err(call("cuMemcpyHtoDAsync"))?;
            to += now.len() as u64;
            rest = later;
            self.used = end.next_multiple_of(ALIGN);
            if self.used >= SEGMENT {
                self.turn()?;
            }
        }
        Ok(())
    }

    /// On to the next segment, once everything that was copied from it has arrived.
    fn turn(&mut self) -> Result<(), DeviceError> {
        if let Some((_, event)) = self.ring.get(self.current) {
            event.record(&self.stream)?;
        }
        self.current = (self.current + 1) % SEGMENTS;
        self.used = 0;
        match self.ring.get(self.current) {
            Some((_, event)) => event.wait(),
            None => Ok(()),
        }
    }

    /// Copies from the device, after everything before in the stream, and waits.
    ///
    /// # Safety
    /// `from` is the address of as many bytes as `bytes` has.
    pub unsafe fn download(&mut self, from: sys::CUdeviceptr, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let mut from = from;
        for chunk in bytes.chunks_mut(SEGMENT) {
            let len = chunk.len() as u64;
            // SAFETY: the caller's promise.
            unsafe { self.collect(&mut [(from, chunk)]) }?;
            from += len;
        }
        Ok(())
    }

    /// The same for several pieces, which fit into a segment together, or come one by one.
    ///
    /// # Safety
    /// As for [`Staging::download`], for each piece.
    pub unsafe fn collect(
        &mut self,
        pieces: &mut [(sys::CUdeviceptr, &mut [u8])],
    ) -> Result<(), DeviceError> {
        let room: usize = pieces.iter().map(|(_, bytes)| bytes.len().next_multiple_of(ALIGN)).sum();
        if room > SEGMENT {
            return pieces.iter_mut().try_for_each(|(from, bytes)| {
                // SAFETY: the caller's promise.
                unsafe { self.download(*from, bytes) }
            });
        }
        let mut at = 0;
        for (from, bytes) in pieces.iter() {
            let Some(place) = self.back.bytes_mut().get_mut(at..at + bytes.len()) else { return Ok(()) };
            // SAFETY: the caller's promise; the buffer is read after the event.
            unsafe { result::memcpy_dtoh_async(place, *from, self.stream.cu_stream()) }
                .map_err(call("cuMemcpyDtoHAsync"))?;
            at += bytes.len().next_multiple_of(ALIGN);
        }
        self.arrived.record(&self.stream)?;
        self.arrived.wait()?;
        let mut at = 0;
        for (_, bytes) in pieces {
            bytes.copy_from_slice(self.back.bytes().get(at..at + bytes.len()).unwrap_or_default());
            at += bytes.len().next_multiple_of(ALIGN);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

/// The driver's answer to "how much is free".
pub(super) fn free_and_total() -> Result<(usize, usize), DriverError> {
    result::mem_get_info()
}
