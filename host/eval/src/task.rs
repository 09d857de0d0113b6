//! Task files: which questions are asked, with which prompt, and which metric scores the answers.
//!
//! ```text
//!  NAME.toml ─► Table ─ [profile.CHOSEN] merged over it ─► Task { data, generation, prompt, metric, submission, fewshot }
//!          └──► Group { tasks }                 (a file with `tasks` names others)
//! ```
//! Keys that are not known are errors. `host/eval/tasks/README.md` describes the format.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use ovhost_infer::GenerationConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name, which is also its key in the results: letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Counted up when its answers or scores change.
    #[serde(default = "one")]
    pub version: u32,
    /// Sets of rules that its plugins know, the default first; the chosen one becomes their configuration's `profile`. Empty: it
    /// has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Where the profiles differ, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What stands after the comma of a result's key, as in `exact_match,none`.
    #[serde(default = "none")]
    pub result_filter: String,
    /// The value that stands for the task; the first of its metric if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<String>,
    /// Its questions.
    pub data: Data,
    /// How answers are made.
    #[serde(default)]
    pub generation: Generation,
    /// Record to conversation.
    pub prompt: Use,
    /// Answers to scores; none where only a server scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metric: Vec<Use>,
    /// The file that a server scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
    /// Examples before the question, where the task has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fewshot: Option<Fewshot>,
    /// Changes by profile; merged by [`Task::parse`].
    #[serde(default, rename = "profile", skip_serializing)]
    changes: BTreeMap<String, Value>,
}

/// Which rows of which data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// `ORG/NAME`: a folder below the data root, with or without the organisation.
    pub dataset: String,
    /// Other names of the same data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The configuration: a folder of the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Files below the data set's folder, `*` standing for any part of a name, instead of `config` and `split`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The format; what the files are if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Columns with pictures, in their order; `image_*` stands for `image_1`, `image_2`, …; null ones are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Columns with pictures as base64 text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base64: Vec<String>,
    /// The column that names a sample; its number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column of the correct answer or answers, `{FIELD}` in it standing for the value of that field; what records usually
    /// call it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<String>,
    /// Whether correct answers are numbers of options, from 0, and are recorded as letters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub letters: bool,
    /// Several questions of one row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expand: Option<Expand>,
}

/// Formats of data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet files, as the Hugging Face hub has them.
    Parquet,
    /// One JSON object a line; pictures are files beside it.
    Jsonl,
    /// Tar shards.
    Webdataset,
}

/// Each row becomes several, which differ in a further field.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expand {
    /// The field.
    pub field: String,
    /// Its values.
    pub values: Vec<Value>,
    /// Which rows get which values.
    #[serde(default)]
    pub pick: Pick,
}

/// How rows and values of [`Expand`] come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// Every row with every value, row by row.
    #[default]
    Every,
    /// The data set as often as there are values, row `i` of the whole with value `i % n`. This asks some rows the same
    /// question again and others never; one benchmark's reference does it.
    Cycle,
}

/// How answers are made; what is absent is the model's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Generation {
    /// Tokens at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// Texts that end an answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_strings: Vec<String>,
    /// Draw tokens; false if absent, whatever the model says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    /// Only with `do_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Only with `do_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Only with `do_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Above one makes tokens that were said less likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
}

impl Generation {
    /// The model's settings with these over them. Answers are greedy unless `do_sample` is said.
    pub fn over(&self, model: &GenerationConfig) -> GenerationConfig {
        let mut out = model.clone();
        out.do_sample = self.do_sample.unwrap_or(false);
        out.max_new_tokens = self.max_new_tokens.unwrap_or(out.max_new_tokens);
        out.temperature = self.temperature.unwrap_or(out.temperature);
        out.top_p = self.top_p.unwrap_or(out.top_p);
        out.top_k = self.top_k.unwrap_or(out.top_k);
        out.repetition_penalty = self.repetition_penalty.unwrap_or(out.repetition_penalty);
        out.stop_strings.extend(self.stop_strings.iter().filter(|s| !model.stop_strings.contains(s)).cloned());
        out
    }
}

/// One use of a plugin.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Use {
    /// The component: a path relative to the task file, or one of those that recipes may name.
    pub plugin: String,
    /// Which of the component's plugins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// SHA-256 that the file must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Its configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Files that it reads at its start, relative to the task file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub assets: BTreeMap<String, PathBuf>,
}

/// A file for a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Its name; the ending says the format: json (a list), jsonl or xlsx.
    pub file: String,
    /// What it holds of each sample.
    pub columns: Vec<SubmissionColumn>,
    /// Whether what was thought aloud (`<think>`, `<analysis>`) is left out of predictions.
    #[serde(default = "yes")]
    pub strip_reasoning: bool,
}

/// A column of a [`Submission`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmissionColumn {
    /// Its name in the file.
    pub name: String,
    /// `prediction`, `key`, or `record.FIELD`.
    pub from: String,
    /// What it is written as.
    #[serde(default)]
    pub r#type: ColumnType,
    /// Its value where the record has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

/// How a column of a [`Submission`] is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnType {
    /// As the record has it.
    #[default]
    AsIs,
    /// A whole number, also where the record has it as text.
    Integer,
    /// Text, also where the record has a number.
    Text,
}

/// Examples before the question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fewshot {
    /// The split that they are from.
    pub split: String,
    /// The column of their answers.
    pub answer: String,
    /// How many, unless the user says.
    #[serde(default)]
    pub count: usize,
}

/// Tasks under one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// Tasks and other groups.
    pub tasks: Vec<String>,
}

/// What a file holds.
#[derive(Clone, Debug)]
pub enum TaskFile {
    /// A task, as the profile has it.
    Task(Box<Task>),
    /// A group.
    Group(Group),
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn none() -> String {
    "none".into()
}

impl TaskFile {
    /// Reads a file's text. `profile`: the rules that the user chose; the task's first where absent, or where the task has none.
    ///
    /// # Errors
    /// No TOML, keys that are not known, a profile that the task does not have; `name` says which file it is.
    pub fn parse(text: &str, name: &str, profile: Option<&str>) -> Result<Self> {
        let value: Value = toml::from_str(text).with_context(|| format!("task file {name}"))?;
        if value.get("tasks").is_some() {
            let group: Group = serde_json::from_value(value).with_context(|| format!("task file {name}"))?;
            check_name(&group.name, name)?;
            return Ok(Self::Group(group));
        }
        Ok(Self::Task(Box::new(Task::resolve(value, name, profile)?)))
    }
}

impl Task {
    fn resolve(mut value: Value, file: &str, profile: Option<&str>) -> Result<Self> {
        let context = || format!("task file {file}");
        let plain: Task = serde_json::from_value(value.clone()).with_context(context)?;
        check_name(&plain.name, file)?;
        for named in plain.changes.keys() {
            ensure!(
                plain.profiles.contains(named),
                "task file {file}: [profile.{named}] is none of its profiles ({})",
                plain.profiles.join(", ")
            );
        }
        let chosen = match profile {
            _ if plain.profiles.is_empty() => None,
            None => plain.profiles.first().cloned(),
            Some(wanted) if plain.profiles.iter().any(|p| p == wanted) => Some(wanted.to_owned()),
            Some(wanted) => {
                bail!("task {} has no profile {wanted:?}; it has {}", plain.name, plain.profiles.join(", "))
            }
        };
        if let Some(submission) = &plain.submission {
            check_submission(submission, file)?;
        }
        let Some(chosen) = chosen else { return Ok(plain) };
        if let Some(changes) = plain.changes.get(&chosen) {
            merge(&mut value, changes.clone());
        }
        let mut task: Task =
            serde_json::from_value(value).with_context(|| format!("task file {file} with [profile.{chosen}]"))?;
        for used in std::iter::once(&mut task.prompt).chain(&mut task.metric) {
            used.config.entry("profile").or_insert_with(|| Value::String(chosen.clone()));
        }
        task.profiles = vec![chosen];
        if let Some(submission) = &task.submission {
            check_submission(submission, file)?;
        }
        Ok(task)
    }

    /// The profile that was chosen, if the task has any.
    pub fn profile(&self) -> Option<&str> {
        self.profiles.first().map(String::as_str)
    }
}

/// Merges tables deeply; anything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Names become file names and keys.
fn check_name(name: &str, file: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    ensure!(
        !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed),
        "task file {file}: the name {name:?} is not allowed; letters, digits, _, - and . are, and no dot at the front"
    );
    Ok(())
}

/// What would otherwise be found after all questions were asked.
fn check_submission(submission: &Submission, file: &str) -> Result<()> {
    check_name(&submission.file, file)?;
    let ending = submission.file.rsplit_once('.').map_or("", |(_, ending)| ending);
    ensure!(
        ["json", "jsonl", "xlsx"].contains(&ending),
        "task file {file}: submission.file {:?}: the ending must be json, jsonl or xlsx",
        submission.file
    );
    for column in &submission.columns {
        let known = ["prediction", "key"].contains(&&*column.from) || column.from.starts_with("record.");
        ensure!(
            known,
            "task file {file}: submission column {:?}: from = {:?} is not known; prediction, key and record.FIELD are",
            column.name,
            column.from
        );
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const TASK: &str = r#"
name = "colours"
summary = "Colours."
profiles = ["fixed", "old"]
[data]
dataset = "me/colours"
split = "test"
images = ["image"]
[generation]
max_new_tokens = 4
[prompt]
plugin = "prompts/conversation.wasm"
[[metric]]
plugin = "metrics/exact_match.wasm"
config = { lower = true }
[profile.old]
generation.stop_strings = ["END"]
data.split = "dev"
"#;

    fn task(text: &str, profile: Option<&str>) -> Result<Task> {
        match TaskFile::parse(text, "colours.toml", profile)? {
            TaskFile::Task(task) => Ok(*task),
            TaskFile::Group(_) => bail!("a group"),
        }
    }

    #[test]
    fn a_profile_is_merged_over_the_file_and_reaches_the_plugins() {
        let plain = task(TASK, None).unwrap();
        assert_eq!((plain.profile(), plain.data.split.as_deref()), (Some("fixed"), Some("test")));
        assert_eq!(plain.metric[0].config["profile"], "fixed");
        let old = task(TASK, Some("old")).unwrap();
        assert_eq!(old.data.split.as_deref(), Some("dev"));
        assert_eq!(old.generation.max_new_tokens, Some(4));
        assert_eq!(old.generation.stop_strings, ["END"]);
        assert_eq!((&old.prompt.config["profile"], &old.metric[0].config["lower"]), (&"old".into(), &true.into()));
        assert_eq!(old.data.images, ["image"], "what the profile does not name stays");
        let error = task(TASK, Some("new")).unwrap_err().to_string();
        assert!(error.contains("\"new\"") && error.contains("fixed, old"), "{error}");
    }

    #[test]
    fn a_file_that_says_something_unknown_is_refused() {
        for (from, to, names) in [
            ("split =", "splitt =", "splitt"),
            ("[profile.old]", "[profile.odd]", "odd"),
            ("name = \"colours\"", "name = \"../colours\"", "../colours"),
            ("generation.stop_strings", "generation.stops", "stops"),
            ("[profile.old]", "[submission]\nfile = \"../x.json\"\ncolumns = []\n[profile.old]", "../x.json"),
        ] {
            let error = format!("{:#}", task(&TASK.replace(from, to), Some("old")).unwrap_err());
            assert!(error.contains(names) && error.contains("colours.toml"), "{names}: {error}");
        }
    }
}
