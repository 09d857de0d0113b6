//! Two evaluations → their differences, paired sample by sample, with errors, warnings and a verdict.
//!
//! ```text
//!  A ─┐ task by task                     ┌─► pairs (doc_id, equal doc_hash or target) ─► differences, intervals, tests
//!  B ─┴─ rows: a few numbers a sample ───┤
//!  settings of both ─────────────────────┴─► warnings: what makes the comparison unfair
//! ```
//! A is the baseline; differences are B − A.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use ovhost_eval_scoring::stats::difference::Difference;
use serde::Serialize;

use crate::read::{Evaluation, Writer};

mod pairs;
mod settings;
mod tables;
mod verdict;

pub use pairs::{ScoreComparison, TaskComparison};
pub use verdict::Verdict;

/// What is compared, and when the comparison fails.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// `--metric NAME`, repeatable: only these per-sample scores; the first is the one that the overall line and the verdict
    /// take. Without it all that both have, the task's main one first.
    pub metrics: Vec<String>,
    /// `--task NAME`, repeatable: only these tasks. Without it all that both have.
    pub tasks: Vec<String>,
    /// `--confidence SHARE`: of the intervals, above 0.5 and below 1. Default 0.95.
    pub confidence: f64,
    /// `--fail-below POINTS`: fail when B is worse than A by more than this, in any task or overall. A point is a hundredth of
    /// a score from 0 to 1 (one unit of other scores). What counts is the difference itself, not the end of its interval;
    /// add `--significant` to forgive what may be chance. Without it nothing fails that could be compared.
    pub fail_below: Option<f64>,
    /// `--significant`: with `--fail-below`, fail only where the interval of the difference excludes 0.
    pub significant: bool,
    /// `--allow-missing SHARE`: with `--fail-below`, the share of A's scored samples of a task that may have no partner
    /// with a score in B; above it the comparison is refused, as B's failures would otherwise pass unseen. Default 0.01.
    pub allow_missing: f64,
    /// `--pair-by`: how samples find each other. Default `auto`.
    pub pairing: Pairing,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self {
            metrics: Vec::new(),
            tasks: Vec::new(),
            confidence: 0.95,
            fail_below: None,
            significant: false,
            allow_missing: 0.01,
            pairing: Pairing::Auto,
        }
    }
}

/// How samples of two runs find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `auto`: by doc_id where doc_hash is equal. Where a side has no hash that means anything (lmms-eval's is the same for
    /// all), by doc_id where the correct answer is equal.
    Auto,
    /// `doc-id`: by doc_id alone, for targets that are written differently. Nothing then tells other data.
    DocId,
}

/// What a pair has to have in common beside its doc_id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairedBy {
    /// The record's hash.
    DocHash,
    /// The correct answer.
    Target,
    /// Nothing.
    DocId,
}

impl PairedBy {
    /// In words.
    fn words(self) -> &'static str {
        match self {
            Self::DocHash => "doc_id and doc_hash",
            Self::Target => "doc_id and target",
            Self::DocId => "doc_id alone",
        }
    }
}

/// One of the two.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// As it was named.
    pub path: PathBuf,
    /// Who wrote it.
    pub writer: Writer,
    /// The model's name.
    pub model: String,
    /// The profile, where one was chosen.
    pub profile: Option<String>,
}

/// The comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The baseline.
    pub a: Side,
    /// What is compared with it.
    pub b: Side,
    /// Of the intervals.
    pub confidence: f64,
    /// Tasks that both have.
    pub tasks: Vec<TaskComparison>,
    /// Unweighted mean of the tasks' differences (the first score of each, of scores from 0 to 1 of which more is better).
    pub overall: Option<Overall>,
    /// Tasks of A alone.
    pub only_in_a: Vec<String>,
    /// Tasks of B alone.
    pub only_in_b: Vec<String>,
    /// What makes the comparison unfair.
    pub warnings: Vec<String>,
    /// What else a reader should know.
    pub notes: Vec<String>,
    /// When it fails.
    #[serde(skip)]
    options: CompareOptions,
}

/// The line over all tasks.
#[derive(Clone, Debug, Serialize)]
pub struct Overall {
    /// Tasks that it covers.
    pub tasks: usize,
    /// Mean of A's means.
    pub mean_a: f64,
    /// Mean of B's means.
    pub mean_b: f64,
    /// The difference; not known where one of the tasks' is not.
    #[serde(flatten)]
    pub difference: Known,
}

/// A difference for JSON: what is not known is null.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Known {
    /// B − A.
    pub difference: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Lower end of the confidence interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Two-sided, of Student's paired test.
    pub p_value: Option<f64>,
    /// Degrees of freedom.
    pub degrees_of_freedom: Option<f64>,
}

impl Known {
    fn of(difference: &Difference) -> Self {
        let known = |value: f64| (!value.is_nan()).then_some(value);
        Self {
            difference: difference.mean,
            stderr: known(difference.stderr),
            low: known(difference.low),
            high: known(difference.high),
            p_value: known(difference.p_value),
            degrees_of_freedom: known(difference.free),
        }
    }
}

/// Compares the evaluation in `b` with that in `a`, each a folder of `ovhost eval`, a folder of lmms-eval or one samples file.
///
/// # Errors
/// Options out of range, files that cannot be read, no task or no such task or score in common.
pub fn compare(a: &Path, b: &Path, options: &CompareOptions) -> Result<Comparison> {
    check(options)?;
    let (a, b) = (Evaluation::open(a)?, Evaluation::open(b)?);
    let mut notes: Vec<String> = [("A", &a), ("B", &b)]
        .iter()
        .flat_map(|(side, evaluation)| evaluation.notes.iter().map(move |note| format!("{side}: {note}")))
        .collect();
    let (matched, only_in_a, only_in_b) = matched(&a, &b, options, &mut notes)?;
    let mut tasks = Vec::new();
    for task in &matched {
        tasks.push(pairs::compare_task(&a, &b, task, options)?);
    }
    pairs::check_metrics(&options.metrics, &tasks)?;
    let overall = overall(&tasks, options.confidence, &mut notes);
    let names: Vec<&str> = matched.iter().filter(|task| task.a.0 == task.b.0).map(|task| task.a.0.as_str()).collect();
    let warnings = settings::warnings(&a, &b, &names)?;
    Ok(Comparison {
        a: side(&a),
        b: side(&b),
        confidence: options.confidence,
        tasks,
        overall,
        only_in_a,
        only_in_b,
        warnings,
        notes,
        options: options.clone(),
    })
}

fn check(options: &CompareOptions) -> Result<()> {
    ensure!(
        options.confidence > 0.5 && options.confidence < 1.0,
        "--confidence {}: it has to be above 0.5 and below 1, as 0.95",
        options.confidence
    );
    if let Some(points) = options.fail_below {
        ensure!(points >= 0.0 && points.is_finite(), "--fail-below {points}: give points from 0, as 1 or 0.5");
    }
    ensure!(
        (0.0..=1.0).contains(&options.allow_missing),
        "--allow-missing {}: it is a share of the samples, from 0 to 1",
        options.allow_missing
    );
    ensure!(
        !options.significant || options.fail_below.is_some(),
        "--significant says which differences --fail-below forgives; give --fail-below POINTS too"
    );
    Ok(())
}

fn side(evaluation: &Evaluation) -> Side {
    Side {
        path: evaluation.path.clone(),
        writer: evaluation.writer,
        model: evaluation.model(),
        profile: evaluation.results.as_ref().and_then(|results| results.profile.clone()),
    }
}

/// A task of both, with the files of its samples.
struct Matched<'a> {
    a: &'a (String, PathBuf),
    b: &'a (String, PathBuf),
}

type Matching<'a> = (Vec<Matched<'a>>, Vec<String>, Vec<String>);

fn matched<'a>(
    a: &'a Evaluation,
    b: &'a Evaluation,
    options: &CompareOptions,
    notes: &mut Vec<String>,
) -> Result<Matching<'a>> {
    let names = |evaluation: &Evaluation| evaluation.tasks.iter().map(|task| task.0.clone()).collect::<Vec<_>>();
    for name in &options.tasks {
        let both = [a, b].iter().all(|evaluation| evaluation.tasks.iter().any(|task| task.0 == *name));
        ensure!(both, "--task {name}: not in both; A has {}, B has {}", names(a).join(", "), names(b).join(", "));
    }
    // Two files that were named one by one belong together, whatever they are called.
    if let (Some(one), Some(other)) = (a.single(), b.single())
        && one != other
    {
        notes.push(format!("the task of A is called {one}, that of B {other}"));
        return Ok((vec![Matched { a: &a.tasks[0], b: &b.tasks[0] }], Vec::new(), Vec::new()));
    }
    let wanted = |name: &String| options.tasks.is_empty() || options.tasks.contains(name);
    let find = |list: &'a [(String, PathBuf)], name: &String| list.iter().find(|task| task.0 == *name);
    let matched: Vec<_> = a
        .tasks
        .iter()
        .filter(|task| wanted(&task.0))
        .filter_map(|task| Some(Matched { a: task, b: find(&b.tasks, &task.0)? }))
        .collect();
    if matched.is_empty() {
        bail!("no task is in both: A has {}, B has {}", names(a).join(", "), names(b).join(", "));
    }
    let only = |of: &Evaluation, other: &Evaluation| -> Vec<String> {
        names(of).into_iter().filter(|name| wanted(name) && !other.tasks.iter().any(|task| task.0 == *name)).collect()
    };
    let (only_in_a, only_in_b) = (only(a, b), only(b, a));
    Ok((matched, only_in_a, only_in_b))
}

fn overall(tasks: &[TaskComparison], confidence: f64, notes: &mut Vec<String>) -> Option<Overall> {
    let mut first = Vec::new();
    for task in tasks {
        match task.scores.first().filter(|score| score.pairs > 0) {
            Some(score) if score.points == 100.0 && score.higher_is_better => first.push(score),
            Some(score) if tasks.len() > 1 => notes.push(format!(
                "{}: {} is not in the overall line, which is of scores from 0 to 1 of which more is better",
                task.task, score.score
            )),
            _ => {}
        }
    }
    if first.len() < 2 {
        return None;
    }
    let parts: Vec<Difference> = first.iter().map(|score| score.exact).collect();
    let mean = |of: fn(&ScoreComparison) -> f64| first.iter().map(|score| of(score)).sum::<f64>() / first.len() as f64;
    Some(Overall {
        tasks: first.len(),
        mean_a: mean(|score| score.mean_a),
        mean_b: mean(|score| score.mean_b),
        difference: Known::of(&Difference::overall(&parts, confidence)),
    })
}

impl Comparison {
    /// Whether it passes: see [`CompareOptions::fail_below`].
    pub fn verdict(&self) -> Verdict {
        verdict::of(self, &self.options)
    }

    /// A table for terminals, with warnings, notes and the verdict.
    pub fn text(&self) -> String {
        tables::text(self)
    }

    /// The same as Markdown.
    pub fn markdown(&self) -> String {
        tables::markdown(self)
    }

    /// Everything, with the verdict, as pretty JSON with a final newline. Differences are in the scores' own units.
    ///
    /// # Errors
    /// None that a user could cause.
    pub fn json(&self) -> Result<String> {
        let mut value = serde_json::to_value(self)?;
        value["verdict"] = serde_json::to_value(self.verdict())?;
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }
}
