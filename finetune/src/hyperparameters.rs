//! What can be set about a training, with its defaults and bounds.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::FinetuneError;

/// Every name that may be given.
const NAMES: [&str; 22] = [
    "rank",
    "alpha",
    "dropout",
    "target_modules",
    "rslora",
    "learning_rate",
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "max_length",
    "packing",
    "seed",
    "quantized",
    "save_steps",
    "gradient_checkpointing",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
];
/// As many as an adapter may have to be served.
const MAX_RANK: usize = 1 << 10;
const MAX_STEPS: usize = 10_000_000;
const MAX_EPOCHS: usize = 10_000;
const MAX_ROWS: usize = 1 << 12;
const MIN_LENGTH: usize = 8;
const MAX_LENGTH: usize = 1 << 20;
/// Of the steps, those of the warm-up where nothing is said; and never more than this.
const WARMUP_SHARE: usize = 10;
const WARMUP_MOST: usize = 50;

/// How to train. `None` where the default follows from the model or from the dataset.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hyperparameters {
    pub rank: usize,
    /// The change is multiplied by `alpha / rank`, or with `rslora` by `alpha / √rank`.
    pub alpha: f64,
    /// Of the adapters' inputs.
    pub dropout: f64,
    /// Ends of module names, or `all-linear`; by default the attention's projections.
    pub target_modules: Option<Vec<String>>,
    pub rslora: bool,
    /// The highest of the schedule: a linear warm-up, then half a cosine down to 0.
    pub learning_rate: f64,
    pub epochs: usize,
    /// Goes before `epochs`.
    pub max_steps: Option<usize>,
    /// Conversations (or packs of them) at a time.
    pub batch_size: usize,
    /// Batches of a step.
    pub gradient_accumulation: usize,
    pub warmup_steps: Option<usize>,
    pub weight_decay: f64,
    /// 0: gradients are not clipped.
    pub max_grad_norm: f64,
    /// Tokens of a conversation, or of a pack.
    pub max_length: usize,
    /// Joins short conversations up to `max_length` tokens. None sees another.
    pub packing: bool,
    pub seed: u64,
    /// Keeps the base in blocks of about 4.5 bits a weight (in a quantized file: as it is) and widens a layer at a time.
    pub quantized: bool,
    /// Steps between checkpoints.
    pub save_steps: Option<usize>,
    /// Computes a layer's activations again rather than keep them; by default where they would take much memory.
    pub gradient_checkpointing: Option<bool>,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 16.0,
            dropout: 0.05,
            target_modules: None,
            rslora: false,
            learning_rate: 3e-4,
            epochs: 5,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation: 1,
            warmup_steps: None,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            max_length: 4096,
            packing: false,
            seed: 42,
            quantized: false,
            save_steps: None,
            gradient_checkpointing: None,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
        }
    }
}

impl Hyperparameters {
    /// Those of a job: an object in which every field may be absent or `null`.
    ///
    /// # Errors
    /// An unknown field, or a value of the wrong type or out of bounds; names field, value and bounds.
    pub fn read(given: &Map<String, Value>) -> Result<Self, FinetuneError> {
        if let Some(unknown) = given.keys().find(|name| !NAMES.contains(&name.as_str())) {
            let message = format!("is no hyper-parameter; these are: {}", NAMES.join(", "));
            return Err(FinetuneError::field(unknown, message));
        }
        let fields = Fields(given);
        let default = Self::default();
        Ok(Self {
            rank: fields.size("rank", 1, MAX_RANK)?.unwrap_or(default.rank),
            alpha: fields.number("alpha", Bounds::open(0.0, 1e6))?.unwrap_or(default.alpha),
            dropout: fields.number("dropout", Bounds::from(0.0, 0.99))?.unwrap_or(default.dropout),
            target_modules: fields.texts("target_modules")?,
            rslora: fields.flag("rslora")?.unwrap_or(default.rslora),
            learning_rate: fields
                .number("learning_rate", Bounds::open(0.0, 1.0))?
                .unwrap_or(default.learning_rate),
            epochs: fields.size("epochs", 1, MAX_EPOCHS)?.unwrap_or(default.epochs),
            max_steps: fields.size("max_steps", 1, MAX_STEPS)?,
            batch_size: fields.size("batch_size", 1, MAX_ROWS)?.unwrap_or(default.batch_size),
            gradient_accumulation: fields
                .size("gradient_accumulation", 1, MAX_ROWS)?
                .unwrap_or(default.gradient_accumulation),
            warmup_steps: fields.size("warmup_steps", 0, MAX_STEPS)?,
            weight_decay: fields
                .number("weight_decay", Bounds::from(0.0, 1.0))?
                .unwrap_or(default.weight_decay),
            max_grad_norm: fields
                .number("max_grad_norm", Bounds::from(0.0, 1e6))?
                .unwrap_or(default.max_grad_norm),
            max_length: fields.size("max_length", MIN_LENGTH, MAX_LENGTH)?.unwrap_or(default.max_length),
            packing: fields.flag("packing")?.unwrap_or(default.packing),
            seed: fields.seed("seed")?.unwrap_or(default.seed),
            quantized: fields.flag("quantized")?.unwrap_or(default.quantized),
            save_steps: fields.size("save_steps", 1, MAX_STEPS)?,
            gradient_checkpointing: fields.flag("gradient_checkpointing")?,
            adam_beta1: fields.number("adam_beta1", Bounds::from(0.0, 0.9999))?.unwrap_or(default.adam_beta1),
            adam_beta2: fields
                .number("adam_beta2", Bounds::from(0.0, 0.999999))?
                .unwrap_or(default.adam_beta2),
            adam_epsilon: fields
                .number("adam_epsilon", Bounds::open(0.0, 1.0))?
                .unwrap_or(default.adam_epsilon),
        })
    }

    /// What an adapter's change is multiplied by.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Steps of the warm-up among `total`.
    ///
    /// # Errors
    /// More than there are steps.
    pub fn warmup(&self, total: usize) -> Result<usize, FinetuneError> {
        match self.warmup_steps {
            Some(steps) if steps > total => Err(FinetuneError::field(
                "warmup_steps",
                format!("is {steps}, more than the {total} steps of the training"),
            )),
            Some(steps) => Ok(steps),
            None => Ok((total / WARMUP_SHARE).min(WARMUP_MOST)),
        }
    }

    /// The rate of step `step` (the first is 0): transformers' `get_cosine_schedule_with_warmup`.
    pub fn rate(&self, step: usize, warmup: usize, total: usize) -> f64 {
        let factor = if step < warmup {
            step as f64 / warmup as f64
        } else {
            let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
            (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
        };
        self.learning_rate * factor
    }
}

/// An interval that a number is in.
struct Bounds {
    least: f64,
    /// Whether `least` itself is in it.
    closed: bool,
    most: f64,
}

impl Bounds {
    fn open(least: f64, most: f64) -> Self {
        Self { least, closed: false, most }
    }

    fn from(least: f64, most: f64) -> Self {
        Self { least, closed: true, most }
    }

    fn contain(&self, value: f64) -> bool {
        value <= self.most && (value > self.least || self.closed && value == self.least)
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn wrong(name: &str, value: &Value, expected: &str) -> FinetuneError {
        let shown: String = value.to_string().chars().take(40).collect();
        FinetuneError::field(name, format!("is {shown}, expected {expected}"))
    }

    fn size(&self, name: &str, least: usize, most: usize) -> Result<Option<usize>, FinetuneError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (least..=most).contains(&size) => Ok(Some(size)),
            _ => Err(Self::wrong(name, value, &format!("an integer from {least} to {most}"))),
        }
    }

    fn seed(&self, name: &str) -> Result<Option<u64>, FinetuneError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let seed = value.as_u64();
        seed.map(Some).ok_or_else(|| Self::wrong(name, value, &format!("an integer from 0 to {}", u64::MAX)))
    }

    fn number(&self, name: &str, bounds: Bounds) -> Result<Option<f64>, FinetuneError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64().filter(|number| bounds.contain(*number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let from = if bounds.closed { "from" } else { "above" };
                let expected = format!("a number {from} {} to {}", bounds.least, bounds.most);
                Err(Self::wrong(name, value, &expected))
            }
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, FinetuneError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| Self::wrong(name, value, "true or false"))
    }

    /// A list of strings, or one with commas.
    fn texts(&self, name: &str) -> Result<Option<Vec<String>>, FinetuneError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let texts: Option<Vec<String>> = match value {
            Value::String(text) => Some(text.split(',').map(|text| text.trim().to_owned()).collect()),
            Value::Array(list) => list.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match texts {
            Some(texts) if !texts.is_empty() => Ok(Some(texts)),
            _ => Err(Self::wrong(name, value, "a list of module names, or all-linear")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Result<Hyperparameters, FinetuneError> {
        Hyperparameters::read(given.as_object().unwrap())
    }

    #[test]
    fn absent_and_null_fields_have_their_defaults() {
        assert_eq!(read(json!({})).unwrap(), Hyperparameters::default());
        assert_eq!(read(json!({"rank": null})).unwrap(), Hyperparameters::default());
        let names: Vec<String> = match serde_json::to_value(Hyperparameters::default()).unwrap() {
            Value::Object(map) => map.keys().cloned().collect(),
            _ => Vec::new(),
        };
        assert_eq!(names, NAMES);
    }

    /// Those of the trainer whose data sets and defaults the management API's vendor took over, but for the batch, which is
    /// what a small machine holds.
    #[test]
    fn defaults_are_those_of_the_vendors_trainer() {
        let own = Hyperparameters::default();
        assert_eq!((own.rank, own.alpha, own.dropout), (16, 16.0, 0.05));
        assert_eq!((own.learning_rate, own.epochs, own.max_length), (3e-4, 5, 4096));
        assert_eq!((own.target_modules.as_deref(), own.quantized, own.packing), (None, false, false));
        assert_eq!((own.max_grad_norm, own.weight_decay), (1.0, 0.0));
        assert_eq!((own.adam_beta1, own.adam_beta2, own.adam_epsilon), (0.9, 0.999, 1e-8));
        for (total, warmup) in [(1, 0), (9, 0), (10, 1), (499, 49), (500, 50), (5000, 50)] {
            assert_eq!(own.warmup(total).unwrap(), warmup, "of {total} steps");
        }
    }

    #[test]
    fn errors_name_field_value_and_limit() {
        for (given, expected) in [
            (json!({"rank": 0}), "`rank` is 0, expected an integer from 1 to 1024"),
            (json!({"rank": "8"}), "`rank` is \"8\", expected an integer from 1 to 1024"),
            (json!({"learning_rate": 0}), "`learning_rate` is 0, expected a number above 0 to 1"),
            (json!({"dropout": 1}), "`dropout` is 1, expected a number from 0 to 0.99"),
            (json!({"packing": "yes"}), "`packing` is \"yes\", expected true or false"),
            (json!({"target_modules": [1]}), "`target_modules` is [1], expected a list of module names"),
            (json!({"seed": -1}), "`seed` is -1, expected an integer from 0 to 18446744073709551615"),
            (json!({"lr": 1}), "`lr` is no hyper-parameter; these are: rank, alpha"),
        ] {
            let error = read(given.clone()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{given}: {error}");
        }
    }

    /// Expected: `get_cosine_schedule_with_warmup(optimizer, 3, 10)` of transformers, a rate of 1.
    #[test]
    fn rates_are_those_of_transformers() {
        let settings = Hyperparameters { learning_rate: 1.0, ..Hyperparameters::default() };
        let expected = [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 0.950484, 0.811745, 0.611260, 0.388740, 0.188255];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((settings.rate(step, 3, 10) - expected).abs() < 1e-6, "{step}");
        }
        let error = Hyperparameters { warmup_steps: Some(11), ..settings }.warmup(10).unwrap_err();
        assert_eq!(error.to_string(), "`warmup_steps` is 11, more than the 10 steps of the training");
    }
}
