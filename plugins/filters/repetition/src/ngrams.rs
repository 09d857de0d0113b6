//! Shares of a text's words that lie in repeated n-grams.
//!
//! Every word gets a number, and then every n-gram one: that of its first n-1 words and its last word make a pair, and equal
//! pairs get equal numbers. So the n-grams of each length cost one table look-up a word, whatever n is, and are compared
//! exactly, not by a hash.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use crate::table::Table;
use crate::words::Words;

/// The n-grams of one text, for a growing n.
#[derive(Default)]
pub(crate) struct NGrams {
    table: Table,
    /// Number of each word.
    words: Vec<u32>,
    /// Number of the n-gram that starts at each word.
    grams: Vec<u32>,
    /// The pairs that gave the present numbers.
    pairs: Vec<u64>,
    /// Characters of the words before each word, and of all at the end.
    chars: Vec<u32>,
    /// Scratch by number: how often, or whether seen.
    counts: Vec<u32>,
    n: usize,
}

impl NGrams {
    /// Begins with the words of `text` (n is 1).
    pub(crate) fn start(&mut self, text: &str, words: &Words) {
        self.table.clear(words.len());
        self.words.clear();
        self.chars.clear();
        let mut chars = 0;
        for i in 0..words.len() {
            let word = words.get(text, i);
            let mut hasher = FxHasher::default();
            hasher.write(word.as_bytes());
            self.words.push(self.table.number(i, hasher.finish(), |first| words.get(text, first) == word));
            self.chars.push(chars);
            chars += word.chars().count() as u32;
        }
        self.chars.push(chars);
        self.grams.clone_from(&self.words);
        self.n = 1;
    }

    /// Goes from n to n+1. False if no n-gram of the new length comes twice: then no longer one does.
    pub(crate) fn lengthen(&mut self) -> bool {
        self.n += 1;
        let Some(count) = (self.words.len() + 1).checked_sub(self.n).filter(|&count| count > 1) else { return false };
        self.table.clear(count);
        self.pairs.clear();
        for i in 0..count {
            let pair = u64::from(self.grams[i]) << 32 | u64::from(self.words[i + self.n - 1]);
            self.pairs.push(pair);
            // Fibonacci hashing: the high half of the product is the well mixed one.
            let hash = pair.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let pairs = &self.pairs;
            self.grams[i] = self.table.number(i, hash, |first| pairs[first] == pair);
        }
        self.grams.truncate(count);
        self.table.distinct() < count
    }

    /// Share of the words' characters that lie in occurrences of the most frequent n-gram; 0 if none comes twice. Of equally
    /// frequent ones the longest counts.
    pub(crate) fn top_share(&mut self) -> f64 {
        self.counts.clear();
        self.counts.resize(self.table.distinct(), 0);
        for &gram in &self.grams {
            self.counts[gram as usize] += 1;
        }
        let most = self.counts.iter().copied().max().unwrap_or(0);
        if most < 2 {
            return 0.0;
        }
        let candidates = (0..self.grams.len()).filter(|&i| self.counts[self.grams[i] as usize] == most);
        // The first of the longest; `max_by_key` would take the last.
        let best = candidates.rev().max_by_key(|&i| self.chars[i + self.n] - self.chars[i]);
        let Some(best) = best.map(|i| self.grams[i]) else { return 0.0 };
        let (mut covered, mut end) = (0, 0);
        for (i, _) in self.grams.iter().enumerate().filter(|(_, gram)| **gram == best) {
            covered += self.chars[i + self.n] - self.chars[i.max(end)];
            end = i + self.n;
        }
        self.of_all(covered)
    }

    /// Share of the words' characters that lie in n-grams that came before. Read from the left: after such an n-gram the
    /// next one starts behind it, so that no character counts twice.
    pub(crate) fn duplicate_share(&mut self) -> f64 {
        self.counts.clear();
        self.counts.resize(self.table.distinct(), 0);
        let (mut covered, mut i) = (0, 0);
        while let Some(&gram) = self.grams.get(i) {
            let seen = &mut self.counts[gram as usize];
            if *seen > 0 {
                covered += self.chars[i + self.n] - self.chars[i];
                i += self.n;
            } else {
                *seen = 1;
                i += 1;
            }
        }
        self.of_all(covered)
    }

    fn of_all(&self, chars: u32) -> f64 {
        let all = self.chars.last().copied().unwrap_or(0);
        f64::from(chars) / f64::from(all.max(1))
    }
}
