//! Compiling at run time, with NVIDIA's NVRTC library: for binaries that were built without nvcc, and for drivers that
//! are older than the nvcc that was used.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::error::{DeviceError, Version};
use super::images::Source;
use super::libraries;

type Program = *mut c_void;
type Status = c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> Status;

/// The functions of NVRTC that are used here (<https://docs.nvidia.com/cuda/nvrtc>).
struct Functions {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    create: Create,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    error: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Functions {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: the types are those of NVRTC's header, which have not changed since these functions came.
        unsafe {
            Some(Self {
                version: libraries::function(library, c"nvrtcVersion")?,
                create: libraries::function(library, c"nvrtcCreateProgram")?,
                compile: libraries::function(library, c"nvrtcCompileProgram")?,
                cubin_size: libraries::function(library, c"nvrtcGetCUBINSize")?,
                cubin: libraries::function(library, c"nvrtcGetCUBIN")?,
                log_size: libraries::function(library, c"nvrtcGetProgramLogSize")?,
                log: libraries::function(library, c"nvrtcGetProgramLog")?,
                destroy: libraries::function(library, c"nvrtcDestroyProgram")?,
                error: libraries::function(library, c"nvrtcGetErrorString")?,
            })
        }
    }
}

/// The library, opened.
pub(super) struct Nvrtc {
    functions: Functions,
    version: Version,
    /// Folders with `cuda_fp16.h` and its like, which older versions do not bring along.
    includes: Vec<PathBuf>,
    /// Its functions are in use as long as this lives.
    _libraries: Vec<Library>,
}

impl Nvrtc {
    /// The one of a major version, which is what a driver of that version can load the output of.
    pub fn open(major: u32, folders: &[PathBuf]) -> Option<Self> {
        let library = libraries::open("nvrtc", major, folders)?;
        let functions = Functions::load(&library)?;
        let (mut found, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { (functions.version)(&raw mut found, &raw mut minor) };
        let version = Version::new(u32::try_from(found).ok()?, u32::try_from(minor).ok()?);
        let folder = libraries::file_of(functions.version as *const c_void)?.parent()?.to_owned();
        // NVRTC opens its other half by name, which the system's loader may not know; it then takes what is open.
        let other = libraries::open_file(&folder.join(format!("libnvrtc-builtins.so.{version}")));
        let libraries = [Some(library), other].into_iter().flatten().collect();
        Some(Self { functions, version, includes: includes(&folder), _libraries: libraries })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Machine code of one file for `target` (such as `sm_90a`).
    pub fn compile(&self, source: &Source, headers: &[Source], target: &str) -> Result<Vec<u8>, DeviceError> {
        let failed = |log: String| self.failed(source, target, log);
        let program = self.program(source, headers).map_err(&failed)?;
        let mut options = vec![format!("--gpu-architecture={target}"), "--std=c++17".into()];
        options.extend(self.includes.iter().map(|folder| format!("--include-path={}", folder.display())));
        let options = strings(options.iter().map(String::as_str)).map_err(&failed)?;
        let pointers = pointers(&options);
        // SAFETY: the program lives, and so do the options, as many as said.
        let status = unsafe { (self.functions.compile)(program.0, count(pointers.len()), pointers.as_ptr()) };
        if status != 0 {
            return Err(failed(self.log(&program).unwrap_or_else(|| self.describe(status))));
        }
        self.cubin(&program).ok_or_else(|| failed("there is no machine code".to_owned()))
    }

    pub fn failed(&self, source: &Source, target: &str, log: String) -> DeviceError {
        DeviceError::Compile {
            file: source.name.to_owned(),
            version: self.version,
            target: target.to_owned(),
            log,
        }
    }

    fn program(&self, source: &Source, headers: &[Source]) -> Result<OwnedProgram<'_>, String> {
        let own = strings([source.text, source.name])?;
        let (texts, names) =
            (strings(headers.iter().map(|h| h.text))?, strings(headers.iter().map(|h| h.name))?);
        let (own, texts, names) = (pointers(&own), pointers(&texts), pointers(&names));
        let [text, name] = own.as_slice() else { return Err("no source".to_owned()) };
        let mut program = std::ptr::null_mut();
        // SAFETY: all strings end with a zero and live; there are as many texts and names of headers as said.
        let status = unsafe {
            let create = self.functions.create;
            create(&raw mut program, *text, *name, count(texts.len()), texts.as_ptr(), names.as_ptr())
        };
        if status == 0 { Ok(OwnedProgram(program, &self.functions)) } else { Err(self.describe(status)) }
    }

    fn cubin(&self, program: &OwnedProgram<'_>) -> Option<Vec<u8>> {
        // SAFETY: the program was compiled for a real chip.
        unsafe { bytes(program, self.functions.cubin_size, self.functions.cubin) }
            .filter(|code| !code.is_empty())
    }

    fn log(&self, program: &OwnedProgram<'_>) -> Option<String> {
        // SAFETY: a log can be asked for at any time.
        let bytes = unsafe { bytes(program, self.functions.log_size, self.functions.log) }?;
        let text = String::from_utf8_lossy(&bytes).trim_end_matches('\0').trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn describe(&self, status: Status) -> String {
        // SAFETY: returns a static string for every number.
        let text = unsafe { (self.functions.error)(status) };
        if text.is_null() {
            return format!("status {status}");
        }
        // SAFETY: not null, so such a string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Destroyed when dropped.
struct OwnedProgram<'a>(Program, &'a Functions);

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: created, and not destroyed before.
        unsafe { (self.1.destroy)(&raw mut self.0) };
    }
}

/// What one of the pairs "size of", "copy of" says.
///
/// # Safety
/// The pair belongs together and may be called on the program as it is.
unsafe fn bytes(
    program: &OwnedProgram<'_>,
    size_of: unsafe extern "C" fn(Program, *mut usize) -> Status,
    copy_of: unsafe extern "C" fn(Program, *mut c_char) -> Status,
) -> Option<Vec<u8>> {
    let mut size = 0;
    // SAFETY: the caller's promise.
    if unsafe { size_of(program.0, &raw mut size) } != 0 {
        return None;
    }
    let mut bytes = vec![0_u8; size];
    // SAFETY: the caller's promise; there is as much room as the library said.
    (unsafe { copy_of(program.0, bytes.as_mut_ptr().cast()) } == 0).then_some(bytes)
}

/// Where the headers are that belong to the library in `folder`, as toolkits and wheels lay them out.
fn includes(folder: &Path) -> Vec<PathBuf> {
    ["../include", "../../../include", "../../cuda_runtime/include"]
        .iter()
        .map(|relative| folder.join(relative))
        .filter(|folder| folder.join("cuda_fp16.h").is_file())
        .take(1)
        .collect()
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<CString>, String> {
    texts.into_iter().map(|text| CString::new(text).map_err(|error| error.to_string())).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

fn count(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}
