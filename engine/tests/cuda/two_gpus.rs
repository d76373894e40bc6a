//! A model in parts on real GPUs, where there are two: `--ignored` runs these.

use std::sync::Arc;

use weirgate_engine::{CudaModel, CudaOptions};
use weirgate_kernels::cuda::driver::{CompileSettings, Device, DeviceChoice, NvidiaGpu, connect};
use weirgate_kernels::cuda::{Watch, Watched};

use crate::faults::assert_all_end;
use crate::parity::{BLOCKS, OPTIONS, assert_parity, requests};
use crate::real::{Engine, Model, Setup};

fn load(model: &Model, cuda: &CudaOptions) -> (CudaModel<Watched<NvidiaGpu>>, Vec<Arc<Watch>>) {
    let Ok(Device::Cuda(first)) = Device::choose(DeviceChoice::Cuda(0)) else { panic!("no GPU") };
    let devices = first.and_next(2).expect("two GPUs");
    let open = |device| NvidiaGpu::new(device, &cuda.compile).unwrap_or_else(|error| panic!("{error}"));
    let gpus: Vec<NvidiaGpu> = devices.iter().map(open).collect();
    let (members, origin) = connect(&gpus, &cuda.compile.libraries, cuda.deterministic);
    println!("{origin}");
    let (gpus, watches) = gpus.into_iter().map(Watched::new).unzip();
    let checkpoint = (&model.spec, model.tensors.as_ref());
    let loaded = CudaModel::load_split(gpus, members, checkpoint, &OPTIONS, cuda);
    (loaded.unwrap_or_else(|error| panic!("{error}")), watches)
}

fn options(deterministic: bool) -> CudaOptions {
    CudaOptions { compile: CompileSettings::of_environment(), deterministic, ..CudaOptions::default() }
}

#[test]
#[ignore = "needs two GPUs"]
fn two_gpus_give_the_tokens_of_the_cpu() {
    let model = Model::tiny("llama-llama3");
    let requests = requests(model.spec.vocab_size, 12);
    let cpu = Engine::start(&model, Setup { blocks: BLOCKS, ..Setup::default() });
    let expected = cpu.run(&requests);
    cpu.finish();
    for deterministic in [true, false] {
        let (loaded, watches) = load(&model, &options(deterministic));
        let executor = loaded.with_cache(BLOCKS, OPTIONS.max_seq_len).expect("room");
        let engine = Engine::run_on(executor, &model, Setup::default());
        let what = format!("deterministic: {deterministic}");
        // Twice: the second time all steps that decode are replayed.
        for _ in 0..2 {
            assert_parity(&expected, &engine.run(&requests), &what, 5e-3);
        }
        engine.finish();
        println!("{what}: {:?}", watches.iter().map(|watch| watch.counts()).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "needs two GPUs"]
fn a_fault_on_one_gpu_ends_every_request_once() {
    let model = Model::tiny("llama-llama3");
    for (part, calls) in [(1, 0), (0, 1), (1, 30), (0, 77), (1, 140)] {
        let (loaded, watches) = load(&model, &options(false));
        let executor = loaded.with_cache(BLOCKS, OPTIONS.max_seq_len).expect("room");
        watches[part].fail_after(calls);
        assert_all_end(executor, &format!("part {part} after {calls} calls"));
    }
}
