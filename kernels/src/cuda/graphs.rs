//! Steps of few tokens, as decoding makes them: launched op by op the first time, recorded as a graph the second, and from
//! then on done again by one call, since what differs between them lies in device memory (the step's inputs, the cache).
//!
//! Steps are alike that have as many tokens, whose attention takes as many splits, and that have adapters or have none. So that
//! few graphs do for all, the caller pads steps to certain sizes ([`Graphs::padded_rows`]), and splits come in powers of two.

use std::collections::HashMap;

use super::attention::split_count;
use super::gpu::Gpu;
use super::step::{CudaStep, MANY, Part};
use super::{CudaBackend, Result};
use crate::{KernelError, KvShape};

/// Most kinds of steps that are kept; then recording starts over.
const MOST: usize = 256;

/// What steps have in common that are launched alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    /// Where the inputs lie.
    inputs: u64,
    tokens: usize,
    splits: usize,
    /// Whichever they are: the kernels find each sequence's in memory.
    adapted: bool,
}

enum State<G: Gpu> {
    /// Its kernels are loaded and its work space is there.
    Done,
    Recorded(G::Graph, Needs),
    Refused,
}

/// What was checked as the ops were recorded, to be checked again for the inputs of each replay.
#[derive(Clone, Copy, Default)]
pub(super) struct Needs {
    vocab: Option<usize>,
    cache: Option<KvShape>,
}

impl Needs {
    pub(super) fn ids_below(&mut self, vocab: usize) {
        self.vocab = Some(self.vocab.map_or(vocab, |least| least.min(vocab)));
    }

    pub(super) fn cache(&mut self, shape: KvShape) {
        self.cache = Some(shape);
    }

    fn check<G: Gpu>(&self, step: &CudaStep<G>) -> Result<()> {
        const OP: &str = "replay";
        if let Some(vocab) = self.vocab {
            step.check_ids(OP, vocab)?;
        }
        if let Some(shape) = &self.cache {
            step.check_slots(OP, shape)?;
            step.check_tables(OP, shape)?;
        }
        Ok(())
    }
}

/// What was recorded, by kind of step.
pub(super) struct Graphs<G: Gpu> {
    /// Tokens of the steps that are recorded, ascending.
    sizes: Vec<usize>,
    known: HashMap<Kind, State<G>>,
    /// Of the step that is being recorded.
    needs: Option<Needs>,
    refusal: Option<KernelError>,
}

impl<G: Gpu> Default for Graphs<G> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl<G: Gpu> Graphs<G> {
    pub(super) fn new(sizes: &[usize]) -> Self {
        let mut sizes: Vec<usize> = sizes.iter().copied().filter(|&size| size > 0).collect();
        sizes.sort_unstable();
        sizes.dedup();
        Self { sizes, known: HashMap::new(), needs: None, refusal: None }
    }

    pub(super) fn padded_rows(&self, cu_q: &[u32]) -> usize {
        let tokens = cu_q.last().map_or(0, |&tokens| tokens as usize);
        let short = |&[from, to]: &[u32; 2]| (to.saturating_sub(from) as usize) < MANY;
        if tokens == 0 || !cu_q.array_windows().all(short) {
            return tokens;
        }
        self.sizes.iter().copied().find(|&size| size >= tokens).unwrap_or(tokens)
    }

    pub(super) fn most_padding(&self) -> usize {
        let before = std::iter::once(0).chain(self.sizes.iter().copied());
        before.zip(&self.sizes).map(|(before, size)| size - before - 1).max().unwrap_or(0)
    }

    /// See [`crate::Backend::is_stale`].
    pub(super) fn is_stale(&self, gpu: &G, step: &CudaStep<G>) -> bool {
        let state = self.kind(step).and_then(|kind| self.known.get(&kind));
        matches!(state, Some(State::Recorded(graph, _)) if !gpu.is_replayable(graph))
    }

    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// What adapters there are has changed, and with them what their kernels are launched with.
    pub(super) fn forget_adapted(&mut self) {
        self.known.retain(|kind, _| !kind.adapted);
    }

    pub(super) fn refusal(&self) -> Option<&KernelError> {
        self.refusal.as_ref()
    }

    /// Tells what an op needs, if a step is being recorded.
    pub(super) fn needs(&mut self, tell: impl FnOnce(&mut Needs)) {
        if let Some(needs) = &mut self.needs {
            tell(needs);
        }
    }

    /// `None`: a step that is not recorded.
    fn kind(&self, step: &CudaStep<G>) -> Option<Kind> {
        let short = step.few() == step.tokens;
        (short && self.sizes.binary_search(&step.tokens).is_ok()).then(|| Kind {
            inputs: step.address(Part::Ids),
            tokens: step.tokens,
            splits: split_count(step.longest),
            adapted: step.has_adapters(),
        })
    }

    fn remember(&mut self, kind: Kind, state: State<G>) {
        if self.known.len() >= MOST && !self.known.contains_key(&kind) {
            self.known.clear();
        }
        self.known.insert(kind, state);
    }
}

/// See [`crate::Backend::repeated`].
pub(super) fn repeated<G: Gpu, E: From<KernelError>>(
    backend: &mut CudaBackend<G>,
    step: &CudaStep<G>,
    mut work: impl FnMut(&mut CudaBackend<G>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let Some(kind) = backend.graphs.kind(step) else { return work(backend) };
    match backend.graphs.known.get(&kind) {
        None => {
            work(backend)?;
            backend.graphs.remember(kind, State::Done);
            return Ok(());
        }
        Some(State::Refused) => return work(backend),
        Some(State::Recorded(graph, needs)) => {
            needs.check(step)?;
            if backend.gpu.replay(graph)? {
                return Ok(());
            }
        }
        Some(State::Done) => {}
    }
    match record(backend, &mut work) {
        Ok((graph, needs)) => {
            let done = backend.gpu.replay(&graph)?;
            backend.graphs.remember(kind, State::Recorded(graph, needs));
            if done { Ok(()) } else { work(backend) }
        }
        Err(refusal) => {
            backend.graphs.refusal = Some(refusal);
            backend.graphs.remember(kind, State::Refused);
            work(backend)
        }
    }
}

/// Has the work recorded, which is not done thereby.
fn record<G: Gpu, E>(
    backend: &mut CudaBackend<G>,
    work: &mut impl FnMut(&mut CudaBackend<G>) -> std::result::Result<(), E>,
) -> Result<(G::Graph, Needs)> {
    backend.gpu.begin_capture()?;
    backend.graphs.needs = Some(Needs::default());
    let worked = work(backend);
    let graph = backend.gpu.end_capture();
    let needs = backend.graphs.needs.take().unwrap_or_default();
    let refused = || KernelError::Device { device: "cuda", message: "a step cannot be recorded".to_owned() };
    match worked {
        Ok(()) => Ok((graph?, needs)),
        Err(_) => Err(graph.err().unwrap_or_else(refused)),
    }
}
