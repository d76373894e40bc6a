//! When requests must have ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use weirgate_types::RequestId;

/// So many deadlines of ended requests are kept, besides as many as there are live ones.
const MANY: usize = 1024;

/// The deadlines of live requests, and some of requests that have ended before theirs.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    earliest: BinaryHeap<Reverse<(Instant, RequestId)>>,
}

impl Deadlines {
    /// Notes a deadline while `live` requests are live. Those of ended requests may be far off, so they are dropped when
    /// there are many.
    pub fn add(
        &mut self,
        deadline: Instant,
        id: RequestId,
        live: usize,
        is_live: impl Fn(RequestId) -> bool,
    ) {
        if self.earliest.len() >= 2 * live + MANY {
            self.earliest.retain(|Reverse((_, id))| is_live(*id));
        }
        self.earliest.push(Reverse((deadline, id)));
    }

    pub fn is_empty(&self) -> bool {
        self.earliest.is_empty()
    }

    /// Takes out a request whose deadline has passed at `now`, if there is one, the earliest first.
    pub fn expired(&mut self, now: Instant) -> Option<RequestId> {
        match self.earliest.peek() {
            Some(Reverse((deadline, _))) if *deadline <= now => {
                self.earliest.pop().map(|Reverse((_, id))| id)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_comes_first_and_only_when_it_has_passed() {
        let now = Instant::now();
        let mut deadlines = Deadlines::default();
        for (id, seconds) in [(0, 30), (1, 10), (2, 20)] {
            deadlines.add(now + Duration::from_secs(seconds), RequestId(id), 3, |_| true);
        }
        assert_eq!(deadlines.expired(now), None);
        let later = now + Duration::from_secs(20);
        assert_eq!(deadlines.expired(later), Some(RequestId(1)));
        assert_eq!(deadlines.expired(later), Some(RequestId(2)));
        assert_eq!(deadlines.expired(later), None);
        assert!(!deadlines.is_empty());
    }

    #[test]
    fn those_of_ended_requests_do_not_pile_up() {
        let far = Instant::now() + Duration::from_secs(86_400);
        let mut deadlines = Deadlines::default();
        // One request in a thousand stays; all others end at once.
        for id in 0..100_000 {
            let live = id as usize / 1000 + 1;
            deadlines.add(far, RequestId(id), live, |id| id.0.is_multiple_of(1000));
            assert!(deadlines.earliest.len() <= 2 * live + MANY);
        }
        let mut kept: Vec<u64> = std::iter::from_fn(|| deadlines.expired(far)).map(|id| id.0).collect();
        kept.retain(|id| id.is_multiple_of(1000));
        assert_eq!(kept, (0..100).map(|id| id * 1000).collect::<Vec<_>>());
    }
}
