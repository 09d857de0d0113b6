//! One task of both sides → pairs → differences of every score that both have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use ovhost_eval_scoring::python::literal;
use ovhost_eval_scoring::stats::difference::{Difference, mcnemar};
use ovhost_eval_scoring::stats::mean;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{CompareOptions, Known, Matched, PairedBy, Pairing};
use crate::read::{Evaluation, Sample, Samples, reference};

/// sha256 of `null`: what lmms-eval writes as the hash of every sample.
const CONSTANT: &str = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b";
/// Samples named of those that do not match.
const NAMED: usize = 5;

/// One task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskComparison {
    /// Its name.
    pub task: String,
    /// What pairs have in common.
    pub paired_by: PairedBy,
    /// Samples of A.
    pub in_a: usize,
    /// Samples of B.
    pub in_b: usize,
    /// Samples whose doc_id is in A alone.
    pub only_in_a: usize,
    /// Samples whose doc_id is in B alone.
    pub only_in_b: usize,
    /// Samples of both with another hash or target: other data, so no pairs.
    pub mismatched: usize,
    /// doc_ids of the first of them.
    pub mismatched_doc_ids: Vec<u64>,
    /// By score that both have, the one that stands for the task first.
    pub scores: Vec<ScoreComparison>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// One score of a task.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreComparison {
    /// Its name.
    pub score: String,
    /// Pairs with this score on both sides.
    pub pairs: usize,
    /// Samples with it in A, paired or not.
    pub scored_a: usize,
    /// Samples with it in B.
    pub scored_b: usize,
    /// Mean of A over the pairs.
    pub mean_a: f64,
    /// Mean of B over the pairs.
    pub mean_b: f64,
    /// B − A.
    #[serde(flatten)]
    pub difference: Known,
    /// Clusters of pairs that share pictures; none where no two pairs do, and the error is the plain one.
    pub clusters: Option<usize>,
    /// Pairs in which B is better.
    pub wins: u64,
    /// Pairs in which A is better.
    pub losses: u64,
    /// Pairs that are equal.
    pub ties: u64,
    /// McNemar's exact test, of scores that are all 0 or 1 and of pairs without clusters.
    pub mcnemar_p_value: Option<f64>,
    /// Whether more of it is better.
    pub higher_is_better: bool,
    /// Points in one unit: 100 where all scores are from 0 to 1, otherwise 1.
    pub points: f64,
    #[serde(skip)]
    pub(super) exact: Difference,
}

impl ScoreComparison {
    /// By how many points B is worse than A; negative where it is better.
    pub fn points_worse(&self) -> f64 {
        let worse = if self.higher_is_better { -self.difference.difference } else { self.difference.difference };
        worse * self.points
    }
}

/// The first 16 bytes of a text's sha256: enough to tell texts apart.
fn fingerprint(text: &str) -> u128 {
    let bytes = Sha256::digest(text);
    bytes.iter().take(16).fold(0, |all, byte| all << 8 | u128::from(*byte))
}

/// What is kept of a sample.
struct Row {
    hash: Option<u128>,
    /// Of the target, and of all references where there are several.
    targets: [Option<u128>; 2],
    cluster: Option<u128>,
    /// By [`Rows::names`]; NaN where it has none.
    scores: Vec<f64>,
}

/// One side's samples of a task.
struct Rows {
    rows: BTreeMap<u64, Row>,
    names: Vec<String>,
    /// Fields that hold something, but no score of a sample.
    unreadable: BTreeSet<String>,
    twice: usize,
    /// Whether every sample has a hash that means something.
    hashed: bool,
}

impl Rows {
    fn read(path: &Path) -> Result<Self> {
        let mut all =
            Self { rows: BTreeMap::new(), names: Vec::new(), unreadable: BTreeSet::new(), twice: 0, hashed: true };
        for sample in Samples::open(path)? {
            let (_, sample) = sample?;
            let hash = sample.doc_hash.as_deref().filter(|hash| *hash != CONSTANT).map(fingerprint);
            all.hashed &= hash.is_some();
            let row = Row {
                hash,
                targets: targets(&sample),
                cluster: sample.cluster.as_deref().map(fingerprint),
                scores: all.scores(&sample),
            };
            // Files that are appended to can hold a sample twice; the first counts.
            match all.rows.entry(sample.doc_id) {
                std::collections::btree_map::Entry::Vacant(place) => _ = place.insert(row),
                std::collections::btree_map::Entry::Occupied(_) => all.twice += 1,
            }
        }
        all.unreadable.retain(|name| !all.names.contains(name));
        Ok(all)
    }

    fn scores(&mut self, sample: &Sample) -> Vec<f64> {
        let mut scores = vec![f64::NAN; self.names.len()];
        for (name, value) in sample.other.iter().chain(&sample.scores) {
            let Some(score) = reference::score(value) else {
                if value.is_object() {
                    self.unreadable.insert(name.clone());
                }
                continue;
            };
            match self.names.iter().position(|known| known == name) {
                Some(at) => scores[at] = score,
                None => {
                    self.names.push(name.clone());
                    scores.push(score);
                }
            }
        }
        scores
    }

    fn column<'a>(&'a self, name: &str) -> impl Fn(&Row) -> Option<f64> + use<'a> {
        let at = self.names.iter().position(|known| known == name);
        move |row| row.scores.get(at?).copied().filter(|score| !score.is_nan())
    }
}

/// A target in one form: lists of one item as the item, lists in Python's or JSON's writing alike.
fn canonical(target: &str) -> String {
    let target = target.trim();
    match target.starts_with('[').then(|| literal::texts(target)) {
        Some(Ok(items)) => match &items[..] {
            [one] => one.trim().to_owned(),
            several => joined(several),
        },
        _ => target.to_owned(),
    }
}

/// Several references in one text.
fn joined(references: &[String]) -> String {
    references.join("\u{1f}")
}

/// A sample's correct answer in the forms in which another program may have written it.
fn targets(sample: &Sample) -> [Option<u128>; 2] {
    let several = (sample.references.len() > 1).then(|| fingerprint(&joined(&sample.references)));
    [sample.target.as_deref().map(|target| fingerprint(&canonical(target))), several]
}

fn same_target(one: [Option<u128>; 2], other: [Option<u128>; 2]) -> bool {
    let any = |a: &[Option<u128>; 2]| a.iter().flatten().any(|target| other.contains(&Some(*target)));
    any(&one) || (one[0].is_none() && other[0].is_none())
}

/// Compares one task.
pub(super) fn compare_task(
    a: &Evaluation,
    b: &Evaluation,
    matched: &Matched<'_>,
    options: &CompareOptions,
) -> Result<TaskComparison> {
    let task = matched.a.0.clone();
    let read = |side: &str, of: &(String, std::path::PathBuf)| {
        Rows::read(&of.1).with_context(|| format!("samples of {} in {side}", of.0))
    };
    let (rows_a, rows_b) = (read("A", matched.a)?, read("B", matched.b)?);
    let mut notes = Vec::new();
    for (side, rows) in [("A", &rows_a), ("B", &rows_b)] {
        if rows.twice > 0 {
            notes.push(format!("{side} has {} samples twice; the first of each counts", rows.twice));
        }
    }
    let paired_by = match options.pairing {
        Pairing::DocId => PairedBy::DocId,
        Pairing::Auto if rows_a.hashed && rows_b.hashed => PairedBy::DocHash,
        Pairing::Auto => PairedBy::Target,
    };
    let (mut pairs, mut mismatched, mut only_in_a) = (Vec::new(), Vec::new(), 0);
    for (doc_id, one) in &rows_a.rows {
        let Some(other) = rows_b.rows.get(doc_id) else {
            only_in_a += 1;
            continue;
        };
        let same = match paired_by {
            PairedBy::DocHash => one.hash == other.hash,
            PairedBy::Target => same_target(one.targets, other.targets),
            PairedBy::DocId => true,
        };
        if same { pairs.push((one, other)) } else { mismatched.push(*doc_id) }
    }
    let common = rows_a.rows.len() - only_in_a;
    if paired_by == PairedBy::Target && common > 0 {
        let mut note = "a side has no hashes of its records (lmms-eval's are all the same): samples are paired by \
                        doc_id where the target is equal"
            .to_owned();
        if pairs.is_empty() {
            note += "; no target is. If the data are the same and targets only written differently, --pair-by doc-id";
        }
        notes.push(note);
    }
    let main = [a, b]
        .iter()
        .zip([&matched.a.0, &matched.b.0])
        .find_map(|(evaluation, name)| evaluation.results.as_ref().and_then(|results| results.task(name).ok()?.main));
    let (names, said) = common_scores(&rows_a, &rows_b, main.as_deref(), &options.metrics);
    notes.extend(said);
    let mut scores: Vec<ScoreComparison> = Vec::new();
    let mut columns: Vec<Vec<(f64, f64)>> = Vec::new();
    for name in names {
        let higher = a.higher_is_better(&matched.a.0, name) && b.higher_is_better(&matched.b.0, name);
        let (score, values) = of_score(name, &rows_a, &rows_b, &pairs, higher, options.confidence);
        notes.extend(other_value(name, [(a, &matched.a.0, &rows_a), (b, &matched.b.0, &rows_b)]));
        // The same value under another name, as a metric plugin's own beside the task's main one.
        if !options.metrics.is_empty() || !columns.contains(&values) {
            columns.push(values);
            scores.push(score);
        }
    }
    let named = mismatched.iter().take(NAMED).copied().collect();
    Ok(TaskComparison {
        task,
        paired_by,
        in_a: rows_a.rows.len(),
        in_b: rows_b.rows.len(),
        only_in_a,
        only_in_b: rows_b.rows.len() - common,
        mismatched: mismatched.len(),
        mismatched_doc_ids: named,
        scores,
        notes,
    })
}

/// Words where the task's value of this name is not the mean of its samples' scores: sums over pairs of questions (MME),
/// circular questions (MMBench), means of categories' means (MMStar).
fn other_value(name: &str, sides: [(&Evaluation, &String, &Rows); 2]) -> Option<String> {
    let value = |evaluation: &Evaluation, task: &str| {
        let values = evaluation.results.as_ref()?.task(task).ok()?.values().ok()?;
        values.into_iter().find(|(value, _)| value == name)?.1.value
    };
    let [a, b] = sides.map(|(evaluation, task, rows)| {
        let of = rows.column(name);
        let scores: Vec<f64> = rows.rows.values().filter_map(of).collect();
        Some((value(evaluation, task)?, mean(&scores)))
    });
    let ((a, mean_a), (b, mean_b)) = (a?, b?);
    // Values of tasks are shares or hundredths, some rounded.
    let is_mean = |value: f64, mean: f64| [1.0, 100.0].iter().any(|scale| (value - mean * scale).abs() <= 1e-4 * scale);
    (!is_mean(a, mean_a) || !is_mean(b, mean_b)).then(|| {
        format!(
            "{name} as the task's value is {a:.4} in A and {b:.4} in B; it is no mean of its samples' scores, which are \
             what is compared"
        )
    })
}

/// The scores of both, in the order in which they are shown, and what is to be said where there are none.
fn common_scores<'a>(
    a: &'a Rows,
    b: &'a Rows,
    main: Option<&str>,
    wanted: &'a [String],
) -> (Vec<&'a str>, Option<String>) {
    let both = |name: &&str| a.names.iter().any(|n| n == name) && b.names.iter().any(|n| n == name);
    let mut names: Vec<&str> = if wanted.is_empty() { &a.names } else { wanted }.iter().map(String::as_str).collect();
    names.retain(both);
    if wanted.is_empty() {
        names.sort_by_key(|name| Some(*name) != main);
    }
    let said = names.is_empty().then(|| {
        let list = |rows: &Rows| match &rows.names[..] {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let mut said = format!("no score of single samples is in both: A has {}, B has {}", list(a), list(b));
        let unreadable: Vec<&str> = a.unreadable.union(&b.unreadable).map(String::as_str).collect();
        if !unreadable.is_empty() {
            said += &format!("; {} hold none", unreadable.join(", "));
        }
        said
    });
    (names, said)
}

fn of_score(
    name: &str,
    rows_a: &Rows,
    rows_b: &Rows,
    pairs: &[(&Row, &Row)],
    higher_is_better: bool,
    confidence: f64,
) -> (ScoreComparison, Vec<(f64, f64)>) {
    let (of_a, of_b) = (rows_a.column(name), rows_b.column(name));
    let (mut values, mut clusters) = (Vec::new(), Vec::new());
    for (index, (one, other)) in pairs.iter().enumerate() {
        if let (Some(in_a), Some(in_b)) = (of_a(one), of_b(other)) {
            values.push((in_a, in_b));
            // Without pictures a pair is a cluster of its own.
            clusters.push(one.cluster.or(other.cluster).ok_or(index));
        }
    }
    let differences: Vec<f64> = values.iter().map(|(a, b)| b - a).collect();
    let groups = clusters.iter().collect::<BTreeSet<_>>().len();
    let clustered = groups < clusters.len();
    let exact = Difference::paired(&differences, clustered.then_some(&clusters[..]), confidence);
    let mean_of = |of: fn(&(f64, f64)) -> f64| mean(&values.iter().map(of).collect::<Vec<_>>());
    let count = |wanted: fn(f64) -> bool| differences.iter().filter(|d| wanted(**d)).count() as u64;
    let (more, less) = (count(|d| d > 0.0), count(|d| d < 0.0));
    let (wins, losses) = if higher_is_better { (more, less) } else { (less, more) };
    let all = |test: fn(f64) -> bool| values.iter().all(|(a, b)| test(*a) && test(*b));
    let zero_or_one = !values.is_empty() && all(|score| score == 0.0 || score == 1.0);
    let score = ScoreComparison {
        score: name.to_owned(),
        pairs: values.len(),
        scored_a: rows_a.rows.values().filter(|row| of_a(row).is_some()).count(),
        scored_b: rows_b.rows.values().filter(|row| of_b(row).is_some()).count(),
        mean_a: mean_of(|pair| pair.0),
        mean_b: mean_of(|pair| pair.1),
        difference: Known::of(&exact),
        clusters: clustered.then_some(groups),
        wins,
        losses,
        ties: values.len() as u64 - more - less,
        mcnemar_p_value: (zero_or_one && !clustered).then(|| mcnemar(wins, losses)),
        higher_is_better,
        points: if all(|score| (0.0..=1.0).contains(&score)) { 100.0 } else { 1.0 },
        exact,
    };
    (score, values)
}

/// That every score asked for is somewhere in both.
pub(super) fn check_metrics(wanted: &[String], tasks: &[TaskComparison]) -> Result<()> {
    for name in wanted {
        if !tasks.iter().any(|task| task.scores.iter().any(|score| score.score == *name)) {
            let said: Vec<String> = tasks
                .iter()
                .flat_map(|task| task.notes.iter().map(move |note| format!("{}: {note}", task.task)))
                .collect();
            bail!(
                "--metric {name}: no task has it as a score of single samples on both sides{}{}; leave --metric away to \
                 see those that are",
                if said.is_empty() { "" } else { " (" },
                if said.is_empty() { String::new() } else { said.join("; ") + ")" }
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_one_form() {
        assert_eq!(canonical("['a', 'b']"), canonical(r#"["a","b"]"#));
        assert_eq!(canonical("['red']"), canonical(" red "));
        assert_ne!(canonical("['a', 'b']"), canonical("['a, b']"));
        assert_eq!(canonical("[not a list"), "[not a list");
        assert_eq!(CONSTANT, Sha256::digest("null").iter().map(|b| format!("{b:02x}")).collect::<String>());
    }
}
