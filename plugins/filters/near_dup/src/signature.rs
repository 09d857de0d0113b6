//! A text as the least hashes of its shingles: text in, one key per band out.
//!
//! ```text
//!  words ─► a hash each ─► every n in a row: a shingle's hash x ─► least aᵢ·x + bᵢ (mod 2⁶⁴) per i ─► a key per band
//! ```
//! Two texts agree in one such least value with a probability near their Jaccard similarity (Broder, "On the resemblance
//! and containment of documents", 1997). Multipliers are fixed, so keys are the same in every run and on every machine.

use ovhost_sdk::Rng;
use ovhost_sdk::text::{fold_case, words};
use twox_hash::XxHash3_64;

use crate::bands::Shape;
use crate::{Config, Unit};

/// Starts the generator of the multipliers. Saved states depend on it.
const SEED: u64 = 0x6E65_6172_5F64_7570;

/// Makes the keys of texts. Holds buffers that are used again for each.
pub struct Signer {
    unit: Unit,
    ngram: usize,
    ignore_case: bool,
    shape: Shape,
    /// (odd multiplier, addend) per hash.
    permutations: Vec<(u64, u64)>,
    units: Vec<u64>,
    least: Vec<u64>,
    keys: Vec<u64>,
    lower: String,
}

impl Signer {
    /// For texts as `config` cuts them.
    pub fn new(config: &Config, shape: Shape) -> Self {
        let mut rng = Rng::new(SEED);
        let permutations = (0..shape.hashes()).map(|_| (rng.next_u64() | 1, rng.next_u64())).collect();
        Self {
            unit: config.unit,
            ngram: config.ngram as usize,
            ignore_case: config.ignore_case,
            shape,
            permutations,
            units: Vec::new(),
            least: Vec::new(),
            keys: Vec::new(),
            lower: String::new(),
        }
    }

    /// The keys of `text`, one per band; none if it has no words.
    pub fn keys(&mut self, text: &str) -> &[u64] {
        self.keys.clear();
        self.cut(text);
        if self.units.is_empty() {
            return &self.keys;
        }
        self.least.clear();
        self.least.resize(self.permutations.len(), u64::MAX);
        // A text of fewer units than a shingle is one shingle.
        for shingle in self.units.windows(self.ngram.min(self.units.len())) {
            let x = shingle.iter().fold(shingle.len() as u64, |hash, &unit| mix(hash ^ unit));
            for (least, (multiplier, addend)) in self.least.iter_mut().zip(&self.permutations) {
                *least = (*least).min(multiplier.wrapping_mul(x).wrapping_add(*addend));
            }
        }
        let bands = self.least.chunks_exact(self.shape.rows as usize).zip(0..);
        self.keys.extend(bands.map(|(band, number)| band.iter().fold(mix(number), |hash, &value| mix(hash ^ value))));
        &self.keys
    }

    /// Hashes of the text's units into `self.units`.
    fn cut(&mut self, text: &str) {
        self.units.clear();
        match self.unit {
            Unit::Words => {
                for word in words(text) {
                    let word = if self.ignore_case { lowered(word, &mut self.lower) } else { word };
                    self.units.push(XxHash3_64::oneshot(word.as_bytes()));
                }
            }
            Unit::Chars => {
                let mut space = true;
                for c in text.chars() {
                    let blank = c.is_whitespace();
                    if !(blank && space) {
                        let c = if blank { ' ' } else { c };
                        let push = |c: char| self.units.push(mix(u64::from(u32::from(c))));
                        if self.ignore_case { fold_case(c).for_each(push) } else { std::iter::once(c).for_each(push) }
                    }
                    space = blank;
                }
                if space {
                    self.units.pop();
                }
            }
        }
    }
}

/// `word` in lower case, in `buffer` if it is not so already.
fn lowered<'a>(word: &'a str, buffer: &'a mut String) -> &'a str {
    if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        return word;
    }
    buffer.clear();
    buffer.extend(word.chars().flat_map(fold_case));
    buffer
}

/// SplitMix64's finaliser: every bit of the input moves every bit of the output.
fn mix(z: u64) -> u64 {
    Rng::new(z).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(config: &Config, text: &str) -> Vec<u64> {
        let mut signer = Signer::new(config, Shape { bands: 2, rows: 2 });
        signer.cut(text);
        signer.units
    }

    #[test]
    fn texts_are_cut_by_words_or_characters() {
        let words = Config::default();
        assert_eq!(units(&words, "A red, red dog"), units(&words, "a  RED red\ndog!"));
        assert_eq!(units(&words, "红色的狗 dog").len(), 5);
        assert_ne!(units(&words, "a red dog"), units(&words, "a dog red"));
        assert_eq!(units(&words, "Η ΟΔΟΣ"), units(&words, "η οδος"));
        let chars = Config { unit: Unit::Chars, ignore_case: false, ..words.clone() };
        assert_eq!(units(&chars, "  ab  c \n"), units(&chars, "ab c"));
        assert_eq!(units(&chars, "ab c").len(), 4);
        assert_ne!(units(&chars, "Ab"), units(&chars, "ab"));
        let folded = Config { ignore_case: true, ..chars.clone() };
        assert_eq!(units(&folded, "Η ΟΔΟΣ"), units(&folded, "η οδος"));
        assert!(units(&chars, " \n").is_empty() && units(&words, "?!").is_empty());
    }

    #[test]
    fn keys_are_pinned() {
        // Saved states hold keys: another value here makes them worthless.
        let shape = Shape { bands: 2, rows: 3 };
        let mut signer = Signer::new(&Config { ngram: 2, ..Config::default() }, shape);
        let keys = signer.keys("a small red boat on a calm lake").to_vec();
        assert_eq!(keys, [7_361_696_282_370_584_313, 1_749_090_927_950_397_770]);
        assert_ne!(signer.keys("a small red boat on a lake"), keys);
    }
}
