//! Scores to files: `results.json`, `samples_TASK.jsonl` and `submissions/`, with the fields that readers of lmms-eval's look for.
//!
//! Nothing in them depends on when or how often a run was broken off: equal answers give equal files. Times are in `run.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use ovhost_eval_scoring::stats;
use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::answers::Answer;
use crate::runner::hex;
use crate::score::{NO_JUDGE, RowScore, Score, Scores};
use crate::submission;
use crate::task::Task;

/// Name of the one evaluation of a recipe's data.
pub const RECIPE: &str = "eval";

/// One task's results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TaskResults {
    /// The value that stands for the task.
    pub main: Option<String>,
    /// What the task is.
    pub summary: String,
    /// Questions in the data.
    pub original: u64,
    /// Questions that were to be answered.
    pub samples: u64,
    /// Those that got an answer.
    pub answered: u64,
    /// Those without: see `error` in the samples' file.
    pub failed: u64,
    /// Answers that a metric could not score.
    pub unscored: u64,
    /// Answers in which nothing could be read, as the metric counts them.
    pub unparsed: u64,
    /// Answers that ended at the length limit.
    pub truncated: u64,
    /// Answers that a judge scored.
    pub judged: u64,
    /// Value by name.
    pub metrics: BTreeMap<String, Score>,
    /// Whether there are answers that need a judge, and none was given.
    #[serde(skip)]
    pub wants_judge: bool,
    /// Metrics that failed as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Its plugins: identity and resolved configuration.
    pub plugins: Value,
    /// Where the profiles differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// SHA-256 over the questions.
    pub hash: String,
    #[serde(skip)]
    filter: String,
    #[serde(skip)]
    version: u32,
    #[serde(skip)]
    shots: usize,
    #[serde(skip)]
    config: Value,
    /// Standard errors over the main value's rows: simple, and clustered by pictures.
    #[serde(skip)]
    errors_of_main: [Option<f64>; 2],
    /// Whether there is a file for a server.
    #[serde(skip)]
    pub submission: bool,
}

/// A task with its scores, to be written.
pub struct Scored<'a> {
    /// The task; none for a recipe's data.
    pub task: Option<&'a Task>,
    /// Questions in the data.
    pub original: u64,
    /// Examples before each question.
    pub shots: usize,
    /// Its answers, in the order of the data.
    pub answers: Vec<&'a Answer>,
    /// What the metrics say of those that were answered.
    pub scores: Scores,
    /// Its plugins.
    pub plugins: Value,
}

impl Scored<'_> {
    fn name(&self) -> &str {
        self.task.map_or(RECIPE, |t| &t.name)
    }

    /// Counts and values.
    pub fn results(&self) -> TaskResults {
        let asked = self.answers.iter().filter(|a| a.error.is_none()).count() as u64;
        let rows = &self.scores.rows;
        let mut hash = Sha256::new();
        for answer in &self.answers {
            hash.update(answer.doc_hash.as_bytes());
        }
        let first = self.scores.values.first().map(|(name, _)| name.clone());
        let main = self.task.and_then(|t| t.main.clone()).or(first);
        let unread = self.scores.values.iter().find(|(name, _)| name == "unread").and_then(|(_, s)| s.value);
        let mut out = TaskResults {
            summary: self.task.map_or_else(|| "the recipe's data".into(), |t| t.summary.clone()),
            original: self.original,
            samples: self.answers.len() as u64,
            answered: asked,
            failed: self.answers.len() as u64 - asked,
            unscored: rows.iter().filter(|r| !r.errors.is_empty()).count() as u64,
            unparsed: unread.unwrap_or(0.0) as u64,
            truncated: self.answers.iter().filter(|a| a.finish_reason == "length").count() as u64,
            judged: rows.iter().filter(|r| r.judgement.is_some()).count() as u64,
            metrics: self.scores.values.iter().cloned().collect(),
            errors: self.scores.failed.clone(),
            plugins: self.plugins.clone(),
            notes: self.task.map(|t| t.notes.clone()).unwrap_or_default(),
            hash: hex(hash.finalize()),
            filter: self.task.map_or_else(|| "none".into(), |t| t.result_filter.clone()),
            version: self.task.map_or(1, |t| t.version),
            shots: self.shots,
            config: self.task.map_or(Value::Null, |t| serde_json::to_value(t).unwrap_or_default()),
            wants_judge: rows.iter().any(|r| r.errors.iter().any(|e| e.ends_with(NO_JUDGE))),
            submission: self.task.is_some_and(|t| t.submission.is_some()),
            ..TaskResults::default()
        };
        out.errors_of_main = self.errors_of(main.as_deref(), &out.metrics);
        out.main = main;
        out
    }

    /// Standard errors of the main value from the per-sample scores, where it is their mean times a scale.
    fn errors_of(&self, main: Option<&str>, metrics: &BTreeMap<String, Score>) -> [Option<f64>; 2] {
        let asked: Vec<&&Answer> = self.answers.iter().filter(|a| a.error.is_none()).collect();
        let Some(score) = main.and_then(|m| metrics.get(m)) else { return [None, None] };
        let (Some(value), scale) = (score.value, score.high.unwrap_or(1.0)) else { return [None, None] };
        let name = main.unwrap_or_default();
        let of_row = |row: &RowScore| self.scores.of_row(name, row).and_then(Value::as_f64);
        let rows: Vec<(f64, &str)> = self
            .scores
            .rows
            .iter()
            .zip(asked)
            .filter_map(|(row, answer)| Some((of_row(row)?, answer.cluster.as_deref().unwrap_or(&answer.doc_hash))))
            .collect();
        let (scores, clusters): (Vec<f64>, Vec<&str>) = rows.into_iter().unzip();
        if scores.len() < 2 || (stats::mean(&scores) * scale - value).abs() > 1e-9 * scale.abs().max(1.0) {
            return [None, None];
        }
        let finite = |e: f64| Some(e * scale).filter(|e| e.is_finite());
        [finite(stats::mean_stderr(&scores)), finite(stats::clustered_stderr(&scores, &clusters))]
    }

    /// The lines of the samples' file.
    fn lines(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut scored = self.scores.rows.iter();
        let main = self.task.and_then(|t| t.main.clone()).or_else(|| self.scores.values.first().map(|v| v.0.clone()));
        for answer in &self.answers {
            let row = if answer.error.is_none() { scored.next() } else { None };
            let mut line = Map::new();
            let mut put = |key: &str, value: Value| line.insert(key.to_owned(), value);
            put("doc_id", answer.doc_id.into());
            put("doc_hash", answer.doc_hash.clone().into());
            put("key", answer.key.clone().into());
            put("source", answer.source.clone().into());
            put("target", answer.references.first().cloned().unwrap_or_default().into());
            put("references", json!(answer.references));
            put("filtered_resps", answer.prediction.clone().into());
            put("input", answer.input.clone().into());
            put("token_counts", json!([{"input_tokens": answer.prompt_tokens, "output_tokens": answer.answer_tokens}]));
            put("finish_reason", answer.finish_reason.clone().into());
            if let Some(row) = row {
                if let Some((main, score)) = main.as_ref().and_then(|m| Some((m, self.scores.of_row(m, row)?))) {
                    put(main, score.clone());
                }
                put("scores", Value::Object(row.scores.clone()));
                if let Some(read) = &row.read {
                    put("read", read.clone());
                }
                if let Some(judgement) = &row.judgement {
                    put("judgement", judgement.clone().into());
                }
                if !row.errors.is_empty() {
                    put("score_errors", json!(row.errors));
                }
            }
            put("record", serde_json::from_str(answer.record.get())?);
            if let Some(cluster) = &answer.cluster {
                put("cluster", cluster.clone().into());
            }
            if let Some(error) = &answer.error {
                put("error", error.clone().into());
            }
            serde_json::to_writer(&mut out, &line)?;
            out.push(b'\n');
        }
        Ok(out)
    }

    fn samples_file(&self) -> String {
        match self.task {
            Some(task) => format!("samples_{}.jsonl", task.name),
            None => "samples.jsonl".into(),
        }
    }
}

/// What the evaluation as a whole was.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// Name of the model: its folder's.
    pub model_name: String,
    /// The profile that was chosen, where tasks have profiles.
    pub profile: Option<String>,
    /// Groups that were named, with their tasks.
    pub groups: BTreeMap<String, Vec<String>>,
    /// `config` of results.json: what the run was told.
    pub config: Value,
    /// What decides the answers.
    pub settings: Value,
}

/// `results.json`.
#[derive(Clone, Debug)]
pub struct Results {
    /// By task.
    pub tasks: BTreeMap<String, TaskResults>,
    /// The file's content.
    pub json: Value,
}

impl Results {
    /// Whether every question was asked and scored.
    pub fn complete(&self) -> bool {
        self.tasks.values().all(|t| t.failed + t.unscored == 0 && t.errors.is_empty())
    }
}

/// Writes the files of all tasks, each whole or not at all; `results.json` last.
///
/// # Errors
/// The disk's. A column of a submission that no answer has is in the task's `errors`.
pub fn write(folder: &Path, scored: &[Scored<'_>], whole: &Whole) -> Result<Results> {
    let mut tasks = BTreeMap::new();
    for one in scored {
        write_whole(&folder.join(one.samples_file()), &one.lines()?)?;
        let mut results = one.results();
        if let Some(submission) = one.task.and_then(|t| t.submission.as_ref()) {
            let folder = folder.join("submissions");
            fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
            match submission::make(submission, &one.answers) {
                Ok(bytes) => write_whole(&folder.join(&submission.file), &bytes)?,
                Err(error) => results.errors.push(format!("{error:#}")),
            }
        }
        tasks.insert(one.name().to_owned(), results);
    }
    let json = json(&tasks, whole);
    write_whole(&folder.join("results.json"), &serde_json::to_vec_pretty(&json)?)?;
    Ok(Results { tasks, json })
}

fn json(tasks: &BTreeMap<String, TaskResults>, whole: &Whole) -> Value {
    let by = |f: &dyn Fn(&TaskResults) -> Value| -> Value {
        Value::Object(tasks.iter().map(|(name, task)| (name.clone(), f(task))).collect())
    };
    json!({
        "results": Value::Object(tasks.iter().map(|(name, task)| (name.clone(), table(name, task))).collect()),
        "groups": {},
        "group_subtasks": whole.groups,
        "configs": by(&|t| t.config.clone()),
        "versions": by(&|t| t.version.into()),
        "n-shot": by(&|t| t.shots.into()),
        "higher_is_better": by(&|t| t.metrics.iter().map(|(n, s)| (n.clone(), s.higher_is_better.into())).collect::<Map<_, _>>().into()),
        "n-samples": by(&|t| json!({"original": t.original, "effective": t.samples})),
        "config": whole.config,
        "task_hashes": by(&|t| t.hash.clone().into()),
        "model_name": whole.model_name,
        "ovhost_version": env!("CARGO_PKG_VERSION"),
        "profile": whole.profile,
        "tasks": tasks,
        "settings": whole.settings,
    })
}

/// A task's entry of `results`: `NAME,FILTER` and `NAME_stderr,FILTER`.
fn table(name: &str, task: &TaskResults) -> Value {
    let filter = &task.filter;
    let number = |value: Option<f64>| value.map_or_else(|| "N/A".into(), |v| json!(v));
    let mut out = Map::new();
    out.insert("alias".into(), name.into());
    for (metric, score) in &task.metrics {
        out.insert(format!("{metric},{filter}"), json!(score.value));
        out.insert(format!("{metric}_stderr,{filter}"), number(score.stderr));
        if task.main.as_ref() == Some(metric) {
            out.insert(format!("{metric}_stderr_clt,{filter}"), number(task.errors_of_main[0]));
            out.insert(format!("{metric}_stderr_clustered,{filter}"), number(task.errors_of_main[1]));
        }
    }
    if task.submission {
        out.insert(format!("submission,{filter}"), Value::Null);
    }
    Value::Object(out)
}

/// Writes a file, whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    ovhost_files::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
