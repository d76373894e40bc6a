use std::fmt;

use crate::KernelError;

/// A version of CUDA: of a driver, a toolkit, a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// From the form in which the driver tells it: `1000 * major + 10 * minor`.
    pub(super) fn from_number(number: i32) -> Self {
        let number = u32::try_from(number).unwrap_or(0);
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a GPU cannot be used, or stopped working.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("no NVIDIA driver was found (libcuda.so.1)")]
    NoDriver,
    #[error("the NVIDIA driver found no GPU")]
    NoDevice,
    #[error("device cuda:{wanted} was asked for, the machine has {}", devices(*found))]
    NoSuchDevice { wanted: usize, found: usize },
    #[error("{wanted} GPUs from cuda:{first} on were asked for, the machine has {}", devices(*found))]
    TooFewDevices { wanted: usize, first: usize, found: usize },
    #[error(
        "{name} has compute capability {}.{}; 8.0 (Ampere) is the least that is supported", .capability.0, .capability.1
    )]
    TooOld { name: String, capability: (u32, u32) },
    #[error(
        "the driver supports CUDA {driver}, the kernels in this binary need {needed}, and no NVRTC {} was found to \
         compile them anew (libnvrtc.so.{}): update the driver, or install NVRTC", .driver.major, .driver.major
    )]
    DriverTooOld { driver: Version, needed: Version },
    #[error(
        "this binary was built without nvcc, and no NVRTC {} was found to compile its kernels (libnvrtc.so.{}); the \
         driver supports CUDA {driver}", .driver.major, .driver.major
    )]
    NoCompiler { driver: Version },
    #[error(
        "NVRTC {found} cannot compile the kernels of this binary, {needed} is the least that can: install a newer one, or \
         update the driver"
    )]
    CompilerTooOld { found: Version, needed: Version },
    #[error("{file} does not compile with NVRTC {version} for {target}: {log}")]
    Compile { file: String, version: Version, target: String, log: String },
    #[error("the kernels have no function {0}")]
    NoKernel(String),
    #[error("{call}: {name} ({text})")]
    Call { call: &'static str, name: String, text: String },
}

fn devices(count: usize) -> String {
    match count {
        1 => "1 GPU, cuda:0".to_owned(),
        n => format!("{n} GPUs"),
    }
}

impl From<DeviceError> for KernelError {
    fn from(error: DeviceError) -> Self {
        Self::Device { device: "cuda", message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_told_with_both_versions_and_what_to_do() {
        let (driver, needed) = (Version::from_number(12080), Version::new(13, 0));
        assert_eq!(
            DeviceError::DriverTooOld { driver, needed }.to_string(),
            "the driver supports CUDA 12.8, the kernels in this binary need 13.0, and no NVRTC 12 was found to compile \
             them anew (libnvrtc.so.12): update the driver, or install NVRTC"
        );
        assert_eq!(
            DeviceError::NoCompiler { driver }.to_string(),
            "this binary was built without nvcc, and no NVRTC 12 was found to compile its kernels (libnvrtc.so.12); the \
             driver supports CUDA 12.8"
        );
        assert_eq!(
            DeviceError::CompilerTooOld { found: Version::new(12, 2), needed: Version::new(12, 4) }
                .to_string(),
            "NVRTC 12.2 cannot compile the kernels of this binary, 12.4 is the least that can: install a newer one, or \
             update the driver"
        );
    }

    #[test]
    fn what_is_older_than_ampere_is_refused_by_name() {
        let error = DeviceError::TooOld { name: "Tesla T4".to_owned(), capability: (7, 5) };
        let said = "Tesla T4 has compute capability 7.5; 8.0 (Ampere) is the least that is supported";
        assert_eq!(error.to_string(), said);
    }
}
