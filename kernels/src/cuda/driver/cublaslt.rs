//! NVIDIA's library for products of matrices (<https://docs.nvidia.com/cuda/cublas/#using-the-cublaslt-api>), where it is
//! installed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaStream;
use libloading::Library;

use super::error::{DeviceError, Version};
use super::libraries;
use super::memory::NvidiaMemory;
use crate::KernelError;
use crate::cuda::dense::{ColumnMajor, ColumnMatrix, DenseProduct, FactorType};
use crate::cuda::gpu::GpuMemory;

/// The oldest major version that is looked for; the numbers below have not changed since.
pub(super) const OLDEST: u32 = 12;
/// What the library may use beside its arguments, in bytes: what NVIDIA recommends for Hopper, and enough before it.
const WORKSPACE: usize = 32 << 20;
/// Most shapes whose algorithms are remembered.
const PLANS: usize = 1 << 12;

/// Any of the library's objects.
type Object = *mut c_void;
type Status = c_int;
type Destroy = unsafe extern "C" fn(Object) -> Status;

const SUCCESS: Status = 0;
const NOT_SUPPORTED: Status = 15;
/// `cudaDataType_t`.
const REAL_F32: c_int = 0;
const REAL_F16: c_int = 2;
const REAL_BF16: c_int = 14;
const REAL_E4M3: c_int = 28;
/// `CUBLAS_COMPUTE_32F`: products and sums in f32.
const COMPUTE_F32: c_int = 68;
/// `CUBLASLT_MATMUL_DESC_TRANSA` and `CUBLAS_OP_T`.
const TRANSPOSE_A: c_int = 3;
const TRANSPOSED: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, then the least alignments of A, B, C and D.
const MAX_WORKSPACE: c_int = 1;
const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];

const fn data_type(factors: FactorType) -> c_int {
    match factors {
        FactorType::F16 => REAL_F16,
        FactorType::BF16 => REAL_BF16,
        FactorType::E4M3 => REAL_E4M3,
    }
}

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Found {
    algorithm: [u64; 8],
    workspace: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

type Search = unsafe extern "C" fn(
    Object,
    Object,
    Object,
    Object,
    Object,
    Object,
    Object,
    c_int,
    *mut Found,
    *mut c_int,
) -> Status;
type Multiply = unsafe extern "C" fn(
    Object,
    Object,
    *const f32,
    *const c_void,
    Object,
    *const c_void,
    Object,
    *const f32,
    *const c_void,
    Object,
    *mut c_void,
    Object,
    *const [u64; 8],
    *mut c_void,
    usize,
    *mut c_void,
) -> Status;

/// The functions that are used here.
struct Functions {
    version: unsafe extern "C" fn() -> usize,
    status_name: unsafe extern "C" fn(Status) -> *const c_char,
    create: unsafe extern "C" fn(*mut Object) -> Status,
    destroy: Destroy,
    create_layout: unsafe extern "C" fn(*mut Object, c_int, u64, u64, i64) -> Status,
    destroy_layout: Destroy,
    create_operation: unsafe extern "C" fn(*mut Object, c_int, c_int) -> Status,
    set_operation: unsafe extern "C" fn(Object, c_int, *const c_void, usize) -> Status,
    destroy_operation: Destroy,
    create_preference: unsafe extern "C" fn(*mut Object) -> Status,
    set_preference: unsafe extern "C" fn(Object, c_int, *const c_void, usize) -> Status,
    destroy_preference: Destroy,
    search: Search,
    multiply: Multiply,
}

impl Functions {
    fn load(library: &Library) -> Option<Self> {
        // SAFETY: the types are those of the library's header, the same in every version from `OLDEST` on.
        unsafe {
            Some(Self {
                version: libraries::function(library, c"cublasLtGetVersion")?,
                status_name: libraries::function(library, c"cublasLtGetStatusName")?,
                create: libraries::function(library, c"cublasLtCreate")?,
                destroy: libraries::function(library, c"cublasLtDestroy")?,
                create_layout: libraries::function(library, c"cublasLtMatrixLayoutCreate")?,
                destroy_layout: libraries::function(library, c"cublasLtMatrixLayoutDestroy")?,
                create_operation: libraries::function(library, c"cublasLtMatmulDescCreate")?,
                set_operation: libraries::function(library, c"cublasLtMatmulDescSetAttribute")?,
                destroy_operation: libraries::function(library, c"cublasLtMatmulDescDestroy")?,
                create_preference: libraries::function(library, c"cublasLtMatmulPreferenceCreate")?,
                set_preference: libraries::function(library, c"cublasLtMatmulPreferenceSetAttribute")?,
                destroy_preference: libraries::function(library, c"cublasLtMatmulPreferenceDestroy")?,
                search: libraries::function(library, c"cublasLtMatmulAlgoGetHeuristic")?,
                multiply: libraries::function(library, c"cublasLtMatmul")?,
            })
        }
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), DeviceError> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: returns a static string for every number.
        let text = unsafe { (self.status_name)(status) };
        let name = if text.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: not null, so such a string.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        Err(DeviceError::Call { call, name, text: "cuBLASLt".to_owned() })
    }
}

/// An object of the library's, destroyed when dropped.
struct Owned {
    object: Object,
    destroy: Destroy,
}

// SAFETY: descriptions and handles are the library's plain data, used by one thread at a time.
unsafe impl Send for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the function that belongs to `destroy`, and destroyed only here.
        unsafe { (self.destroy)(self.object) };
    }
}

/// What a choice of algorithm depends on.
#[derive(PartialEq, Eq, Hash)]
struct Shape {
    factors: FactorType,
    rows: u32,
    count: u32,
    stride: u32,
    width: u32,
    alignments: [u32; 3],
}

/// A product that was prepared.
struct Plan {
    a: Owned,
    b: Owned,
    d: Owned,
    algorithm: [u64; 8],
}

/// Whose kernels make large products, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProductOrigin {
    /// NVIDIA's, of this version.
    CublasLt(Version),
    /// Ours: the library is not to be used.
    Asked,
    /// Ours: the library was not found; this is the newest major version that the driver would take.
    Absent(u32),
    /// Ours: the library was found, and failed like this.
    Unusable(String),
}

impl fmt::Display for ProductOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CublasLt(version) => write!(f, "large products by cuBLASLt {version}"),
            Self::Asked => write!(f, "large products by our own kernels, as asked"),
            Self::Absent(major) => write!(
                f,
                "large products by our own kernels: no cuBLASLt was found (libcublasLt.so.{OLDEST} to .{major})"
            ),
            Self::Unusable(error) => write!(f, "large products by our own kernels: {error}"),
        }
    }
}

/// The library, opened, and what it needs on a device.
pub(super) struct CublasLt {
    version: Version,
    stream: Arc<CudaStream>,
    workspace: NvidiaMemory,
    /// `None`: there is no algorithm for the shape.
    plans: Mutex<HashMap<Shape, Option<Plan>>>,
    operation: Owned,
    handle: Owned,
    functions: Functions,
    /// The functions are in use as long as this lives; so it is dropped last.
    _library: Library,
}

impl CublasLt {
    /// The one of a major version, if it is installed. The context of `stream` is current.
    ///
    /// # Errors
    /// When it is there, and cannot be used.
    pub fn open(
        stream: &Arc<CudaStream>,
        major: u32,
        folders: &[PathBuf],
    ) -> Result<Option<Self>, KernelError> {
        let Some(library) = libraries::open("cublasLt", major, folders) else { return Ok(None) };
        let Some(functions) = Functions::load(&library) else { return Ok(None) };
        // SAFETY: no arguments.
        let number = unsafe { (functions.version)() } as u32;
        let handle = created("cublasLtCreate", &functions, functions.destroy, |object| {
            // SAFETY: a pointer to write to; a context is current.
            unsafe { (functions.create)(object) }
        })?;
        let operation =
            created("cublasLtMatmulDescCreate", &functions, functions.destroy_operation, |object| {
                // SAFETY: a pointer to write to.
                unsafe { (functions.create_operation)(object, COMPUTE_F32, REAL_F32) }
            })?;
        let transposed: *const c_int = &TRANSPOSED;
        // SAFETY: the attribute is an integer of this size.
        let set = unsafe {
            (functions.set_operation)(operation.object, TRANSPOSE_A, transposed.cast(), size_of::<c_int>())
        };
        functions.check("cublasLtMatmulDescSetAttribute", set)?;
        Ok(Some(Self {
            version: Version::new(number / 10_000, number / 100 % 100),
            stream: stream.clone(),
            // It lives as long as anything that is recorded.
            workspace: NvidiaMemory::new((stream, &Arc::default()), "the work space of cuBLASLt", WORKSPACE)?,
            plans: Mutex::new(HashMap::new()),
            operation,
            handle,
            functions,
            _library: library,
        }))
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Makes the product, in the stream's order; false where there is no algorithm for its shape.
    ///
    /// # Safety
    /// As [`crate::cuda::Gpu::multiply`].
    pub unsafe fn multiply(&self, product: &DenseProduct) -> Result<bool, DeviceError> {
        let factors = product.column_major();
        let shape = Shape {
            factors: product.factors,
            rows: product.rows,
            count: product.count,
            stride: product.stride,
            width: product.width,
            alignments: [&factors.a, &factors.b, &factors.d].map(ColumnMatrix::alignment),
        };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= PLANS && !plans.contains_key(&shape) {
            plans.clear();
        }
        let place = match plans.entry(shape) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let plan = self.plan(&factors, place.key())?;
                place.insert(plan)
            }
        };
        let Some(plan) = place else { return Ok(false) };
        // SAFETY: all objects live; the addresses are the caller's promise.
        match unsafe { self.run(&factors, plan) } {
            NOT_SUPPORTED => {
                *place = None;
                Ok(false)
            }
            status => self.functions.check("cublasLtMatmul", status).map(|()| true),
        }
    }

    /// # Safety
    /// As [`CublasLt::multiply`].
    unsafe fn run(&self, factors: &ColumnMajor, plan: &Plan) -> Status {
        let (one, zero) = (1.0f32, 0.0f32);
        let address =
            |matrix: &ColumnMatrix| ptr::with_exposed_provenance_mut::<c_void>(matrix.address as usize);
        // SAFETY: the plan is of this shape, alpha and beta are read before the call returns, and the work space is of the
        // stream, in which one product comes after the other.
        unsafe {
            (self.functions.multiply)(
                self.handle.object,
                self.operation.object,
                &raw const one,
                address(&factors.a),
                plan.a.object,
                address(&factors.b),
                plan.b.object,
                &raw const zero,
                address(&factors.d),
                plan.d.object,
                address(&factors.d),
                plan.d.object,
                &raw const plan.algorithm,
                ptr::with_exposed_provenance_mut(self.workspace.address() as usize),
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
    }

    /// The library's own first choice for a shape.
    fn plan(&self, factors: &ColumnMajor, shape: &Shape) -> Result<Option<Plan>, DeviceError> {
        // Of eight bits the library takes A transposed and B not, as everything here is, all addresses and columns on
        // multiples of 16 bytes, and any f32 output; without scales they are one.
        let kind = data_type(shape.factors);
        let (a, b) = (self.layout(&factors.a, kind)?, self.layout(&factors.b, kind)?);
        let d = self.layout(&factors.d, REAL_F32)?;
        let preference = self.preference(shape)?;
        let (mut found, mut count) = (Found::default(), 0);
        // SAFETY: all objects live; there is room for the one result that is asked for.
        let status = unsafe {
            (self.functions.search)(
                self.handle.object,
                self.operation.object,
                a.object,
                b.object,
                d.object,
                d.object,
                preference.object,
                1,
                &raw mut found,
                &raw mut count,
            )
        };
        if status == NOT_SUPPORTED || status == SUCCESS && (count == 0 || found.status != SUCCESS) {
            return Ok(None);
        }
        self.functions.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        Ok(Some(Plan { a, b, d, algorithm: found.algorithm }))
    }

    fn layout(&self, matrix: &ColumnMatrix, kind: c_int) -> Result<Owned, DeviceError> {
        let functions = &self.functions;
        let leading = matrix.leading.try_into().unwrap_or(i64::MAX);
        created("cublasLtMatrixLayoutCreate", functions, functions.destroy_layout, |object| {
            // SAFETY: a pointer to write to.
            unsafe { (functions.create_layout)(object, kind, matrix.rows, matrix.columns, leading) }
        })
    }

    /// The work space there is, and how the addresses are aligned.
    fn preference(&self, shape: &Shape) -> Result<Owned, DeviceError> {
        let functions = &self.functions;
        let preference =
            created("cublasLtMatmulPreferenceCreate", functions, functions.destroy_preference, |object| {
                // SAFETY: a pointer to write to.
                unsafe { (functions.create_preference)(object) }
            })?;
        let set = |attribute, value: *const c_void, size| {
            // SAFETY: the attribute is an integer of this size.
            let status = unsafe { (functions.set_preference)(preference.object, attribute, value, size) };
            functions.check("cublasLtMatmulPreferenceSetAttribute", status)
        };
        let workspace = WORKSPACE;
        set(MAX_WORKSPACE, (&raw const workspace).cast(), size_of::<usize>())?;
        let [a, b, d] = shape.alignments;
        for (attribute, alignment) in ALIGNMENTS.into_iter().zip([a, b, d, d]) {
            set(attribute, (&raw const alignment).cast(), size_of::<u32>())?;
        }
        Ok(preference)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // Nothing may be using the work space, and the library wants the context to destroy what it has in it.
        let _ = self.stream.context().bind_to_thread();
        let _ = self.stream.synchronize();
    }
}

/// The object that `create` writes.
fn created(
    call: &'static str,
    functions: &Functions,
    destroy: Destroy,
    create: impl FnOnce(*mut Object) -> Status,
) -> Result<Owned, DeviceError> {
    let mut object = ptr::null_mut();
    functions.check(call, create(&raw mut object))?;
    Ok(Owned { object, destroy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_whose_kernels_and_why() {
        let said =
            [ProductOrigin::CublasLt(Version::new(12, 8)), ProductOrigin::Asked, ProductOrigin::Absent(13)];
        assert_eq!(
            said.map(|origin| origin.to_string()),
            [
                "large products by cuBLASLt 12.8",
                "large products by our own kernels, as asked",
                "large products by our own kernels: no cuBLASLt was found (libcublasLt.so.12 to .13)"
            ]
        );
    }

    /// `cudaDataType_t` of `library_types.h`: `CUDA_R_16F`, `CUDA_R_16BF`, `CUDA_R_8F_E4M3`.
    #[test]
    fn types_have_the_numbers_of_the_header() {
        assert_eq!([FactorType::F16, FactorType::BF16, FactorType::E4M3].map(data_type), [2, 14, 28]);
    }

    /// The sizes that the library's header gives its structures.
    #[test]
    fn the_result_of_a_search_is_laid_out_as_in_the_header() {
        assert_eq!((size_of::<Found>(), align_of::<Found>()), (96, 8));
        assert_eq!(std::mem::offset_of!(Found, workspace), 64);
        assert_eq!(std::mem::offset_of!(Found, status), 72);
    }
}
