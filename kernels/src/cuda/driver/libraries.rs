//! NVIDIA's optional libraries, wherever they are installed.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

/// Where toolkits are installed when the system's loader does not know them.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/opt/cuda/lib64"];

/// Opens `lib<stem>.so.<major>`: as the system's loader finds it, then in the usual folders, then in `folders`.
pub(super) fn open(stem: &str, major: u32, folders: &[PathBuf]) -> Option<Library> {
    let name = format!("lib{stem}.so.{major}");
    let versioned = PathBuf::from(format!("/usr/local/cuda-{major}/lib64"));
    let usual = FOLDERS.iter().map(PathBuf::from).chain([versioned]);
    let files =
        usual.chain(folders.iter().cloned()).map(|folder| folder.join(&name)).filter(|file| file.is_file());
    std::iter::once(PathBuf::from(&name)).chain(files).find_map(|file| open_file(&file))
}

/// Opens a library of NVIDIA's by its path, or by its name.
pub(super) fn open_file(file: &Path) -> Option<Library> {
    // SAFETY: these libraries' initialisers have no preconditions.
    unsafe { Library::new(file) }.ok()
}

/// A function of a library.
///
/// # Safety
/// `T` is the type of the function of that name.
pub(super) unsafe fn function<T: Copy>(library: &Library, name: &CStr) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe { library.get::<T>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
}

/// The file that holds the function at `address`.
pub(super) fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: all-zero is a valid `Dl_info`; `dladdr` fills it or returns 0.
    let (found, info) = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        (libc::dladdr(address, &raw mut info), info)
    };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: `dladdr` succeeded, so the name is a string that lives as long as the library is loaded, and it is.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Path::new(name.to_str().ok()?).canonicalize().ok()
}
