//! Mojibake: UTF-8 that somebody read as Windows-1252 (or Latin-1), such as "donâ€™t" and "CafÃ©".
//!
//! Every character of such a text stands for one byte, and the bytes are a UTF-8 sequence again. That is looked for, with
//! the lead bytes that broken European, Cyrillic, Chinese and emoji text has.

/// How many characters of `text` belong to sequences that are UTF-8 once more. One that prose may hold ([`may_be_prose`])
/// counts only beside another: broken Cyrillic or Chinese has one after the other, prose has not.
pub(crate) fn chars(text: &str) -> u32 {
    let mut total = 0;
    let mut before = ' ';
    // Where a sequence has just ended: how many of its characters are not counted yet.
    let mut held = None;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let Some((sequence, after)) = sequence(rest) else {
            (held, before) = (None, first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let length = sequence.chars().count() as u32;
        held = match held {
            None if may_be_prose(before, sequence) => Some(length),
            _ => {
                total += held.unwrap_or(0) + length;
                Some(0)
            }
        };
        before = sequence.chars().next_back().unwrap_or(first);
        rest = after;
    }
    total
}

/// The sequence at the start of `text`, and what follows it.
fn sequence(text: &str) -> Option<(&str, &str)> {
    let mut chars = text.chars();
    let length = byte(chars.next()?).map_or(0, sequence_length);
    let follow = |c: char| byte(c).is_some_and(|b| (0x80..0xC0).contains(&b));
    let continued = length > 0 && (1..length).all(|_| chars.next().is_some_and(follow));
    continued.then(|| text.split_at(text.len() - chars.as_str().len()))
}

/// Whether prose may hold `sequence` behind `before`: a letter that ends words, and what follows words there.
fn may_be_prose(before: char, sequence: &str) -> bool {
    let ends = |c: char| "\u{A0}«»‹›“”„‘’‚–—…•·€".contains(c);
    let marks = |c: char| ends(c) || "™®©°¹²³".contains(c);
    let mut rest = sequence.chars();
    match rest.next() {
        // Spanish before a quote ("ESPAÑ”"), Icelandic.
        Some('Ð' | 'Ñ') => true,
        // The characters that these stand for are invisible controls.
        Some('Â') => rest.all(|c| ends(c) && byte(c).is_some_and(|b| b < 0xA0)),
        // A word of capitals ("AMANHÃ…"); behind a small letter or at a word's start it is none.
        Some('Ã') => before.is_uppercase() && rest.all(ends),
        // All of general punctuation ("â€™", "â€”"): no word is followed by its price.
        Some('â') if rest.as_str().starts_with('€') => false,
        // "Liberté »", "fiancé’”", "Nescafé® »".
        _ => rest.all(marks),
    }
}

/// The byte that Windows-1252 shows as `c`, or Latin-1 does, above ASCII.
fn byte(c: char) -> Option<u8> {
    // The 27 characters that Windows-1252 has where Latin-1 has control characters, at 0x80.
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
    ];
    match c {
        '\u{80}'..='\u{FF}' => Some(c as u8),
        _ => HIGH.iter().position(|&high| high == c).map(|i| 0x80 + i as u8),
    }
}

/// Bytes of the UTF-8 sequence that `lead` starts, for the leads that are looked for; else 0.
fn sequence_length(lead: u8) -> usize {
    match lead {
        0xC2 | 0xC3 | 0xD0 | 0xD1 => 2,
        0xE2..=0xE9 | 0xEF => 3,
        0xF0 => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` after the accident.
    fn break_it(text: &str) -> String {
        let all: Vec<char> = ('\u{80}'..='\u{FF}').chain("€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ".chars()).collect();
        let show = |b: u8| match b {
            0..128 => char::from(b),
            // Windows-1252's own where it has one.
            _ => *all.iter().rev().find(|&&c| byte(c) == Some(b)).unwrap(),
        };
        text.bytes().map(show).collect()
    }

    #[test]
    fn broken_texts_are_seen() {
        assert_eq!(break_it("don’t"), "donâ€™t");
        for (text, wide) in [("don’t", 3), ("Café à Paris", 4), ("Привет", 12), ("一只狗", 9), ("ok 😀", 4)]
        {
            assert_eq!(chars(&break_it(text)), wide, "{text}");
            assert_eq!(chars(text), 0, "{text}");
        }
    }

    #[test]
    fn good_texts_are_not() {
        for text in
            ["«Là-bas, à Noël»", "ESPAÑ” y más", "SÃO PAULO", "Øre’s Ünïcödé – “naïve” façade…", "Þórr Ð’", "½ µm ±2°"]
        {
            assert_eq!(chars(text), 0, "{text}");
        }
    }

    #[test]
    fn what_follows_a_word_is_not_taken_for_the_rest_of_a_letter() {
        let texts = [
            "« Liberté\u{A0}» dit-elle",
            "« Liberté\u{A0}», « Égalité\u{A0}», « Fraternité\u{A0}»",
            "Il a chanté…\u{A0}»",
            "“I met ‘my fiancé’” and left",
            "“Olé”—he",
            "Prix fixé\u{A0}€",
            "AMANHÃ…",
            "A MAÇÃ” e a IRMÃ—ela",
            "Nescafé®\u{A0}»",
            "LEYLÂ”",
        ];
        for text in texts {
            assert_eq!(chars(text), 0, "{text}");
        }
    }

    #[test]
    fn broken_letters_whose_bytes_look_like_punctuation_are_seen() {
        // Ã\u{A0}, Ã…, Ã–, Â», â€”, â€œ, and characters of which every byte is such a sign.
        for (text, wide) in [("Il va à Paris", 2), ("på Åland", 4), ("Köln, Österreich", 4), ("so »", 2)] {
            assert_eq!(chars(&break_it(text)), wide, "{text}");
        }
        for (text, wide) in [("one — two", 3), ("“so", 3), ("Жи", 4), ("頻頻", 6)] {
            assert_eq!(chars(&break_it(text)), wide, "{text}");
        }
    }
}
