//! The real GPU: one context, one stream.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdevice_attribute, CUevent_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream};

use super::cublaslt::{self, CublasLt, ProductOrigin};
use super::error::DeviceError;
use super::memory::{NvidiaEvent, NvidiaMemory, Staging, free_and_total};
use super::modules::{CompileSettings, KernelOrigin, Modules};
use super::probe::{CudaDevice, call};
use super::tensor_map;
use crate::KernelError;
use crate::cuda::Kernel;
use crate::cuda::dense::DenseProduct;
use crate::cuda::gpu::{Gpu, GpuInfo, KernelArgs, Launch, MemoryInfo};
use crate::cuda::tensor_map::{Boxes, TensorMap};

type Result<T> = std::result::Result<T, KernelError>;

/// A GPU behind NVIDIA's driver.
pub struct NvidiaGpu {
    info: GpuInfo,
    staging: Mutex<Staging>,
    modules: Modules,
    products: Products,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// How many memories were given back; and how many had been when the last capture began.
    freed: Arc<AtomicU64>,
    freed_before_capture: AtomicU64,
}

/// Who makes large products.
enum Products {
    Library(Box<CublasLt>),
    Own(ProductOrigin),
}

/// Recorded launches, to be done again with one call. They refer to the memory that they did when they were recorded.
pub struct NvidiaGraph {
    graph: CudaGraph,
    /// How many memories had been given back.
    freed: u64,
}

// SAFETY: the driver wants calls with one graph to come one after the other, which its one owner sees to.
unsafe impl Send for NvidiaGraph {}

impl NvidiaGpu {
    /// Takes a device into use: its primary context, a stream of its own, all kernels, pinned memory.
    ///
    /// # Errors
    /// When the driver has none of it, or no code for this chip can be had.
    pub fn new(device: &CudaDevice, settings: &CompileSettings) -> std::result::Result<Self, DeviceError> {
        let context = CudaContext::new(device.ordinal).map_err(call("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: everything here happens in one stream, so no slice has to remember who used it last.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(call("cuStreamCreate"))?;
        let shared = context
            .attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
            .map_err(call("cuDeviceGetAttribute"))?;
        let modules = Modules::load(&context, device, settings, shared)?;
        Ok(Self {
            info: GpuInfo {
                name: device.name.clone(),
                capability: device.capability,
                multiprocessors: device.multiprocessors,
            },
            staging: Mutex::new(Staging::new(&stream)?),
            modules,
            products: Products::open(&stream, device, settings),
            stream,
            context,
            freed: Arc::default(),
            freed_before_capture: AtomicU64::new(0),
        })
    }

    /// Where the machine code came from.
    pub fn origin(&self) -> KernelOrigin {
        self.modules.origin()
    }

    /// Whose kernels make large products.
    pub fn products(&self) -> ProductOrigin {
        match &self.products {
            Products::Library(library) => ProductOrigin::CublasLt(library.version()),
            Products::Own(origin) => origin.clone(),
        }
    }

    /// Where everything happens.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Any thread may call; the driver wants to be told which context the thread works in.
    fn bind(&self) -> std::result::Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(call("cuCtxSetCurrent"))
    }

    /// Copies within the device, in the stream's order.
    pub fn copy(&self, to: &NvidiaMemory, from: &NvidiaMemory, len: usize) -> Result<()> {
        self.bind()?;
        let (to, from) = (to.at("copy", 0, len)?, from.at("copy", 0, len)?);
        // SAFETY: both ranges are inside memory that is freed only after the stream.
        let copied = unsafe { result::memcpy_dtod_async(to, from, len, self.stream.cu_stream()) };
        Ok(copied.map_err(call("cuMemcpyDtoDAsync"))?)
    }

    /// As [`Gpu::record`], for [`NvidiaEvent::seconds_since`].
    pub fn mark(&self) -> Result<NvidiaEvent> {
        self.bind()?;
        let event = NvidiaEvent::new(&self.context, CUevent_flags::CU_EVENT_DEFAULT)?;
        event.record(&self.stream)?;
        Ok(event)
    }
}

impl Products {
    /// The newest library that the driver takes; a library that cannot be used is as good as none.
    fn open(stream: &Arc<CudaStream>, device: &CudaDevice, settings: &CompileSettings) -> Self {
        if settings.own_gemm {
            return Self::Own(ProductOrigin::Asked);
        }
        let newest = device.driver.major;
        let mut origin = ProductOrigin::Absent(newest);
        for major in (cublaslt::OLDEST..=newest).rev() {
            match CublasLt::open(stream, major, &settings.libraries) {
                Ok(Some(library)) => return Self::Library(Box::new(library)),
                Ok(None) => {}
                Err(error) => origin = ProductOrigin::Unusable(error.to_string()),
            }
        }
        Self::Own(origin)
    }
}

impl Gpu for NvidiaGpu {
    type Memory = NvidiaMemory;
    type Event = NvidiaEvent;
    type Graph = NvidiaGraph;

    fn info(&self) -> &GpuInfo {
        &self.info
    }

    fn memory_info(&self) -> Result<MemoryInfo> {
        self.bind()?;
        let (free, total) = free_and_total().map_err(call("cuMemGetInfo"))?;
        Ok(MemoryInfo { free, total })
    }

    fn allocate(&self, what: &'static str, bytes: usize) -> Result<NvidiaMemory> {
        self.bind()?;
        NvidiaMemory::new((&self.stream, &self.freed), what, bytes)
    }

    fn fill(&self, to: &NvidiaMemory, offset: usize, len: usize, byte: u8) -> Result<()> {
        self.bind()?;
        let address = to.at("fill", offset, len)?;
        // SAFETY: the range is inside memory that is freed only after the stream.
        Ok(unsafe { result::memset_d8_async(address, byte, len, self.stream.cu_stream()) }
            .map_err(call("cuMemsetD8Async"))?)
    }

    fn upload(&self, to: &NvidiaMemory, offset: usize, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let address = to.at("upload", offset, bytes.len())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range is inside memory that is freed only after the stream.
        Ok(unsafe { staging.upload(address, bytes) }?)
    }

    fn download(&self, from: &NvidiaMemory, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        let address = from.at("download", offset, bytes.len())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range is inside memory that lives.
        Ok(unsafe { staging.download(address, bytes) }?)
    }

    fn collect(&self, pieces: &mut [(&NvidiaMemory, &mut [u8])]) -> Result<()> {
        self.bind()?;
        let place = |(from, bytes): &mut (&NvidiaMemory, &mut [u8])| from.at("collect", 0, bytes.len());
        let places = pieces.iter_mut().map(place).collect::<Result<Vec<_>>>()?;
        let rest = pieces.iter_mut().map(|(_, bytes)| &mut **bytes);
        let mut pieces: Vec<_> = places.into_iter().zip(rest).collect();
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the ranges are inside memory that lives.
        Ok(unsafe { staging.collect(&mut pieces) }?)
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<TensorMap> {
        self.bind()?;
        Ok(tensor_map::encode(boxes)?)
    }

    unsafe fn launch<A: KernelArgs>(&self, kernel: Kernel, launch: Launch, args: &A) -> Result<()> {
        self.bind()?;
        let function = self.modules.function(kernel)?;
        let [x, y, z] = launch.grid;
        let mut parameters = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel has one parameter, which is `A`, and the driver copies it before it returns; the rest is the
        // caller's promise.
        let launched = unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (kernel.threads(), 1, 1),
                launch.dynamic_shared,
                self.stream.cu_stream(),
                &mut parameters,
            )
        };
        Ok(launched.map_err(|error| launch_error(kernel.name(), error))?)
    }

    unsafe fn multiply(&self, product: &DenseProduct) -> Result<bool> {
        let Products::Library(library) = &self.products else { return Ok(false) };
        self.bind()?;
        // SAFETY: the caller's promise.
        Ok(unsafe { library.multiply(product) }?)
    }

    fn begin_capture(&self) -> Result<()> {
        self.bind()?;
        self.freed_before_capture.store(self.freed.load(Ordering::SeqCst), Ordering::SeqCst);
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        Ok(self.stream.begin_capture(mode).map_err(call("cuStreamBeginCapture"))?)
    }

    fn end_capture(&self) -> Result<NvidiaGraph> {
        self.bind()?;
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        let graph = ended.map_err(call("cuStreamEndCapture"))?.ok_or_else(|| KernelError::Device {
            device: "cuda",
            message: "the driver recorded nothing".to_owned(),
        })?;
        graph.upload().map_err(call("cuGraphUpload"))?;
        Ok(NvidiaGraph { graph, freed: self.freed_before_capture.load(Ordering::SeqCst) })
    }

    fn replay(&self, graph: &NvidiaGraph) -> Result<bool> {
        if !self.is_replayable(graph) {
            return Ok(false);
        }
        self.bind()?;
        graph.graph.launch().map_err(call("cuGraphLaunch"))?;
        Ok(true)
    }

    fn is_replayable(&self, graph: &NvidiaGraph) -> bool {
        graph.freed == self.freed.load(Ordering::SeqCst)
    }

    fn record(&self) -> Result<NvidiaEvent> {
        self.bind()?;
        let event = NvidiaEvent::new(&self.context, CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        event.record(&self.stream)?;
        Ok(event)
    }

    fn wait(&self, event: &NvidiaEvent) -> Result<()> {
        self.bind()?;
        Ok(event.wait()?)
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        Ok(self.stream.synchronize().map_err(call("cuStreamSynchronize"))?)
    }
}

/// A launch that the driver refused, by the kernel's name.
fn launch_error(kernel: &str, error: result::DriverError) -> DeviceError {
    match call("cuLaunchKernel")(error) {
        DeviceError::Call { call, name, text } => {
            DeviceError::Call { call, name, text: format!("{kernel}: {text}") }
        }
        other => other,
    }
}
