//! Whether a comparison passes.

use serde::Serialize;

use super::{CompareOptions, Comparison, Known};

/// Rounding of sums must not fail what is as bad as allowed, and no worse.
const ROUNDING: f64 = 1e-9;

/// What CI is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "reasons", rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is worse than allowed, or nothing was asked.
    Pass,
    /// B is worse: where and by how much.
    Fail(Vec<String>),
    /// It cannot be said: nothing is paired, or too little of what A has.
    Incomparable(Vec<String>),
}

impl Verdict {
    /// In words, a line each.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Pass => vec!["pass".to_owned()],
            Self::Fail(reasons) => reasons.iter().map(|reason| format!("FAIL: {reason}")).collect(),
            Self::Incomparable(reasons) => reasons.iter().map(|reason| format!("INCOMPARABLE: {reason}")).collect(),
        }
    }
}

/// One difference that is judged.
struct Judged<'a> {
    name: String,
    points_worse: f64,
    difference: &'a Known,
    points: f64,
}

pub(super) fn of(comparison: &Comparison, options: &CompareOptions) -> Verdict {
    let paired = comparison.tasks.iter().any(|task| task.scores.iter().any(|score| score.pairs > 0));
    if !paired {
        return Verdict::Incomparable(vec!["no sample of A has a partner in B with a score; see the notes".into()]);
    }
    let Some(most) = options.fail_below else { return Verdict::Pass };
    let (mut fails, mut unsure) = (Vec::new(), missing(comparison, options.allow_missing));
    for one in judged(comparison, options) {
        if one.points_worse <= most + ROUNDING {
            continue;
        }
        let worse = format!("{}: B is {:.2} points worse than A, {most} are allowed", one.name, one.points_worse);
        let interval = one.difference.low.zip(one.difference.high);
        match (options.significant, interval) {
            (false, _) => fails.push(worse),
            (true, None) => unsure.push(format!("{worse}; too few pairs to say whether it is chance")),
            (true, Some((low, high))) if low > 0.0 || high < 0.0 => {
                fails.push(format!("{worse}; its interval is {:+.2} to {:+.2}", low * one.points, high * one.points))
            }
            (true, Some(_)) => {}
        }
    }
    // What is certain comes first.
    match (fails.is_empty(), unsure.is_empty()) {
        (true, true) => Verdict::Pass,
        (false, _) => Verdict::Fail(fails),
        (true, false) => Verdict::Incomparable(unsure),
    }
}

/// The first score of every task, or all that were asked for, and the overall line.
fn judged<'a>(comparison: &'a Comparison, options: &CompareOptions) -> Vec<Judged<'a>> {
    let mut all = Vec::new();
    for task in &comparison.tasks {
        let count = if options.metrics.is_empty() { 1 } else { task.scores.len() };
        for score in task.scores.iter().take(count).filter(|score| score.pairs > 0) {
            all.push(Judged {
                name: format!("{} {}", task.task, score.score),
                points_worse: score.points_worse(),
                difference: &score.difference,
                points: score.points,
            });
        }
    }
    all.extend(comparison.overall.iter().map(|overall| Judged {
        name: "overall".into(),
        points_worse: -overall.difference.difference * 100.0,
        difference: &overall.difference,
        points: 100.0,
    }));
    all
}

/// What A has scored and B has not, beyond what is allowed.
fn missing(comparison: &Comparison, allowed: f64) -> Vec<String> {
    let mut said: Vec<String> = comparison
        .only_in_a
        .iter()
        .map(|task| format!("{task}: B has no such task; --task names those to compare"))
        .collect();
    for task in &comparison.tasks {
        for score in task.scores.iter().take(1) {
            let without = score.scored_a - score.pairs;
            if without as f64 > allowed * score.scored_a as f64 {
                said.push(format!(
                    "{}: {without} of {} scored samples of A have no partner with a score in B; --allow-missing {allowed}",
                    task.task, score.scored_a
                ));
            }
        }
    }
    said
}
