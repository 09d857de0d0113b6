//! Filters between a model's answers and their score: each takes a document's answers.
//!
//! Those with a pattern of the user's need the feature `regex`; patterns are in that crate's syntax, which has no look-around.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::python::text;

/// The first answer; "" of none.
pub fn first(answers: &[String]) -> String {
    answers.first().cloned().unwrap_or_default()
}

/// The most frequent answer, the first of equals; `None` of none.
pub fn majority(answers: &[String]) -> Option<&String> {
    let mut counts: HashMap<&String, usize> = HashMap::new();
    answers.iter().for_each(|answer| *counts.entry(answer).or_default() += 1);
    answers.iter().reduce(|best, answer| if counts[answer] > counts[best] { answer } else { best })
}

/// Without one space at the beginning.
pub fn without_space(answer: &str) -> &str {
    answer.strip_prefix(' ').unwrap_or(answer)
}

/// In small letters.
pub fn lowercase(answer: &str) -> String {
    text::lower(answer)
}

/// In capitals.
pub fn uppercase(answer: &str) -> String {
    text::upper(answer)
}

/// The value that a table has for the answer, else `otherwise`.
pub fn mapped(answer: &str, table: &Json, otherwise: &Json) -> Json {
    table.get(answer).unwrap_or(otherwise).clone()
}

#[cfg(feature = "regex")]
pub use patterns::{MultipleChoice, Pattern};

#[cfg(feature = "regex")]
mod patterns {
    use std::collections::HashMap;

    use regex::Regex;

    use crate::python::text;

    /// A pattern, and which of its matches counts.
    #[derive(Clone, Debug)]
    pub struct Pattern {
        /// The pattern.
        pub regex: Regex,
        /// 0 is the first match, −1 the last.
        pub select: i64,
        /// What an answer without a match becomes.
        pub fallback: String,
    }

    impl Pattern {
        /// Compiles it.
        ///
        /// # Errors
        /// The pattern is none of the crate `regex`.
        pub fn new(pattern: &str, select: i64, fallback: &str) -> Result<Self, String> {
            Ok(Self { regex: compile(pattern)?, select, fallback: fallback.into() })
        }

        /// The selected match, else the fallback.
        ///
        /// # Errors
        /// There are matches, but not as many as are counted to.
        pub fn apply(&self, answer: &str) -> Result<String, String> {
            Ok(selected(&self.regex, answer, self.select)?.unwrap_or_else(|| self.fallback.clone()))
        }
    }

    fn compile(pattern: &str) -> Result<Regex, String> {
        Regex::new(pattern).map_err(|e| format!("the pattern `{pattern}` cannot be used: {e}"))
    }

    /// A match is its group; of several groups the first that is not empty; without groups all of it. Stripped.
    fn selected(regex: &Regex, answer: &str, select: i64) -> Result<Option<String>, String> {
        let groups = regex.captures_len();
        let matches: Vec<_> = regex.captures_iter(answer).collect();
        if matches.is_empty() {
            return Ok(None);
        }
        let at = if select < 0 { matches.len() as i64 + select } else { select };
        let found = usize::try_from(at).ok().and_then(|at| matches.get(at));
        let found =
            found.ok_or_else(|| format!("match {select} of `{regex}` is wanted and there are {}", matches.len()))?;
        let group = |i: usize| found.get(i).map_or("", |m| m.as_str());
        let text = match groups {
            1 | 2 => group(groups - 1),
            _ => (1..groups).map(group).find(|text| !text.is_empty()).ok_or("every group of the match is empty")?,
        };
        Ok(Some(text::strip(text).to_owned()))
    }

    /// The filter for questions with choices: the pattern, else a choice's text, else a letter after a colon.
    #[derive(Clone, Debug)]
    pub struct MultipleChoice {
        /// What is looked for first.
        pub pattern: Pattern,
        /// Whether capitals count in choices' texts.
        pub ignore_case: bool,
        /// Whether Unicode's punctuation counts there.
        pub ignore_punctuation: bool,
        /// Patterns whose matches do not count there.
        pub ignore: Vec<Regex>,
    }

    impl MultipleChoice {
        /// Compiles what is ignored.
        ///
        /// # Errors
        /// A pattern is none.
        pub fn new(
            pattern: Pattern,
            ignore_case: bool,
            ignore_punctuation: bool,
            ignore: &[String],
        ) -> Result<Self, String> {
            let mut ignore = ignore.iter().map(|one| compile(one)).collect::<Result<Vec<_>, _>>()?;
            if ignore_punctuation {
                ignore.push(compile(r"\p{P}")?);
            }
            Ok(Self { pattern, ignore_case, ignore_punctuation, ignore })
        }

        fn plain(&self, said: &str) -> String {
            let patterns = self.ignore.len() - usize::from(self.ignore_punctuation);
            let cut = |said: String, one: &Regex| one.replace_all(&said, "").into_owned();
            let said = self.ignore[..patterns].iter().fold(said.to_owned(), cut);
            let said = if self.ignore_case { text::lower(&said) } else { said };
            self.ignore[patterns..].iter().fold(said, cut)
        }

        /// "(A)", "(B)" and so on, else what the pattern found, else the fallback.
        ///
        /// # Errors
        /// There are matches, but not as many as are counted to.
        pub fn apply(&self, answer: &str, choices: &[String]) -> Result<String, String> {
            let select = self.pattern.select;
            let some = |found: Option<String>| found.filter(|text| !text.is_empty());
            if let Some(found) = some(selected(&self.pattern.regex, answer, select)?) {
                return Ok(found);
            }
            let plain: Vec<String> = choices.iter().map(|choice| self.plain(text::strip(choice))).collect();
            let label = |i: usize| format!("({})", text::letter(i));
            let named: HashMap<&str, String> =
                plain.iter().enumerate().map(|(i, text)| (text.as_str(), label(i))).collect();
            let any = plain.iter().map(|text| regex::escape(text)).collect::<Vec<_>>().join("|");
            if let Some(found) = some(selected(&compile(&any)?, &self.plain(answer), select)?) {
                return Ok(named.get(found.as_str()).cloned().unwrap_or(found));
            }
            let letters =
                (0..choices.len()).map(|i| regex::escape(&text::letter(i).to_string())).collect::<Vec<_>>().join("|");
            let found = some(selected(&compile(&format!(r":[\s]*({letters})"))?, answer, select)?);
            let at =
                found.as_ref().and_then(|found| (0..choices.len()).find(|&i| *found == text::letter(i).to_string()));
            Ok(at.map(label).or(found).unwrap_or_else(|| self.pattern.fallback.clone()))
        }
    }
}

#[cfg(all(test, feature = "regex"))]
mod tests {
    use super::*;

    #[test]
    fn answers_are_filtered() {
        let answers = ["C", "B", "B", "C"].map(String::from);
        assert_eq!(majority(&answers).unwrap(), "C");
        assert_eq!((first(&answers), first(&[])), ("C".into(), String::new()));
        let last = Pattern::new(r"([A-Z])\.", -1, "[invalid]").unwrap();
        assert_eq!(last.apply("x A. B."), Ok("B".into()));
        assert_eq!(last.apply("none"), Ok("[invalid]".into()));
        assert!(Pattern::new("a", 3, "").unwrap().apply("aa").is_err() && Pattern::new("(", 0, "").is_err());
        let filter =
            MultipleChoice::new(Pattern::new(r"(\([A-Z]\))", 0, "[invalid]").unwrap(), true, true, &[]).unwrap();
        let choices = ["red", "Blue", "green one"].map(String::from);
        for (answer, want) in [("it is (B).", "(B)"), ("BLUE!", "(B)"), ("Answer: C", "(C)"), ("?", "[invalid]")] {
            assert_eq!(filter.apply(answer, &choices).unwrap(), want);
        }
    }
}
