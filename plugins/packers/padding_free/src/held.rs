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

    /// Adds samples.
    pub fn extend(&mut self, mut items: &[Item]) {
        while let Some(first) = items.first() {
            let at = self.len % PIECE;
            if at == 0 {
                self.ids.push(Ids::From(first.id));
                self.lengths.push(Vec::with_capacity(PIECE));
            }
            let (now, later) = items.split_at(items.len().min(PIECE - at));
            if let (Some(ids), Some(lengths)) = (self.ids.last_mut(), self.lengths.last_mut()) {
                if let Ids::From(id) = *ids {
                    // A fold looks at many at once; a search would stop at the first.
                    let next = (0..).map(|i| id.wrapping_add(at as u64).wrapping_add(i));
                    let follow = now.iter().zip(next).fold(true, |all, (item, next)| all & (item.id == next));
                    if !follow {
                        let mut listed = Vec::with_capacity(PIECE);
                        listed.extend((0..at as u64).map(|i| id.wrapping_add(i)));
                        *ids = Ids::Listed(listed);
                    }
                }
                if let Ids::Listed(listed) = ids {
                    listed.extend(now.iter().map(|item| item.id));
                }
                lengths.extend(now.iter().map(|item| item.length));
                self.len += now.len();
            }
            items = later;
        }
    }

    /// The lengths, in order, in pieces.
    pub fn lengths(&self) -> impl Iterator<Item = &[u32]> {
        self.lengths.iter().map(Vec::as_slice)
    }

    /// Calls `listed` or, where ids follow each other, `run` with the first of them, for each piece and its lengths.
    pub fn pieces<T>(&self, to: &mut T, run: impl Fn(&mut T, u64, &[u32]), listed: impl Fn(&mut T, &[u64], &[u32])) {
        for (ids, lengths) in self.ids.iter().zip(&self.lengths) {
            match ids {
                Ids::From(first) => run(to, *first, lengths),
                Ids::Listed(ids) => listed(to, ids, lengths),
            }
        }
    }

    /// The samples, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item> {
        (0..self.len).map(|index| {
            let (piece, at) = (index / PIECE, index % PIECE);
            let id = match &self.ids[piece] {
                Ids::From(first) => first.wrapping_add(at as u64),
                Ids::Listed(ids) => ids[at],
            };
            Item { id, length: self.lengths[piece][at], patches: 0 }
        })
    }
}

impl FromIterator<Item> for Held {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut held = Self::default();
        items.into_iter().for_each(|item| held.extend(&[item]));
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
                    held.extend(&[item]);
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
                items.chunks(1000).for_each(|items| held.extend(items));
                assert_eq!((held.len(), held.ids.len()), (count, count.div_ceil(PIECE)));
                let lengths = held.lengths().flatten().copied();
                assert!(held.items().eq(items.iter().copied()) && lengths.eq(items.iter().map(|item| item.length)));
                let mut pieces = Vec::new();
                let run = |to: &mut Vec<(u64, u32)>, first: u64, lengths: &[u32]| {
                    to.extend(lengths.iter().zip(0..).map(|(length, i)| (first.wrapping_add(i), *length)));
                };
                let in_list = |to: &mut Vec<(u64, u32)>, ids: &[u64], lengths: &[u32]| {
                    to.extend(ids.iter().copied().zip(lengths.iter().copied()));
                };
                held.pieces(&mut pieces, run, in_list);
                assert!(pieces.into_iter().eq(items.iter().map(|item| (item.id, item.length))));
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
