//! The whole engine (scheduler, cache, decoder, sampler) on the CUDA device, whose kernels run on the emulated GPU: its
//! tokens are the CPU device's.
#![allow(clippy::expect_used)]

#[path = "cuda/parity.rs"]
mod parity;
#[path = "cuda/quantized.rs"]
mod quantized;
mod real;

use weirgate_engine::{CudaModel, LoadOptions};
use weirgate_kernels::cuda::Emulator;
use weirgate_testkit::{Definition, RandomCheckpoint};

fn gpu() -> Emulator {
    Emulator::new().expect("an emulated GPU")
}

/// The emulated GPU says it has 1 GiB, all of it free; half of that is kept in reserve.
#[test]
fn the_cache_is_sized_after_the_largest_steps() {
    let definition = Definition::named("llama").expect("a testkit checkpoint");
    let checkpoint = RandomCheckpoint::new(&definition).expect("its config");
    let options = LoadOptions {
        threads: 1,
        block_size: 16,
        blocks: 0,
        max_step_tokens: 40,
        max_seqs: 5,
        max_seq_len: 300,
        kv_dtype: None,
    };
    let model = CudaModel::load(gpu(), "emulated".into(), checkpoint.spec(), &checkpoint, &options)
        .expect("it loads");
    let free = model.free_bytes(1.0).expect("an answer");
    assert!((512 << 20..600 << 20).contains(&free), "{free}");
    assert!(model.free_bytes(0.25).expect("an answer") < 16 << 20);
    let limits = model.with_cache(77, 200).expect("room").limits();
    assert_eq!(
        (limits.blocks, limits.max_seq_len, limits.max_seqs, limits.max_step_tokens),
        (77, 200, 5, 40)
    );
}
