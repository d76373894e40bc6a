//! Tensor maps by the driver.
#![allow(unsafe_code)]

use std::ffi::c_void;

use cudarc::driver::sys;

use super::error::DeviceError;
use super::probe::call;
use crate::cuda::tensor_map::{BOX_COLUMNS, Boxes, Half, TensorMap};

/// The driver's encoding; it checks what [`Boxes`] asks for.
pub(super) fn encode(boxes: &Boxes) -> Result<TensorMap, DeviceError> {
    let kind = match boxes.half {
        Half::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Half::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let mut map = sys::CUtensorMap { opaque: [0; 16] };
    let sizes = [boxes.columns, boxes.rows];
    let (box_sizes, steps) = ([BOX_COLUMNS, boxes.box_rows], [1, 1]);
    // SAFETY: all arrays have as many elements as there are dimensions, strides one less; the address is not followed.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            kind,
            2,
            boxes.address as *mut c_void,
            sizes.as_ptr(),
            &raw const boxes.stride,
            box_sizes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            // Zeros.
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    status.result().map_err(call("cuTensorMapEncodeTiled"))?;
    Ok(TensorMap(map.opaque))
}
