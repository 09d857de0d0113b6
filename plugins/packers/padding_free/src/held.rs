//! Samples that are held back in order of arrival: ids and lengths in, the same out, in 12 bytes each.
//!
//! They are kept in pieces of fixed size. A list that doubles would need three times its size at that moment, and WebAssembly
//! memory never shrinks.

use std::rc::Rc;

use ovhost_sdk::prelude::*;
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserializer, Serializer};

/// Samples in a piece.
const PIECE: usize = 1 << 14;

/// Samples in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Held {
    ids: Vec<Vec<u64>>,
    lengths: Vec<Vec<u32>>,
    len: usize,
}

impl Held {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a sample.
    #[inline]
    pub fn push(&mut self, id: u64, length: u32) {
        if self.len.is_multiple_of(PIECE) {
            self.ids.push(Vec::with_capacity(PIECE));
            self.lengths.push(Vec::with_capacity(PIECE));
        }
        if let (Some(ids), Some(lengths)) = (self.ids.last_mut(), self.lengths.last_mut()) {
            ids.push(id);
            lengths.push(length);
            self.len += 1;
        }
    }

    /// Id of the sample at `index`, which there must be.
    #[inline]
    pub fn id(&self, index: u32) -> u64 {
        self.ids[index as usize / PIECE][index as usize % PIECE]
    }

    /// The lengths, in order.
    pub fn lengths(&self) -> impl Iterator<Item = u32> {
        self.lengths.iter().flatten().copied()
    }

    /// Frees the lengths, for whoever has read them.
    pub fn forget_lengths(&mut self) {
        self.lengths = Vec::new();
    }

    /// The samples, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Item> {
        let item = |index: usize| {
            let (piece, at) = (index / PIECE, index % PIECE);
            Item { id: self.ids[piece][at], length: self.lengths[piece][at], patches: 0 }
        };
        (0..self.len).map(item)
    }
}

impl FromIterator<Item> for Held {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut held = Self::default();
        items.into_iter().for_each(|item| held.push(item.id, item.length));
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
                while let Some(Item { id, length, .. }) = list.next_element()? {
                    held.push(id, length);
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

    #[test]
    fn samples_come_back_across_pieces() {
        for count in [0, 1, PIECE - 1, PIECE, 2 * PIECE + 3] {
            let items: Vec<Item> =
                (0..count).map(|i| Item { id: 7 * i as u64, length: i as u32 % 9, patches: 0 }).collect();
            let held: Held = items.iter().copied().collect();
            assert_eq!((held.len(), held.ids.len()), (count, count.div_ceil(PIECE)));
            assert!(held.items().eq(items.iter().copied()) && held.lengths().eq(items.iter().map(|item| item.length)));
            assert!(items.iter().zip(0..).all(|(item, index)| held.id(index) == item.id));
            // No piece grows: what a sample takes is known.
            assert!(held.ids.iter().all(|piece| piece.capacity() == PIECE));
            let bytes = state::encode("x", &Saved(Rc::new(held)));
            assert_eq!(bytes, state::encode("x", &items));
            assert!(state::decode::<Saved>("x", &bytes).unwrap().0.items().eq(items));
        }
    }
}
