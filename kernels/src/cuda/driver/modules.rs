//! The kernels' machine code on a device: what lies in the binary if the driver takes it, else compiled by NVRTC.

use std::ffi::{CString, c_void};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};

use super::cache::{Cache, Key};
use super::error::{DeviceError, Version};
use super::images::{HEADERS, IMAGES, SOURCES, Source, TOOLKIT};
use super::nvrtc::Nvrtc;
use super::probe::{CudaDevice, call};
use crate::cuda::Kernel;

/// Where the machine code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelOrigin {
    /// Compiled by this toolkit's nvcc when the binary was built.
    Embedded(Version),
    /// Compiled at start; so many files of all were found on disk.
    Compiled { nvrtc: Version, cached: usize, files: usize },
}

impl fmt::Display for KernelOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(version) => write!(f, "kernels built in by nvcc {version}"),
            Self::Compiled { nvrtc, cached, files } => {
                write!(f, "kernels compiled by NVRTC {nvrtc} ({cached} of {files} files from the cache)")
            }
        }
    }
}

/// How a GPU is taken into use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompileSettings {
    /// Where NVIDIA's libraries are looked for beside the usual places.
    pub libraries: Vec<PathBuf>,
    /// Where NVRTC's output is kept; `None`: compiled at every start.
    pub cache: Option<PathBuf>,
    /// Large products by our own kernels, though cuBLASLt may be there.
    pub own_gemm: bool,
}

impl CompileSettings {
    /// The usual ones, and our own products where `CUDA_GEMM` is `own`: for what has no other settings.
    #[must_use]
    pub fn of_environment() -> Self {
        Self { own_gemm: std::env::var("CUDA_GEMM").is_ok_and(|whose| whose == "own"), ..Self::default() }
    }
}

/// All modules, loaded into a context; unloaded when dropped.
pub(super) struct Modules {
    /// By [`Kernel`]'s number, found when first used: the driver loads a kernel's code then.
    functions: Vec<OnceLock<Function>>,
    modules: Vec<Module>,
    /// Most shared memory of a block, in bytes.
    shared: i32,
    origin: KernelOrigin,
}

/// A loaded module.
struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

/// A kernel; valid as long as its [`Modules`].
struct Function(sys::CUfunction);

// SAFETY: modules and functions are handles that the driver lets any thread use.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Module {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Modules {
    /// Loads all images; `shared` is the most shared memory of a block, in bytes.
    pub fn load(
        context: &Arc<CudaContext>,
        device: &CudaDevice,
        settings: &CompileSettings,
        shared: i32,
    ) -> Result<Self, DeviceError> {
        let (modules, origin) = match embedded(embedded_toolkit(), device.driver) {
            Some(toolkit) => match load_images(context) {
                Ok(modules) => (modules, KernelOrigin::Embedded(toolkit)),
                Err(error) if is_foreign(error) => compile_all(context, device, settings)?,
                Err(error) => return Err(call("cuModuleLoadData")(error)),
            },
            None => compile_all(context, device, settings)?,
        };
        let functions = Kernel::ALL.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { functions, modules, shared, origin })
    }

    pub fn origin(&self) -> KernelOrigin {
        self.origin
    }

    /// Valid as long as these modules are.
    pub fn function(&self, kernel: Kernel) -> Result<sys::CUfunction, DeviceError> {
        let missing = || DeviceError::NoKernel(kernel.name().to_owned());
        let place = self.functions.get(kernel as usize).ok_or_else(missing)?;
        if let Some(function) = place.get() {
            return Ok(function.0);
        }
        let found = find(&self.modules, kernel, self.shared)?;
        Ok(place.get_or_init(|| found).0)
    }
}

/// The kernel in whichever module has it, allowed to have all of a block's `shared` bytes of shared memory.
fn find(modules: &[Module], kernel: Kernel, shared: i32) -> Result<Function, DeviceError> {
    let missing = || DeviceError::NoKernel(kernel.name().to_owned());
    let name = CString::new(kernel.name()).map_err(|_| missing())?;
    for module in modules {
        // SAFETY: the module is loaded.
        match unsafe { result::module::get_function(module.handle, name.clone()) } {
            Ok(function) => return allow_shared(Function(function), shared),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_FOUND)) => {}
            Err(error) => return Err(call("cuModuleGetFunction")(error)),
        }
    }
    Err(missing())
}

/// What a kernel declares itself counts, too.
fn allow_shared(function: Function, shared: i32) -> Result<Function, DeviceError> {
    // SAFETY: the function was just found in a loaded module.
    unsafe {
        let own = result::function::get_function_attribute(
            function.0,
            Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        )
        .map_err(call("cuFuncGetAttribute"))?;
        result::function::set_function_attribute(
            function.0,
            Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            shared.saturating_sub(own),
        )
        .map_err(call("cuFuncSetAttribute"))?;
    }
    Ok(function)
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: loaded into this context, and unloaded only here. An error has nobody left to tell.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}

/// The toolkit of the images in the binary, if there are any that a driver of this version takes: it takes those of
/// toolkits of its own major version, and of older ones.
fn embedded(toolkit: Option<Version>, driver: Version) -> Option<Version> {
    toolkit.filter(|toolkit| toolkit.major <= driver.major)
}

/// Whether the driver says that the image is for other chips or newer drivers.
fn is_foreign(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
    )
}

fn load_images(context: &Arc<CudaContext>) -> Result<Vec<Module>, DriverError> {
    IMAGES.iter().map(|image| load(context, image)).collect()
}

/// `image` is a whole fat binary or cubin: their headers say how long they are.
fn load(context: &Arc<CudaContext>, image: &[u8]) -> Result<Module, DriverError> {
    // SAFETY: made by nvcc, or by NVRTC and kept with a checksum; the driver copies it.
    let handle = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) }?;
    Ok(Module { handle, context: context.clone() })
}

fn compile_all(
    context: &Arc<CudaContext>,
    device: &CudaDevice,
    settings: &CompileSettings,
) -> Result<(Vec<Module>, KernelOrigin), DeviceError> {
    let driver = device.driver;
    let nvrtc = compiler(driver, &settings.libraries)?;
    let target = target(device.capability);
    let cache = settings.cache.as_deref().map(Cache::new);
    let codes = Compiler { nvrtc: &nvrtc, target: &target, driver, cache }.compile_all()?;
    let cached = codes.iter().filter(|code| code.cached).count();
    let origin = KernelOrigin::Compiled { nvrtc: nvrtc.version(), cached, files: codes.len() };
    let modules = codes.iter().map(|code| load(context, &code.bytes).map_err(call("cuModuleLoadData")));
    Ok((modules.collect::<Result<_, _>>()?, origin))
}

/// The least that knows every instruction in the kernels: it came with the FP8 products of compute capability 8.9.
const LEAST_NVRTC: Version = Version::new(12, 4);

fn compiler(driver: Version, folders: &[PathBuf]) -> Result<Nvrtc, DeviceError> {
    let nvrtc = Nvrtc::open(driver.major, folders).ok_or_else(|| absent(driver))?;
    match nvrtc.version() {
        found if found < LEAST_NVRTC => Err(DeviceError::CompilerTooOld { found, needed: LEAST_NVRTC }),
        _ => Ok(nvrtc),
    }
}

/// There is nothing that could compile.
fn absent(driver: Version) -> DeviceError {
    match TOOLKIT {
        Some((major, minor)) => DeviceError::DriverTooOld { driver, needed: Version::new(major, minor) },
        None => DeviceError::NoCompiler { driver },
    }
}

/// A compiled file.
struct Code {
    name: &'static str,
    bytes: Vec<u8>,
    cached: bool,
}

/// What there is to compile with, and for.
struct Compiler<'a> {
    nvrtc: &'a Nvrtc,
    /// Such as `sm_90a`.
    target: &'a str,
    driver: Version,
    cache: Option<Cache>,
}

impl Compiler<'_> {
    /// All files at once: NVRTC may be called by several threads.
    fn compile_all(&self) -> Result<Vec<Code>, DeviceError> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = SOURCES.iter().map(|source| scope.spawn(|| self.compile(source))).collect();
            let codes = threads.into_iter().zip(SOURCES).map(|(thread, source)| {
                let panicked = |_| Err(self.nvrtc.failed(source, self.target, "NVRTC panicked".to_owned()));
                thread.join().unwrap_or_else(panicked)
            });
            codes.collect()
        })
    }

    fn compile(&self, source: &Source) -> Result<Code, DeviceError> {
        let version = |version: Version| (version.major, version.minor);
        let key = Key {
            source: source.text,
            headers: HEADERS.iter().map(|header| (header.name, header.text)).collect(),
            target: self.target,
            compiler: version(self.nvrtc.version()),
            driver: version(self.driver),
        };
        let name = source.name;
        if let Some(bytes) = self.cache.as_ref().and_then(|cache| cache.get(name, &key)) {
            return Ok(Code { name, bytes, cached: true });
        }
        let bytes = self.nvrtc.compile(source, HEADERS, self.target)?;
        if let Some(cache) = &self.cache {
            // Without it the next start takes longer, and that is all.
            let _ = cache.put(name, &key, &bytes);
        }
        Ok(Code { name, bytes, cached: false })
    }
}

/// The version of the toolkit whose nvcc compiled the kernels in this binary, if one did.
pub fn embedded_toolkit() -> Option<Version> {
    TOOLKIT.map(|(major, minor)| Version::new(major, minor))
}

/// A file of `csrc` that was compiled at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    pub name: &'static str,
    /// Of machine code.
    pub bytes: usize,
    pub cached: bool,
}

/// Compiles every file for `target` (such as `sm_90a`) as a driver of CUDA `driver` would need it; takes no GPU.
///
/// # Errors
/// When there is no NVRTC of the driver's major version, or a file does not compile.
pub fn compile_kernels(
    driver: Version,
    target: &str,
    settings: &CompileSettings,
) -> Result<Vec<Compiled>, DeviceError> {
    let nvrtc = compiler(driver, &settings.libraries)?;
    let cache = settings.cache.as_deref().map(Cache::new);
    let codes = Compiler { nvrtc: &nvrtc, target, driver, cache }.compile_all()?;
    let summary = |code: Code| Compiled { name: code.name, bytes: code.bytes.len(), cached: code.cached };
    Ok(codes.into_iter().map(summary).collect())
}

/// What to compile for: Hopper and Blackwell have instructions that only the `a` targets show.
fn target((major, minor): (u32, u32)) -> String {
    let specific = if matches!((major, minor), (9 | 10, 0)) { "a" } else { "" };
    format!("sm_{major}{minor}{specific}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_for_drivers_of_their_major_version_or_newer() {
        let built = Some(Version::new(13, 0));
        assert_eq!(embedded(built, Version::new(13, 1)), built);
        assert_eq!(embedded(built, Version::new(14, 0)), built);
        assert_eq!(embedded(built, Version::new(12, 8)), None);
        assert_eq!(embedded(None, Version::new(13, 0)), None);
    }

    #[test]
    fn chips_with_instructions_of_their_own_get_their_targets() {
        let targets = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)].map(target);
        assert_eq!(targets, ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"]);
    }
}
