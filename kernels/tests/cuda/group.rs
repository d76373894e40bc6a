//! GPUs that add up among themselves.

use std::thread;

use weirgate_kernels::cuda::{CudaBackend, Emulator, Gpu, Watched};
use weirgate_kernels::{AllReduce, Backend, KernelError, local_group};

use crate::common::{buffer, values};

const MEMBERS: usize = 3;

fn boxed(members: Vec<impl AllReduce + 'static>) -> Vec<Box<dyn AllReduce>> {
    members.into_iter().map(|member| Box::new(member) as Box<dyn AllReduce>).collect()
}

/// The sums, their members' order being that of addition, and no more of the buffer than was asked for; by way of the host
/// each is waited for, twice in all with the reading of the result.
#[test]
fn sums_are_the_same_on_devices_and_by_way_of_the_host() {
    let parts = [1.0_f32, 1e8, -1e8];
    let expected = (parts[0] + parts[1]) + parts[2];
    for on_devices in [true, false] {
        let gpus: Vec<Emulator> = (0..MEMBERS).map(|_| crate::gpu()).collect();
        let members = if on_devices { boxed(Emulator::group(&gpus)) } else { boxed(local_group(MEMBERS)) };
        thread::scope(|scope| {
            for ((gpu, mut member), part) in gpus.into_iter().zip(members).zip(parts) {
                scope.spawn(move || {
                    let (gpu, watch) = Watched::new(gpu);
                    let mut device = CudaBackend::new(gpu);
                    let mut x = buffer(&device, &[part, 2.0 * part, 7.0]);
                    let before = watch.counts().waits;
                    device.all_reduce(&mut x, 2, member.as_mut()).unwrap();
                    assert_eq!(watch.counts().waits - before, u64::from(!on_devices));
                    assert_eq!(values(&device, &x, 3), [expected, 2.0 * expected, 7.0]);
                    let error = device.all_reduce(&mut x, 4, member.as_mut()).unwrap_err();
                    assert!(matches!(error, KernelError::Shape { got: 3, expected: 4, .. }), "{error}");
                });
            }
        });
    }
}

/// A sum that was recorded is made again with what lies there then; nobody waits for a member that has left.
#[test]
fn recorded_sums_are_made_when_they_are_replayed() {
    let gpus: Vec<Emulator> = (0..2).map(|_| crate::gpu()).collect();
    let members = boxed(Emulator::group(&gpus));
    thread::scope(|scope| {
        for (index, (gpu, mut member)) in gpus.into_iter().zip(members).enumerate() {
            scope.spawn(move || {
                let mut device = CudaBackend::new(gpu);
                let mut x = buffer(&device, &[1.0 + index as f32]);
                device.gpu().begin_capture().unwrap();
                device.all_reduce(&mut x, 1, member.as_mut()).unwrap();
                let graph = device.gpu().end_capture().unwrap();
                assert_eq!(values(&device, &x, 1), [1.0 + index as f32]);
                for expected in [3.0, 6.0, 12.0] {
                    assert!(device.gpu().replay(&graph).unwrap());
                    assert_eq!(values(&device, &x, 1), [expected]);
                }
                if index == 0 {
                    member.leave();
                } else {
                    assert_eq!(device.gpu().replay(&graph), Err(KernelError::Left));
                    assert_eq!(device.all_reduce(&mut x, 1, member.as_mut()), Err(KernelError::Left));
                }
            });
        }
    });
}
