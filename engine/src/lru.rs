//! The order in which cached blocks are given up.

const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

/// A doubly linked list over the ids `0..capacity`, each in it at most once. All operations take constant time.
#[derive(Debug)]
pub(crate) struct LruList {
    links: Vec<Link>,
    /// The least recently used id.
    head: u32,
    tail: u32,
    len: usize,
}

impl LruList {
    pub fn new(capacity: usize) -> Self {
        Self { links: vec![Link { prev: NIL, next: NIL }; capacity], head: NIL, tail: NIL, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an id that is not in the list as the most recently used one.
    pub fn push(&mut self, id: u32) {
        self.links[id as usize] = Link { prev: self.tail, next: NIL };
        match self.tail {
            NIL => self.head = id,
            tail => self.links[tail as usize].next = id,
        }
        self.tail = id;
        self.len += 1;
    }

    /// Takes out an id that is in the list.
    pub fn remove(&mut self, id: u32) {
        let Link { prev, next } = self.links[id as usize];
        match prev {
            NIL => self.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        self.len -= 1;
    }

    /// Takes out the least recently used id.
    pub fn pop(&mut self) -> Option<u32> {
        let id = self.head;
        if id == NIL {
            return None;
        }
        self.remove(id);
        Some(id)
    }

    /// Least recently used first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let id = at;
            (id != NIL).then(|| {
                at = self.links[id as usize].next;
                id
            })
        })
    }
}
