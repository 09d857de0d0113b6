//! Samples that are held back in order of arrival: ids and lengths in, the same out, in 4 bytes each where ids follow each
//! other, else in 12.
//!
//! They are kept in pieces of fixed size. A list that doubles would need three times its size at that moment, and WebAssembly
//! memory never shrinks.

use std::rc::Rc;

use ovhost_sdk::prelude::*;
use ovhost_sdk::serde::de::{SeqAccess, Visitor};
use ovhost_sdk::serde::ser::SerializeSeq;
use ovhost_sdk::serde::{Deserializer, Serializer};

/// Samples in a piece.
const PIECE: usize = 1 << 14;

/// Ids of a piece.
#[derive(Clone, Debug)]
enum Ids {
    /// This one and those after it.
    From(u64),
    Listed(Vec<u64>),
}

/// Samples in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Held {
    ids: Vec<Ids>,
    lengths: Vec<Vec<u32>>,
    len: usize,
}

impl Held {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds samples; gives those to `too_long` that are longer than `longest`.
    pub fn extend(&mut self, mut items: &[Item], longest: u32, too_long: &mut impl FnMut(u64)) {
        while let Some(first) = items.first() {
            let at = self.len % PIECE;
            if at == 0 {
                self.ids.push(Ids::From(first.id));
                self.lengths.push(Vec::with_capacity(PIECE));
            }
            let now;
            (now, items) = items.split_at(items.len().min(PIECE - at));
            let (Some(ids), Some(lengths)) = (self.ids.last_mut(), self.lengths.last_mut()) else { return };
            // One loop that finds out whether the ids follow each other and all are short enough: nearly always.
            let next = if let Ids::From(id) = *ids { id.wrapping_add(at as u64) } else { 0 };
            let (mut follow, mut most) = (true, 0);
            lengths.extend(now.iter().zip(0..).map(|(item, i)| {
                follow &= item.id == next.wrapping_add(i);
                most = most.max(item.length);
                item.length
            }));
            if most > longest {
                lengths.truncate(at);
                if at == 0 {
                    self.ids.pop();
                    self.lengths.pop();
                }
                for part in now.split_inclusive(|item| item.length > longest) {
                    match part.split_last() {
                        Some((last, part)) if last.length > longest => {
                            self.extend(part, longest, too_long);
                            too_long(last.id);
                        }
                        _ => self.extend(part, longest, too_long),
                    }
                }
                continue;
            }
            if let Ids::From(id) = *ids
                && !follow
            {
                let mut listed = Vec::with_capacity(PIECE);
                listed.extend((0..at as u64).map(|i| id.wrapping_add(i)));
                *ids = Ids::Listed(listed);
            }
            if let Ids::Listed(listed) = ids {
                listed.extend(now.iter().map(|item| item.id));
            }
            self.len += now.len();
        }
    }

    /// The lengths, in order, in pieces.
    pub fn lengths(&self) -> impl Iterator<Item = &[u32]> {
        self.lengths.iter().map(Vec::as_slice)
    }

    /// The same, to write something else in their place. What [`Self::items`] gives as lengths is then that.
    pub fn lengths_mut(&mut self) -> impl Iterator<Item = &mut [u32]> {
        self.lengths.iter_mut().map(Vec::as_mut_slice)
    }

    /// Adds the ids of samples, by their numbers of arrival.
    pub fn ids_of(&self, numbers: &[u32], ids: &mut Vec<u64>) {
        let Some(Ids::From(first)) = self.ids.first() else {
            return ids.extend(numbers.iter().map(|number| self.id(*number as usize)));
        };
        let mut pieces = self.ids.iter().zip((0..).step_by(PIECE));
        let follows = |(piece, at): (&Ids, u64)| matches!(piece, Ids::From(id) if *id == first.wrapping_add(at));
        if pieces.all(follows) {
            ids.extend(numbers.iter().map(|number| first.wrapping_add(u64::from(*number))));
        } else {
            ids.extend(numbers.iter().map(|number| self.id(*number as usize)));
        }
    }

    #[inline(always)]
    fn id(&self, number: usize) -> u64 {
        let (piece, at) = (number / PIECE, number % PIECE);
        match &self.ids[piece] {
            Ids::From(first) => first.wrapping_add(at as u64),
            Ids::Listed(ids) => ids[at],
        }
    }

    /// The samples, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item> {
        (0..self.len).map(|number| {
            let length = self.lengths[number / PIECE][number % PIECE];
            Item { id: self.id(number), length, patches: 0 }
        })
    }
}

impl FromIterator<Item> for Held {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut held = Self::default();
        items.into_iter().for_each(|item| held.extend(&[item], u32::MAX, &mut |_| ()));
        held
    }
}

/// Samples on their way into saved bytes and back: a list of [`Item`]s to serde. Shared, as a second copy of a whole set is
/// memory that a checkpoint may not have.
#[derive(Clone, Debug, Default)]
pub struct Saved(pub Rc<Held>);

impl Serialize for Saved {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.0.len()))?;
        self.0.items().try_for_each(|item| list.serialize_element(&item))?;
        list.end()
    }
}

impl<'de> Deserialize<'de> for Saved {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Held;

            fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.write_str("a list of samples")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Held, A::Error> {
                let mut held = Held::default();
                while let Some(item) = list.next_element()? {
                    held.extend(&[item], u32::MAX, &mut |_| ());
                }
                Ok(held)
            }
        }
        Ok(Self(Rc::new(from.deserialize_seq(List)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids, and whether those of each piece are listed.
    type Kind<'a> = (&'a dyn Fn(usize) -> u64, [bool; 3]);

    #[test]
    fn samples_come_back_across_pieces() {
        let leaping = |i: usize| 7 * i as u64;
        let in_a_row = |i: usize| (i as u64).wrapping_sub(20_000);
        let now_and_then = |i: usize| i as u64 + u64::from(i > PIECE + 5);
        let kinds: [Kind<'_>; 3] =
            [(&leaping, [true; 3]), (&in_a_row, [false; 3]), (&now_and_then, [false, true, false])];
        for count in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 3] {
            for (id, listed) in kinds {
                let items: Vec<Item> =
                    (0..count).map(|i| Item { id: id(i), length: i as u32 % 9, patches: 0 }).collect();
                let mut held = Held::default();
                let mut too_long = Vec::new();
                for items in items.chunks(1000) {
                    // Among samples that are too long, which leave no trace.
                    let mut items = items.to_vec();
                    for at in [items.len(), items.len() / 2, 0].into_iter().take(count % 3) {
                        items.insert(at, Item { id: 5, length: 10, patches: 0 });
                    }
                    held.extend(&items, 9, &mut |id| too_long.push(id));
                }
                assert!(too_long.iter().all(|id| *id == 5) && too_long.is_empty() == (count % 3 == 0 || count == 0));
                assert_eq!((held.len(), held.ids.len()), (count, count.div_ceil(PIECE)));
                let lengths = held.lengths().flatten().copied();
                assert!(held.items().eq(items.iter().copied()) && lengths.eq(items.iter().map(|item| item.length)));
                let (backwards, mut ids) = ((0..count as u32).rev().collect::<Vec<_>>(), Vec::new());
                held.ids_of(&backwards, &mut ids);
                assert!(ids.into_iter().eq(items.iter().rev().map(|item| item.id)));
                // No piece grows, and ids are listed where they must be: what a sample takes is known.
                assert!(held.lengths.iter().all(|piece| piece.capacity() == PIECE));
                for (ids, listed) in held.ids.iter().zip(listed) {
                    let capacity = if let Ids::Listed(ids) = ids { ids.capacity() } else { 0 };
                    assert_eq!(capacity, if listed && count > 1 { PIECE } else { 0 });
                }
                let bytes = state::encode("x", &Saved(Rc::new(held)));
                assert_eq!(bytes, state::encode("x", &items));
                assert!(state::decode::<Saved>("x", &bytes).unwrap().0.items().eq(items));
            }
        }
    }
}
