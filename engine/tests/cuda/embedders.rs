//! Vectors and scores of texts: those of the CPU device.

use weirgate_engine::{EmbedInput, EmbedModel, EmbedOptions, Embedder, load_cpu_embedder, load_embedder};
use weirgate_kernels::cuda::CudaBackend;
use weirgate_models::{Pooling, read_headless};
use weirgate_testkit::{Definition, RandomCheckpoint, RandomEncoder};

use crate::gpu;

/// Of tiles of sixteen tokens, and of prompts that tensor cores multiply: none, one, several and a rest.
const LENGTHS: [usize; 5] = [1, 2, 17, 41, 62];
const POOLINGS: [Pooling; 4] = [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::Max];
/// ‖difference‖ / ‖vector‖.
const BOUND: f64 = 2e-5;

fn options(pooling: Pooling) -> EmbedOptions {
    EmbedOptions { threads: 1, max_step_tokens: 200, max_seqs: 16, max_tokens: 64, pooling }
}

fn vectors(embedder: &mut dyn Embedder, texts: &[EmbedInput]) -> Vec<Vec<f32>> {
    let mut out = Vec::new();
    embedder.embed(texts, &mut out).expect("vectors");
    out.chunks(embedder.limits().dimensions).map(<[f32]>::to_vec).collect()
}

/// Those of all texts together, which are those of each alone.
fn compare(name: &str, cpu: &mut dyn Embedder, cuda: &mut dyn Embedder, texts: &[EmbedInput]) {
    let (expected, found) = (vectors(cpu, texts), vectors(cuda, texts));
    assert_eq!((expected.len(), found.len()), (texts.len(), texts.len()));
    for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let differences = expected.iter().zip(found).map(|(a, b)| f64::from(a - b));
        let error = norm(&mut differences.into_iter()) / norm(&mut expected.iter().map(|x| f64::from(*x)));
        assert!(error < BOUND, "{name}, {} tokens: {error:e}", texts[index].tokens.len());
        let alone = vectors(cuda, &texts[index..=index]);
        assert_eq!(alone[0], *found, "{name}, {} tokens alone", texts[index].tokens.len());
    }
}

#[test]
fn every_family_of_encoders_has_the_cpus_vectors() {
    for encoder in RandomEncoder::all() {
        let spec = encoder.spec().expect("a specification");
        let pairs = spec.classifier.is_some();
        let text = |(index, &len): (usize, &usize)| EmbedInput {
            tokens: encoder.prompt(index, len, spec.vocab_size),
            types: if pairs { (0..len).map(|at| u32::from(at >= len / 2)).collect() } else { Vec::new() },
        };
        let texts: Vec<_> = LENGTHS.iter().enumerate().map(text).collect();
        for pooling in POOLINGS {
            let mut cpu =
                load_cpu_embedder(EmbedModel::Encoder(&spec), &encoder, &options(pooling)).expect("it loads");
            let backend = CudaBackend::deterministic(gpu());
            let mut cuda = load_embedder(backend, EmbedModel::Encoder(&spec), &encoder, &options(pooling))
                .expect("it loads");
            compare(&format!("{} {pooling:?}", encoder.name), cpu.as_mut(), cuda.as_mut(), &texts);
        }
    }
}

#[test]
fn a_decoder_has_the_cpus_vectors() {
    let definition = Definition::named("qwen3").expect("there is one");
    let checkpoint = RandomCheckpoint::new(&definition).expect("a checkpoint");
    let definition = checkpoint.definition();
    let spec = read_headless(&definition.files, &checkpoint).expect("a specification");
    let text = |(index, &len): (usize, &usize)| EmbedInput {
        tokens: definition.prompt(index, len, spec.vocab_size),
        types: Vec::new(),
    };
    let texts: Vec<_> = LENGTHS.iter().enumerate().map(text).collect();
    for pooling in POOLINGS {
        let mut cpu =
            load_cpu_embedder(EmbedModel::Decoder(&spec), &checkpoint, &options(pooling)).expect("it loads");
        let backend = CudaBackend::deterministic(gpu());
        let mut cuda = load_embedder(backend, EmbedModel::Decoder(&spec), &checkpoint, &options(pooling))
            .expect("it loads");
        compare(&format!("qwen3 {pooling:?}"), cpu.as_mut(), cuda.as_mut(), &texts);
    }
}
