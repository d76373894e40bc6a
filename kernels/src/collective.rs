//! What the shards of a model do together.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use crate::KernelError;

/// A member of a group that adds up vectors. All members take part in every sum, in the same order, with as many values.
pub trait AllReduce: Send {
    /// Replaces `values` by their sums over all members: the same for each, and the same each time, as members are added
    /// in their order. Waits for the others.
    ///
    /// # Errors
    /// [`KernelError::Left`] when a member has left.
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError>;
    /// The sums of what lies in the memory of the members' devices, where the group makes them without the host.
    fn on_devices(&mut self) -> Option<&mut dyn DeviceSums> {
        None
    }
    /// This member will not come again: the others get an error instead of waiting.
    fn leave(&mut self);
}

/// Sums that devices make among themselves.
#[allow(unsafe_code)]
pub trait DeviceSums {
    /// Replaces the `len` f32 from `address` on, in the memory of this member's device, by their sums over all members:
    /// the same for each. Happens in the order of the device's stream, where it waits for the others, and after this
    /// returns; where the stream is being recorded, it is recorded.
    ///
    /// # Errors
    /// [`KernelError::Left`] when a member has left; what the device says.
    ///
    /// # Safety
    /// The memory lives until the sum was made, and nothing outside of the stream uses it.
    unsafe fn sum(&mut self, address: u64, len: usize) -> Result<(), KernelError>;
}

/// A member of a group of threads of this process.
pub struct LocalMember {
    group: Arc<Group>,
    index: usize,
    /// How many sums it has taken part in.
    sums: usize,
}

/// Members write their parts side by side, wait for each other once, and read all parts side by side. Sums take two places
/// in turn: when all have come to one sum, all have done reading for the one before, whose place is the next one's.
struct Group {
    places: [Vec<RwLock<Vec<f32>>>; 2],
    arrivals: Mutex<Arrivals>,
    changed: Condvar,
}

#[derive(Default)]
struct Arrivals {
    /// Members that have brought their part of the sum at hand.
    brought: usize,
    /// Sums that all have come to.
    complete: usize,
    left: bool,
}

/// A group of `count` members.
pub fn local_group(count: usize) -> Vec<LocalMember> {
    let place = || (0..count).map(|_| RwLock::default()).collect();
    let group = Group { places: [place(), place()], arrivals: Mutex::default(), changed: Condvar::new() };
    let group = Arc::new(group);
    (0..count).map(|index| LocalMember { group: Arc::clone(&group), index, sums: 0 }).collect()
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all have come to sum number `sum`.
    fn meet(&self, sum: usize, members: usize) -> Result<(), KernelError> {
        let mut arrivals = self.lock();
        if arrivals.left {
            return Err(KernelError::Left);
        }
        arrivals.brought += 1;
        if arrivals.brought == members {
            arrivals.brought = 0;
            arrivals.complete += 1;
            self.changed.notify_all();
        }
        let waiting = |arrivals: &mut Arrivals| arrivals.complete <= sum && !arrivals.left;
        let arrivals = self.changed.wait_while(arrivals, waiting).unwrap_or_else(PoisonError::into_inner);
        if arrivals.complete <= sum { Err(KernelError::Left) } else { Ok(()) }
    }
}

impl AllReduce for LocalMember {
    fn sum(&mut self, values: &mut [f32]) -> Result<(), KernelError> {
        let place = &self.group.places[self.sums % 2];
        if let Some(own) = place.get(self.index) {
            let mut own = own.write().unwrap_or_else(PoisonError::into_inner);
            own.clear();
            own.extend_from_slice(values);
        }
        self.group.meet(self.sums, place.len())?;
        self.sums += 1;
        for (index, part) in place.iter().enumerate() {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            if part.len() != values.len() {
                let (got, expected) = (values.len(), part.len());
                return Err(KernelError::Shape { op: "all_reduce", what: "values", got, expected });
            }
            match index {
                0 => values.copy_from_slice(&part),
                _ => values.iter_mut().zip(&*part).for_each(|(sum, value)| *sum += value),
            }
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
                    assert_eq!(member.sum(&mut [1.0]), Err(KernelError::Left));
                });
            }
            drop(last);
        });
    }

    /// The order of the members is the order of addition, which shows where sums round.
    #[test]
    fn members_are_added_in_their_order() {
        let parts = [1.0_f32, 1e8, -1e8, 0.5];
        let expected = ((parts[0] + parts[1]) + parts[2]) + parts[3];
        assert_ne!(expected, ((parts[3] + parts[2]) + parts[1]) + parts[0]);
        thread::scope(|scope| {
            for (mut member, part) in local_group(4).into_iter().zip(parts) {
                scope.spawn(move || {
                    let mut values = [part; 3];
                    member.sum(&mut values).unwrap();
                    assert_eq!(values, [expected; 3]);
                });
            }
        });
    }

    #[test]
    fn members_must_agree_on_the_size() {
        let mut members = local_group(2);
        let (mut one, mut two) = (members.remove(0), members.remove(0));
        thread::scope(|scope| {
            let other = scope.spawn(move || two.sum(&mut [1.0, 2.0]).is_err());
            assert!(one.sum(&mut [1.0]).is_err());
            assert!(other.join().unwrap());
        });
    }
}
