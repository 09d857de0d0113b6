//! Characters of a text that belong to HTML: tags of elements that HTML has, comments, entities.
//!
//! `<image>`, `<unk>` and `Vec<u8>` are no HTML, and "a < b" is none either.

/// Elements of HTML that turn up in scraped text, sorted.
const ELEMENTS: [&str; 71] = [
    "a",
    "abbr",
    "article",
    "aside",
    "audio",
    "b",
    "big",
    "blockquote",
    "body",
    "br",
    "button",
    "caption",
    "center",
    "cite",
    "code",
    "dd",
    "del",
    "div",
    "dl",
    "dt",
    "em",
    "embed",
    "fieldset",
    "figcaption",
    "figure",
    "font",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "i",
    "iframe",
    "img",
    "input",
    "label",
    "li",
    "link",
    "main",
    "meta",
    "nav",
    "noscript",
    "ol",
    "option",
    "p",
    "pre",
    "s",
    "script",
    "section",
    "select",
    "small",
    "span",
    "strong",
    "style",
    "sub",
    "sup",
    "svg",
    "table",
    "tbody",
    "td",
    "th",
    "tr",
    "u",
    "ul",
];
const LONGEST_ELEMENT: usize = 10;
/// Entities that stand for what prose has, sorted.
const ENTITIES: [&str; 21] = [
    "amp", "apos", "bull", "cent", "copy", "deg", "euro", "gt", "hellip", "laquo", "ldquo", "lsquo", "lt", "mdash",
    "nbsp", "ndash", "quot", "raquo", "rdquo", "reg", "rsquo",
];
/// A tag, attributes included, is not longer than this many bytes: a `<` alone must not scan the whole text.
const LONGEST_TAG: usize = 1000;

/// How many characters of `text` belong to tags, comments and entities.
pub(crate) fn chars(text: &str) -> u32 {
    let (mut total, mut at) = (0, 0);
    // Where the last comment may end: a text of comments that never end must not be scanned once for each.
    let comments_end = text.rfind("-->").unwrap_or(0);
    while let Some(next) = text[at..].find(['<', '&']) {
        at += next;
        let rest = &text[at..];
        let len = match rest {
            _ if rest.starts_with('&') => entity(rest),
            _ if !rest.starts_with("<!--") => tag(rest),
            _ if at + 4 > comments_end => 0,
            _ => rest[4..].find("-->").map_or(0, |end| end + 7),
        };
        total += rest[..len].chars().count();
        // Both are one byte long.
        at += len.max(1);
    }
    u32::try_from(total).unwrap_or(u32::MAX)
}

/// Bytes of the tag that `text` starts with; 0 if it is none.
fn tag(text: &str) -> usize {
    let name = text[1..].trim_start_matches('/');
    let length = name.bytes().take(LONGEST_ELEMENT + 1).take_while(u8::is_ascii_alphanumeric).count();
    let element = name[..length].to_ascii_lowercase();
    let after = name.as_bytes().get(length);
    if ELEMENTS.binary_search(&element.as_str()).is_err() || !after.is_some_and(|b| b" />\t\r\n".contains(b)) {
        return 0;
    }
    match text.bytes().skip(1).take(LONGEST_TAG).position(|b| b == b'<' || b == b'>') {
        Some(end) if text.as_bytes()[end + 1] == b'>' => end + 2,
        _ => 0,
    }
}

/// Bytes of the entity that `text` starts with; 0 if it is none.
fn entity(text: &str) -> usize {
    let Some(end) = text.bytes().take(12).position(|b| b == b';') else { return 0 };
    let name = &text[1..end];
    let number = match name.strip_prefix('#') {
        Some(hex) if hex.starts_with(['x', 'X']) => hex.len() > 1 && hex.bytes().skip(1).all(|b| b.is_ascii_hexdigit()),
        Some(decimal) => !decimal.is_empty() && decimal.bytes().all(|b| b.is_ascii_digit()),
        None => false,
    };
    if number || ENTITIES.binary_search(&name).is_ok() { end + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_entities() {
        for (text, want) in [
            ("<p>Hi</p>", "<p></p>"),
            ("a<BR/>b<br />", "<BR/><br />"),
            ("<div class=\"é\">x", "<div class='é'>"),
            ("<!-- x -->y<!-- z", "<!-- x -->"),
            ("<!-->a-->", "<!-->a-->"),
            ("Tom &amp; J&#39;s &#xA0; R&D; AT&T", "&amp;&#39;&#xA0;"),
            ("<image> Vec<u8> a < b > c <i <p", ""),
            ("<|im_end|> <unk> <pad <picturesque>", ""),
            ("&#; &#x; &é; &", ""),
            ("", ""),
        ] {
            assert_eq!(chars(text) as usize, want.chars().count(), "{text}");
        }
        assert_eq!(chars(&format!("<a {}>", "x".repeat(2000))), 0, "a bracket does not scan the whole text");
    }

    #[test]
    fn the_lists_are_sorted() {
        assert!(ELEMENTS.is_sorted() && ENTITIES.is_sorted());
        assert!(ELEMENTS.iter().all(|name| name.len() <= LONGEST_ELEMENT));
    }
}
