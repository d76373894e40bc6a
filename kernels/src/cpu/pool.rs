//! The worker pool: one job at a time, cut into chunks. Each participant has a share of them, chunks that follow each other,
//! and takes from the others' shares when its own has run out. So jobs that go over the same rows one after another find
//! them in the cache of the core that wrote them.
//!
//! Which thread computes a chunk never changes its result, so nothing here has to be deterministic. A worker that is
//! still asleep when the chunks run out is not waited for. Idle workers spin for a moment, then sleep.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::DEVICE;
use crate::KernelError;

/// How long a thread spins before it sleeps: longer than the gap between two ops of a step.
const SPIN: Duration = Duration::from_micros(50);

/// What a chunk runs: `(participant, chunk)`; participants count from 0 (the caller).
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a job.
    turn: Mutex<()>,
}

/// `state`: job number in the upper half, then whether the job may be joined, then how many workers are in it.
const OPEN: u64 = 1 << 31;
const ACTIVE: u64 = OPEN - 1;
const EPOCH_SHIFT: u32 = 32;
const EPOCHS: u64 = u32::MAX as u64;

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// One for each participant.
    shares: Box<[Share]>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Threads asleep, or about to be, on either condition below.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    /// A new job, or the end.
    work: Condvar,
    /// The last worker left the job.
    done: Condvar,
}

/// What has been taken of a participant's share: the number of the job in the upper half, that of chunks (or more, once there
/// are none left) in the lower. Whoever comes first in a job sets it; each has cache lines of its own.
#[repr(align(128))]
struct Share(AtomicU64);

#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    chunks: usize,
    epoch: u64,
}

// SAFETY: `job` is written only by the thread that holds `Pool::turn`, and only while no job is open and no worker is
// in one; workers read it only between joining a job and leaving it. `state` orders the two. The pointer in it leads to
// a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` participants, the caller included. Where the system gives fewer threads, it has fewer.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            shares: (0..threads.max(1)).map(|_| Share(AtomicU64::new(0))).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let spawn = |participant| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("kernel-{participant}"));
            builder.spawn(move || shared.serve(participant)).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        Self { shared, workers, turn: Mutex::new(()) }
    }

    /// Participants, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(participant, chunk)` for every chunk in `0..chunks` and returns when all are done. A participant runs
    /// one chunk at a time. A panic in `work` becomes an error.
    pub(crate) fn run(&self, chunks: usize, work: &Work<'_>) -> Result<(), KernelError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        if chunks > 1 && !self.workers.is_empty() {
            // SAFETY: only the lifetime changes; this function returns after the last use of the pointer.
            let work = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
            let epoch = (shared.state.load(Ordering::Relaxed) >> EPOCH_SHIFT).wrapping_add(1) & EPOCHS;
            let job = Job { work, chunks, epoch };
            // SAFETY: the previous job was closed and left by all, and `turn` keeps other callers out.
            unsafe { *shared.job.get() = Some(job) };
            shared.state.store(epoch << EPOCH_SHIFT | OPEN, Ordering::SeqCst);
            shared.wake(&shared.work);
            shared.take_chunks(job, 0);
            shared.state.fetch_and(!OPEN, Ordering::SeqCst);
            shared.sleep_until(&shared.done, || shared.state.load(Ordering::SeqCst) & ACTIVE == 0);
        } else {
            shared.guarded(|| (0..chunks).for_each(|chunk| work(0, chunk)));
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(turn);
        match panicked {
            false => Ok(()),
            true => Err(KernelError::Device { device: DEVICE, message: "a kernel panicked".to_owned() }),
        }
    }

    /// Cuts `data` into rows of `width`, and runs `work(participant, first_row, rows)` for pieces of `grain` rows.
    pub(crate) fn for_rows(
        &self,
        data: &mut [f32],
        width: usize,
        grain: usize,
        work: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Result<(), KernelError> {
        let (grain, width) = (grain.max(1), width.max(1));
        let piece = grain * width;
        let rows = Shards::new(data);
        self.run(rows.len.div_ceil(piece), &|participant, chunk| {
            let start = chunk * piece;
            // SAFETY: each chunk is run once, and no two pieces overlap.
            let rows = unsafe { rows.slice(start, piece.min(rows.len - start)) };
            work(participant, chunk * grain, rows);
        })
    }

    /// Rows per piece, so that a piece is worth handing to another thread and each thread gets a few.
    pub(crate) fn grain(&self, rows: usize, cost_per_row: usize) -> usize {
        /// Elementary steps of about a nanosecond that pay for the hand-over.
        const WORTH: usize = 8192;
        let worth = WORTH.div_ceil(cost_per_row.max(1));
        rows.div_ceil(4 * self.threads()).max(worth)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake(&self.shared.work);
        for worker in self.workers.drain(..) {
            // A worker catches panics of its jobs, so there is nothing to learn from the result.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn serve(&self, participant: usize) {
        let mut seen = 0;
        loop {
            let news = || {
                self.stop.load(Ordering::SeqCst) || self.state.load(Ordering::SeqCst) >> EPOCH_SHIFT != seen
            };
            self.sleep_until(&self.work, news);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let mut state = self.state.load(Ordering::SeqCst);
            seen = state >> EPOCH_SHIFT;
            while state & OPEN != 0 && state >> EPOCH_SHIFT == seen {
                match self.state.compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => {
                        self.join(participant);
                        break;
                    }
                    Err(now) => state = now,
                }
            }
        }
    }

    fn join(&self, participant: usize) {
        // SAFETY: this worker is counted as active, so the caller waits and `job` stays.
        if let Some(job) = unsafe { *self.job.get() } {
            self.take_chunks(job, participant);
        }
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & ACTIVE == 1 && before & OPEN == 0 {
            self.wake(&self.done);
        }
    }

    /// Runs chunks until none is left: of this participant's share first, then of those after it.
    fn take_chunks(&self, job: Job, participant: usize) {
        let shares = self.shares.len();
        self.guarded(|| {
            for owner in (participant..shares).chain(0..participant) {
                while let Some(chunk) = self.take(job, owner) {
                    // SAFETY: `Pool::run` does not return, so the closure lives, while a participant is in the job.
                    unsafe { (*job.work)(participant, chunk) };
                }
            }
        });
    }

    /// The next chunk of a participant's share.
    fn take(&self, job: Job, owner: usize) -> Option<usize> {
        let share = &self.shares.get(owner)?.0;
        let bound = |participant: usize| participant * job.chunks / self.shares.len();
        // Nobody is in an older job any more, so either this one has begun to take from the share or it begins now.
        let seen = share.load(Ordering::Relaxed);
        let first = job.epoch << EPOCH_SHIFT | 1;
        let begun = seen >> EPOCH_SHIFT == job.epoch
            || share.compare_exchange(seen, first, Ordering::Relaxed, Ordering::Relaxed).is_err();
        let taken = if begun { share.fetch_add(1, Ordering::Relaxed) & EPOCHS } else { 0 };
        let chunk = bound(owner) + taken as usize;
        (chunk < bound(owner + 1)).then_some(chunk)
    }

    /// Notes a panic, which must not end a worker.
    fn guarded(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }

    /// Spins, then sleeps on `signal`, until `ready`.
    fn sleep_until(&self, signal: &Condvar, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..32 {
                if ready() {
                    return;
                }
                spin_loop();
            }
        }
        // First counted, then checked: whoever makes `ready` true either sees the count or is seen by the check.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.guard();
        while !ready() {
            guard = signal.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self, signal: &Condvar) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taken so that nobody is between its check and its sleep.
            drop(self.guard());
            signal.notify_all();
        }
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mutable slice that the chunks of a job write in disjoint parts.
pub(crate) struct Shards<'a, T> {
    start: *mut T,
    pub(crate) len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through the unsafe methods below, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// # Safety
    /// `start + len` is at most `self.len`, and nobody else holds an overlapping part.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        debug_assert!(start + len <= self.len);
        // SAFETY: in bounds and exclusive, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// Where an element lies, or would lie.
    pub(crate) fn at(&self, index: usize) -> *const T {
        self.start.wrapping_add(index)
    }

    /// # Safety
    /// `index` is below `self.len`, and nobody else accesses that element.
    pub(crate) unsafe fn write(&self, index: usize, value: T) {
        debug_assert!(index < self.len);
        // SAFETY: in bounds and exclusive, as the caller promises.
        unsafe { self.start.add(index).write(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for chunks in [0, 1, 2, 7, 100, 0, 1000] {
                let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, &|participant, chunk| {
                    assert!(participant < threads);
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    /// Each participant begins with its own share; the chunk that it waits in keeps it from the others'.
    #[test]
    fn shares_stay_with_their_participants() {
        let pool = Pool::new(3);
        for _ in 0..20 {
            let all_began = std::sync::Barrier::new(3);
            pool.run(6, &|participant, chunk| {
                if chunk % 2 == 0 {
                    all_began.wait();
                    assert_eq!(participant, chunk / 2);
                }
            })
            .unwrap();
        }
    }

    /// Many short jobs, with and without time for the workers to fall asleep in between.
    #[test]
    fn jobs_in_a_row() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for job in 0..5000 {
            if job % 100 == 0 {
                std::thread::sleep(4 * SPIN);
            }
            pool.run(5, &|_, chunk| {
                sum.fetch_add(chunk, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(sum.swap(0, Ordering::Relaxed), 10);
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads);
            for guilty in 0..20 {
                let result = pool.run(20, &|_, chunk| assert!(chunk != guilty, "on purpose"));
                assert!(matches!(result, Err(KernelError::Device { device: "cpu", .. })));
            }
            pool.run(20, &|_, _| {}).unwrap();
        }
    }

    #[test]
    fn rows_are_cut_without_gaps() {
        let pool = Pool::new(3);
        for (rows, width, grain) in [(0, 3, 1), (1, 1, 1), (10, 3, 4), (100, 7, 1), (5, 2, 0), (9, 4, 100)] {
            let mut data = vec![0.0; rows * width];
            pool.for_rows(&mut data, width, grain, |_, first, rows| {
                for (i, value) in rows.iter_mut().enumerate() {
                    *value += (first * width + i) as f32 + 1.0;
                }
            })
            .unwrap();
            assert!(data.iter().enumerate().all(|(i, &value)| value == i as f32 + 1.0));
        }
    }

    /// All workers end up asleep (this hangs if one does not).
    #[test]
    fn an_idle_pool_sleeps() {
        let pool = Pool::new(4);
        pool.run(100, &|_, _| {}).unwrap();
        while pool.shared.sleepers.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
    }
}
