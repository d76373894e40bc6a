//! Which GPUs there are, and which one to use. Nothing is allocated here.

use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::error::{DeviceError, Version};
use super::memory::free_and_total;
use crate::cuda::gpu::MemoryInfo;

/// The oldest chip the kernels run on (Ampere).
const LEAST: (u32, u32) = (8, 0);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU that can be used, else the CPU.
    Auto,
    Cpu,
    /// The GPU of this number, as the driver counts them.
    Cuda(usize),
}

/// Where to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    Cpu {
        /// Why no GPU is used, where one was looked for.
        reason: Option<DeviceError>,
    },
    Cuda(CudaDevice),
}

/// A GPU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Its number, as the driver counts.
    pub ordinal: usize,
    pub name: String,
    /// Compute capability, `(9, 0)` for Hopper.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: usize,
    /// The newest CUDA that the driver supports.
    pub driver: Version,
}

impl CudaDevice {
    /// What the device has free now, of all that it has, whoever took the rest.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn memory_info(&self) -> Result<MemoryInfo, DeviceError> {
        let context = CudaContext::new(self.ordinal).map_err(call("cuDevicePrimaryCtxRetain"))?;
        context.bind_to_thread().map_err(call("cuCtxSetCurrent"))?;
        let (free, total) = free_and_total().map_err(call("cuMemGetInfo"))?;
        Ok(MemoryInfo { free, total })
    }

    /// This GPU and those with the next numbers, `count` in all.
    ///
    /// # Errors
    /// When there are fewer, or one of them cannot be used.
    pub fn and_next(&self, count: usize) -> Result<Vec<Self>, DeviceError> {
        if count == 1 { Ok(vec![self.clone()]) } else { several(devices()?, self.ordinal, count) }
    }
}

fn several(found: Vec<CudaDevice>, first: usize, count: usize) -> Result<Vec<CudaDevice>, DeviceError> {
    let all = found.len();
    let devices = found.into_iter().skip(first).take(count);
    let devices: Vec<_> = devices.map(supported).collect::<Result<_, _>>()?;
    if devices.len() < count {
        return Err(DeviceError::TooFewDevices { wanted: count, first, found: all });
    }
    Ok(devices)
}

/// How many GPUs the driver shows; 0 without a driver.
pub fn device_count() -> usize {
    devices().map_or(0, |found| found.len())
}

impl Device {
    /// Looks for what was asked for.
    ///
    /// # Errors
    /// When a GPU was asked for by name and cannot be used.
    pub fn choose(choice: DeviceChoice) -> Result<Self, DeviceError> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::Cpu { reason: None }),
            DeviceChoice::Auto | DeviceChoice::Cuda(_) => decide(choice, devices()),
        }
    }
}

fn decide(choice: DeviceChoice, found: Result<Vec<CudaDevice>, DeviceError>) -> Result<Device, DeviceError> {
    let wanted = match choice {
        DeviceChoice::Cpu => return Ok(Device::Cpu { reason: None }),
        DeviceChoice::Auto => None,
        DeviceChoice::Cuda(wanted) => Some(wanted),
    };
    let usable = found.and_then(|devices| match wanted {
        Some(wanted) => {
            let found = devices.len();
            let device =
                devices.into_iter().nth(wanted).ok_or(DeviceError::NoSuchDevice { wanted, found })?;
            supported(device)
        }
        None => {
            let mut devices = devices.into_iter().map(supported);
            let first = devices.next().unwrap_or(Err(DeviceError::NoDevice));
            if first.is_ok() { first } else { devices.find(Result::is_ok).unwrap_or(first) }
        }
    });
    match (usable, wanted) {
        (Ok(device), _) => Ok(Device::Cuda(device)),
        (Err(reason), None) => Ok(Device::Cpu { reason: Some(reason) }),
        (Err(error), Some(_)) => Err(error),
    }
}

fn supported(device: CudaDevice) -> Result<CudaDevice, DeviceError> {
    if device.capability < LEAST {
        return Err(DeviceError::TooOld { name: device.name, capability: device.capability });
    }
    Ok(device)
}

/// Every GPU the driver shows (`CUDA_VISIBLE_DEVICES` limits them, which the driver reads).
fn devices() -> Result<Vec<CudaDevice>, DeviceError> {
    // SAFETY: opens the driver's library and closes it again; its initialisers have no preconditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver);
    }
    match result::init() {
        Ok(()) => {}
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(DeviceError::NoDevice),
        Err(error) => return Err(call("cuInit")(error)),
    }
    let driver = driver_version()?;
    let count = result::device::get_count().map_err(call("cuDeviceGetCount"))?;
    (0..count).map(|ordinal| device(ordinal, driver)).collect()
}

fn driver_version() -> Result<Version, DeviceError> {
    let mut number = 0;
    // SAFETY: an integer to write to.
    unsafe { sys::cuDriverGetVersion(&raw mut number) }.result().map_err(call("cuDriverGetVersion"))?;
    Ok(Version::from_number(number))
}

fn device(ordinal: i32, driver: Version) -> Result<CudaDevice, DeviceError> {
    let handle = result::device::get(ordinal).map_err(call("cuDeviceGet"))?;
    let attribute = |attribute| {
        // SAFETY: the driver gave this handle.
        let value = unsafe { result::device::get_attribute(handle, attribute) };
        value.map(|value| u32::try_from(value).unwrap_or(0)).map_err(call("cuDeviceGetAttribute"))
    };
    Ok(CudaDevice {
        ordinal: usize::try_from(ordinal).unwrap_or(0),
        name: result::device::get_name(handle).map_err(call("cuDeviceGetName"))?,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: the driver gave this handle.
        memory: unsafe { result::device::total_mem(handle) }.map_err(call("cuDeviceTotalMem"))?,
        driver,
    })
}

/// Names the call that went wrong, and the driver's own name and text of the error.
pub(super) fn call(call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| {
        let text = |found: Result<&std::ffi::CStr, DriverError>| {
            found.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
        };
        DeviceError::Call { call, name: text(error.error_name()), text: text(error.error_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(ordinal: usize, capability: (u32, u32)) -> CudaDevice {
        CudaDevice {
            ordinal,
            name: format!("GPU {ordinal}"),
            capability,
            multiprocessors: 132,
            memory: 80 << 30,
            driver: Version::new(13, 0),
        }
    }

    #[test]
    fn without_a_driver_auto_is_the_cpu_and_cuda_is_an_error() {
        let absent = || Err(DeviceError::NoDriver);
        let auto = decide(DeviceChoice::Auto, absent());
        assert_eq!(auto, Ok(Device::Cpu { reason: Some(DeviceError::NoDriver) }));
        assert_eq!(decide(DeviceChoice::Cuda(0), absent()), Err(DeviceError::NoDriver));
        assert_eq!(decide(DeviceChoice::Cpu, absent()), Ok(Device::Cpu { reason: None }));
    }

    #[test]
    fn auto_takes_the_first_that_can_be_used() {
        let two = || Ok(vec![gpu(0, (7, 5)), gpu(1, (9, 0))]);
        assert_eq!(decide(DeviceChoice::Auto, two()), Ok(Device::Cuda(gpu(1, (9, 0)))));
        assert_eq!(decide(DeviceChoice::Cuda(1), two()), Ok(Device::Cuda(gpu(1, (9, 0)))));
    }

    #[test]
    fn old_chips_are_refused_by_name() {
        let old = || Ok(vec![gpu(0, (7, 5))]);
        let error = decide(DeviceChoice::Cuda(0), old()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "GPU 0 has compute capability 7.5; 8.0 (Ampere) is the least that is supported"
        );
        assert_eq!(decide(DeviceChoice::Auto, old()), Ok(Device::Cpu { reason: Some(error) }));
    }

    #[test]
    fn several_are_the_next_ones_and_all_of_them_can_be_used() {
        let four = || vec![gpu(0, (7, 5)), gpu(1, (9, 0)), gpu(2, (9, 0)), gpu(3, (8, 0))];
        let numbers = |first, count| -> Result<Vec<usize>, String> {
            let devices = several(four(), first, count).map_err(|error| error.to_string())?;
            Ok(devices.iter().map(|device| device.ordinal).collect())
        };
        assert_eq!(numbers(1, 3), Ok(vec![1, 2, 3]));
        assert_eq!(numbers(2, 1), Ok(vec![2]));
        let old = "GPU 0 has compute capability 7.5; 8.0 (Ampere) is the least that is supported";
        assert_eq!(numbers(0, 2), Err(old.to_owned()));
        let few = "3 GPUs from cuda:2 on were asked for, the machine has 4 GPUs";
        assert_eq!(numbers(2, 3), Err(few.to_owned()));
    }

    #[test]
    fn numbers_beyond_the_last_gpu_say_how_many_there_are() {
        let error = decide(DeviceChoice::Cuda(3), Ok(vec![gpu(0, (9, 0))])).unwrap_err();
        assert_eq!(error.to_string(), "device cuda:3 was asked for, the machine has 1 GPU, cuda:0");
        assert_eq!(
            decide(DeviceChoice::Auto, Ok(Vec::new())),
            Ok(Device::Cpu { reason: Some(DeviceError::NoDevice) })
        );
    }
}
