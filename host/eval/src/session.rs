//! A folder of results from its opening to its last file: whose answers it holds, asking for the missing ones, scoring them all.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::Plugin;
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::answers::{Answer, AnswerFile, Answers};
use crate::results::{self, Results, Scored, Whole};
use crate::runner::{Asking, Common, Model, ask};
use crate::score::{Judges, again, draft, finish_all};
use crate::task::Task;

/// A task as it is scored.
pub struct Subject {
    /// The task; none for a recipe's data.
    pub task: Option<Task>,
    /// Questions in its data.
    pub original: u64,
    /// Those that are to be asked.
    pub asked: u64,
    /// Examples before each question.
    pub shots: usize,
    /// Its metrics.
    pub metrics: Vec<Plugin>,
    /// All its plugins, for the records.
    pub plugins: Value,
    /// What decides its answers: data, prompt plugin, generation.
    pub identity: Value,
}

impl Subject {
    /// Its name in answers and results.
    pub fn name(&self) -> &str {
        self.task.as_ref().map_or(results::RECIPE, |t| &t.name)
    }
}

/// Files of a folder of results.
pub const ANSWERS: &str = "answers.jsonl";
/// What decides the answers in the folder.
pub const SETTINGS: &str = "settings.json";

/// Opens a folder for the answers of `common` (model, precision, seed) and of the subjects, and returns those that it holds. A folder may be given
/// further tasks later; answers of other settings never mix with these.
///
/// # Errors
/// The folder holds answers of other settings: which ones.
pub fn open(out: &Path, common: &Map<String, Value>, subjects: &[Subject]) -> Result<(AnswerFile, Answers)> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let path = out.join(SETTINGS);
    let saved = saved_settings(out)?.unwrap_or_else(|| json!({"tasks": {}}));
    let mut differ: Vec<String> = Vec::new();
    let mut settings = saved.clone();
    let held = saved.get("tasks").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in common {
        // A folder may be renamed or copied.
        if !held.is_empty() && key != "model_name" && saved.get(key) != Some(value) {
            differ.push(key.clone());
        }
        settings[key] = value.clone();
    }
    for subject in subjects {
        if let Some(known) = held.get(subject.name()) {
            let keys = differing(known, &subject.identity);
            differ.extend(keys.into_iter().map(|k| format!("{} of {}", k, subject.name())));
        }
        settings["tasks"][subject.name()] = subject.identity.clone();
        // How many are asked decides no answer: a limit may be raised.
        settings["asked"][subject.name()] = subject.asked.into();
    }
    ensure!(
        differ.is_empty(),
        "{} holds answers of another evaluation ({} differ); name another folder with --out or remove it",
        out.display(),
        differ.join(", ")
    );
    if settings != saved {
        results::write_whole(&path, &serde_json::to_vec_pretty(&settings)?)?;
    }
    AnswerFile::open(&out.join(ANSWERS))
}

/// What decided the answers in a folder; none where there is no such file.
///
/// # Errors
/// A file that cannot be read.
pub fn saved_settings(out: &Path) -> Result<Option<Value>> {
    let path = out.join(SETTINGS);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is damaged; remove the folder to evaluate anew", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Keys of two identities that differ; plugins may have been pinned or signed since.
fn differing(a: &Value, b: &Value) -> Vec<String> {
    let (Some(x), Some(y)) = (a.as_object(), b.as_object()) else { return vec!["settings".into()] };
    let same = |key: &str| match key {
        "prompt" => ovhost_plugin::same_plugins(&x[key], y.get(key).unwrap_or(&Value::Null)),
        _ => y.get(key) == Some(&x[key]),
    };
    let mut out: Vec<String> = x.keys().filter(|k| !same(k)).cloned().collect();
    out.extend(y.keys().filter(|k| !x.contains_key(*k)).cloned());
    out
}

/// Asks for the answers that are missing, then scores. None where the stop flag broke it off: the same call goes on.
///
/// # Errors
/// As [`ask`] and [`finish`].
pub fn evaluate(
    out: &Path,
    (mut file, mut answers): (AnswerFile, Answers),
    asking: &mut [Asking],
    common: &Common,
    model: &mut dyn Model,
) -> Result<Option<Answers>> {
    let whole = ask(asking, common, model, &mut file, &mut answers)?;
    if !whole {
        return Ok(None);
    }
    for task in asking {
        let held = answers.get(&task.name).map_or(0, |a| a.len() as u64);
        if held != task.total {
            bail!("{}: {} of {} questions of {} have an answer", out.display(), held, task.total, task.name);
        }
    }
    Ok(Some(answers))
}

/// Scores the answers of every subject and writes the results.
///
/// # Errors
/// The disk's. A metric that fails is in the task's `errors`.
pub fn finish(
    out: &Path,
    subjects: &[Subject],
    answers: &Answers,
    whole: &Whole,
    seed: u64,
    mut judge: Option<Judges<'_>>,
) -> Result<Results> {
    let none = BTreeMap::new();
    let mut drafts = Vec::with_capacity(subjects.len());
    for subject in subjects {
        let answers = answers.get(subject.name()).unwrap_or(&none).values();
        let asked: Vec<&Answer> = answers.filter(|a| a.error.is_none()).collect();
        drafts.push((draft(&subject.metrics, &asked, seed, again(&mut judge)), &subject.metrics[..]));
    }
    let mut scored = Vec::with_capacity(subjects.len());
    for (subject, scores) in subjects.iter().zip(finish_all(drafts)) {
        for failed in &scores.failed {
            warn!("{}: metric {failed}", subject.name());
        }
        scored.push(Scored {
            task: subject.task.as_ref(),
            original: subject.original,
            shots: subject.shots,
            answers: answers.get(subject.name()).unwrap_or(&none).values().collect(),
            scores,
            plugins: subject.plugins.clone(),
        });
    }
    results::write(out, &scored, whole)
}
