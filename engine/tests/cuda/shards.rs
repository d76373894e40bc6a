//! A model in parts on several GPUs: its tokens are the CPU's, whether the GPUs add up among themselves or by way of the
//! host; and whatever goes wrong in a part ends all requests, and nobody waits.

use std::sync::Arc;

use weirgate_engine::{CudaModel, CudaOptions};
use weirgate_kernels::cuda::{Emulator, Watch, Watched};
use weirgate_kernels::{AllReduce, local_group};

use crate::faults::assert_all_end;
use crate::gpu;
use crate::parity::{BLOCKS, OPTIONS, assert_parity, requests};
use crate::real::{Engine, Model, Results, Setup};

/// By what the parts add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sums {
    OnDevices,
    ByTheHost,
}

struct Parts {
    gpus: Vec<Watched<Emulator>>,
    watches: Vec<Arc<Watch>>,
    members: Vec<Box<dyn AllReduce>>,
}

impl Parts {
    fn new(count: usize, sums: Sums) -> Self {
        let gpus: Vec<Emulator> = (0..count).map(|_| gpu()).collect();
        let members = match sums {
            Sums::OnDevices => boxed(Emulator::group(&gpus)),
            Sums::ByTheHost => boxed(local_group(count)),
        };
        let (gpus, watches) = gpus.into_iter().map(Watched::new).unzip();
        Self { gpus, watches, members }
    }

    fn load(self, model: &Model, cuda: &CudaOptions) -> Result<CudaModel<Watched<Emulator>>, String> {
        let checkpoint = (&model.spec, model.tensors.as_ref());
        let loaded = CudaModel::load_split(self.gpus, self.members, checkpoint, &OPTIONS, cuda);
        loaded.map_err(|error| error.to_string())
    }
}

fn boxed(members: Vec<impl AllReduce + 'static>) -> Vec<Box<dyn AllReduce>> {
    members.into_iter().map(|member| Box::new(member) as Box<dyn AllReduce>).collect()
}

fn exact() -> CudaOptions {
    CudaOptions { deterministic: true, ..CudaOptions::default() }
}

/// What the CPU makes of [`requests`].
fn expected(model: &Model) -> Results {
    let cpu = Engine::start(model, Setup { threads: 1, blocks: BLOCKS, ..Setup::default() });
    let results = cpu.run(&requests(model.spec.vocab_size, 12));
    cpu.finish();
    results
}

fn check(parts: Parts, model: &Model, expected: &Results, what: &str) -> Vec<Arc<Watch>> {
    let watches = parts.watches.clone();
    let loaded = parts.load(model, &exact()).expect("it loads");
    let executor = loaded.with_cache(BLOCKS, OPTIONS.max_seq_len).expect("room");
    let engine = Engine::run_on(executor, model, Setup::default());
    assert_parity(expected, &engine.run(&requests(model.spec.vocab_size, 12)), what, 5e-3);
    engine.finish();
    watches
}

#[test]
fn parts_give_the_tokens_of_the_whole() {
    let model = Model::tiny("llama-llama3");
    let expected = expected(&model);
    for count in [2, 4] {
        for sums in [Sums::OnDevices, Sums::ByTheHost] {
            let watches = check(Parts::new(count, sums), &model, &expected, &format!("{count}, {sums:?}"));
            let replays: Vec<u64> = watches.iter().map(|watch| watch.counts().replays).collect();
            let recorded = sums == Sums::OnDevices;
            assert!(
                replays.iter().all(|replays| (*replays > 8) == recorded),
                "{count}, {sums:?}: {replays:?}"
            );
        }
    }
}

/// Where one GPU refuses to record, none replays.
#[test]
fn parts_are_launched_op_by_op_where_one_cannot_record() {
    let model = Model::tiny("llama-llama3");
    let parts = Parts::new(2, Sums::OnDevices);
    parts.watches[1].refuse_captures();
    let watches = check(parts, &model, &expected(&model), "refused");
    // One did while it was tried out.
    let captures: Vec<u64> = watches.iter().map(|watch| watch.counts().captures).collect();
    let replays = watches[0].counts().replays;
    assert!(replays <= captures[0] && watches[1].counts().replays == 0, "{captures:?}, {replays}");
}

/// No GPU's values cross to the host but the tokens: each GPU is waited for once.
#[test]
fn a_step_waits_once_for_each_gpu() {
    let model = Model::tiny("llama-llama3");
    let parts = Parts::new(2, Sums::OnDevices);
    let watches = parts.watches.clone();
    let executor = parts.load(&model, &CudaOptions::default()).expect("it loads").with_cache(BLOCKS, 96);
    let engine = Engine::run_on(executor.expect("room"), &model, Setup::default());
    let before: Vec<_> = watches.iter().map(|watch| watch.counts()).collect();
    engine.run(&requests(model.spec.vocab_size, 12));
    let steps = engine.finish().steps;
    for (watch, before) in watches.iter().zip(before) {
        let after = watch.counts();
        assert_eq!((after.waits - before.waits, after.allocations), (steps, before.allocations));
    }
}

/// As many blocks as the GPU with the least free memory has room for.
#[test]
fn the_fullest_gpu_says_how_large_the_cache_may_be() {
    let model = Model::tiny("llama-llama3");
    let free = |taken: [u64; 2]| {
        let parts = Parts::new(2, Sums::OnDevices);
        for (watch, taken) in parts.watches.iter().zip(taken) {
            watch.take_memory(taken);
        }
        parts.load(&model, &CudaOptions::default()).expect("it loads").free_bytes(1.0).expect("an answer")
    };
    let all = free([0, 0]);
    assert_eq!([free([100 << 20, 0]), free([0, 200 << 20])], [all - (100 << 20), all - (200 << 20)]);
}

/// In whichever part and wherever in a step it happens.
#[test]
fn a_fault_in_one_part_ends_every_request_once() {
    let model = Model::tiny("llama-llama3");
    for sums in [Sums::OnDevices, Sums::ByTheHost] {
        for (part, calls) in [(0, 0), (1, 0), (0, 1), (1, 1), (1, 30), (0, 77), (1, 140)] {
            let what = format!("{sums:?}, part {part} after {calls} calls");
            let parts = Parts::new(2, sums);
            let watches = parts.watches.clone();
            let loaded = parts.load(&model, &CudaOptions::default()).expect("it loads");
            let executor = loaded.with_cache(BLOCKS, OPTIONS.max_seq_len).expect("room");
            watches[part].fail_after(calls);
            assert_all_end(executor, &what);
        }
    }
}

/// What is said is what the part that failed had, not that the others missed it.
#[test]
fn a_fault_while_loading_is_an_error_that_names_it() {
    let model = Model::tiny("llama-llama3");
    for sums in [Sums::OnDevices, Sums::ByTheHost] {
        for (part, calls) in [(1, 0), (0, 5), (1, 150), (0, 300)] {
            let parts = Parts::new(2, sums);
            parts.watches[part].fail_after(calls);
            let message = parts.load(&model, &CudaOptions::default()).err().expect("an error");
            let what = format!("{sums:?}, part {part} after {calls} calls");
            assert!(message.contains("an illegal memory access"), "{what}: {message}");
        }
    }
}

#[test]
fn a_model_that_cannot_be_split_so_is_refused() {
    let model = Model::tiny("llama-llama3");
    let message =
        Parts::new(3, Sums::OnDevices).load(&model, &CudaOptions::default()).err().expect("an error");
    assert!(message.contains("cannot be split into 3 shards"), "{message}");
}
