//! A folder or file of results → which tasks it has, what decided its answers, where its samples lie.
//!
//! Two shapes are read: a folder of `ovhost eval` (`results.json`, `samples_<task>.jsonl` or `samples.jsonl`), and what
//! lmms-eval writes (`<date>_results.json`, `<date>_samples_<task>.jsonl`), as its folder or as one samples file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value};

pub mod reference;
pub mod samples;

pub use samples::{Sample, Samples};

/// Name of the one task where a recipe's data instead of tasks were evaluated; its samples are `samples.jsonl`.
pub const RECIPE_TASK: &str = "eval";

/// Who wrote the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writer {
    /// This program.
    Ovhost,
    /// lmms-eval.
    LmmsEval,
}

/// One evaluation.
#[derive(Debug)]
pub struct Evaluation {
    /// As it was named.
    pub path: PathBuf,
    /// Who wrote it.
    pub writer: Writer,
    /// `results.json`; none beside single files of lmms-eval without it.
    pub results: Option<Results>,
    /// Tasks in the order of the results, with the file of each one's samples.
    pub tasks: Vec<(String, PathBuf)>,
    /// What a reader should know of how it was read.
    pub notes: Vec<String>,
}

/// `results.json`, as far as it is read; other fields are in [`Results::other`].
#[derive(Debug, Default, Deserialize)]
pub struct Results {
    /// By task: the task's main metric, counts, values, plugins.
    #[serde(default)]
    pub tasks: Map<String, Value>,
    /// By task: values with lmms-eval's keys (`exact_match,none`).
    #[serde(default)]
    pub results: Map<String, Value>,
    /// By group: its own values, where it has some.
    #[serde(default)]
    pub groups: Map<String, Value>,
    /// By group: its tasks.
    #[serde(default)]
    pub group_subtasks: Map<String, Value>,
    /// By task: the task file as resolved.
    #[serde(default)]
    pub configs: Map<String, Value>,
    /// By task: its version.
    #[serde(default)]
    pub versions: Map<String, Value>,
    /// By task: examples in the prompt.
    #[serde(default, rename = "n-shot")]
    pub n_shot: Map<String, Value>,
    /// By task and metric: whether more is better.
    #[serde(default)]
    pub higher_is_better: Map<String, Value>,
    /// By task: samples of the data and samples asked.
    #[serde(default, rename = "n-samples")]
    pub n_samples: Map<String, Value>,
    /// How the program was called: model, limit, generation.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Name of the model.
    #[serde(default)]
    pub model_name: Option<String>,
    /// The program's version.
    #[serde(default)]
    pub ovhost_version: Option<String>,
    /// `fixed`, `lmms-eval`, …; none where tasks have no profiles.
    #[serde(default)]
    pub profile: Option<String>,
    /// Everything that decides the answers.
    #[serde(default)]
    pub settings: Value,
    /// The rest.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What results.json says of one task.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Task {
    /// Name of the value that stands for the task; none where its server scores it.
    #[serde(default)]
    pub main: Option<String>,
    /// What it is, in a line.
    #[serde(default)]
    pub summary: Option<String>,
    /// Samples.
    #[serde(default)]
    pub samples: u64,
    /// Samples with an answer.
    #[serde(default)]
    pub answered: u64,
    /// Samples without an answer.
    #[serde(default)]
    pub failed: u64,
    /// Answers without a score.
    #[serde(default)]
    pub unscored: u64,
    /// Answers that say nothing that could be read.
    #[serde(default)]
    pub unparsed: Option<u64>,
    /// Answers that ended at the length limit.
    #[serde(default)]
    pub truncated: u64,
    /// Answers that a judge was asked about.
    #[serde(default)]
    pub judged: u64,
    /// Values by name; `main/CATEGORY` are the main value of a category.
    #[serde(default)]
    pub metrics: Map<String, Value>,
    /// Prompt and metric plugins: name, entry, hash, configuration.
    #[serde(default)]
    pub plugins: Vec<Value>,
    /// Metrics that failed as a whole, and why.
    #[serde(default)]
    pub errors: Vec<String>,
    /// Where the profiles differ.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One value of a task.
#[derive(Clone, Debug, Deserialize)]
pub struct Metric {
    /// The value; none over no rows.
    pub value: Option<f64>,
    /// Samples that it covers.
    #[serde(default)]
    pub count: Option<u64>,
    /// Its standard error, where it has one.
    #[serde(default)]
    pub stderr: Option<f64>,
    /// Whether more is better.
    #[serde(default)]
    pub higher_is_better: Option<bool>,
    /// Least possible value.
    #[serde(default)]
    pub low: Option<f64>,
    /// Largest possible value.
    #[serde(default)]
    pub high: Option<f64>,
}

impl Results {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        // Python writes NaN.
        let value: Value =
            samples::parse(&text).map_err(|e| anyhow::anyhow!("{} is no whole JSON: {e}", path.display()))?;
        typed(value).with_context(|| format!("{} is no results file", path.display()))
    }

    /// What is said of a task; all defaults where nothing is (lmms-eval says nothing there).
    ///
    /// # Errors
    /// A field of another type than it has to be.
    pub fn task(&self, name: &str) -> Result<Task> {
        match self.tasks.get(name) {
            None => Ok(Task::default()),
            Some(value) => typed(value.clone()).with_context(|| format!("results.json, tasks.{name}")),
        }
    }
}

impl Task {
    /// Values by name, in their order.
    ///
    /// # Errors
    /// A field of another type than it has to be.
    pub fn values(&self) -> Result<Vec<(String, Metric)>> {
        let one = |(name, value): (&String, &Value)| {
            let metric = typed(value.clone()).with_context(|| format!("results.json, metrics.{name}"))?;
            Ok((name.clone(), metric))
        };
        self.metrics.iter().map(one).collect()
    }
}

/// A value as a type; the error names the field.
fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_path_to_error::deserialize(value)?)
}

/// The task of a samples file by its name: `samples_ai2d.jsonl`, `samples.jsonl`, `20260801_101500_samples_ai2d.jsonl`.
fn task_of(path: &Path) -> Option<&str> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    match stem {
        "samples" => Some(RECIPE_TASK),
        _ => stem.strip_prefix("samples_").or_else(|| Some(stem.split_once("_samples_")?.1)),
    }
}

impl Evaluation {
    /// Opens a folder of results or one samples file.
    ///
    /// # Errors
    /// Nothing of the kind is there, or results.json is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::of_file(path);
        }
        ensure!(
            path.is_dir(),
            "{} does not exist; name the folder that `ovhost eval --out` wrote, or a samples file of lmms-eval",
            path.display()
        );
        let results = path.join("results.json");
        if !results.is_file() {
            return Self::of_lmms_eval(path);
        }
        let results = Results::read(&results)?;
        if results.tasks.is_empty() {
            bail!(
                "{} says nothing of tasks: it is of an older version, or of another program; evaluate again, or \
                 score the saved answers anew with --rescore",
                path.join("results.json").display()
            );
        }
        let file = |name: &String| {
            let single = path.join("samples.jsonl");
            let own = path.join(format!("samples_{name}.jsonl"));
            let file = if name == RECIPE_TASK && !own.exists() { single } else { own };
            (name.clone(), file)
        };
        let tasks = results.tasks.keys().map(file).collect();
        Ok(Self { path: path.into(), writer: Writer::Ovhost, results: Some(results), tasks, notes: Vec::new() })
    }

    fn of_file(path: &Path) -> Result<Self> {
        let name = task_of(path).with_context(|| {
            format!(
                "{} is no samples file by its name: those are called samples.jsonl, samples_TASK.jsonl or, by lmms-eval, \
                 DATE_samples_TASK.jsonl",
                path.display()
            )
        })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stem = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let (writer, beside) = match stem.split_once("_samples_") {
            Some((date, _)) if !stem.starts_with("samples_") => (Writer::LmmsEval, format!("{date}_results.json")),
            _ => (Writer::Ovhost, "results.json".to_owned()),
        };
        let beside = folder.join(beside);
        let results = beside.is_file().then(|| Results::read(&beside)).transpose()?;
        Ok(Self { path: path.into(), writer, results, tasks: vec![(name.into(), path.into())], notes: Vec::new() })
    }

    /// A folder of lmms-eval, or the folder above it (`--output_path`) if it has one model's. The latest file of a task
    /// counts.
    fn of_lmms_eval(path: &Path) -> Result<Self> {
        let mut files = samples_files(path)?;
        if files.is_empty() {
            let folders: Vec<PathBuf> = entries(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
            let mut within = Vec::new();
            for folder in folders {
                let files = samples_files(&folder)?;
                if !files.is_empty() {
                    within.push((folder, files));
                }
            }
            ensure!(
                within.len() <= 1,
                "{} holds results of several models ({}); name one's folder",
                path.display(),
                within.iter().map(|(folder, _)| folder.display().to_string()).collect::<Vec<_>>().join(", ")
            );
            files = within.pop().map(|(_, files)| files).unwrap_or_default();
        }
        ensure!(
            !files.is_empty(),
            "{} has neither results.json nor a *_samples_TASK.jsonl of lmms-eval (--log_samples); name the folder that \
             `ovhost eval --out` wrote",
            path.display()
        );
        let (mut latest, mut notes): (BTreeMap<String, PathBuf>, _) = (BTreeMap::new(), Vec::new());
        // In the order of their names, that is of their dates.
        for file in files {
            if let Some(name) = task_of(&file)
                && let Some(older) = latest.insert(name.to_owned(), file.clone())
            {
                notes.push(format!("{name}: {} counts, {} is older", shown(&file), shown(&older)));
            }
        }
        // One run writes one results file; the newest one's.
        let newest = latest.values().max_by_key(|file| file.file_name().map(ToOwned::to_owned));
        let results = newest.map(|file| Self::of_file(file)).transpose()?.and_then(|one| one.results);
        let tasks = latest.into_iter().collect();
        Ok(Self { path: path.into(), writer: Writer::LmmsEval, results, tasks, notes })
    }

    /// The only task's name, where one file was named.
    pub fn single(&self) -> Option<&str> {
        match &self.tasks[..] {
            [(name, file)] if *file == self.path => Some(name),
            _ => None,
        }
    }

    /// Of a task, whether more of a value is better; true where nothing is said.
    pub fn higher_is_better(&self, task: &str, value: &str) -> bool {
        let said = self.results.as_ref().and_then(|results| results.higher_is_better.get(task)?.get(value)?.as_bool());
        said.unwrap_or(true)
    }

    /// The model's name, or the path.
    pub fn model(&self) -> String {
        let named = self.results.as_ref().and_then(|results| results.model_name.clone());
        named.unwrap_or_else(|| self.path.display().to_string())
    }
}

/// What a folder holds, in the order of names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = || -> std::io::Result<Vec<PathBuf>> {
        let mut all = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        all.sort();
        Ok(all)
    };
    listed().with_context(|| format!("{} cannot be listed", folder.display()))
}

/// lmms-eval's samples files of a folder.
fn samples_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let dated = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        !name.starts_with("samples") && name.contains("_samples_") && name.ends_with(".jsonl")
    };
    Ok(entries(folder)?.into_iter().filter(dated).collect())
}

/// A file's name.
fn shown(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_read_off_names() {
        for (name, task) in [
            ("samples.jsonl", Some("eval")),
            ("samples_ai2d.jsonl", Some("ai2d")),
            ("20260801_101500_samples_mmmu_val.jsonl", Some("mmmu_val")),
            ("answers.jsonl", None),
            ("samples_ai2d.json", None),
        ] {
            assert_eq!(task_of(Path::new(name)), task, "{name}");
        }
    }

    #[test]
    fn what_is_no_evaluation_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", Evaluation::open(path).unwrap_err());
        assert!(error(&folder.path().join("gone")).contains("ovhost eval --out"));
        assert!(error(folder.path()).contains("neither results.json nor"));
        let results = folder.path().join("results.json");
        fs::write(&results, "{\"tasks\": ").unwrap();
        assert!(error(folder.path()).contains("no whole JSON"), "{}", error(folder.path()));
        fs::write(&results, "{\"metrics\": {}}").unwrap();
        assert!(error(folder.path()).contains("older version"), "{}", error(folder.path()));
        fs::write(&results, "{\"tasks\": {\"a\": {\"samples\": \"many\"}}}").unwrap();
        let evaluation = Evaluation::open(folder.path()).unwrap();
        let wrong = format!("{:#}", evaluation.results.unwrap().task("a").unwrap_err());
        assert!(wrong.contains("tasks.a") && wrong.contains("samples") && wrong.contains("many"), "{wrong}");
        fs::write(folder.path().join("notes.txt"), "").unwrap();
        assert!(error(&folder.path().join("notes.txt")).contains("no samples file by its name"));
    }

    #[test]
    fn of_lmms_evals_files_the_latest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("lmms-lab__model");
        fs::create_dir(&model).unwrap();
        for name in ["20260801_1_samples_ai2d.jsonl", "20260802_1_samples_ai2d.jsonl", "20260801_1_samples_mme.jsonl"] {
            fs::write(model.join(name), "").unwrap();
        }
        fs::write(
            model.join("20260802_1_results.json"),
            "{\"model_name\": \"m\", \"results\": {\"ai2d\": {\"x\": NaN}}}",
        )
        .unwrap();
        for path in [folder.path(), &model] {
            let evaluation = Evaluation::open(path).unwrap();
            let names: Vec<_> = evaluation.tasks.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((names, evaluation.writer), (vec!["ai2d", "mme"], Writer::LmmsEval));
            assert!(evaluation.tasks[0].1.ends_with("20260802_1_samples_ai2d.jsonl"));
            assert!(evaluation.notes[0].contains("20260801_1_samples_ai2d.jsonl is older"), "{:?}", evaluation.notes);
            assert_eq!(evaluation.model(), "m");
        }
    }
}
