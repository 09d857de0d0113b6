//! Characters of a text that belong to links and e-mail addresses.

/// How many characters of `text` belong to links with a scheme (`https://…`), links that start with `www.`, and e-mail
/// addresses.
pub(crate) fn chars(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut total, mut at) = (0, 0);
    while let Some((start, end)) = next(bytes, at) {
        total += end - start;
        at = end;
    }
    // Links are ASCII, so bytes are characters.
    u32::try_from(total).unwrap_or(u32::MAX)
}

/// The next link at or after byte `from`: where it starts and ends.
fn next(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    for at in from..bytes.len() {
        let found = match bytes[at] {
            b':' if bytes[at..].starts_with(b"://") => {
                let start = back(bytes, from, at, |b| b.is_ascii_alphanumeric());
                // What is no link for what is before it is not read to its end: there may be one at every few bytes.
                let end = if start < at { ahead(bytes, at + 3, in_link) } else { at };
                (end > at + 3).then_some((start, end))
            }
            b'w' | b'W' if bytes[at..].get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"www.")) => {
                let inside = at > from && bytes[at - 1].is_ascii_alphanumeric();
                let end = if inside { at } else { ahead(bytes, at + 4, in_link) };
                (end > at + 4).then_some((at, end))
            }
            b'@' => {
                let start = back(bytes, from, at, |b| b.is_ascii_alphanumeric() || b"._%+-".contains(&b));
                let end = ahead(bytes, at + 1, |b| b.is_ascii_alphanumeric() || b".-".contains(&b));
                let domain = &bytes[at + 1..end];
                let dotted = domain.windows(3).any(|w| w[1] == b'.' && w[0] != b'.' && w[2].is_ascii_alphabetic());
                (start < at && dotted).then_some((start, end))
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn in_link(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"<>\"'`{}|\\^".contains(&byte)
}

/// The first byte of the run before `at` of bytes that `inside` takes; not before `from`.
fn back(bytes: &[u8], from: usize, at: usize, inside: impl Fn(u8) -> bool) -> usize {
    at - bytes[from..at].iter().rev().take_while(|&&b| counted(inside(b))).count()
}

/// The end of the run from `at` of bytes that `inside` takes.
fn ahead(bytes: &[u8], at: usize, inside: impl Fn(u8) -> bool) -> usize {
    at + bytes[at..].iter().take_while(|&&b| counted(inside(b))).count()
}

/// `answer`; tests count how often one was asked for.
#[inline(always)]
fn counted(answer: bool) -> bool {
    #[cfg(test)]
    tests::STEPS.with(|steps| steps.set(steps.get() + 1));
    answer
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes that were looked at beside the one pass.
        pub(super) static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn no_byte_is_read_again_and_again() {
        let parts =
            ["awww.", "://", "a:// ", "a@", "a@b@", "@", "a.b@a-", "www. ", "www.", "a://b ", "a@b.c ", "awww.@", "x"];
        for part in parts {
            let text = part.repeat(2000);
            STEPS.set(0);
            chars(&text);
            let steps = STEPS.get();
            assert!(steps <= 3 * text.len(), "{part}: {steps} steps for {} bytes", text.len());
        }
    }

    #[test]
    fn links_and_addresses() {
        for (text, want) in [
            ("see https://a.org/x?y=1 now", "https://a.org/x?y=1"),
            ("看https://a.org/x。", "https://a.org/x"),
            ("WWW.shop.com and <a href=\"ftp://b.c\">", "WWW.shop.comftp://b.c"),
            ("mail joe.doe+x@mail.example.com!", "joe.doe+x@mail.example.com"),
            ("at 3:00 // 5 @ 2, a@b, @user, awww. www.", ""),
            ("://x http:// a", ""),
            ("", ""),
        ] {
            assert_eq!(chars(text) as usize, want.len(), "{text}");
        }
    }
}
