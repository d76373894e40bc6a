//! NVIDIA's library for sums over several GPUs
//! (<https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html>), where it is installed.

#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use cudarc::driver::CudaStream;
use libloading::Library;

use super::error::{DeviceError, Version};
use super::libraries;
use super::nvidia::NvidiaGpu;
use super::probe::call;
use crate::{AllReduce, DeviceSums, KernelError, LocalMember, local_group};

/// The major version; the numbers below have not changed in it.
const MAJOR: u32 = 2;
/// The oldest that is used. Before it, ending one communicator could wait for another of this process.
const OLDEST: Version = Version::new(2, 14);

/// A communicator: a GPU's place in a group.
type Communicator = *mut c_void;
type Status = c_int;

const SUCCESS: Status = 0;
/// `ncclFloat32` and `ncclSum`.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

type Sum = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Communicator,
    *mut c_void,
) -> Status;
type Text = *const c_char;

/// The functions that are used here.
#[derive(Clone, Copy)]
struct Functions {
    version: unsafe extern "C" fn(*mut c_int) -> Status,
    error: unsafe extern "C" fn(Status) -> Text,
    last_error: unsafe extern "C" fn(Communicator) -> Text,
    create: unsafe extern "C" fn(*mut Communicator, c_int, *const c_int) -> Status,
    sum: Sum,
    abort: unsafe extern "C" fn(Communicator) -> Status,
}

impl Functions {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: the types are those of the library's header, the same in all of this major version.
        unsafe {
            Some(Self {
                version: libraries::function(library, c"ncclGetVersion")?,
                error: libraries::function(library, c"ncclGetErrorString")?,
                last_error: libraries::function(library, c"ncclGetLastError")?,
                create: libraries::function(library, c"ncclCommInitAll")?,
                sum: libraries::function(library, c"ncclAllReduce")?,
                abort: libraries::function(library, c"ncclCommAbort")?,
            })
        }
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), DeviceError> {
        if status == SUCCESS {
            return Ok(());
        }
        let text = |text: Text| {
            // SAFETY: null, or a string that lives at least until this thread's next call.
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        // SAFETY: takes any number; and no communicator in particular.
        let (name, detail) = unsafe { ((self.error)(status), (self.last_error)(ptr::null_mut())) };
        let name = text(name).unwrap_or_else(|| format!("status {status}"));
        let detail = text(detail).map(|detail| detail.trim().to_owned()).filter(|detail| !detail.is_empty());
        Err(DeviceError::Call { call, name, text: detail.unwrap_or_else(|| "NCCL".to_owned()) })
    }

    /// `10000 * major + 100 * minor + patch`, since version 2.9.
    fn version(&self) -> Result<Version, DeviceError> {
        let mut number = 0;
        // SAFETY: an integer to write to.
        self.check("ncclGetVersion", unsafe { (self.version)(&raw mut number) })?;
        let number = u32::try_from(number).unwrap_or(0);
        Ok(Version::new(number / 10_000, number / 100 % 100))
    }
}

/// By what shards add up, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumOrigin {
    /// NCCL, of this version.
    Nccl(Version),
    /// The host: the library was not found.
    Absent,
    /// The host: the library was found, and failed like this.
    Unusable(String),
    /// The host: sums are to have one order, and more than two GPUs would have several.
    Ordered,
}

impl fmt::Display for SumOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nccl(version) => write!(f, "sums by NCCL {version}"),
            Self::Absent => {
                write!(f, "sums by way of the host, which is slow: no NCCL was found (libnccl.so.{MAJOR})")
            }
            Self::Unusable(error) => write!(f, "sums by way of the host, which is slow: {error}"),
            Self::Ordered => write!(f, "sums by way of the host, which is slow, for their one order"),
        }
    }
}

/// Makes a group of `gpus`: by NCCL where it is found (`libraries`: where else to look), else by way of the host. With
/// `ordered`, a sum is the same to the bit whatever else is added up beside it: of two values in any case, of more by way
/// of the host, since NCCL's order depends on how many sums are made at once.
pub fn connect(
    gpus: &[NvidiaGpu],
    libraries: &[PathBuf],
    ordered: bool,
) -> (Vec<Box<dyn AllReduce>>, SumOrigin) {
    let connected = if ordered && gpus.len() > 2 {
        Err(SumOrigin::Ordered)
    } else {
        let number =
            |gpu: &NvidiaGpu| c_int::try_from(gpu.stream().context().ordinal()).unwrap_or(c_int::MAX);
        Communicators::open(&gpus.iter().map(number).collect::<Vec<_>>(), libraries)
    };
    let host = local_group(gpus.len()).into_iter();
    match connected {
        Err(origin) => (host.map(|member| Box::new(member) as Box<dyn AllReduce>).collect(), origin),
        Ok((all, version)) => {
            let member = |(index, (host, gpu)): (usize, (LocalMember, &NvidiaGpu))| {
                let (all, stream) = (Arc::clone(&all), Arc::clone(gpu.stream()));
                Box::new(NcclMember { host, all, index, stream }) as Box<dyn AllReduce>
            };
            (host.zip(gpus).enumerate().map(member).collect(), SumOrigin::Nccl(version))
        }
    }
}

/// The communicators of one group. Those of a group that nobody leaves stay as long as the process lives.
struct Communicators {
    functions: Functions,
    /// `None` once it has been ended.
    members: Vec<Mutex<Option<Handle>>>,
    left: AtomicBool,
}

struct Handle(Communicator);

// SAFETY: any thread may use a communicator, one at a time, which the mutex around it sees to.
unsafe impl Send for Handle {}

impl Communicators {
    /// One for each of the GPUs of these numbers. The library stays loaded as long as the process lives, since threads of
    /// its own may outlive the communicators.
    fn open(gpus: &[c_int], folders: &[PathBuf]) -> Result<(Arc<Self>, Version), SumOrigin> {
        let library = libraries::open("nccl", MAJOR, folders).ok_or(SumOrigin::Absent)?;
        let library: &'static Library = Box::leak(Box::new(library));
        let unusable = |error: DeviceError| SumOrigin::Unusable(error.to_string());
        let too_old = |what: String| SumOrigin::Unusable(format!("{what}; NCCL {OLDEST} is the least"));
        let functions =
            Functions::load(library).ok_or_else(|| too_old("functions are missing".to_owned()))?;
        let version = functions.version().map_err(unusable)?;
        if version < OLDEST {
            return Err(too_old(format!("NCCL {version} was found")));
        }
        let mut members = vec![ptr::null_mut(); gpus.len()];
        let count = c_int::try_from(gpus.len()).unwrap_or(c_int::MAX);
        // SAFETY: as many numbers as places to write to; each GPU has a context.
        let created = unsafe { (functions.create)(members.as_mut_ptr(), count, gpus.as_ptr()) };
        functions.check("ncclCommInitAll", created).map_err(unusable)?;
        let members = members.into_iter().map(|member| Mutex::new(Some(Handle(member)))).collect();
        Ok((Arc::new(Self { functions, members, left: AtomicBool::new(false) }), version))
    }

    /// As [`DeviceSums::sum`], for the member of this number, in a stream of its GPU.
    ///
    /// # Safety
    /// As there; the GPU's context is current, and the stream is one of it.
    unsafe fn sum(
        &self,
        index: usize,
        (address, len): (u64, usize),
        stream: *mut c_void,
    ) -> Result<(), KernelError> {
        if self.left.load(Ordering::SeqCst) {
            return Err(KernelError::Left);
        }
        let member =
            self.members.get(index).map(|member| member.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(Handle(communicator)) = member.as_deref().and_then(Option::as_ref) else {
            return Err(KernelError::Left);
        };
        let values = ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        // SAFETY: the communicator lives while it is locked; input and output may be the same; the rest is the caller's
        // promise.
        let status =
            unsafe { (self.functions.sum)(values, values, len, FLOAT32, SUM, *communicator, stream) };
        match self.functions.check("ncclAllReduce", status) {
            Ok(()) => Ok(()),
            // It is what the others' leaving does to calls under way.
            Err(_) if self.left.load(Ordering::SeqCst) => Err(KernelError::Left),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends all communicators, so that no GPU goes on waiting for another. Each in a thread of its own: kernels are told to
    /// end at once, but then the call waits for the other communicators, and for recorded steps with sums of its own, which
    /// go later.
    fn end(self: &Arc<Self>) {
        if self.left.swap(true, Ordering::SeqCst) {
            return;
        }
        for index in 0..self.members.len() {
            let all = Arc::clone(self);
            let abort = move || {
                let member = all.members.get(index);
                let taken =
                    member.and_then(|member| member.lock().unwrap_or_else(PoisonError::into_inner).take());
                if let Some(Handle(communicator)) = taken {
                    // SAFETY: nobody else has it any more. What goes wrong has nobody left to tell.
                    let _ = unsafe { (all.functions.abort)(communicator) };
                }
            };
            // Without threads, the server's watchdog is what remains.
            let _ = Builder::new().name("nccl-abort".into()).spawn(abort);
        }
    }
}

/// A GPU's place in a group.
struct NcclMember {
    /// For what lies on the host.
    host: LocalMember,
    all: Arc<Communicators>,
    index: usize,
    stream: Arc<CudaStream>,
}

impl AllReduce for NcclMember {
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError> {
        self.host.sum(values)
    }

    fn on_devices(&mut self) -> Option<&mut dyn DeviceSums> {
        Some(self)
    }

    fn leave(&mut self) {
        self.host.leave();
        self.all.end();
    }
}

impl DeviceSums for NcclMember {
    unsafe fn sum(&mut self, address: u64, len: usize) -> Result<(), KernelError> {
        self.stream.context().bind_to_thread().map_err(call("cuCtxSetCurrent"))?;
        // SAFETY: the context is current and the stream its own; the rest is the caller's promise.
        unsafe { self.all.sum(self.index, (address, len), self.stream.cu_stream().cast()) }
    }
}
