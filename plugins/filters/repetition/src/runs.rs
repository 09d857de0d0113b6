//! A text's characters, and runs of one or a few of them: `----`, `hahaha`, `❤️❤️❤️`.

/// Most characters that come over and over: an emoji of several people with skin tones has up to ten.
pub(crate) const MOST_PERIOD: usize = 12;

/// The characters of a text. White space is left out beside signs ("- - -"), and one space between letters and digits.
#[derive(Default)]
pub(crate) struct Chars {
    all: Vec<char>,
}

impl Chars {
    /// Takes the characters of `text` in, in place of any before.
    pub(crate) fn read(&mut self, text: &str) {
        self.all.clear();
        let mut space = false;
        for c in text.chars() {
            if c.is_whitespace() {
                space = true;
                continue;
            }
            if space && c.is_alphanumeric() && self.all.last().is_some_and(|last| last.is_alphanumeric()) {
                self.all.push(' ');
            }
            space = false;
            self.all.push(c);
        }
    }

    /// Whether some `period` characters come more than `most` times in a row; `most` is at least 1.
    pub(crate) fn has_run(&self, period: usize, most: u32) -> bool {
        // So many characters in a row that equal the one `period` before are one more copy than `most`. In 64 bits, as the
        // product of any two must fit and `usize` has 32 in a component.
        let enough = (period as u64).saturating_mul(u64::from(most));
        if (self.all.len() as u64) < enough.saturating_add(period as u64) {
            return false;
        }
        let enough = enough as usize;
        let same = |i: usize| self.all[i] == self.all[i - period];
        // Every such run has one of these places in it, so only what is around them is looked at.
        let mut i = period + enough - 1;
        while i < self.all.len() {
            if same(i) {
                let start = (period..i).rev().take_while(|&at| same(at)).last().unwrap_or(i);
                let end = (i + 1..self.all.len()).take(enough).take_while(|&at| same(at)).last().unwrap_or(i);
                if end + 1 - start >= enough {
                    return true;
                }
            }
            i += enough;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chars(text: &str) -> Chars {
        let mut chars = Chars::default();
        chars.read(text);
        chars
    }

    #[test]
    fn white_space_goes_beside_signs() {
        let all = |text: &str| chars(text).all.into_iter().collect::<String>();
        assert_eq!(all(" - - \n-"), "---");
        assert_eq!(all("too  old, it\nis"), "too old,it is");
        assert_eq!(all("😂 😂 a"), "😂😂a");
    }

    #[test]
    fn runs_are_those_of_a_scan() {
        let mut rng = ovhost_sdk::Rng::new(2);
        let mut found = 0;
        for _ in 0..4000 {
            let (length, kinds) = (rng.below(40), 1 + rng.below(3));
            let chars = Chars { all: (0..length).map(|_| ['a', 'b', 'c'][rng.below(kinds) as usize]).collect() };
            for period in 1..=4 {
                for most in 1..=4u32 {
                    let copies = period * (most as usize + 1);
                    let plain =
                        chars.all.windows(copies).any(|run| (period..copies).all(|i| run[i] == run[i - period]));
                    assert_eq!(chars.has_run(period, most), plain, "{:?}, {period}, {most}", chars.all);
                    found += usize::from(plain);
                }
            }
        }
        assert!(found > 1000);
        assert!(!chars("aaaa").has_run(2, u32::MAX));
    }
}
