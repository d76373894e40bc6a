//! Emulated GPUs that add up among themselves, as those do that a collective library connects.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::emulator::{Emulator, Recorded, Recording, lock};
use crate::{AllReduce, DeviceSums, KernelError, LocalMember, local_group};

/// One of several emulated GPUs.
pub struct EmulatedMember {
    sums: Sums,
    /// Of its GPU.
    recording: Recording,
}

/// Takes part in sums, now or when a recorded one is replayed.
#[derive(Clone)]
pub(super) struct Sums(Arc<Mutex<LocalMember>>);

impl Sums {
    fn member(&self) -> MutexGuard<'_, LocalMember> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// `address` is that of `len` f32, which nobody else uses meanwhile.
    pub unsafe fn make(&self, address: u64, len: usize) -> Result<(), KernelError> {
        let start = std::ptr::with_exposed_provenance_mut::<f32>(address as usize);
        // SAFETY: the caller's promise; device memory is this process's, and aligned.
        let values = unsafe { std::slice::from_raw_parts_mut(start, len) };
        self.member().sum(values)
    }
}

impl Emulator {
    /// A member for each of `gpus`, in their order.
    pub fn group(gpus: &[Self]) -> Vec<EmulatedMember> {
        let members = local_group(gpus.len()).into_iter().zip(gpus);
        let member = |(member, gpu): (LocalMember, &Self)| EmulatedMember {
            sums: Sums(Arc::new(Mutex::new(member))),
            recording: gpu.recording(),
        };
        members.map(member).collect()
    }
}

impl AllReduce for EmulatedMember {
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError> {
        self.sums.member().sum(values)
    }

    fn on_devices(&mut self) -> Option<&mut dyn DeviceSums> {
        Some(self)
    }

    fn leave(&mut self) {
        self.sums.member().leave();
    }
}

impl DeviceSums for EmulatedMember {
    unsafe fn sum(&mut self, address: u64, len: usize) -> Result<(), KernelError> {
        if let Some(graph) = &mut *lock(&self.recording) {
            graph.push(Recorded::Sum { sums: self.sums.clone(), address, len });
            return Ok(());
        }
        // SAFETY: nothing of an emulated stream is still under way; the rest is the caller's promise.
        unsafe { self.sums.make(address, len) }
    }
}
