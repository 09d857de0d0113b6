//! Numbering: equal things get equal numbers, from 0 in order of first sight. A hash table that is emptied, not freed.

/// Numbers for things that somebody else holds: the table knows only hashes and indices.
#[derive(Default)]
pub(crate) struct Table {
    /// Index of a thing plus 1; 0 is a free place. A power of two of places, at most half of them taken.
    slots: Vec<u32>,
    /// By number: the index of the first thing that has it.
    firsts: Vec<u32>,
}

impl Table {
    /// Forgets everything and makes room for `things`.
    pub(crate) fn clear(&mut self, things: usize) {
        let places = (things * 2).next_power_of_two().max(16);
        self.slots.clear();
        self.slots.resize(places, 0);
        self.firsts.clear();
    }

    /// Number of the thing `index` with `hash`, of which the low bits count; `same` says whether an earlier thing (by its index) equals it.
    #[inline]
    pub(crate) fn number(&mut self, index: usize, hash: u64, mut same: impl FnMut(usize) -> bool) -> u32 {
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            match self.slots[place] {
                0 => {
                    let number = self.firsts.len() as u32;
                    self.firsts.push(index as u32);
                    self.slots[place] = number + 1;
                    return number;
                }
                taken if same(self.firsts[taken as usize - 1] as usize) => return taken - 1,
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// How many different things there are.
    pub(crate) fn distinct(&self) -> usize {
        self.firsts.len()
    }
}
