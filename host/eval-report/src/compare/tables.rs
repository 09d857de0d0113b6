//! A comparison as text: columns for terminals, and Markdown.

use super::{Comparison, Known, Overall, ScoreComparison, Side, TaskComparison};

/// Above each column.
const HEAD: [&str; 12] = [
    "task",
    "score",
    "pairs",
    "clusters",
    "A",
    "B",
    "B - A",
    "stderr",
    "interval",
    "p",
    "better/worse/same",
    "McNemar p",
];
/// Columns of words, which stand to the left.
const WORDS: usize = 2;

type Row = [String; HEAD.len()];

fn number(value: Option<f64>, points: f64) -> String {
    value.filter(|value| !value.is_nan()).map_or("-".into(), |value| format!("{:.2}", value * points))
}

fn signed(value: f64, points: f64) -> String {
    if value.is_nan() { "-".into() } else { format!("{:+.2}", value * points) }
}

fn interval(known: &Known, points: f64) -> String {
    match (known.low, known.high) {
        (Some(low), Some(high)) => format!("{} to {}", signed(low, points), signed(high, points)),
        _ => "-".into(),
    }
}

fn probability(p: Option<f64>) -> String {
    match p {
        None => "-".into(),
        Some(p) if p < 0.0001 => "<0.0001".into(),
        Some(p) => format!("{p:.4}"),
    }
}

fn score_row(task: &str, score: &ScoreComparison) -> Row {
    let known = &score.difference;
    let direction = if score.higher_is_better { "" } else { " (less is better)" };
    [
        task.to_owned(),
        format!("{}{direction}", score.score),
        score.pairs.to_string(),
        score.clusters.map_or("-".into(), |clusters| clusters.to_string()),
        number(Some(score.mean_a), score.points),
        number(Some(score.mean_b), score.points),
        signed(known.difference, score.points),
        number(known.stderr, score.points),
        interval(known, score.points),
        probability(known.p_value),
        format!("{}/{}/{}", score.wins, score.losses, score.ties),
        probability(score.mcnemar_p_value),
    ]
}

fn overall_row(overall: &Overall) -> Row {
    let known = &overall.difference;
    [
        "overall".to_owned(),
        format!("mean of {} tasks", overall.tasks),
        String::new(),
        String::new(),
        number(Some(overall.mean_a), 100.0),
        number(Some(overall.mean_b), 100.0),
        signed(known.difference, 100.0),
        number(known.stderr, 100.0),
        interval(known, 100.0),
        probability(known.p_value),
        String::new(),
        String::new(),
    ]
}

fn rows(comparison: &Comparison) -> Vec<Row> {
    let mut rows = Vec::new();
    for task in &comparison.tasks {
        rows.extend(task.scores.iter().map(|score| score_row(&task.task, score)));
        if task.scores.is_empty() {
            let mut row = Row::default();
            row[0] = task.task.clone();
            row[1] = "nothing to compare".into();
            row[2] = "0".into();
            rows.push(row);
        }
    }
    rows.extend(comparison.overall.iter().map(overall_row));
    rows
}

fn side(side: &Side) -> String {
    let profile = side.profile.as_ref().map_or(String::new(), |profile| format!(", profile {profile}"));
    let path = side.path.display().to_string();
    if side.model == path { format!("{path}{profile}") } else { format!("{} ({path}{profile})", side.model) }
}

/// What a task's counts and pairs say beside its numbers.
fn task_notes(task: &TaskComparison) -> Vec<String> {
    let mut notes = Vec::new();
    if task.only_in_a + task.only_in_b > 0 {
        notes.push(format!("{} samples are in A alone, {} in B alone", task.only_in_a, task.only_in_b));
    }
    if task.mismatched > 0 {
        let ids: Vec<String> = task.mismatched_doc_ids.iter().map(u64::to_string).collect();
        notes.push(format!(
            "{} samples of the same doc_id are not the same (paired by {}): doc_id {}{}",
            task.mismatched,
            task.paired_by.words(),
            ids.join(", "),
            if ids.len() < task.mismatched { ", …" } else { "" }
        ));
    }
    for score in &task.scores {
        let (a, b) = (score.scored_a - score.pairs, score.scored_b - score.pairs);
        if a + b > 0 {
            notes.push(format!("{}: {a} of A's scores and {b} of B's have no partner", score.score));
        }
    }
    notes.extend(task.notes.iter().cloned());
    notes.into_iter().map(|note| format!("{}: {note}", task.task)).collect()
}

fn notes(comparison: &Comparison) -> Vec<String> {
    let mut notes: Vec<String> = comparison.tasks.iter().flat_map(task_notes).collect();
    for (name, tasks) in [("A", &comparison.only_in_a), ("B", &comparison.only_in_b)] {
        if !tasks.is_empty() {
            notes.push(format!("only {name} has {}", tasks.join(", ")));
        }
    }
    notes.extend(comparison.notes.iter().cloned());
    notes
}

/// What the numbers are.
fn legend(comparison: &Comparison) -> String {
    let mut legend = format!(
        "Scores from 0 to 1 are shown in points, hundredths; intervals are of {} %.",
        // 0.95 is a little less than 95 hundredths.
        (comparison.confidence * 1e8).round() / 1e6
    );
    let any = |test: fn(&ScoreComparison) -> bool| comparison.tasks.iter().any(|task| task.scores.iter().any(test));
    if any(|score| score.clusters.is_some()) {
        legend += " Pairs of one cluster share pictures, which errors, intervals and p take into account.";
    }
    if any(|score| score.points != 100.0) {
        legend += " Scores beyond 0 to 1 are shown as they are.";
    }
    legend
}

pub(super) fn text(comparison: &Comparison) -> String {
    let rows = rows(comparison);
    let length = |text: &str| text.chars().count();
    let width = |column: usize| {
        rows.iter().map(|row| length(&row[column])).chain([length(HEAD[column])]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let space = " ".repeat(width - length(cell));
            if column < WORDS { format!("{cell}{space}") } else { format!("{space}{cell}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut out = vec![format!("A  {}", side(&comparison.a)), format!("B  {}", side(&comparison.b)), String::new()];
    out.push(line(&HEAD.map(str::to_owned)));
    out.extend(rows.iter().map(|row| line(row)));
    out.push(String::new());
    out.push(legend(comparison));
    out.extend(comparison.warnings.iter().map(|warning| format!("warning: {warning}")));
    out.extend(notes(comparison).iter().map(|note| format!("note: {note}")));
    out.extend(comparison.verdict().lines().iter().map(|line| format!("verdict: {line}")));
    out.join("\n") + "\n"
}

pub(super) fn markdown(comparison: &Comparison) -> String {
    use crate::report::markdown::cell;
    let line =
        |cells: &[String]| format!("| {} |", cells.iter().map(|text| cell(text)).collect::<Vec<_>>().join(" | "));
    let mut out = vec![
        format!("**A** {}  ", cell(&side(&comparison.a))),
        format!("**B** {}", cell(&side(&comparison.b))),
        String::new(),
        line(&HEAD.map(str::to_owned)),
        format!("|{}{}", "---|".repeat(WORDS), "--:|".repeat(HEAD.len() - WORDS)),
    ];
    out.extend(rows(comparison).iter().map(|row| line(row)));
    out.push(String::new());
    out.push(legend(comparison));
    let mut list = |head: &str, lines: &[String]| {
        if !lines.is_empty() {
            out.extend([String::new(), format!("**{head}**"), String::new()]);
            out.extend(lines.iter().map(|line| format!("* {}", cell(line))));
        }
    };
    list("Warnings", &comparison.warnings);
    list("Notes", &notes(comparison));
    list("Verdict", &comparison.verdict().lines());
    out.join("\n") + "\n"
}
