//! Recorded launches: what the emulation makes of them, and how the device uses them.
#![allow(unsafe_code)]

use weirgate_kernels::cuda::{CudaBackend, Emulator, Gpu, GpuMemory, Kernel, Launch, Watched};
use weirgate_kernels::{Backend, DType, KernelError, NO_ADAPTER, StepInputs, WeightView};

use crate::common::values;
use crate::emulation::AddArgs;

fn add<G: Gpu>(gpu: &G, acc: &G::Memory, x: &G::Memory) {
    let args = AddArgs { acc: acc.address(), x: x.address(), len: 3 };
    // SAFETY: three elements each.
    unsafe { gpu.launch(Kernel::Add, Launch::blocks(1), &args) }.unwrap();
}

fn floats<G: Gpu>(gpu: &G, memory: &G::Memory) -> [f32; 3] {
    let mut bytes = [0; 12];
    gpu.download(memory, 0, &mut bytes).unwrap();
    [0, 4, 8].map(|at| f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn three<G: Gpu>(gpu: &G, values: [f32; 3]) -> G::Memory {
    let memory = gpu.allocate("test", 12).unwrap();
    gpu.upload(&memory, 0, &values.map(f32::to_le_bytes).concat()).unwrap();
    memory
}

#[test]
fn recorded_launches_are_done_when_replayed_with_what_lies_in_memory_then() {
    let gpu = Emulator::new().unwrap();
    let (acc, x) = (three(&gpu, [1.0, 2.0, 3.0]), three(&gpu, [0.5; 3]));
    gpu.begin_capture().unwrap();
    add(&gpu, &acc, &x);
    add(&gpu, &acc, &x);
    let graph = gpu.end_capture().unwrap();
    assert_eq!(floats(&gpu, &acc), [1.0, 2.0, 3.0]);
    assert!(gpu.replay(&graph).unwrap());
    assert_eq!(floats(&gpu, &acc), [2.0, 3.0, 4.0]);
    gpu.upload(&x, 0, &[10.0_f32; 3].map(f32::to_le_bytes).concat()).unwrap();
    assert!(gpu.replay(&graph).unwrap());
    assert_eq!(floats(&gpu, &acc), [22.0, 23.0, 24.0]);
}

#[test]
fn only_launches_can_be_recorded() {
    let gpu = Emulator::new().unwrap();
    let memory = three(&gpu, [0.0; 3]);
    let mut bytes = [0; 12];
    gpu.begin_capture().unwrap();
    assert!(gpu.begin_capture().is_err());
    assert!(gpu.allocate("test", 4).is_err());
    assert!(gpu.upload(&memory, 0, &bytes).is_err());
    assert!(gpu.fill(&memory, 0, 4, 1).is_err());
    assert!(gpu.download(&memory, 0, &mut bytes).is_err());
    assert!(gpu.collect(&mut [(&memory, &mut bytes)]).is_err());
    assert!(gpu.synchronize().is_err());
    assert!(gpu.end_capture().is_ok());
    assert!(gpu.end_capture().is_err());
    gpu.synchronize().unwrap();
}

/// The graph may use what was given back, so it is not done any more.
#[test]
fn nothing_is_replayed_once_memory_was_given_back() {
    let gpu = Emulator::new().unwrap();
    let (acc, x) = (three(&gpu, [1.0; 3]), three(&gpu, [1.0; 3]));
    gpu.begin_capture().unwrap();
    add(&gpu, &acc, &x);
    let graph = gpu.end_capture().unwrap();
    let more = three(&gpu, [0.0; 3]);
    assert!(gpu.replay(&graph).unwrap());
    drop(more);
    assert!(!gpu.replay(&graph).unwrap());
    assert_eq!(floats(&gpu, &acc), [2.0; 3]);
}

/// A table of four rows of two elements.
fn table<G: Gpu>(device: &CudaBackend<G>) -> <CudaBackend<G> as Backend>::Matrix {
    let bytes: Vec<u8> = (0..8).flat_map(|value| (value as f32).to_le_bytes()).collect();
    device.matrix(&[WeightView { dtype: DType::F32.into(), rows: 4, cols: 2, bytes: &bytes }]).unwrap()
}

/// One token for each of `ids`, each of a sequence of its own.
fn upload<B: Backend>(device: &mut B, step: &mut B::Step, ids: &[u32]) -> Result<(), KernelError> {
    let count = ids.len() as u32;
    let zeros = vec![0; ids.len()];
    let numbers: Vec<u32> = (0..count).collect();
    let ends: Vec<u32> = (0..=count).collect();
    let inputs = StepInputs {
        ids,
        positions: &zeros,
        slots: &numbers,
        cu_q: &ends,
        kv_len: &vec![1; ids.len()],
        block_tables: &numbers,
        block_offsets: &ends,
        rope: &[],
        adapters: &vec![NO_ADAPTER; ids.len()],
    };
    device.upload(step, &inputs)
}

#[test]
fn a_step_is_done_then_recorded_then_replayed() {
    let (gpu, watch) = Watched::new(Emulator::new().unwrap());
    let mut device = CudaBackend::new(gpu).with_graphs(&[2, 3]);
    let table = table(&device);
    let mut out = device.buffer(6).unwrap();
    let mut step = device.step_buffers(3, 3, 3).unwrap();
    let begun = watch.counts();
    let mut asked = 0;
    for (ids, replays) in [([0, 1, 2], 0), ([3, 2, 1], 1), ([1, 1, 1], 2), ([2, 3, 0], 3)] {
        upload(&mut device, &mut step, &ids).unwrap();
        let work = |device: &mut CudaBackend<_>| {
            asked += 1;
            device.embed(&mut out, &table, &step, 1.0)
        };
        device.repeated(&step, work).unwrap();
        let expected: Vec<f32> =
            ids.iter().flat_map(|&id| [2.0 * id as f32, 2.0 * id as f32 + 1.0]).collect();
        assert_eq!(values(&device, &out, 6), expected);
        assert_eq!(watch.counts().replays, replays);
    }
    assert_eq!((asked, watch.counts().captures), (2, 1));
    assert_eq!(watch.counts().launches - begun.launches, 1);
    assert_eq!(device.refusal(), None);

    // Sizes that are not recorded are done each time.
    for _ in 0..3 {
        upload(&mut device, &mut step, &[1]).unwrap();
        let work = |device: &mut CudaBackend<_>| device.embed(&mut out, &table, &step, 1.0);
        device.repeated(&step, work).unwrap();
    }
    assert_eq!((watch.counts().captures, watch.counts().replays), (1, 3));
}

/// What was checked when a step was recorded is checked for each that is replayed.
#[test]
fn replays_check_their_inputs() {
    let mut device = CudaBackend::new(crate::gpu()).with_graphs(&[1]);
    let table = table(&device);
    let mut out = device.buffer(2).unwrap();
    let mut step = device.step_buffers(1, 1, 1).unwrap();
    for (id, fine) in [(0, true), (1, true), (3, true), (4, false), (2, true)] {
        upload(&mut device, &mut step, &[id]).unwrap();
        let done = device.repeated(&step, |device| device.embed(&mut out, &table, &step, 1.0));
        assert_eq!(done.is_ok(), fine, "{id}");
        if !fine {
            assert!(matches!(done, Err(KernelError::Shape { what: "token id", got: 4, .. })), "{done:?}");
        }
    }
    assert_eq!(values(&device, &out, 2), [4.0, 5.0]);
}

/// Memory that was given back since is found out, and the step recorded anew.
#[test]
fn a_graph_does_not_outlive_its_memory() {
    let (gpu, watch) = Watched::new(Emulator::new().unwrap());
    let mut device = CudaBackend::new(gpu).with_graphs(&[1]);
    let mut step = device.step_buffers(1, 1, 1).unwrap();
    let mut tables = vec![table(&device), table(&device)];
    let mut outs = vec![device.buffer(2).unwrap(), device.buffer(2).unwrap()];
    for (round, captures) in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)] {
        if round == 3 {
            // The work is the same, on other buffers: only that memory was given back shows it.
            tables.remove(0);
            outs.remove(0);
        }
        upload(&mut device, &mut step, &[round % 4]).unwrap();
        let (out, table) = (&mut outs[0], &tables[0]);
        device.repeated(&step, |device| device.embed(out, table, &step, 1.0)).unwrap();
        let expected = [2.0 * (round % 4) as f32, 2.0 * (round % 4) as f32 + 1.0];
        assert_eq!(values(&device, &outs[0], 2), expected, "{round}");
        assert_eq!(watch.counts().captures, captures);
    }
}

/// What cannot be recorded is done each time, and the reason is there to be told.
#[test]
fn a_refusal_costs_nothing_but_the_graph() {
    let mut device = CudaBackend::new(crate::gpu()).with_graphs(&[1]);
    let table = table(&device);
    let mut out = device.buffer(2).unwrap();
    let mut step = device.step_buffers(1, 1, 1).unwrap();
    for id in 0..4 {
        upload(&mut device, &mut step, &[id]).unwrap();
        let work = |device: &mut CudaBackend<_>| {
            // It needs more memory each time.
            device.buffer(1 + id as usize)?;
            device.embed(&mut out, &table, &step, 1.0)
        };
        device.repeated::<KernelError>(&step, work).unwrap();
        assert_eq!(values(&device, &out, 2), [2.0 * id as f32, 2.0 * id as f32 + 1.0]);
        assert_eq!(device.refusal().is_some(), id > 0);
    }
}

#[test]
fn steps_are_padded_to_the_sizes_that_are_recorded() {
    let device = CudaBackend::new(crate::gpu()).with_graphs(&[8, 2, 0, 4, 4, 12]);
    let ones = |count: u32| (0..=count).collect::<Vec<u32>>();
    let padded: Vec<usize> = [1, 2, 3, 5, 9, 12, 13].map(|n| device.padded_rows(&ones(n))).to_vec();
    assert_eq!(padded, [2, 2, 4, 8, 12, 12, 13]);
    assert_eq!(device.most_padding(), 3);
    // Stretches of prompts that tensor cores take are launched as they come.
    assert_eq!(device.padded_rows(&[0, 1, 11]), 12);
    assert_eq!(CudaBackend::new(crate::gpu()).with_graphs(&[32]).padded_rows(&[0, 1, 17]), 17);
    assert_eq!(CudaBackend::new(crate::gpu()).with_graphs(&[32]).padded_rows(&[0, 1, 16]), 32);
    let none = CudaBackend::new(crate::gpu());
    assert_eq!((none.padded_rows(&ones(3)), none.most_padding()), (3, 0));
}
