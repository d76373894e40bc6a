//! Kernels for compute capability 9.0. Their emulation reads descriptors, tensor maps and barriers as the hardware does.
#![allow(unsafe_code)]

use weirgate_kernels::cuda::{
    Boxes, CudaBackend, Emulator, Gpu, GpuMemory, Half, Kernel, KernelArgs, Launch, TensorMap,
};
use weirgate_kernels::{Backend, DType, KernelError, SmallFloat, WeightView};

use crate::attention::{check_stretches, long_stretches};
use crate::common::{bits, buffer, encode, matrix, rounded, values};
use crate::linear::{check, round_x};
use crate::paged;
use crate::products::Case;

fn hopper() -> CudaBackend<Emulator> {
    CudaBackend::new(Emulator::new().unwrap().with_capability((9, 0)))
}

const GEMMS: [Kernel; 4] = [
    Kernel::HopperGemmF16x128,
    Kernel::HopperGemmF16x256,
    Kernel::HopperGemmBF16x128,
    Kernel::HopperGemmBF16x256,
];

/// How often each was launched.
fn gemms(device: &CudaBackend<Emulator>) -> [usize; 4] {
    GEMMS.map(|kernel| device.gpu().launches(kernel))
}

/// Tiles that are cut off on every side, of both widths; fewer steps than stages, and more; several tiles for a block.
#[test]
fn products_match_the_reference_at_odd_shapes() {
    for (dtype, first) in [(DType::F16, 0), (DType::BF16, 2)] {
        for (rows, cols, outputs, wide) in [
            (128, 70, 33, false),
            (131, 600, 140, false),
            (128, 64, 256, false),
            (300, 200, 300, false),
            (300, 200, 250, true),
            (130, 449, 1100, true),
            (1025, 64, 129, true),
        ] {
            let mut case = Case::new(rows, cols, outputs, rows % 2 == 0);
            round_x(&mut case, dtype, |row| 2_f32.powi([0, 20, -20, 14, -9][row % 5]));
            let mut device = hopper();
            check(&mut device, &case, dtype);
            let mut expected = [0; 4];
            expected[first + usize::from(wide)] = 1;
            assert_eq!(gemms(&device), expected, "{dtype:?} {rows} x {outputs}");
        }
    }
}

/// Few rows, f32 weights, or a device whose rows must not depend on each other.
#[test]
fn other_products_are_made_as_anywhere() {
    for (dtype, rows, deterministic) in [
        (DType::BF16, 127, false),
        (DType::F32, 128, false),
        (DType::BF16, 128, true),
        (DType::F16, 128, true),
    ] {
        let device =
            |gpu| if deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
        let case = Case::new(rows, 66, 40, true);
        let mut on_hopper = device(Emulator::new().unwrap().with_capability((9, 0)));
        let found = case.run(&mut on_hopper, dtype);
        assert_eq!(gemms(&on_hopper), [0; 4], "{dtype:?} {rows}");
        assert_eq!(bits(&found), bits(&case.run(&mut device(crate::gpu()), dtype)), "{dtype:?} {rows}");
    }
}

/// Stacked parts write columns of their own, which begin anywhere.
#[test]
fn products_of_stacked_parts() {
    let case = Case::new(140, 130, 96, true);
    let x: Vec<f32> = case.x.iter().map(|&x| rounded(DType::BF16, x)).collect();
    let parts = [(DType::F16, 21), (DType::BF16, 75)];
    let mut device = hopper();
    let mut from = 0;
    let encoded = parts.map(|(dtype, rows)| {
        let bytes = encode(dtype, &case.w[from * case.cols..][..rows * case.cols]);
        from += rows;
        (dtype, rows, bytes)
    });
    let views = encoded.each_ref().map(|(dtype, rows, bytes)| WeightView {
        dtype: (*dtype).into(),
        rows: *rows,
        cols: case.cols,
        bytes,
    });
    let w = device.matrix(&views).unwrap();
    let (input, bias) = (buffer(&device, &x), buffer(&device, case.bias.as_ref().unwrap()));
    let mut out = buffer(&device, &vec![f32::NAN; case.rows * case.outputs]);
    device.linear(&mut out, &input, &w, Some(&bias), case.rows).unwrap();
    assert_eq!(gemms(&device), [1, 0, 1, 0]);
    let found = values(&device, &out, case.rows * case.outputs);
    let mut from = 0;
    for (dtype, rows) in parts {
        let part = Case {
            rows: case.rows,
            cols: case.cols,
            outputs: rows,
            x: x.clone(),
            w: case.w[from * case.cols..][..rows * case.cols].to_vec(),
            bias: Some(case.bias.as_ref().unwrap()[from..][..rows].to_vec()),
        };
        let own = found.chunks(case.outputs).flat_map(|row| &row[from..][..rows]).copied();
        part.check(dtype, &own.collect::<Vec<_>>(), 1e-6, "stacked");
        from += rows;
    }
}

/// The driver's rules for tensor maps hold in the emulation, and a kernel whose boxes are not what it expects does not end.
#[test]
fn wrong_boxes_are_found() {
    let gpu = Emulator::new().unwrap().with_capability((9, 0));
    let memory = gpu.allocate("test", 128 * 64 * 4).unwrap();
    let boxes = |offset: u64, tall| Boxes::whole(Half::BF16, memory.address() + offset, (128, 64), tall);
    assert!(gpu.tensor_map(&boxes(0, 128)).is_ok());
    for wrong in [boxes(8, 128), boxes(0, 257)] {
        assert!(matches!(gpu.tensor_map(&wrong), Err(KernelError::Device { .. })), "{wrong:?}");
    }
    let launch = |x: u32, w: u32| {
        let out = gpu.allocate("out", 4 * 128 * 128).unwrap();
        let scales = gpu.allocate("scales", 4 * 128).unwrap();
        gpu.fill(&memory, 0, memory.len(), 0).unwrap();
        let args = GemmArgs {
            out: out.address(),
            scales: scales.address(),
            bias: 0,
            rows: 128,
            count: 128,
            stride: 64,
            width: 128,
            reserved: [0; 6],
            x: gpu.tensor_map(&boxes(0, x)).unwrap(),
            w: gpu.tensor_map(&boxes(0, w)).unwrap(),
        };
        let launch = Launch::blocks(1).with_shared((192 << 10) + 1024);
        // SAFETY: all matrices are `[128, 64]`, their results `[128, 128]`.
        unsafe { gpu.launch(Kernel::HopperGemmBF16x128, launch, &args) }
    };
    launch(128, 128).unwrap();
    for (x, w) in [(64, 128), (128, 64)] {
        let Err(KernelError::Device { message, .. }) = launch(x, w) else { panic!("{x}, {w}") };
        assert!(message.ends_with("threads wait for each other, or for some that have ended"), "{message}");
    }
}

/// What `hopper_gemm_bf16_128` takes.
#[repr(C)]
#[derive(Clone, Copy)]
struct GemmArgs {
    out: u64,
    scales: u64,
    bias: u64,
    rows: u32,
    count: u32,
    stride: u32,
    width: u32,
    reserved: [u32; 6],
    x: TensorMap,
    w: TensorMap,
}

// SAFETY: what the kernel declares.
unsafe impl KernelArgs for GemmArgs {}

/// Recorded launches have their tensor maps with them.
#[test]
fn products_are_recorded() {
    let gpu = Emulator::new().unwrap().with_capability((9, 0));
    let mut device = CudaBackend::new(gpu);
    let mut case = Case::new(128, 64, 130, false);
    round_x(&mut case, DType::BF16, |_| 1.0);
    let w = matrix(&device, DType::BF16, case.outputs, case.cols, &case.w);
    let x = buffer(&device, &case.x);
    let mut out = buffer(&device, &vec![f32::NAN; case.rows * case.outputs]);
    // Takes the memory that a recorded step may not take.
    device.linear(&mut out, &x, &w, None, case.rows).unwrap();
    device.gpu().begin_capture().unwrap();
    device.linear(&mut out, &x, &w, None, case.rows).unwrap();
    let graph = device.gpu().end_capture().unwrap();
    let empty = vec![f32::NAN; case.rows * case.outputs];
    let mut replayed = buffer(&device, &empty);
    std::mem::swap(&mut replayed, &mut out);
    assert!(device.gpu().replay(&graph).unwrap());
    case.check(DType::BF16, &values(&device, &replayed, empty.len()), 8e-6, "replayed");
}

const PREFILLS: [Kernel; 4] = [
    Kernel::HopperPrefillF16x64,
    Kernel::HopperPrefillF16x128,
    Kernel::HopperPrefillBF16x64,
    Kernel::HopperPrefillBF16x128,
];

fn prefills(device: &CudaBackend<Emulator>) -> [usize; 4] {
    PREFILLS.map(|kernel| device.gpu().launches(kernel))
}

#[test]
fn stretches_match_the_reference() {
    for case in long_stretches() {
        for (dtype, first) in [(DType::F16, 0), (DType::BF16, 2)] {
            let own = first + usize::from(case.head_dim == 128);
            check_stretches(&paged::Case { dtype: dtype.into(), ..case.clone() }, hopper, |device| {
                let launches = prefills(device);
                assert!(launches[own] > 0 && launches.iter().sum::<usize>() == launches[own], "{case:?}");
            });
        }
    }
}

/// To the bit, as long as the pieces are long.
#[test]
fn stretches_do_not_depend_on_the_cuts() {
    for case in long_stretches() {
        let case = paged::Case { dtype: DType::BF16.into(), lens: vec![170, 60], ..case };
        let want = case.run(&mut hopper(), &case.whole());
        for chunks in [vec![vec![64, 0], vec![40, 60], vec![66, 0]], vec![vec![17, 33], vec![153, 27]]] {
            let got = case.run(&mut hopper(), &chunks);
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(bits(got), bits(want), "{chunks:?}, {case:?}");
            }
        }
    }
}

/// Other heads, pages and caches, a device whose rows must not depend on each other, and short stretches.
#[test]
fn other_stretches_are_attended_as_anywhere() {
    let usual = paged::Case { dtype: DType::BF16.into(), ..paged::Case::new(4, 2, 64, 16, &[40]) };
    let cases = [
        (paged::Case { head_dim: 80, ..usual.clone() }, false),
        (paged::Case { block_size: 24, ..usual.clone() }, false),
        (paged::Case { block_size: 256, ..usual.clone() }, false),
        (paged::Case { dtype: SmallFloat::E4M3.into(), ..usual.clone() }, false),
        (paged::Case { dtype: DType::F32.into(), ..usual.clone() }, false),
        (paged::Case { lens: vec![15], ..usual.clone() }, false),
        (usual, true),
    ];
    for (case, deterministic) in cases {
        let device =
            |gpu| if deterministic { CudaBackend::deterministic(gpu) } else { CudaBackend::new(gpu) };
        let mut on_hopper = device(Emulator::new().unwrap().with_capability((9, 0)));
        let got = case.run(&mut on_hopper, &case.whole());
        assert_eq!(prefills(&on_hopper), [0; 4], "{case:?}");
        let want = case.run(&mut device(crate::gpu()), &case.whole());
        assert_eq!(bits(&got[0]), bits(&want[0]), "{case:?}");
    }
}
