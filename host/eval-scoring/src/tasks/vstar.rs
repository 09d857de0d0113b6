//! V*: a letter A to D, found leniently.

use crate::python::text;

/// The letter: of the first of five patterns that matches the answer in capitals, else the only letter A to D in it.
pub fn parse(answer: &str) -> Option<char> {
    let answer: Vec<char> = text::upper(text::strip(answer)).chars().collect();
    let found = starting(&answer)
        .or_else(|| announced(&answer))
        .or_else(|| in_parentheses(&answer))
        .or_else(|| closed(&answer))
        .or_else(|| alone(&answer));
    found.or_else(|| {
        let mut letters = answer.iter().copied().filter(|&c| is_letter(c));
        letters.next().filter(|_| letters.next().is_none())
    })
}

fn is_letter(c: char) -> bool {
    ('A'..='D').contains(&c)
}

/// The letter of a pattern that ignores case; nothing of the text is in small letters but what has no capital.
fn letter_at(answer: &[char], at: usize) -> Option<char> {
    answer.get(at).map(char::to_ascii_uppercase).filter(|&c| is_letter(c))
}

fn spaces(answer: &[char], from: usize) -> usize {
    from + answer.iter().skip(from).take_while(|&&c| text::is_space(c)).count()
}

fn starting(answer: &[char]) -> Option<char> {
    letter_at(answer, 0)
}

/// "ANSWER IS B", "OPTION: B": a word, perhaps " IS", then white space or colons, then the letter.
fn announced(answer: &[char]) -> Option<char> {
    for start in 0..answer.len() {
        for word in ["ANSWER", "CHOICE", "OPTION"] {
            let word: Vec<char> = word.chars().collect();
            if !same(answer, start, &word) {
                continue;
            }
            let after = start + word.len();
            let is = spaces(answer, after);
            let with_is = (is > after && same(answer, is, &['I', 'S'])).then_some(is + 2);
            for from in with_is.into_iter().chain([after]) {
                let gap = answer.iter().skip(from).take_while(|&&c| text::is_space(c) || c == ':').count();
                if gap > 0
                    && let Some(letter) = letter_at(answer, from + gap)
                {
                    return Some(letter);
                }
            }
        }
    }
    None
}

/// Whether the pattern stands there; the long s and the dotless i are S and I to a pattern that ignores case.
fn same(answer: &[char], at: usize, pattern: &[char]) -> bool {
    let fold = |c: char| match c {
        'ſ' => 'S',
        'ı' | 'İ' => 'I',
        c => c.to_ascii_uppercase(),
    };
    answer.get(at..at + pattern.len()).is_some_and(|part| part.iter().zip(pattern).all(|(&c, &p)| fold(c) == p))
}

fn in_parentheses(answer: &[char]) -> Option<char> {
    (0..answer.len())
        .find(|&i| answer[i] == '(' && letter_at(answer, i + 1).is_some() && answer.get(i + 2) == Some(&')'))
        .and_then(|i| letter_at(answer, i + 1))
}

/// A letter before ".", ")" or "]", white space between them or not.
fn closed(answer: &[char]) -> Option<char> {
    (0..answer.len())
        .find(|&i| letter_at(answer, i).is_some() && matches!(answer.get(spaces(answer, i + 1)), Some('.' | ')' | ']')))
        .and_then(|i| letter_at(answer, i))
}

fn alone(answer: &[char]) -> Option<char> {
    let outside = |i: Option<usize>| i.and_then(|i| answer.get(i)).is_none_or(|&c| text::is_space(c));
    (0..answer.len())
        .find(|&i| letter_at(answer, i).is_some() && outside(i.checked_sub(1)) && outside(Some(i + 1)))
        .and_then(|i| letter_at(answer, i))
}
