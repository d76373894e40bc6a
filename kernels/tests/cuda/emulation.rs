//! The emulation itself: the table of kernels is what was compiled, and mistakes do not pass.
#![allow(unsafe_code)]

use weirgate_kernels::KernelError;
use weirgate_kernels::cuda::{Emulator, Gpu, GpuMemory, Kernel, KernelArgs, Launch};

/// What `add` takes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AddArgs {
    pub acc: u64,
    pub x: u64,
    pub len: u64,
}

// SAFETY: what `add` declares.
unsafe impl KernelArgs for AddArgs {}

#[repr(C)]
#[derive(Clone, Copy)]
struct Wrong(u32);

// SAFETY: refused before anything runs.
unsafe impl KernelArgs for Wrong {}

/// A kernel's arguments and threads are compared with what was compiled, for every kernel of the table.
#[test]
fn arguments_of_another_size_are_refused() {
    let gpu = Emulator::new().unwrap();
    for &kernel in Kernel::ALL {
        // SAFETY: refused.
        let error = unsafe { gpu.launch(kernel, Launch::blocks(1), &Wrong(0)) }.unwrap_err();
        let KernelError::Device { message, .. } = error else { panic!("{error}") };
        let threads = format!("{} threads, not 4 and {}", kernel.threads(), kernel.threads());
        assert!(message.starts_with(kernel.name()) && message.ends_with(&threads), "{message}");
    }
}

/// More blocks than elements, fewer, and exactly as many threads.
#[test]
fn every_element_is_visited_once() {
    let gpu = Emulator::new().unwrap();
    for len in [1_usize, 255, 256, 257, 5000] {
        let (acc, x) = (gpu.allocate("acc", 4 * len).unwrap(), gpu.allocate("x", 4 * len).unwrap());
        let bytes = |value: f32| value.to_le_bytes().repeat(len);
        gpu.upload(&acc, 0, &bytes(1.5)).unwrap();
        gpu.upload(&x, 0, &bytes(2.0)).unwrap();
        for blocks in [1, 3, 40] {
            let args = AddArgs { acc: acc.address(), x: x.address(), len: len as u64 };
            // SAFETY: `len` elements each.
            unsafe { gpu.launch(Kernel::Add, Launch::blocks(blocks), &args) }.unwrap();
        }
        let mut found = vec![0; 4 * len];
        gpu.download(&acc, 0, &mut found).unwrap();
        assert_eq!(found, bytes(7.5));
    }
}

/// New memory holds no numbers, and ranges outside of it are refused.
#[test]
fn memory_is_poisoned_and_bounded() {
    let gpu = Emulator::new().unwrap();
    let memory = gpu.allocate("test", 20).unwrap();
    let mut bytes = [0; 4];
    gpu.download(&memory, 16, &mut bytes).unwrap();
    assert!(f32::from_le_bytes(bytes).is_nan());
    assert!(gpu.download(&memory, 17, &mut bytes).is_err());
    assert!(gpu.upload(&memory, usize::MAX, &bytes).is_err());
    assert!(gpu.fill(&memory, 0, 21, 0).is_err());
    assert_eq!(memory.address() % 16, 0);
}

/// A write behind the end, before the page that nobody may touch.
#[test]
#[should_panic(expected = "a write past an end of 20 bytes")]
fn a_write_into_the_slack_is_found() {
    let gpu = Emulator::new().unwrap();
    let (memory, x) = (gpu.allocate("acc", 20).unwrap(), gpu.allocate("x", 32).unwrap());
    gpu.fill(&x, 0, 32, 0x3f).unwrap();
    let args = AddArgs { acc: memory.address(), x: x.address(), len: 6 };
    // SAFETY: the sixth element is in the slack of `memory`, which is mapped: that is what the test is about.
    unsafe { gpu.launch(Kernel::Add, Launch::blocks(1), &args) }.unwrap();
}
