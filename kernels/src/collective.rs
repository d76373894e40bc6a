//! What the shards of a model do together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::KernelError;

/// A member of a group that adds up vectors. All members take part in every sum, in the same order, with as many values.
pub trait AllReduce: Send {
    /// Replaces `values` by their sums over all members: the same for each, and the same each time, as members are added
    /// in their order. Waits for the others.
    ///
    /// # Errors
    /// When a member has left.
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError>;
    /// This member will not come again: the others get an error instead of waiting.
    fn leave(&mut self);
}

/// A member of a group of threads of this process.
pub struct LocalMember {
    group: Arc<Group>,
    index: usize,
}

struct Group {
    members: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Of the sum at hand.
struct State {
    parts: Vec<Vec<f32>>,
    total: Vec<f32>,
    /// Members that have brought their part, and that have taken the total.
    brought: usize,
    taken: usize,
    left: bool,
}

/// A group of `count` members.
pub fn local_group(count: usize) -> Vec<LocalMember> {
    let state =
        State { parts: vec![Vec::new(); count], total: Vec::new(), brought: 0, taken: 0, left: false };
    let group = Arc::new(Group { members: count, state: Mutex::new(state), changed: Condvar::new() });
    (0..count).map(|index| LocalMember { group: Arc::clone(&group), index }).collect()
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready`; an error if somebody has left before.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        ready: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>, KernelError> {
        let waiting = self.changed.wait_while(state, |state| !ready(state) && !state.left);
        let state = waiting.unwrap_or_else(PoisonError::into_inner);
        if !ready(&state) {
            return Err(KernelError::Device { device: "shards", message: "a shard has failed".into() });
        }
        Ok(state)
    }
}

impl State {
    fn add_up(&mut self) {
        let Self { parts, total, .. } = self;
        total.clear();
        for part in parts {
            if total.is_empty() {
                total.extend_from_slice(part);
            } else {
                total.iter_mut().zip(&*part).for_each(|(total, value)| *total += value);
            }
        }
    }
}

impl AllReduce for LocalMember {
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError> {
        let Group { members, .. } = *self.group;
        // Those who are slow may still be taking the last total.
        let mut state = self.group.wait(self.group.lock(), |state| state.brought < members)?;
        if let Some(part) = state.parts.get_mut(self.index) {
            part.clear();
            part.extend_from_slice(values);
        }
        state.brought += 1;
        if state.brought == members {
            state.add_up();
            self.group.changed.notify_all();
        }
        let mut state = self.group.wait(state, |state| state.brought == members)?;
        if state.total.len() != values.len() {
            let (got, expected) = (values.len(), state.total.len());
            return Err(KernelError::Shape { op: "all_reduce", what: "values", got, expected });
        }
        values.copy_from_slice(&state.total);
        state.taken += 1;
        if state.taken == members {
            (state.brought, state.taken) = (0, 0);
            self.group.changed.notify_all();
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.group.lock().left = true;
        self.group.changed.notify_all();
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn every_member_gets_the_same_sum_each_time() {
        const ROUNDS: usize = 300;
        let members = local_group(4);
        let results: Vec<Vec<f32>> = thread::scope(|scope| {
            let threads: Vec<_> = members
                .into_iter()
                .enumerate()
                .map(|(index, mut member)| {
                    scope.spawn(move || {
                        let mut all = Vec::new();
                        for round in 0..ROUNDS {
                            let mut values = vec![(index + 1) as f32 * 0.1; round % 3 + 1];
                            values[0] += round as f32;
                            member.sum(&mut values).unwrap();
                            all.push(values[0]);
                        }
                        all
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        for (round, sum) in results[0].iter().enumerate() {
            assert!((sum - (4 * round) as f32 - 1.0).abs() < 1e-3, "round {round}: {sum}");
        }
    }

    #[test]
    fn nobody_waits_for_a_member_that_has_left() {
        let mut members = local_group(3);
        let last = members.pop();
        thread::scope(|scope| {
            for mut member in members {
                scope.spawn(move || {
                    let message = member.sum(&mut [1.0]).unwrap_err().to_string();
                    assert!(message.contains("a shard has failed"), "{message}");
                });
            }
            drop(last);
        });
    }
}
