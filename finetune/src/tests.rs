//! Losses and gradients against PEFT, transformers and torch, for every kind of architecture; the parts against each other.
//! The goldens come from `tools/parity/make_finetune.py`.

use candle_core::{Device, Tensor};
use serde_json::{Map, Value};
use weirgate_models::{DType, ModelSpec, TensorSource};
use weirgate_testkit::{Definition, RandomCheckpoint, generator};

use crate::model::{Adapters, Base, Gradients, Model};
use crate::optimizer::{AdamW, clip};
use crate::process::Stop;
use crate::{Batch, Example, Hyperparameters};

/// How far a loss may be from PEFT's, relative, and the norm of its gradients. Measured: 4e-7 and 8e-6.
const LOSS_BOUND: f64 = 2e-6;
const NORM_BOUND: f64 = 1e-4;
const ALL_MEMORY: u64 = u64::MAX;

struct Goldens(Value);

impl Goldens {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("../tests/goldens/peft.json")).unwrap())
    }

    fn names(&self) -> Vec<String> {
        self.0["checkpoints"].as_object().unwrap().keys().cloned().collect()
    }

    fn settings(&self, name: &str) -> Hyperparameters {
        let mut given: Map<String, Value> =
            self.0["checkpoints"][name]["settings"].as_object().unwrap().clone();
        given.insert("dropout".to_owned(), 0.into());
        Hyperparameters::read(&given).unwrap()
    }

    fn numbers(&self, name: &str, what: &str) -> Vec<f64> {
        let list = self.0["checkpoints"][name][what].as_array().unwrap();
        list.iter().map(|number| number.as_f64().unwrap()).collect()
    }

    /// A step's batches.
    fn batches(&self, definition: &Definition, vocab: usize, step: usize) -> Vec<Batch> {
        let lengths: Vec<usize> =
            self.0["lengths"].as_array().unwrap().iter().map(|len| len.as_u64().unwrap() as usize).collect();
        let examples: Vec<Example> = lengths
            .iter()
            .enumerate()
            .map(|(index, len)| Example {
                tokens: definition.prompt(3000 + step * lengths.len() + index, *len, vocab),
                learned: (0..*len).map(|at| at >= len / 2).collect(),
            })
            .collect();
        examples.chunks(self.0["batch"].as_u64().unwrap() as usize).map(Batch::new).collect()
    }
}

/// The checkpoint `name` with the adapters that its golden began with.
fn model(name: &str, settings: &Hyperparameters, recompute: bool) -> (Model, Definition, ModelSpec) {
    let definition = Definition::named(name).unwrap();
    let checkpoint = RandomCheckpoint::new(&definition).unwrap();
    let spec = checkpoint.spec().clone();
    let adapters = Adapters::new(&spec, settings, &Device::Cpu).unwrap();
    for trained in adapters.iter() {
        let key = trained.module.peft_tensor(trained.layer, 'A');
        let scale = 1.0 / (trained.module.cols as f64).sqrt();
        let bytes = generator::tensor_bytes(
            definition.seed,
            &format!("{name}/{key}"),
            trained.a.elem_count(),
            (0.0, scale as f32),
            DType::F32,
        );
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        trained.a.set(&Tensor::from_vec(values, trained.a.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    let tensors: Box<dyn TensorSource> = Box::new(checkpoint);
    let base = Base::load(&spec, tensors, settings.quantized, (&Device::Cpu, ALL_MEMORY)).unwrap();
    (Model::new(spec.clone(), base, adapters, settings, (&Device::Cpu, recompute)), definition, spec)
}

#[test]
fn twenty_steps_are_those_of_peft() {
    let goldens = Goldens::read();
    let names = goldens.names();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let settings = goldens.settings(&name);
        let (model, definition, spec) = model(&name, &settings, false);
        let trained = model.adapters.named();
        let mut optimizer = AdamW::new(&settings, &trained).unwrap();
        let (losses, norms) = (goldens.numbers(&name, "losses"), goldens.numbers(&name, "norms"));
        let mut worst: (f64, f64) = (0.0, 0.0);
        for step in 0..losses.len() {
            let batches = goldens.batches(&definition, spec.vocab_size, step);
            let learned: usize = batches.iter().map(|batch| batch.targets.len()).sum();
            let (mut gradients, mut loss) = (Gradients::default(), 0.0);
            for batch in &batches {
                let factor = 1.0 / learned as f64;
                loss +=
                    factor * model.accumulate(batch, (factor, 0), &mut gradients, &Stop::default()).unwrap();
            }
            let (norm, factor) = clip(&gradients, trained.len(), settings.max_grad_norm).unwrap();
            let rate = settings.rate(step, settings.warmup(losses.len()).unwrap(), losses.len());
            optimizer.step(step + 1, &trained, (&gradients, factor), rate).unwrap();
            worst.0 = worst.0.max((loss / losses[step] - 1.0).abs());
            worst.1 = worst.1.max((norm / norms[step] - 1.0).abs());
        }
        println!("proof: {name}: losses within {:.1e} of peft's, gradient norms {:.1e}", worst.0, worst.1);
        assert!(worst.0 < LOSS_BOUND, "{name}: a loss is off by {:e}", worst.0);
        assert!(worst.1 < NORM_BOUND, "{name}: a gradient's norm is off by {:e}", worst.1);
    }
}

/// The gradients of one batch.
fn gradients(model: &Model, batch: &Batch) -> (f64, Vec<Option<Vec<f32>>>) {
    let mut gradients = Gradients::default();
    let loss = model.accumulate(batch, (0.5, 3), &mut gradients, &Stop::default()).unwrap();
    let count = model.adapters.named().len();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    (loss, (0..count).map(|index| gradients.get(index).map(values)).collect())
}

/// Gives `b`, which begins at zero, other values: only then has `a` a gradient.
fn stir(model: &Model, definition: &Definition) {
    for trained in model.adapters.iter() {
        let key = trained.module.peft_tensor(trained.layer, 'B');
        let bytes =
            generator::tensor_bytes(definition.seed, &key, trained.b.elem_count(), (0.0, 0.2), DType::F32);
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        trained.b.set(&Tensor::from_vec(values, trained.b.shape(), &Device::Cpu).unwrap()).unwrap();
    }
}

#[test]
fn what_is_computed_again_is_the_same() {
    let goldens = Goldens::read();
    let settings = Hyperparameters { dropout: 0.2, ..goldens.settings("gemma3") };
    let (kept, definition, spec) = model("gemma3", &settings, false);
    let (again, ..) = model("gemma3", &settings, true);
    stir(&kept, &definition);
    stir(&again, &definition);
    let batch = &goldens.batches(&definition, spec.vocab_size, 0)[0];
    let (first, second) = (gradients(&kept, batch), gradients(&again, batch));
    assert_eq!(first, second);
    let plain = Hyperparameters { dropout: 0.0, ..settings };
    let (without, ..) = model("gemma3", &plain, false);
    stir(&without, &definition);
    assert_ne!(gradients(&without, batch).0, first.0, "dropout does nothing");
}

/// It is the adapters' inputs that dropout thins out, and fresh ones add nothing to the base.
#[test]
fn dropout_leaves_the_base_alone() {
    let goldens = Goldens::read();
    let plain = goldens.settings("llama");
    let (without, definition, spec) = model("llama", &plain, false);
    let (with, ..) = model("llama", &Hyperparameters { dropout: 0.5, ..plain }, false);
    let batch = &goldens.batches(&definition, spec.vocab_size, 0)[0];
    assert_eq!(gradients(&with, batch).0, gradients(&without, batch).0);
    stir(&without, &definition);
    stir(&with, &definition);
    assert_ne!(gradients(&with, batch).0, gradients(&without, batch).0);
}

#[test]
fn a_batch_is_its_examples_one_by_one() {
    let goldens = Goldens::read();
    let settings = goldens.settings("mistral");
    let (model, definition, spec) = model("mistral", &settings, false);
    stir(&model, &definition);
    let lens = [40usize, 3, 300, 17];
    let examples: Vec<Example> = lens
        .iter()
        .enumerate()
        .map(|(index, len)| Example {
            tokens: definition.prompt(index, *len, spec.vocab_size),
            learned: (0..*len).map(|at| at % 3 != 0).collect(),
        })
        .collect();
    let together = gradients(&model, &Batch::new(&examples));
    let alone: Vec<_> = examples.iter().map(|example| gradients(&model, &Batch::new([example]))).collect();
    let loss: f64 = alone.iter().map(|one| one.0).sum();
    assert!((together.0 / loss - 1.0).abs() < 1e-5, "{} and {loss}", together.0);
    for (index, whole) in together.1.iter().enumerate() {
        let Some(whole) = whole else { continue };
        for (at, value) in whole.iter().enumerate() {
            let sum: f32 = alone.iter().filter_map(|one| Some(one.1[index].as_ref()?[at])).sum();
            assert!((value - sum).abs() < 1e-3 * (1.0 + sum.abs()), "tensor {index}: {value} and {sum}");
        }
    }
}

#[test]
fn a_quantized_base_is_near_and_streamed() {
    let goldens = Goldens::read();
    let settings = goldens.settings("llama");
    let (wide, definition, spec) = model("llama", &settings, false);
    let (narrow, ..) = model("llama", &Hyperparameters { quantized: true, ..settings.clone() }, false);
    let batch = &goldens.batches(&definition, spec.vocab_size, 0)[0];
    let (exact, rough) = (gradients(&wide, batch).0, gradients(&narrow, batch).0);
    assert!(exact != rough && (exact / rough - 1.0).abs() < 0.1, "{exact} and {rough}");
    let checkpoint = RandomCheckpoint::new(&definition).unwrap();
    let streamed = Base::load(&spec, Box::new(checkpoint), false, (&Device::Cpu, 0)).unwrap();
    assert!(streamed.is_streamed());
    let adapters = Adapters::new(&spec, &settings, &Device::Cpu).unwrap();
    let streamed = Model::new(spec, streamed, adapters, &settings, (&Device::Cpu, false));
    for (own, other) in streamed.adapters.named().iter().zip(wide.adapters.named()) {
        own.1.set(other.1).unwrap();
    }
    assert_eq!(gradients(&streamed, batch), gradients(&wide, batch));
}

/// The gradient of the loss along a random direction, by differences.
#[test]
fn gradients_are_slopes() {
    let goldens = Goldens::read();
    let settings = goldens.settings("gemma2");
    let (model, definition, spec) = model("gemma2", &settings, false);
    stir(&model, &definition);
    let batch = &goldens.batches(&definition, spec.vocab_size, 0)[0];
    let (_, slopes) = gradients(&model, batch);
    let step = 2e-3f32;
    for (index, (name, var)) in model.adapters.named().into_iter().enumerate().step_by(7) {
        let slope = slopes[index].clone().unwrap();
        let size = slope.iter().map(|s| s * s).sum::<f32>().sqrt();
        let direction: Vec<f32> = slope.iter().map(|s| s / size).collect();
        let before = var.copy().unwrap();
        let shift = Tensor::from_vec(direction, var.shape(), &Device::Cpu).unwrap();
        let at = |by: f32| {
            var.set(&(&before + shift.affine(f64::from(by), 0.0).unwrap()).unwrap()).unwrap();
            gradients(&model, batch).0
        };
        let slope = 0.5 * (at(step) - at(-step)) / (2.0 * f64::from(step));
        var.set(&before).unwrap();
        assert!((slope / f64::from(size) - 1.0).abs() < 0.05, "{name}: {slope} and {size}");
    }
}
