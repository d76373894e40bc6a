//! A training's state on disk: each checkpoint a folder that appears whole. What is drawn at random is a function of seed and
//! step (see [`crate::random`]), so the step is all there is to say of it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var};
use serde::{Deserialize, Serialize};

use crate::model::Adapters;
use crate::optimizer::AdamW;
use crate::{FinetuneError, Hyperparameters, peft};

const PREFIX: &str = "step-";
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const LOCK: &str = "lock";
/// The newest ones stay.
const KEPT: usize = 2;
/// How long a worker that was asked to stop may take to let go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps taken.
    pub step: usize,
    /// The loss of each.
    pub losses: Vec<f64>,
    /// What was trained on what: only the same may go on from here.
    pub fingerprint: String,
}

/// A job's folder of checkpoints, which no other worker has at the same time.
pub struct Checkpoints {
    folder: PathBuf,
    _lock: File,
}

impl Checkpoints {
    /// # Errors
    /// A folder that cannot be made, or that another worker does not let go of.
    pub fn open(folder: &Path) -> Result<Self, FinetuneError> {
        let error = |error: std::io::Error| FinetuneError::file(folder, error);
        fs::create_dir_all(folder).map_err(error)?;
        let lock = File::create(folder.join(LOCK)).map_err(error)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { folder: folder.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(FinetuneError::file(folder, "is in use by another training"));
                }
                Err(TryLockError::Error(reason)) => return Err(error(reason)),
            }
        }
    }

    /// The checkpoints, newest last, and what was left of broken ones.
    fn list(&self) -> Result<Vec<(usize, PathBuf)>, FinetuneError> {
        let error = |error: std::io::Error| FinetuneError::file(&self.folder, error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes what an earlier training left here.
    ///
    /// # Errors
    /// Those of removing.
    pub fn clear(&self) -> Result<(), FinetuneError> {
        for (_, path) in self.list()? {
            fs::remove_dir_all(&path).map_err(|error| FinetuneError::file(&path, error))?;
        }
        Ok(())
    }

    /// Writes a checkpoint and removes all but the newest.
    ///
    /// # Errors
    /// Those of writing; the checkpoints before it are still there then.
    pub fn save(
        &self,
        state: &State,
        adapters: &Adapters,
        optimizer: &AdamW,
        (settings, base): (&Hyperparameters, &str),
    ) -> Result<PathBuf, FinetuneError> {
        let path = self.folder.join(format!("{PREFIX}{:08}", state.step));
        let partial = self.folder.join(".partial");
        let error = |error: std::io::Error| FinetuneError::file(&path, error);
        for old in [&partial, &path] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(error)?;
            }
        }
        fs::create_dir(&partial).map_err(error)?;
        peft::write(&partial, adapters, settings, base)?;
        let moments = adapters.named().into_iter().zip(&optimizer.moments);
        let tensors = moments.flat_map(|((name, _), moments)| {
            [(first(&name), moments.first.clone()), (second(&name), moments.second.clone())]
        });
        peft::write_tensors(&partial.join(OPTIMIZER), tensors)?;
        let text = serde_json::to_vec(state).map_err(std::io::Error::from)?;
        peft::write_file(&partial.join(STATE), &text)?;
        fs::rename(&partial, &path).map_err(error)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(error)?;
        let old = self.list()?;
        for (_, path) in old.iter().rev().skip(KEPT) {
            fs::remove_dir_all(path).map_err(|error| FinetuneError::file(path, error))?;
        }
        Ok(path)
    }

    /// Puts everything back as it was at the newest checkpoint; `None` if there is none.
    ///
    /// # Errors
    /// A checkpoint of another training, or one that cannot be read.
    pub fn resume(
        &self,
        fingerprint: &str,
        adapters: &Adapters,
        optimizer: &mut AdamW,
        device: &Device,
    ) -> Result<Option<State>, FinetuneError> {
        let Some((_, path)) = self.list()?.pop() else { return Ok(None) };
        let file = path.join(STATE);
        let text = fs::read(&file).map_err(|error| FinetuneError::file(&file, error))?;
        let state: State =
            serde_json::from_slice(&text).map_err(|error| FinetuneError::file(&file, error))?;
        if state.fingerprint != fingerprint {
            let message = "is of another training: the base model, the dataset or a hyper-parameter differs";
            return Err(FinetuneError::file(&path, message));
        }
        let trained = adapters.named();
        let file = path.join(peft::TENSORS);
        peft::assign(&file, peft::read_tensors(&file, device)?, &trained)?;
        let file = path.join(OPTIMIZER);
        let mut stored = peft::read_tensors(&file, device)?;
        let mut take = |name: String, like: &Var| -> Result<Tensor, FinetuneError> {
            let found = stored.remove(&name).filter(|tensor| tensor.dims() == like.dims());
            found.ok_or_else(|| FinetuneError::file(&file, format!("has no usable tensor '{name}'")))
        };
        for ((name, var), moments) in trained.iter().zip(&mut optimizer.moments) {
            moments.first = take(first(name), var)?;
            moments.second = take(second(name), var)?;
        }
        Ok(Some(state))
    }
}

fn first(name: &str) -> String {
    format!("first.{name}")
}

fn second(name: &str) -> String {
    format!("second.{name}")
}
