//! The configurations of a data set: the `configs` in the YAML at the beginning of its README.md → which files a name stands for.
//!
//! ```text
//!  configs:
//!  - config_name: short          ─► Config { name, default, files: [(split, patterns)] }
//!    data_files:
//!    - split: train
//!      path: short/train-*.parquet
//! ```
//! As in `datasets`: `data_files` is a pattern, a list of them (both: split `train`), a list of splits with patterns, or a mapping
//! from splits to patterns; `data_dir` is a folder that patterns begin in, and alone all that is below it. In a pattern `*` and
//! `?` stop at a `/`, and `**` does not.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use glob::{MatchOptions, Pattern};
use serde_json::Value;

use crate::HfError;

/// Longest README that is read.
const LONGEST: u64 = 8 << 20;

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub name: String,
    /// What is read where none is named.
    pub default: bool,
    pub files: Files,
}

/// The files of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Files {
    /// All below a folder, their splits by their names.
    Below(String),
    /// By split.
    Splits(Vec<(String, Vec<Glob>)>),
}

/// A pattern of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    pub text: String,
    pattern: Pattern,
}

impl Glob {
    fn new(folder: &str, text: &str) -> Result<Self, String> {
        let text = join(folder, text);
        let pattern = Pattern::new(&text).map_err(|e| format!("its pattern {text:?} is none: {e}"))?;
        Ok(Glob { text, pattern })
    }

    /// Whether it matches a file by its name below the data set's folder, or is a folder that the file is in.
    pub fn matches(&self, name: &str) -> bool {
        let options =
            MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
        self.pattern.matches_with(name, options) || is_below(name, &self.text)
    }
}

/// Whether a file is in a folder or below it; both as names below the data set's folder.
pub(crate) fn is_below(name: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn join(folder: &str, name: &str) -> String {
    let plain = |text: &str| text.trim_start_matches("./").trim_start_matches('/').to_owned();
    let folder = plain(folder);
    match folder.trim_end_matches('/') {
        "" | "." => plain(name),
        folder => format!("{folder}/{}", plain(name)),
    }
}

/// The configurations of a folder; none where its README.md names none.
///
/// # Errors
/// The README cannot be read, or its `configs` are not as they must be.
pub(crate) fn of(folder: &Path) -> Result<Vec<Config>, HfError> {
    let path = folder.join("README.md");
    let fail = |reason: String| HfError::Folder { path: path.display().to_string(), reason };
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut bytes).map_err(|e| fail(format!("cannot be read: {e}")))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(format!("cannot be opened: {e}"))),
    };
    let text = String::from_utf8_lossy(&bytes);
    let Some(head) = front_matter(&text) else { return Ok(Vec::new()) };
    // What else stands there is for others, who may use more of YAML than is read here.
    if !head.lines().any(|line| line.starts_with("configs:")) {
        return Ok(Vec::new());
    }
    parse(head).map_err(|reason| fail(format!("{reason}; mend it, or name the parquet files themselves")))
}

/// What stands between the first line, `---`, and the next such.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text.strip_prefix("---")?;
    let begin = rest.find('\n')? + 1;
    if !rest[..begin].trim().is_empty() {
        return None;
    }
    let mut at = begin;
    for line in rest[begin..].split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[begin..at]);
        }
        at += line.len();
    }
    None
}

fn parse(head: &str) -> Result<Vec<Config>, String> {
    let value = ovhost_yaml::parse(head)?;
    let list = match &value["configs"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err("its configs are no list".into()),
    };
    list.iter().map(config).collect()
}

fn config(value: &Value) -> Result<Config, String> {
    if !value.is_object() {
        return Err(format!("one of its configs is {value}, not a mapping"));
    }
    let text = |key: &str| match &value[key] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str())),
        other => Err(format!("the {key} of one of its configs is {other}, not a text")),
    };
    let name = match &value["config_name"] {
        // A name such as 2024 is a number to YAML.
        Value::Number(number) => number.to_string(),
        _ => text("config_name")?.unwrap_or("default").to_owned(),
    };
    let of = |reason: String| format!("its config {name}: {reason}");
    let folder = text("data_dir")?.unwrap_or("");
    let globs = |patterns: &Value| -> Result<Vec<Glob>, String> {
        let one = |pattern: &Value| match pattern {
            Value::String(text) => Glob::new(folder, text),
            other => Err(format!("{other} is no pattern of files")),
        };
        match patterns {
            Value::Array(list) => list.iter().map(one).collect(),
            single => Ok(vec![one(single)?]),
        }
    };
    let train = |patterns: &Value| Ok(vec![("train".to_owned(), globs(patterns)?)]);
    let splits: Result<Vec<(String, Vec<Glob>)>, String> = match &value["data_files"] {
        Value::Null => {
            let files = Files::Below(join(folder, ""));
            return Ok(Config { default: is_default(value, &name), name, files });
        }
        Value::Object(map) => map.iter().map(|(split, patterns)| Ok((split.clone(), globs(patterns)?))).collect(),
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_object) => list
            .iter()
            .map(|entry| match &entry["split"] {
                Value::String(split) => Ok((split.clone(), globs(&entry["path"])?)),
                other => Err(format!("the split of one of its data_files is {other}, not a text")),
            })
            .collect(),
        patterns => train(patterns),
    };
    let files = Files::Splits(splits.map_err(of)?);
    Ok(Config { default: is_default(value, &name), name, files })
}

fn is_default(value: &Value, name: &str) -> bool {
    value["default"] == Value::Bool(true) || name == "default"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(yaml: &str) -> Result<Vec<Config>, String> {
        parse(front_matter(&format!("---\nlicense: mit\n{yaml}---\n# A set\n---\n")).unwrap())
    }

    #[test]
    fn the_forms_that_data_files_have() {
        let matched = |yaml: &str, split: &str| -> Vec<&str> {
            let config = configs(&format!("configs:\n- config_name: a\n{yaml}")).unwrap().remove(0);
            let Files::Splits(splits) = config.files else { panic!("no splits") };
            let globs = splits.into_iter().filter(|(name, _)| name == split).flat_map(|(_, globs)| globs);
            let globs: Vec<Glob> = globs.collect();
            let names = ["a/train-0.parquet", "a/b/test.parquet", "test-1.parquet", "a.parquet"];
            names.into_iter().filter(|name| globs.iter().any(|glob| glob.matches(name))).collect()
        };
        assert_eq!(matched("  data_files: '*.parquet'\n", "train"), ["test-1.parquet", "a.parquet"]);
        assert_eq!(matched("  data_files: ['a/*', a.parquet]\n", "train"), ["a/train-0.parquet", "a.parquet"]);
        assert_eq!(
            matched("  data_files:\n  - split: x\n    path: a/**\n", "x"),
            ["a/train-0.parquet", "a/b/test.parquet"]
        );
        assert_eq!(
            matched("  data_files:\n  - split: x\n    path: [a/b, '?.parquet']\n", "x"),
            ["a/b/test.parquet", "a.parquet"]
        );
        assert_eq!(matched("  data_files: {x: 'test-[0-9].parquet', y: b}\n", "x"), ["test-1.parquet"]);
        assert_eq!(matched("  data_dir: ./a/\n  data_files: '*'\n", "train"), ["a/train-0.parquet"]);
    }

    #[test]
    fn names_and_defaults() {
        let found = configs(
            "configs:\n- config_name: 2024\n  data_dir: old\n- data_dir: .\n- {config_name: c, default: true}\n",
        );
        let found: Vec<_> = found.unwrap().into_iter().map(|c| (c.name, c.default, c.files)).collect();
        let below = |folder: &str| Files::Below(folder.into());
        let expected = [("2024", false, below("old/")), ("default", true, below("")), ("c", true, below(""))];
        assert!(found.iter().map(|(n, d, f)| (n.as_str(), *d, f.clone())).eq(expected), "{found:?}");
        assert!(is_below("old/a.parquet", "old/") && !is_below("older/a.parquet", "old/") && is_below("a", ""));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |yaml: &str, words: &str| {
            let error = configs(yaml).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        says("configs: yes\n", "no list");
        says("configs: [a]\n", "not a mapping");
        says("configs:\n- config_name: [a]\n", "config_name");
        says("configs:\n- config_name: a\n  data_files: 3\n", "config a: 3 is no pattern");
        says("configs:\n- config_name: a\n  data_files:\n  - path: x\n", "config a: the split");
        says("configs:\n- config_name: a\n  data_files: '[a'\n", "config a: its pattern");
        says("configs: [\n", "not valid YAML");
        assert_eq!(front_matter("# no front matter\n---\n---\n"), None);
        assert_eq!(front_matter("---\nconfigs: []\n"), None);
    }
}
