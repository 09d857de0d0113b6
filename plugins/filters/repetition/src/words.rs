//! A text's words by their places, and loops of them.

use ovhost_sdk::text;

/// The words of a text: where each starts and ends, in bytes.
#[derive(Default)]
pub(crate) struct Words {
    spans: Vec<(u32, u32)>,
}

impl Words {
    /// Takes the words of `text` in, in place of any before.
    pub(crate) fn read(&mut self, text: &str) {
        self.spans.clear();
        let mut words = text::words(text);
        while let Some((start, end)) = words.next_place() {
            self.spans.push((start as u32, end as u32));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Word `i` of `text`, which must be the text that was read.
    #[inline]
    pub(crate) fn get<'a>(&self, text: &'a str, i: usize) -> &'a str {
        let (start, end) = self.spans[i];
        &text[start as usize..end as usize]
    }

    /// Whether words `i` and `j` of `text` are equal.
    #[inline]
    fn same(&self, text: &str, i: usize, j: usize) -> bool {
        let ((i, i_end), (j, j_end)) = (self.spans[i], self.spans[j]);
        // Bytes, as texts would be checked for cut characters at every place.
        let bytes = |start: u32, end: u32| &text.as_bytes()[start as usize..end as usize];
        i_end - i == j_end - j && bytes(i, i_end) == bytes(j, j_end)
    }

    /// Whether some `length` words come more than `most` times in a row.
    pub(crate) fn has_loop(&self, text: &str, length: usize, most: u32) -> bool {
        // So many words in a row that equal the one `length` before are one more copy than `most`. In 64 bits, as the
        // product of any two must fit and `usize` has 32 in a component.
        let enough = (length as u64).saturating_mul(u64::from(most));
        if (self.len() as u64) < enough.saturating_add(length as u64) {
            return false;
        }
        let mut run = 0u64;
        for i in length..self.len() {
            run = if self.same(text, i, i - length) { run + 1 } else { 0 };
            if run >= enough {
                return true;
            }
        }
        false
    }
}
