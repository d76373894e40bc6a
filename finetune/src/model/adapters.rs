//! What is trained.

use candle_core::{Device, Tensor, Var};
use weirgate_models::{AdapterModule, AdapterSite, ModelSpec, adapter_modules};

use super::ops::LowRank;
use crate::random::{Purpose, Random};
use crate::{FinetuneError, Hyperparameters};

/// PEFT's word for every projection of the layers.
const ALL_LINEAR: &str = "all-linear";

/// The low-rank changes of all layers.
pub struct Adapters {
    pub modules: Vec<AdapterModule>,
    /// By layer, then as `modules`.
    layers: Vec<Vec<Trained>>,
}

/// One module's change in one layer.
#[derive(Debug, Clone)]
pub struct Trained {
    pub layer: usize,
    pub module: AdapterModule,
    /// `[rank, cols]`.
    pub a: Var,
    /// `[rows, rank]`.
    pub b: Var,
}

impl Adapters {
    /// Fresh ones, as PEFT begins: `a` uniform within `±1/√cols`, `b` zero.
    ///
    /// # Errors
    /// Target modules that the model does not have; names those that it has.
    pub fn new(spec: &ModelSpec, settings: &Hyperparameters, device: &Device) -> Result<Self, FinetuneError> {
        let modules = targets(spec, settings.target_modules.as_deref())?;
        let fresh = |layer: usize, index: usize, module: &AdapterModule| -> Result<Trained, FinetuneError> {
            let bound = (1.0 / module.cols as f64).sqrt();
            let mut random =
                Random::new(settings.seed, Purpose::Initialization, &[layer as u64, index as u64]);
            let a: Vec<f32> = (0..settings.rank * module.cols)
                .map(|_| (bound * (2.0 * random.unit() - 1.0)) as f32)
                .collect();
            Ok(Trained {
                layer,
                module: *module,
                a: Var::from_vec(a, (settings.rank, module.cols), device)?,
                b: Var::zeros((module.rows, settings.rank), candle_core::DType::F32, device)?,
            })
        };
        let layers = (0..spec.layers.len())
            .map(|layer| {
                modules.iter().enumerate().map(|(index, module)| fresh(layer, index, module)).collect()
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { modules, layers })
    }

    /// All of them, layer by layer.
    pub fn iter(&self) -> impl Iterator<Item = &Trained> {
        self.layers.iter().flatten()
    }

    /// Those of one layer.
    pub fn layer(&self, layer: usize) -> &[Trained] {
        self.layers.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Every trained tensor, under PEFT's name.
    pub fn named(&self) -> Vec<(String, &Var)> {
        let pair = |trained: &'_ Trained| {
            let name = |side| trained.module.peft_tensor(trained.layer, side);
            (name('A'), name('B'))
        };
        self.iter()
            .flat_map(|trained| {
                let (a, b) = pair(trained);
                [(a, &trained.a), (b, &trained.b)]
            })
            .collect()
    }

    pub fn parameters(&self) -> usize {
        self.iter().map(|trained| trained.a.elem_count() + trained.b.elem_count()).sum()
    }
}

impl Trained {
    /// The change; `tracked` where its gradient is wanted.
    pub fn low_rank(&self, tracked: bool) -> LowRank {
        let tensor = |var: &Var| -> Tensor {
            if tracked { var.as_tensor().clone() } else { var.as_detached_tensor() }
        };
        LowRank { a: tensor(&self.a), b: tensor(&self.b) }
    }
}

fn targets(spec: &ModelSpec, names: Option<&[String]>) -> Result<Vec<AdapterModule>, FinetuneError> {
    let all = adapter_modules(spec);
    let Some(names) = names else {
        let attention =
            |module: &AdapterModule| matches!(module.site, AdapterSite::Qkv | AdapterSite::Output);
        return Ok(all.into_iter().filter(attention).collect());
    };
    if let [one] = names
        && one.eq_ignore_ascii_case(ALL_LINEAR)
    {
        return Ok(all);
    }
    // PEFT's rule: the whole name, or its end after a dot.
    let is = |module: &AdapterModule, name: &str| {
        module.name == name || module.name.strip_suffix(name).is_some_and(|front| front.ends_with('.'))
    };
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|module| is(module, name))) {
        let known: Vec<&str> =
            all.iter().map(|module| module.name.rsplit('.').next().unwrap_or_default()).collect();
        let message = format!(
            "has {unknown:.60}, which the base model does not have; these are: {}, {ALL_LINEAR}",
            known.join(", ")
        );
        return Err(FinetuneError::field("target_modules", message));
    }
    Ok(all.into_iter().filter(|module| names.iter().any(|name| is(module, name))).collect())
}
