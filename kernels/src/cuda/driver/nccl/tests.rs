use std::ffi::c_int;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// A folder with a library that says it is NCCL of this version (`fake.c`).
fn fake(version: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/driver/nccl/fake.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", &format!("-DFAKE_VERSION={version}"), "-o"]);
    compiler.arg(folder.path().join("libnccl.so.2")).arg(source);
    assert!(compiler.status().unwrap().success());
    folder
}

fn open(folder: &tempfile::TempDir, gpus: &[c_int]) -> Result<(Arc<Communicators>, Version), SumOrigin> {
    Communicators::open(gpus, &[folder.path().to_owned()])
}

/// What member `index` adds.
fn sum(all: &Communicators, index: usize, values: &mut [f32]) -> Result<(), KernelError> {
    let address = values.as_mut_ptr().expose_provenance() as u64;
    let stream = ptr::without_provenance_mut(100 + index);
    // SAFETY: the fake adds memory of the host up, and takes numbers for streams.
    unsafe { all.sum(index, (address, values.len()), stream) }
}

#[test]
fn members_add_up_in_place_each_in_its_own_stream() {
    let folder = fake(22_105);
    let (all, version) = open(&folder, &[2, 3, 4]).unwrap();
    assert_eq!(version, Version::new(2, 21));
    for round in [1.0, 10.0] {
        let mut values = [[round, 2.0], [round, 0.5], [4.0, 0.25]];
        for (index, values) in values.iter_mut().enumerate() {
            sum(&all, index, values).unwrap();
        }
        assert_eq!(values, [[2.0 * round + 4.0, 2.75]; 3]);
    }
}

/// How many communicators the library has ended, once all that are to be have been.
fn ended(folder: &tempfile::TempDir, expected: c_int) -> c_int {
    let library = libraries::open_file(&folder.path().join("libnccl.so.2")).unwrap();
    // SAFETY: the fake's variable.
    let count = unsafe { *library.get::<*const std::sync::atomic::AtomicI32>(b"fake_ended\0").unwrap() };
    let begun = Instant::now();
    // SAFETY: the library is open, and the variable is an integer that is changed atomically.
    let count = || unsafe { &*count }.load(Ordering::SeqCst);
    while count() < expected && begun.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(1));
    }
    count()
}

#[test]
fn once_one_has_left_all_are_ended_and_nobody_is_asked_any_more() {
    let folder = fake(22_105);
    let (all, _) = open(&folder, &[0, 1, 2]).unwrap();
    sum(&all, 0, &mut [1.0]).unwrap();
    all.end();
    all.end();
    for index in 0..3 {
        assert_eq!(sum(&all, index, &mut [1.0]), Err(KernelError::Left));
    }
    assert_eq!(ended(&folder, 3), 3);
}

#[test]
fn what_the_library_says_is_the_error() {
    let folder = fake(22_105);
    let (all, _) = open(&folder, &[0, 1]).unwrap();
    let mut value = 1.0_f32;
    let address = (&raw mut value).expose_provenance() as u64;
    // SAFETY: the fake refuses the stream, and touches nothing.
    let refused = unsafe { all.sum(0, (address, 1), ptr::null_mut()) };
    let message = refused.unwrap_err().to_string();
    assert_eq!(message, "cuda: ncclAllReduce: invalid argument (the fake's own words)");
    assert_eq!(sum(&all, 7, &mut [1.0]), Err(KernelError::Left), "no such member");
}

#[test]
fn without_a_library_that_can_be_used_the_host_adds_up_and_the_log_says_why() {
    let said = |opened: Result<_, SumOrigin>| opened.map(|_| ()).unwrap_err().to_string();
    let before = "sums by way of the host, which is slow: ";
    let broken = said(open(&fake(22_105), &[0, 99]));
    assert_eq!(broken, format!("{before}ncclCommInitAll: unhandled system error (the fake's own words)"));
    let old = said(open(&fake(21_003), &[0, 1]));
    assert_eq!(old, format!("{before}NCCL 2.10 was found; NCCL 2.14 is the least"));
    assert_eq!(SumOrigin::Absent.to_string(), format!("{before}no NCCL was found (libnccl.so.2)"));
    assert_eq!(SumOrigin::Nccl(Version::new(2, 27)).to_string(), "sums by NCCL 2.27");
    assert_eq!(SumOrigin::Ordered.to_string(), "sums by way of the host, which is slow, for their one order");
}
