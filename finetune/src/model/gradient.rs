//! Values whose gradients are known in closed form.
//!
//! Candle differentiates operation by operation, and computes the gradient of every operand, those of frozen weights among
//! them. Where that costs most (projections, attention, norms) the value is computed outside of its graph and enters it
//! with a backward pass of its own.

use std::sync::{Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Storage, Tensor};

/// `value` as a function of `x`. `backward` maps the gradient of the value to that of `x`; neither is tracked.
pub fn with_gradient(
    x: &Tensor,
    value: Tensor,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op1(Known { value: Value::new(value)?, backward })
}

/// As [`with_gradient`], of three tensors.
pub fn with_gradients(
    [x, y, z]: [&Tensor; 3],
    value: Tensor,
    backward: impl Fn(&Tensor) -> Result<[Tensor; 3]> + Send + Sync + 'static,
) -> Result<Tensor> {
    x.apply_op3(y, z, Known { value: Value::new(value)?, backward })
}

/// A node of the graph that was computed before it was made.
struct Known<F> {
    value: Value,
    backward: F,
}

/// Taken when the node is made: the graph need not hold it twice.
struct Value(Mutex<Option<Tensor>>);

impl Value {
    fn new(value: Tensor) -> Result<Self> {
        Ok(Self(Mutex::new(Some(value.detach().force_contiguous()?))))
    }

    fn take(&self) -> Result<Tensor> {
        let value = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or_else(|| candle_core::Error::Msg("a value is used twice".to_owned()))
    }

    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => Err(candle_core::Error::Msg("a value is on another device than its argument".to_owned())),
        }
    }

    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        let value = self.take()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => Err(candle_core::Error::Msg("a value is on another device than its argument".to_owned())),
        }
    }
}

impl<F: Fn(&Tensor) -> Result<Tensor>> CustomOp1 for Known<F> {
    fn name(&self) -> &'static str {
        "known"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.value.on_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.value.on_cuda()
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(gradient).map(Some)
    }
}

impl<F: Fn(&Tensor) -> Result<[Tensor; 3]>> CustomOp3 for Known<F> {
    fn name(&self) -> &'static str {
        "known"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.value.on_cuda()
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [x, y, z] = (self.backward)(gradient)?;
        Ok((Some(x), Some(y), Some(z)))
    }
}
