//! The open samples of one range of lengths: items in, "the oldest", "the longest that fits" and "the next longer" out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ovhost_sdk::Item;

/// Open samples of like length. A sample's number is its place in the stream.
#[derive(Debug, Default)]
pub struct Bucket {
    by_age: BTreeMap<u64, Item>,
    /// Of equal lengths the oldest is the last, where a search from above meets it first.
    by_length: BTreeSet<(u32, Reverse<u64>)>,
    tokens: u64,
}

impl Bucket {
    /// Number of open samples.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Tokens of all open samples.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens of a rectangle of all open samples: as many rows, each as long as the longest.
    pub fn padded_tokens(&self) -> u64 {
        self.by_length.last().map_or(0, |&(length, _)| u64::from(length) * self.len() as u64)
    }

    /// Number of the sample that has been open longest.
    pub fn oldest(&self) -> Option<u64> {
        self.by_age.first_key_value().map(|(&number, _)| number)
    }

    /// The open samples with their numbers, in order of arrival.
    pub fn items(&self) -> impl Iterator<Item = (u64, Item)> {
        self.by_age.iter().map(|(&number, &item)| (number, item))
    }

    /// Adds a sample.
    pub fn insert(&mut self, number: u64, item: Item) {
        self.tokens += u64::from(item.length);
        self.by_length.insert((item.length, Reverse(number)));
        self.by_age.insert(number, item);
    }

    /// Takes the sample `number`, if it is open here.
    pub fn take(&mut self, number: u64) -> Option<Item> {
        let item = self.by_age.remove(&number)?;
        self.by_length.remove(&(item.length, Reverse(number)));
        self.tokens -= u64::from(item.length);
        Some(item)
    }

    /// The longest sample of at most `length` tokens; of equals the oldest.
    pub fn longest_up_to(&self, length: u32) -> Option<(u64, u32)> {
        let found = self.by_length.range(..=(length, Reverse(0))).next_back()?;
        Some((found.1.0, found.0))
    }

    /// The shortest sample of more than `length` tokens; of equals the oldest.
    pub fn shortest_above(&self, length: u32) -> Option<(u64, u32)> {
        let (next, _) = *self.by_length.range((length.checked_add(1)?, Reverse(u64::MAX))..).next()?;
        self.longest_up_to(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_find_the_nearest_length_and_its_oldest_sample() {
        let mut bucket = Bucket::default();
        for (number, length) in [(0, 5), (1, 9), (2, 5), (3, 7), (4, 9)] {
            bucket.insert(number, Item { id: 10 + number, length, patches: 0 });
        }
        assert_eq!((bucket.len(), bucket.tokens(), bucket.padded_tokens(), bucket.oldest()), (5, 35, 45, Some(0)));
        assert_eq!(bucket.longest_up_to(6), Some((0, 5)));
        assert_eq!(bucket.longest_up_to(4), None);
        assert_eq!(bucket.longest_up_to(u32::MAX), Some((1, 9)));
        assert_eq!(bucket.shortest_above(5), Some((3, 7)));
        assert_eq!(bucket.shortest_above(7), Some((1, 9)));
        assert_eq!((bucket.shortest_above(9), bucket.shortest_above(u32::MAX)), (None, None));
        assert_eq!(bucket.take(0).map(|item| item.id), Some(10));
        assert_eq!(bucket.take(0), None);
        assert_eq!((bucket.longest_up_to(6), bucket.oldest(), bucket.tokens()), (Some((2, 5)), Some(1), 30));
    }
}
