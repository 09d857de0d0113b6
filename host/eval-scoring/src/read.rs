//! The mended reader of multiple-choice answers: one rule for every task, careful where the reference's rules guess.
//!
//! Forms are tried in this order; the first that is there decides, and a form that names two letters decides nothing:
//!
//! 1. all of the answer is a letter, bare or with marks: "B", "(b)", "**B**", "B.", `[B]`, "$\boxed{B}$"
//! 2. `\boxed{B}`, the last one
//! 3. the letter after the last "answer is", "answer:", "option is", "choice:" and the like, in any case
//! 4. the letter with a mark that the answer begins with: "B. a cat", "(B) a cat", "B) a cat", "B: a cat"
//! 5. the only letter in brackets: "it must be (B)"
//! 6. all of the answer is the text of exactly one option
//! 7. the only capital that stands alone; "A" before a small word is an article and no letter
//!
//! Anything else is unread, and says so: no letter is drawn or guessed.

use crate::python::text;

/// The letter, one of the first `options.len()` capitals; `None` if the answer gives none. Options' texts may be empty where
/// they are not known.
pub fn letter<S: AsRef<str>>(answer: &str, options: &[S]) -> Option<char> {
    let answer = text::strip(answer);
    let choice = |c: char| {
        let c = c.to_ascii_uppercase();
        (c.is_ascii_uppercase() && (c as usize - 'A' as usize) < options.len()).then_some(c)
    };
    let tokens: Vec<char> = answer.chars().collect();
    whole(answer)
        .and_then(choice)
        .or_else(|| boxed(answer).and_then(whole).and_then(choice))
        .or_else(|| announced(answer, &choice))
        .or_else(|| leading(&tokens).and_then(choice))
        .or_else(|| only(bracketed(&tokens).filter_map(choice)))
        .or_else(|| by_text(answer, options))
        .or_else(|| only(standing(&tokens).filter_map(choice)))
}

/// The only one, however often.
fn only(mut letters: impl Iterator<Item = char>) -> Option<char> {
    let first = letters.next()?;
    letters.all(|letter| letter == first).then_some(first)
}

/// The letter that is all of a text but its marks.
fn whole(said: &str) -> Option<char> {
    let inner = said.strip_prefix("$").unwrap_or(said);
    let inner = boxed(inner).unwrap_or(inner);
    let mut chars = inner
        .trim_matches(|c: char| text::is_space(c) || c.is_ascii_punctuation() || "。，：（）【】".contains(c))
        .chars();
    chars.next().filter(|c| c.is_ascii_alphabetic() && chars.next().is_none())
}

/// What is in the last `\boxed{}`, perhaps within `\text{}`.
fn boxed(said: &str) -> Option<&str> {
    let (_, rest) = said.rsplit_once("\\boxed{")?;
    let inner = rest.split('}').next()?;
    Some(inner.rsplit('{').next().unwrap_or(inner))
}

/// Words that announce a letter, in small letters.
const WORDS: [&str; 6] = ["answer", "option", "choice", "答案", "정답은", "答えは"];

fn announced(answer: &str, choice: &impl Fn(char) -> Option<char>) -> Option<char> {
    // Only ASCII changes case here, so that positions stay.
    let lowered = answer.to_ascii_lowercase();
    let places = WORDS.iter().flat_map(|word| lowered.match_indices(word).map(move |(at, _)| at + word.len()));
    let letter_at = |at: usize| -> Option<char> {
        let rest = answer[at..].trim_start_matches(text::is_space);
        let lowered = &lowered[answer.len() - rest.len()..];
        let after = ["is", ":", "：", "=", "是", "为"].iter().find_map(|joint| lowered.strip_prefix(joint));
        // "Option B" needs no joint; "answer B" may be about anything.
        let bare = answer[..at].to_ascii_lowercase().ends_with("option");
        let rest = after.map_or(rest, |after| &rest[rest.len() - after.len()..]);
        let marks = |c: char| {
            text::is_space(c) || matches!(c, ':' | '：' | '*' | '(' | '[' | '{' | '"' | '\'' | '`' | '$' | '_' | '（')
        };
        let rest = rest.trim_start_matches(marks);
        let rest = rest
            .strip_prefix("option ")
            .or_else(|| rest.strip_prefix("Option "))
            .unwrap_or(rest)
            .trim_start_matches(marks);
        let mut chars = rest.chars();
        let letter = chars.next().filter(|_| after.is_some() || bare)?;
        let next = chars.next();
        let ends = next.is_none_or(|c| !text::is_word(c));
        let article =
            letter.eq_ignore_ascii_case(&'a') && next == Some(' ') && chars.next().is_some_and(char::is_alphabetic);
        (letter.is_ascii_uppercase() && ends && !article).then_some(letter).and_then(choice)
    };
    places.filter_map(|at| letter_at(at).map(|letter| (at, letter))).max_by_key(|(at, _)| *at).map(|(_, letter)| letter)
}

/// "B." "B)" "B:" "(B)" "[B]" at the beginning.
fn leading(chars: &[char]) -> Option<char> {
    let bare = chars.iter().take_while(|c| matches!(c, '*' | '_' | '`')).count();
    let chars = &chars[bare..];
    match chars {
        ['(', letter, ')', ..] | ['[', letter, ']', ..] => Some(*letter),
        [letter, '.' | ')' | ':' | ',', rest @ ..] if letter.is_ascii_uppercase() => {
            rest.first().is_none_or(|&c| !text::is_word(c)).then_some(*letter)
        }
        _ => None,
    }
}

fn bracketed(chars: &[char]) -> impl Iterator<Item = char> {
    chars
        .windows(3)
        .filter(|w| matches!((w[0], w[2]), ('(', ')') | ('[', ']')) && w[1].is_ascii_uppercase())
        .map(|w| w[1])
}

fn by_text<S: AsRef<str>>(answer: &str, options: &[S]) -> Option<char> {
    let plain = |said: &str| text::lower(text::strip(said).trim_end_matches('.'));
    let said = plain(answer);
    let mut same = (0..options.len()).filter(|&i| !said.is_empty() && plain(options[i].as_ref()) == said);
    same.next().filter(|_| same.next().is_none()).map(text::letter)
}

/// Capitals between what are no word characters.
fn standing(chars: &[char]) -> impl Iterator<Item = char> {
    let at = |i: Option<usize>| i.and_then(|i| chars.get(i)).copied();
    (0..chars.len())
        .filter(move |&i| {
            let (before, after) = (at(i.checked_sub(1)), at(Some(i + 1)));
            let joined = |c: Option<char>| c.is_some_and(|c| text::is_word(c) || matches!(c, '\'' | '’' | '-'));
            let article = chars[i] == 'A' && after == Some(' ') && at(Some(i + 2)).is_some_and(char::is_lowercase);
            chars[i].is_ascii_uppercase() && !joined(before) && !joined(after) && !article
        })
        .map(|i| chars[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_prose_is_not() {
        let options = ["red apple", "green pear", "blue plum", "yellow banana"];
        for (answer, want) in [
            ("B", Some('B')),
            ("b", Some('B')),
            ("(c)", Some('C')),
            ("**D**", Some('D')),
            ("$\\boxed{\\text{B}}$", Some('B')),
            ("B. green pear", Some('B')),
            ("(B) green pear", Some('B')),
            ("Answer: B", Some('B')),
            ("THE ANSWER IS B", Some('B')),
            ("The answer is (D).", Some('D')),
            ("The correct option is **C** because A is red", Some('C')),
            ("Answer: A. Final answer: C", Some('C')),
            ("It must be (B)", Some('B')),
            ("Green pear.", Some('B')),
            ("So I pick C.", Some('C')),
            ("Option D fits", Some('D')),
            ("so it is \\boxed{A}", Some('A')),
            ("答案是D", Some('D')),
            ("A big red apple", None),
            ("Because of the light", None),
            ("B or C", None),
            ("E", None),
            ("", None),
            (")", None),
            ("The answer is a pear", None),
            ("I cannot tell", None),
            ("DNA", None),
            ("A-list", None),
            ("Both (A) and (B)", None),
        ] {
            assert_eq!(letter(answer, &options), want, "{answer}");
        }
    }
}
