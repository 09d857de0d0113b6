//! Finding: phrases and where they count in, the first list that a text is on out.
//!
//! All phrases are looked for at once (Aho and Corasick 1975), so the cost does not grow with the lists.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, dfa::DFA, nfa::contiguous::NFA};
use ovhost_sdk::prelude::*;
use ovhost_sdk::text::{is_cjk, is_unspaced};

use crate::fold::Folding;

/// Where in a text a phrase counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Position {
    /// Nowhere.
    Off,
    /// At the start of the text; quotes, bullets and spaces may come before it, and numbers and speakers ("1.", "Assistant:").
    TextStart,
    /// At the start of a line, likewise. The column `text` joins a record's answers by line breaks, so this is the start of
    /// every answer.
    LineStart,
    /// Anywhere.
    Anywhere,
}

/// A phrase to look for.
pub(crate) struct Phrase {
    /// Folded, not empty.
    pub(crate) text: String,
    /// The list that it is on.
    pub(crate) list: usize,
    /// Where it counts.
    pub(crate) at: Position,
    /// Whether it does not count before an idiom.
    pub(crate) head: bool,
}

/// Up to so many bytes of phrases the automaton is a table with a row for each prefix: the fastest, and the largest.
const TABLE_BYTES: usize = 16 << 10;

/// What a match has to pass.
struct Check {
    list: usize,
    at: Position,
    /// Whether it does not count before an idiom.
    head: bool,
    /// Whether a word must start or end where the phrase does.
    word: [bool; 2],
}

/// Looks for phrases.
pub(crate) struct Finder {
    machine: Machine,
    checks: Vec<Check>,
    idioms: Idioms,
    folding: Folding,
    buffer: String,
    starts: Starts,
}

/// What makes plain speech of the phrase before it. Folded.
struct Idioms {
    phrases: Vec<String>,
    ignore_case: bool,
}

impl Idioms {
    /// Whether one of them follows: `rest` is the text after a phrase.
    fn open(&self, rest: &str) -> bool {
        let Some(rest) = rest.strip_prefix(' ') else { return false };
        let starts = |phrase: &String| {
            let Some((start, after)) = rest.split_at_checked(phrase.len()) else { return false };
            let same = if self.ignore_case { start.eq_ignore_ascii_case(phrase) } else { start == phrase };
            same && !after.chars().next().is_some_and(in_word)
        };
        self.phrases.iter().any(starts)
    }
}

/// The automaton over all phrases.
enum Machine {
    /// There are no phrases.
    None,
    Table(DFA),
    Small(NFA),
}

impl Finder {
    /// A finder of `phrases`, which `folding` folded as it did `idioms`. `Err`: they are too many for the automaton.
    pub(crate) fn new(folding: Folding, phrases: &[Phrase], idioms: Vec<String>) -> Result<Self, String> {
        let bytes: usize = phrases.iter().map(|phrase| phrase.text.len()).sum();
        let texts = phrases.iter().map(|phrase| &phrase.text);
        // Phrases start with most letters, so a search for those first ("prefilter") would only cost.
        let machine = if phrases.is_empty() {
            Ok(Machine::None)
        } else if bytes <= TABLE_BYTES {
            DFA::builder().ascii_case_insensitive(folding.case).prefilter(false).build(texts).map(Machine::Table)
        } else {
            NFA::builder().ascii_case_insensitive(folding.case).prefilter(false).build(texts).map(Machine::Small)
        };
        let machine =
            machine.map_err(|e| format!("{} phrases of {bytes} bytes are too many: {e}; use fewer", phrases.len()))?;
        let checks = phrases.iter().map(|Phrase { text, list, at, head }| {
            let word = [text.chars().next(), text.chars().next_back()].map(|c| c.is_some_and(in_word));
            Check { list: *list, at: *at, head: *head, word }
        });
        let idioms = Idioms { phrases: idioms, ignore_case: folding.case };
        let (checks, starts) = (checks.collect(), Starts::default());
        Ok(Self { machine, checks, idioms, folding, buffer: String::new(), starts })
    }

    /// The first list of which `text` has a phrase in a place where it counts.
    pub(crate) fn find(&mut self, text: &str) -> Option<usize> {
        let text = self.folding.text(text, &mut self.buffer);
        self.starts.forget();
        match &self.machine {
            Machine::None => None,
            Machine::Table(table) => first_list(table, &self.checks, &self.idioms, text, &mut self.starts),
            Machine::Small(small) => first_list(small, &self.checks, &self.idioms, text, &mut self.starts),
        }
    }
}

/// Runs `machine` over `text`, and gives the first list of a match that passes its check. This is the library's search for
/// overlapping matches, without what it has for streams and anchors: half the time of a caption.
fn first_list(
    machine: &impl Automaton,
    checks: &[Check],
    idioms: &Idioms,
    text: &str,
    starts: &mut Starts,
) -> Option<usize> {
    let mut found = Found { checks, idioms, text, starts, best: None };
    // An automaton that may start anywhere has this state, whatever the text.
    let mut state = machine.start_state(Anchored::No).ok()?;
    for (i, &byte) in text.as_bytes().iter().enumerate() {
        state = machine.next_state(Anchored::No, state, byte);
        if machine.is_special(state) && machine.is_match(state) && found.end(machine, state, i + 1) {
            break;
        }
    }
    found.best
}

/// What was found in a text so far.
struct Found<'a> {
    checks: &'a [Check],
    idioms: &'a Idioms,
    text: &'a str,
    starts: &'a mut Starts,
    /// The first of the lists that have a phrase in the text.
    best: Option<usize>,
}

impl Found<'_> {
    /// Looks at the matches that end before byte `end`. Whether the first of all lists has one. They are rare: this stays out
    /// of the loop over the text's bytes.
    #[cold]
    #[inline(never)]
    fn end<A: Automaton>(&mut self, machine: &A, state: StateID, end: usize) -> bool {
        for n in 0..machine.match_len(state) {
            let pattern = machine.match_pattern(state, n);
            let check = &self.checks[pattern.as_usize()];
            let start = end - machine.pattern_len(pattern);
            if self.best.is_none_or(|best| check.list < best)
                && check.passes(self.text, start, end, self.starts)
                && !(check.head && self.idioms.open(&self.text[end..]))
            {
                self.best = Some(check.list);
            }
        }
        self.best == Some(0)
    }
}

impl Check {
    /// Whether a match counts that is `text[start..end]`.
    fn passes(&self, text: &str, start: usize, end: usize, starts: &mut Starts) -> bool {
        let whole = !(self.word[0] && text[..start].chars().next_back().is_some_and(in_word)
            || self.word[1] && text[end..].chars().next().is_some_and(in_word));
        whole
            && match self.at {
                Position::Off => false,
                Position::Anywhere => true,
                Position::TextStart => starts.of(text).opens_text(start),
                Position::LineStart => starts.of(text).opens_line(start),
            }
    }
}

/// Where a text and each of its lines begin. A text may have a match at every byte, so nothing is read again for each: the
/// text is read once, at the first match that asks.
#[derive(Default)]
struct Starts {
    known: bool,
    /// Of every line: where it starts, and where a phrase may.
    lines: Vec<(usize, Opening)>,
    /// Where a phrase may open the text.
    text: Opening,
}

/// Where a phrase may start: among the signs up to the first letter or digit, or among those up to the first one behind
/// numbers and names of speakers.
#[derive(Clone, Copy, Default)]
struct Opening {
    /// The first letter or digit, or the end.
    first: usize,
    /// Behind numbers and speakers, and the first letter or digit there, or the end.
    behind: Option<(usize, usize)>,
}

impl Opening {
    /// The opening of `text`, which starts at byte `start` of something longer and whose first letter or digit is at `first`.
    fn of(text: &str, start: usize, first: Option<usize>) -> Self {
        let mut opening = Self { first: start + first.unwrap_or(text.len()), behind: None };
        let mut at = first;
        while let Some(label) = at.and_then(|at| label(&text[at..]).map(|length| at + length)) {
            at = text[label..].find(letter_or_digit).map(|place| label + place);
            opening.behind = Some((start + label, start + at.unwrap_or(text.len())));
        }
        opening
    }

    fn has(self, at: usize) -> bool {
        at <= self.first || self.behind.is_some_and(|(from, to)| (from..=to).contains(&at))
    }
}

/// Names before an answer, in lower case.
const SPEAKERS: [&str; 22] = [
    "assistant",
    "ai assistant",
    "ai",
    "bot",
    "chatbot",
    "chatgpt",
    "gpt",
    "gpt-4",
    "gpt-4o",
    "model",
    "response",
    "reply",
    "answer",
    "output",
    "caption",
    "description",
    "a",
    "助手",
    "回答",
    "答案",
    "回复",
    "答",
];

/// Length of a number ("1.", "2)") or a speaker ("Assistant:") at the start of `text`, which starts with a letter or digit.
fn label(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 {
        let mut rest = text[digits..].chars();
        let point = rest.next().filter(|c| matches!(c, '.' | ')' | ']' | ':' | '、' | '．' | '：'))?;
        return (digits <= 3 && !rest.next().is_some_and(|c| c.is_ascii_digit())).then(|| digits + point.len_utf8());
    }
    // No speaker is longer than 16 bytes with the signs of emphasis that may stand before the colon.
    let (colon, sign) = text.char_indices().take_while(|(at, _)| *at <= 20).find(|(_, c)| matches!(c, ':' | '：'))?;
    let name = text[..colon].trim_end_matches(['*', '_', ' ']);
    SPEAKERS.iter().any(|speaker| name.eq_ignore_ascii_case(speaker)).then(|| colon + sign.len_utf8())
}

impl Starts {
    /// Forgets the text before.
    fn forget(&mut self) {
        self.known = false;
    }

    /// The places of `text`.
    fn of(&mut self, text: &str) -> &Self {
        if self.known {
            return self;
        }
        self.known = true;
        self.lines.clear();
        let (mut start, mut first) = (0, None);
        for line in text.split_inclusive('\n').chain([""]) {
            let place = line.find(letter_or_digit);
            first = first.or(place.map(|at| start + at));
            self.lines.push((start, Opening::of(line, start, place)));
            start += line.len();
        }
        self.text = Opening::of(text, 0, first);
        self
    }

    /// Whether nothing but signs, numbers and speakers comes before byte `at`.
    fn opens_text(&self, at: usize) -> bool {
        self.text.has(at)
    }

    /// Whether nothing else comes before byte `at` on its line.
    fn opens_line(&self, at: usize) -> bool {
        let line = self.lines.partition_point(|&(start, _)| start <= at).checked_sub(1);
        line.and_then(|line| self.lines.get(line)).is_none_or(|(_, opening)| opening.has(at))
    }
}

/// Whether `c` is something else than the signs that may come before a phrase. Tests count the questions.
fn letter_or_digit(c: char) -> bool {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
    c.is_alphanumeric()
}

/// Whether `c` belongs to a word that goes on beside it.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() && !is_cjk(c) && !is_unspaced(c)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Characters that were asked whether they are letters or digits.
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    /// The rule in the plainest words: everything before the match is looked at.
    fn passes(check: &Check, text: &str, start: usize, end: usize) -> bool {
        let (before, after) = (&text[..start], &text[end..]);
        let cut = check.word[0] && before.chars().next_back().is_some_and(in_word)
            || check.word[1] && after.chars().next().is_some_and(in_word);
        let line = before.rsplit('\n').next().unwrap_or_default();
        !cut && match check.at {
            Position::Off => false,
            Position::Anywhere => true,
            Position::TextStart => !before.contains(char::is_alphanumeric),
            Position::LineStart => !line.contains(char::is_alphanumeric),
        }
    }

    #[test]
    fn a_text_is_read_once_however_many_matches_it_has() {
        let folding = Folding { case: true, forms: true };
        // Thousands of matches, each with thousands of signs between it and the letter that forbids it.
        let (signs, few) = ("~".repeat(5000), "-a".repeat(5000));
        for (at, text, phrase) in [
            (Position::LineStart, format!("z{}", "-".repeat(5000)), "--"),
            (Position::TextStart, format!("{signs}z{few}"), "-a"),
        ] {
            let mut finder =
                Finder::new(folding, &[Phrase { text: phrase.into(), list: 0, at, head: false }], vec![]).unwrap();
            STEPS.set(0);
            assert_eq!(finder.find(&text), None);
            assert!((1..=text.len()).contains(&STEPS.get()), "{} steps for {} bytes", STEPS.get(), text.len());
        }
    }

    fn phrases(texts: impl IntoIterator<Item = String>) -> Vec<Phrase> {
        let places = [Position::LineStart, Position::Anywhere, Position::TextStart];
        let phrase = |(i, text): (usize, String)| Phrase { text, list: i % 5, at: places[i % 3], head: false };
        texts.into_iter().enumerate().map(phrase).collect()
    }

    #[test]
    fn both_automata_find_what_a_plain_search_finds() {
        let folding = Folding { case: true, forms: true };
        let words = ["ab", "a b", "b", "ba b", "狗", "狗a", "a\nb", "bb"].map(String::from);
        let few = phrases(words.clone());
        let many = phrases(words.into_iter().chain((0..3000).map(|i| format!("filler number {i}"))));
        let mut table = Finder::new(folding, &few, vec![]).unwrap();
        let mut small = Finder::new(folding, &many, vec![]).unwrap();
        assert!(matches!(table.machine, Machine::Table(_)) && matches!(small.machine, Machine::Small(_)));
        assert_eq!(small.find("It is Filler Number 2999"), Some(3007 % 5).filter(|_| 3007 % 3 == 1));
        let mut rng = ovhost_sdk::Rng::new(1);
        let alphabet = ['a', 'b', 'B', ' ', '\n', '狗', '-'];
        let mut found = 0;
        for _ in 0..3000 {
            let len = rng.below(9);
            let text: String = (0..len).map(|_| alphabet[rng.below(7) as usize]).collect();
            let folded = folding.phrase(&format!("|{text}|")).to_lowercase();
            let folded = &folded[1..folded.len() - 1];
            let plain = few.iter().enumerate().filter(|(i, phrase)| {
                let mut places =
                    folded.char_indices().map(|(at, _)| at).filter(|at| folded[*at..].starts_with(&phrase.text));
                places.any(|at| passes(&table.checks[*i], folded, at, at + phrase.text.len()))
            });
            let plain = plain.map(|(_, phrase)| phrase.list).min();
            assert_eq!((table.find(&text), small.find(&text)), (plain, plain), "{text:?}");
            found += usize::from(plain.is_some());
        }
        assert!(found > 500);
    }

    #[test]
    fn labels() {
        for (text, length) in
            [("1. I", 2), ("12) I", 3), ("Assistant: I", 10), ("AI**: I", 5), ("助手：我", 9), ("1、我", 4)]
        {
            assert_eq!(label(text), Some(length), "{text}");
        }
        for text in ["1.5 m", "2023. I", "Assistants: I", "The sign says: I", "I", "1", "", "Assistant"] {
            assert_eq!(label(text), None, "{text}");
        }
    }

    #[test]
    fn the_built_in_lists_fit_the_table() {
        let bytes: usize = crate::LISTS.iter().flat_map(|text| crate::lines(text)).map(|(_, line)| line.len()).sum();
        assert!(bytes < TABLE_BYTES * 3 / 4, "{bytes} bytes leave little for a recipe's own phrases");
    }
}
