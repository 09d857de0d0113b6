//! `ast.literal_eval` for what data sets keep as text: lists of texts and numbers, such as `"['red', 'it\\'s']"`.

use super::number;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A text.
    Str(String),
    /// A number, as `str` prints it.
    Number(String),
    /// `True`, `False` or `None`, as `str` prints it.
    Word(&'static str),
    /// A list or a tuple.
    List(Vec<Literal>),
}

impl Literal {
    /// `str(value)` of what is no list; a list's items in their own brackets.
    pub fn text(&self) -> String {
        match self {
            Self::Str(text) | Self::Number(text) => text.clone(),
            Self::Word(word) => (*word).into(),
            Self::List(items) => format!("[{}]", items.iter().map(Self::text).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// Depth of lists in lists that is read.
const DEEPEST: usize = 32;

/// Reads one literal.
///
/// # Errors
/// The text is none that this module reads; the message says where.
pub fn parse(text: &str) -> Result<Literal, String> {
    let mut reader = Reader { chars: text.chars().collect(), at: 0 };
    let value = reader.value(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(value),
        Some(c) => Err(format!("`{c}` at {} is after the end of the literal", reader.at)),
    }
}

/// The items of a list literal as texts.
///
/// # Errors
/// The text is no list.
pub fn texts(text: &str) -> Result<Vec<String>, String> {
    if let Some(plain) = plain(text) {
        return Ok(plain);
    }
    match parse(text)? {
        Literal::List(items) => Ok(items.iter().map(Literal::text).collect()),
        other => Err(format!("`{}` is no list", other.text())),
    }
}

/// The items of the usual list, strings on one line without escapes: a third of the time. `None` of all else.
fn plain(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('[')?.trim_start_matches(' ');
    let mut items = Vec::new();
    while !rest.starts_with(']') {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (item, after) = rest[1..].split_once(quote)?;
        if item.contains(['\\', '\n']) {
            return None;
        }
        items.push(item.to_owned());
        // Neighbouring strings, and with them the beginning of a triple quote, are none of these.
        rest = after.trim_start_matches(' ');
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start_matches(' '),
            None if rest.starts_with(']') => {}
            None => return None,
        }
    }
    (rest == "]").then_some(items)
}

struct Reader {
    chars: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Literal, String> {
        self.space();
        match self.peek() {
            Some('[' | '(') if depth < DEEPEST => self.list(depth),
            Some('\'' | '"') => self.strings(),
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.word(),
            Some(c) => Err(format!("`{c}` at {} begins no literal", self.at)),
            None => Err("the literal ends early".into()),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Literal, String> {
        let close = if self.take() == Some('[') { ']' } else { ')' };
        let mut items = Vec::new();
        loop {
            self.space();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok(Literal::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.space();
            match self.take() {
                Some(',') => {}
                Some(c) if c == close => return Ok(Literal::List(items)),
                other => return Err(format!("{other:?} at {} where `,` or `{close}` belongs", self.at)),
            }
        }
    }

    /// Neighbouring strings are one.
    fn strings(&mut self) -> Result<Literal, String> {
        let mut text = String::new();
        while let Some(quote @ ('\'' | '"')) = self.peek() {
            self.string(quote, &mut text, false)?;
            self.space();
        }
        Ok(Literal::Str(text))
    }

    fn string(&mut self, quote: char, out: &mut String, raw: bool) -> Result<(), String> {
        let triple = self.chars[self.at..].starts_with(&[quote; 3]);
        let width = if triple { 3 } else { 1 };
        self.at += width;
        loop {
            if self.chars[self.at.min(self.chars.len())..].starts_with(&[quote, quote, quote][..width]) {
                self.at += width;
                return Ok(());
            }
            match self.take() {
                None => return Err("a string has no end".into()),
                Some('\n') if !triple => return Err("a string goes over the end of its line".into()),
                Some('\\') if !raw => self.escape(out)?,
                Some('\\') => {
                    out.push('\\');
                    out.extend(self.take());
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), String> {
        let c = self.take().ok_or("a string has no end")?;
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            'x' => self.code(2, 16, out)?,
            'u' => self.code(4, 16, out)?,
            'U' => self.code(8, 16, out)?,
            '0'..='7' => {
                self.at -= 1;
                let more = self.chars[self.at..].iter().take(3).take_while(|c| c.is_digit(8)).count();
                self.code(more, 8, out)?;
            }
            other => out.extend(['\\', other]),
        }
        Ok(())
    }

    fn code(&mut self, width: usize, radix: u32, out: &mut String) -> Result<(), String> {
        let digits: String = self.chars.iter().skip(self.at).take(width).collect();
        let whole = digits.chars().count() == width;
        let code = u32::from_str_radix(&digits, radix).ok().filter(|_| whole).and_then(char::from_u32);
        out.push(code.ok_or_else(|| format!("`{digits}` at {} is no character's code", self.at))?);
        self.at += width;
        Ok(())
    }

    fn number(&mut self) -> Result<Literal, String> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_')) {
            self.at += 1;
        }
        let text: String = self.chars[start..self.at].iter().collect();
        number::parse_int(&text)
            .or_else(|| number::parse_float(&text).map(number::repr))
            .map(Literal::Number)
            .ok_or_else(|| format!("`{text}` at {start} is no number"))
    }

    fn word(&mut self) -> Result<Literal, String> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect();
        if let Some(quote @ ('\'' | '"')) = self.peek() {
            let raw = word.eq_ignore_ascii_case("r");
            if raw || word.eq_ignore_ascii_case("u") {
                let mut text = String::new();
                self.string(quote, &mut text, raw)?;
                return Ok(Literal::Str(text));
            }
        }
        let known = ["True", "False", "None"].into_iter().find(|known| *known == word);
        known.map(Literal::Word).ok_or_else(|| format!("`{word}` at {start} is no literal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_texts_are_read() {
        assert_eq!(
            texts(r#"['red', 'it\'s <image 2>', "a\tb\x41\u00e9\101\q"]"#).unwrap(),
            ["red", "it's <image 2>", "a\tbAéA\\q"]
        );
        assert_eq!(texts("[]").unwrap(), Vec::<String>::new());
        assert_eq!(texts("['a' 'b', 1, -2.50, None, r'\\n',]").unwrap(), ["ab", "1", "-2.5", "None", "\\n"]);
        assert_eq!(texts("('''x\ny''', [1])").unwrap(), ["x\ny", "[1]"]);
    }

    #[test]
    fn what_is_no_literal_is_refused() {
        for text in ["", "[", "['a", "['a'", "[a]", "'a' b", "['\\x4']", "['a''", "[1 2]", "'\\ud800'"] {
            assert!(texts(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
