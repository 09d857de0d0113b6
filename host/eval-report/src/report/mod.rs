//! One evaluation → a report for readers: Markdown, and one HTML page that needs nothing beside it.
//!
//! ```text
//!  results.json ─► header, table of tasks, values by category ─────────┐
//!  samples ──pass 1──► lengths, finish reasons, which are the worst ───┼─► templates ─► Markdown, HTML
//!          ──pass 2──► texts of the worst, their pictures as thumbnails ┘
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value as Shown, context};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::read::{Evaluation, Metric, Results, Task};

pub(crate) mod markdown;
mod pictures;
mod samples;
mod texts;

use samples::{Pass, Worst};
use texts::{count, number};

/// Longest fact of the header, in characters.
const FACT: usize = 400;

/// What the report shows.
#[derive(Clone, Debug)]
pub struct ReportOptions {
    /// `--worst N`: samples shown of every task, and as many without a score. Default 20; 0 for none.
    pub worst: usize,
    /// `--task NAME`, repeatable: only these tasks. Without it all.
    pub tasks: Vec<String>,
    /// `--thumbnail PIXELS`: longest side of the pictures in the page, which are never enlarged. Default 384; 0 leaves
    /// pictures out.
    pub thumbnail: u32,
    /// `--text-limit CHARACTERS`: longest question or answer shown; what is cut is said. Default 4000.
    pub text_limit: usize,
}

impl Default for ReportOptions {
    fn default() -> Self {
        Self { worst: 20, tasks: Vec::new(), thumbnail: 384, text_limit: 4000 }
    }
}

/// The report.
#[derive(Clone, Debug)]
pub struct Report {
    /// With the names of pictures instead of the pictures.
    pub markdown: String,
    /// One page without links to anything outside of it.
    pub html: String,
}

/// Gives the pictures of a sample (task, doc_id): a name and the file's bytes of each; none where they are not at hand.
pub type Pictures<'a> = dyn Fn(&str, u64) -> Vec<(String, Vec<u8>)> + 'a;

/// A task as the templates see it.
#[derive(Serialize)]
struct TaskShown {
    name: String,
    summary: Option<String>,
    main: String,
    value: String,
    counts: Vec<String>,
    /// Where its server scores it: the file to send.
    submission: Option<String>,
    notes: Vec<String>,
    /// Metrics that failed as a whole.
    errors: Vec<String>,
    /// Its data, version, generation and plugins.
    details: Vec<String>,
    /// Values beside the main one and its categories.
    others: Vec<ValueShown>,
    categories: Vec<Categories>,
    /// Values over no rows, which are not shown.
    without_rows: usize,
    lengths: Vec<BarShown>,
    length_words: Option<String>,
    reasons: Vec<BarShown>,
    /// Words instead of samples.
    samples_note: Option<String>,
    worst: Vec<Worst>,
    without_score: Vec<Worst>,
}

/// Values of one metric by category.
#[derive(Serialize)]
struct Categories {
    metric: String,
    rows: Vec<ValueShown>,
}

#[derive(Serialize)]
struct ValueShown {
    name: String,
    value: String,
    count: String,
    /// Width of its bar in per cent; none where the value's range is not known.
    percent: Option<String>,
}

#[derive(Serialize)]
struct BarShown {
    name: String,
    count: String,
    percent: String,
}

/// Reports the evaluation in `folder`, as `ovhost eval --out` wrote it.
///
/// # Errors
/// Not such a folder, damaged files, a task that is not there.
pub fn report(folder: &Path, pictures: &Pictures<'_>, options: &ReportOptions) -> Result<Report> {
    let evaluation = Evaluation::open(folder)?;
    let Some(results) = &evaluation.results else {
        bail!("{} has no results.json; a report is of a folder that `ovhost eval --out` wrote", folder.display())
    };
    ensure!(
        !results.tasks.is_empty(),
        "{} is of lmms-eval; a report is of a folder that `ovhost eval --out` wrote (compare reads both)",
        folder.display()
    );
    for name in &options.tasks {
        ensure!(
            results.tasks.contains_key(name),
            "--task {name}: not in {}, which has {}",
            folder.display(),
            results.tasks.keys().cloned().collect::<Vec<_>>().join(", ")
        );
    }
    let mut tasks = Vec::new();
    for (name, file) in &evaluation.tasks {
        if options.tasks.is_empty() || options.tasks.contains(name) {
            tasks.push(task_shown(&evaluation, results, name, file, pictures, options)?);
        }
    }
    let model = evaluation.model();
    let seen = context! { model, facts => facts(results), groups => groups(results), tasks, worst => options.worst };
    let environment = environment()?;
    let render = |name: &str| -> Result<String> {
        let text = environment.get_template(name)?.render(&seen).with_context(|| format!("the template {name}"))?;
        Ok(texts::visible(&text))
    };
    Ok(Report { markdown: render("report.md")?, html: render("report.html")? })
}

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
        true => AutoEscape::Html,
        false => AutoEscape::None,
    });
    environment.add_filter("cell", |text: &str| markdown::cell(text));
    environment.add_filter("fence", |text: &str| markdown::fence(text));
    // Base64 holds nothing that HTML would read.
    environment.add_filter("uri", |uri: &str| Shown::from_safe_string(uri.to_owned()));
    environment.add_template("report.html", include_str!("report.html"))?;
    environment.add_template("report.md", include_str!("report.md"))?;
    Ok(environment)
}

/// Name and value of what the header says.
fn facts(results: &Results) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<&Value>| {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            facts.push((name.to_owned(), texts::cut(&texts::plain(value), FACT)));
        }
    };
    let text = |value: &Option<String>| value.clone().map(Value::String);
    fact("profile", text(&results.profile).as_ref());
    fact("limit of samples", results.config.get("limit"));
    fact("examples before a question", results.config.get("num_fewshot"));
    fact("generation", results.config.get("gen_kwargs"));
    fact("judge", results.config.get("judge"));
    fact("hash of the model", results.settings.get("model"));
    fact("data", results.settings.get("data"));
    for name in ["model_args", "device", "batch_size", "random_seed"] {
        fact(&name.replace('_', " "), results.config.get(name));
    }
    for name in ["precision", "blank_images"] {
        fact(&name.replace('_', " "), results.settings.get(name).or_else(|| results.config.get(name)));
    }
    fact("version of ovhost", text(&results.ovhost_version).as_ref());
    facts
}

/// Groups: a name, its tasks, and its own values where it has some.
fn groups(results: &Results) -> Vec<String> {
    let one = |(name, tasks): (&String, &Value)| {
        let tasks: Vec<&str> = tasks.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = results.groups.get(name).and_then(Value::as_object).into_iter().flatten();
        let values: Vec<String> =
            values.filter_map(|(key, value)| Some(format!("{key} {}", number(value.as_f64()?)))).collect();
        let values = if values.is_empty() { String::new() } else { format!("; {}", values.join(", ")) };
        format!("{name}: {}{values}", tasks.join(", "))
    };
    results.group_subtasks.iter().map(one).collect()
}

fn task_shown(
    evaluation: &Evaluation,
    results: &Results,
    name: &str,
    file: &Path,
    pictures: &Pictures<'_>,
    options: &ReportOptions,
) -> Result<TaskShown> {
    let task = results.task(name)?;
    let values = task.values()?;
    let main = task.main.clone().or_else(|| values.first().map(|(name, _)| name.clone()));
    let (others, categories, without_rows) = split(&values, main.as_deref());
    let submission = values.is_empty().then(|| submission(results, name)).flatten();
    let mut shown = TaskShown {
        name: name.to_owned(),
        summary: task.summary.clone(),
        value: values
            .iter()
            .find(|(value, _)| Some(value) == main.as_ref())
            .map_or("–".into(), |(_, m)| with_error(m)),
        counts: counts(&task),
        submission,
        notes: task.notes.clone(),
        errors: task.errors.clone(),
        details: details(results, name).into_iter().chain(task.plugins.iter().map(plugin)).collect(),
        others,
        categories,
        without_rows,
        lengths: Vec::new(),
        length_words: None,
        reasons: Vec::new(),
        samples_note: None,
        worst: Vec::new(),
        without_score: Vec::new(),
        main: main.clone().unwrap_or_default(),
    };
    if !file.is_file() {
        let missing = format!("{} is not there, so no samples are shown.", file.display());
        shown.samples_note = Some(if task.samples == 0 { "It has no samples.".into() } else { missing });
        return Ok(shown);
    }
    let main = main.unwrap_or_default();
    let higher = values.iter().find(|(value, _)| *value == main).and_then(|(_, metric)| metric.higher_is_better);
    let higher = higher.unwrap_or_else(|| evaluation.higher_is_better(name, &main));
    let pass = Pass::over(file, &main, higher, options.worst)?;
    if pass.samples == 0 {
        shown.samples_note = Some("It has no samples.".into());
        return Ok(shown);
    }
    shown.lengths = bars(pass.length_bins());
    shown.length_words = pass.length_words();
    shown.reasons = bars(pass.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect());
    shown.samples_note = pass.words(shown.submission.is_some());
    let show = |list: &[u64]| samples::show(file, list, name, &main, pictures, options);
    shown.worst = show(&pass.worst)?;
    // Where a server scores, none has a score, and that is no fault of theirs.
    shown.without_score = show(if shown.submission.is_some() { &[] } else { &pass.without_score })?;
    Ok(shown)
}

/// Samples and what became of them, in the order of the table's columns.
fn counts(task: &Task) -> Vec<String> {
    let unparsed = task.unparsed.map_or("–".into(), count);
    vec![
        count(task.samples),
        unparsed,
        count(task.truncated),
        count(task.unscored),
        count(task.failed),
        count(task.judged),
    ]
}

fn with_error(metric: &Metric) -> String {
    let Some(value) = metric.value else { return "–".into() };
    match metric.stderr {
        Some(stderr) => format!("{} ± {}", number(value), texts::alike(stderr, value)),
        None => number(value),
    }
}

/// Values beside the main one, those of categories (`METRIC/CATEGORY`) by their metric, and how many are over no rows.
fn split(values: &[(String, Metric)], main: Option<&str>) -> (Vec<ValueShown>, Vec<Categories>, usize) {
    let (mut others, mut categories): (Vec<ValueShown>, Vec<Categories>) = (Vec::new(), Vec::new());
    let mut without_rows = 0;
    for (name, metric) in values {
        if Some(name.as_str()) != main && metric.value.is_none() && metric.count == Some(0) {
            without_rows += 1;
            continue;
        }
        let shown = |name: &str| ValueShown {
            name: name.to_owned(),
            value: with_error(metric),
            count: metric.count.map_or("–".into(), count),
            percent: percent(metric),
        };
        match name.split_once('/') {
            Some((of, category)) => match categories.iter_mut().find(|list| list.metric == of) {
                Some(list) => list.rows.push(shown(category)),
                None => categories.push(Categories { metric: of.to_owned(), rows: vec![shown(category)] }),
            },
            None if Some(name.as_str()) != main => others.push(shown(name)),
            None => {}
        }
    }
    (others, categories, without_rows)
}

/// The width of a value's bar.
fn percent(metric: &Metric) -> Option<String> {
    let (value, low, high) = (metric.value?, metric.low?, metric.high?);
    (high > low).then(|| width((value - low) / (high - low)))
}

fn width(share: f64) -> String {
    format!("{:.1}", 100.0 * if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) })
}

fn bars(rows: Vec<(String, u64)>) -> Vec<BarShown> {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or_default().max(1);
    rows.into_iter()
        .map(|(name, rows)| BarShown { name, count: count(rows), percent: width(rows as f64 / most as f64) })
        .collect()
}

/// Where a task's samples are from, the version of its file, and how answers were made.
fn details(results: &Results, name: &str) -> Vec<String> {
    let data = results.configs.get(name).and_then(|config| config.get("data"));
    let part = |key: &str| data.and_then(|data| data.get(key)).filter(|value| !value.is_null()).map(texts::plain);
    let version = results.versions.get(name).filter(|version| !version.is_null());
    let parts = [
        part("dataset"),
        part("config").map(|config| format!("config {config}")),
        part("split").map(|split| format!("split {split}")),
        version.map(|version| format!("version {} of the task", texts::plain(version))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let config = results.configs.get(name).and_then(|config| config.get("generation"));
    let asked = results.settings.get("tasks").and_then(|tasks| tasks.get(name)?.get("generation"));
    let generation = asked.or(config).map(texts::plain).filter(|generation| !generation.is_empty());
    let data = (!parts.is_empty()).then(|| parts.join(", "));
    let generation = generation.map(|generation| format!("generation {}", texts::cut(&generation, FACT)));
    data.into_iter().chain(generation).collect()
}

/// A plugin in a line.
fn plugin(record: &Value) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = if text("plugin").is_empty() { text("name") } else { text("plugin") };
    let entry = if text("entry").is_empty() { String::new() } else { format!("/{}", text("entry")) };
    let hash: String = text("sha256").chars().take(12).collect();
    let config =
        record.get("config").filter(|config| config.as_object().is_some_and(|map: &Map<_, _>| !map.is_empty()));
    let mut line = [text("kind"), &format!("{name}{entry}"), text("version"), &hash]
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| (*part).to_owned())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some(config) = config {
        line += &format!(" {}", texts::plain(config));
    }
    line
}

/// The file that a task's server wants.
fn submission(results: &Results, name: &str) -> Option<String> {
    let file = results.configs.get(name)?.get("submission")?.get("file")?.as_str()?;
    Some(format!("submissions/{file}"))
}
