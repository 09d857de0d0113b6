//! Answers to scores: metric plugins see every answer in order, a judge those that they cannot score alone.
//!
//! ```text
//!  answers ─ stretches of rows, on several threads ─► update ─► state + per-row scores + requests for a judge
//!                                                                 requests ─► judge ─► judged ─► state + scores
//!  states ─ merged in order ─► finalize ─► values
//! ```
//! A stretch is cut at fixed places and states are merged in order, so that threads change no digit. A row on which a plugin fails
//! is an error of that row, found by trying the stretch again in smaller parts; the other rows are scored.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, MetricInfo, MetricInstance, OnTrap, Plugin, Ragged, Scored};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::answers::Answer;

/// Answers that a metric sees in one call.
const ROWS: usize = 256;
/// Answers whose scores one state holds.
const STRETCH: usize = 8 * ROWS;

/// Why a row has no score where no judge is given.
pub const NO_JUDGE: &str = "needs a judge, and none is given";

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The value; none over no rows.
    pub value: Option<f64>,
    /// Samples that it covers.
    pub count: u64,
    /// Standard error of the value, where the metric has one.
    pub stderr: Option<f64>,
    /// Name of the plugin that gave it.
    pub plugin: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// The least that it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The most that it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// What the metrics say of one answer.
#[derive(Clone, Debug, Default)]
pub struct RowScore {
    /// Score by name, without the `score/` of its column.
    pub scores: Map<String, Value>,
    /// What was read of the answer.
    pub read: Option<Value>,
    /// What the judge said.
    pub judgement: Option<String>,
    /// Why a metric has no score for it.
    pub errors: Vec<String>,
}

/// All that the metrics say.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// Value by name, in the order in which the metrics give them.
    pub values: Vec<(String, Score)>,
    /// One per answer, in order.
    pub rows: Vec<RowScore>,
    /// Metrics that failed as a whole, and why.
    pub failed: Vec<String>,
    /// The first score that each plugin gives a row, by the plugin's name.
    pub columns: BTreeMap<String, String>,
}

impl Scores {
    /// The score of a row that a value of the metrics is made of.
    pub fn of_row<'a>(&self, value: &str, row: &'a RowScore) -> Option<&'a Value> {
        let plugin = self.values.iter().find(|(name, _)| name == value).map(|(_, score)| &score.plugin);
        row.scores.get(value).or_else(|| row.scores.get(self.columns.get(plugin?)?))
    }
}

/// What a judge is asked about an answer.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Place of the answer among those that are scored.
    pub row: usize,
    /// Role and text of each message.
    pub messages: Vec<(String, String)>,
}

/// Judges answers (all that are scored, and what is asked of some): what it says to each question, or why it says nothing.
pub type Judges<'a> = &'a mut dyn FnMut(&[&Answer], &[Ask]) -> Vec<Result<String, String>>;

/// A judge for one more call.
pub(crate) fn again<'a>(judge: &'a mut Option<Judges<'_>>) -> Option<Judges<'a>> {
    match judge {
        Some(judge) => Some(&mut **judge),
        None => None,
    }
}

/// Scores answers with every metric. Without a judge rows that need one have an error and no score. A metric that fails, or a value
/// that two metrics have, is in [`Scores::failed`].
pub fn score(metrics: &[Plugin], answers: &[&Answer], seed: u64, judge: Option<Judges<'_>>) -> Scores {
    draft(metrics, answers, seed, judge).finish(metrics)
}

/// Scores of every row, and the states of the metrics that the values come from.
pub struct Draft {
    rows: Vec<RowScore>,
    columns: BTreeMap<String, String>,
    /// Of each metric, in order: the states of its stretches, or why it failed.
    states: Vec<Result<Vec<Vec<u8>>>>,
}

/// As [`score`], up to the values.
pub fn draft(metrics: &[Plugin], answers: &[&Answer], seed: u64, mut judge: Option<Judges<'_>>) -> Draft {
    let rows = vec![RowScore::default(); answers.len()];
    let mut out = Draft { rows, columns: BTreeMap::new(), states: Vec::with_capacity(metrics.len()) };
    for plugin in metrics {
        let name = &plugin.info().name;
        let states = stretches(plugin, answers, seed, again(&mut judge)).map(|parts| {
            let (states, rows): (Vec<Vec<u8>>, Vec<Vec<RowScore>>) =
                parts.into_iter().map(|part| (part.state, part.rows)).unzip();
            for (into, row) in out.rows.iter_mut().zip(rows.into_iter().flatten()) {
                if let Some(first) = row.scores.keys().next() {
                    out.columns.entry(name.clone()).or_insert_with(|| first.clone());
                }
                into.scores.extend(row.scores);
                into.read = into.read.take().or(row.read);
                into.judgement = into.judgement.take().or(row.judgement);
                into.errors.extend(row.errors.into_iter().map(|e| format!("{name}: {e}")));
            }
            states
        });
        out.states.push(states);
    }
    out
}

impl Draft {
    /// The values, by the metrics that the rows were scored with.
    pub fn finish(self, metrics: &[Plugin]) -> Scores {
        let mut out = Scores { rows: self.rows, columns: self.columns, ..Scores::default() };
        for (plugin, states) in metrics.iter().zip(self.states) {
            let name = &plugin.info().name;
            let values = match states.and_then(|states| values(plugin, &states)) {
                Ok(values) => values,
                Err(error) => {
                    out.failed.push(format!("{name}: {error:#}"));
                    continue;
                }
            };
            for (value, info) in values {
                if out.values.iter().any(|(known, _)| *known == value.name) {
                    let text =
                        format!("{name}: another metric has a value {:?} already; this one is left out", value.name);
                    out.failed.push(text);
                    continue;
                }
                let score = Score {
                    value: Some(value.value).filter(|v| v.is_finite()),
                    count: value.count,
                    stderr: value.stderr,
                    plugin: name.clone(),
                    higher_is_better: info.higher_is_better,
                    low: info.low,
                    high: info.high,
                };
                out.values.push((value.name, score));
            }
        }
        out
    }
}

/// Draft `i` with metrics `i` to scores, on several threads: merging states is work on one thread for each metric.
pub fn finish_all(drafts: Vec<(Draft, &[Plugin])>) -> Vec<Scores> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(drafts.len()).max(1);
    let waiting: Mutex<std::iter::Enumerate<std::vec::IntoIter<_>>> = Mutex::new(drafts.into_iter().enumerate());
    let done: Mutex<BTreeMap<usize, Scores>> = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, (draft, metrics))) = next else { return };
            let scores = draft.finish(metrics);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, scores);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

type Values = Vec<(ovhost_plugin::MetricValue, MetricInfo)>;

/// What a stretch comes to.
#[derive(Default)]
struct Part {
    state: Vec<u8>,
    rows: Vec<RowScore>,
    /// Row in the stretch, and the messages for the judge.
    asks: Vec<(usize, Vec<(String, String)>)>,
}

/// Scores all rows, in stretches.
fn stretches(plugin: &Plugin, answers: &[&Answer], seed: u64, judge: Option<Judges<'_>>) -> Result<Vec<Part>> {
    let stretches: Vec<&[&Answer]> = answers.chunks(STRETCH).collect();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(stretches.len()).max(1);
    let mut parts = in_parallel(
        threads,
        stretches.len(),
        || plugin.metric(),
        |metric, at| stretch(metric, stretches[at], at * STRETCH, seed),
    )?;
    // All that a judge is asked at once: an endpoint takes many requests side by side.
    let stretches_of = parts.iter_mut().enumerate();
    let asks: Vec<Ask> = stretches_of
        .flat_map(|(at, part)| {
            let ask = move |(row, messages): &mut (usize, Vec<_>)| Ask {
                row: at * STRETCH + *row,
                messages: std::mem::take(messages),
            };
            part.asks.iter_mut().map(ask)
        })
        .collect();
    if !asks.is_empty() {
        let mut said = match judge {
            Some(judge) => judge(answers, &asks),
            None => vec![Err(NO_JUDGE.into()); asks.len()],
        }
        .into_iter();
        let mut metric = plugin.metric()?;
        for (at, part) in parts.iter_mut().enumerate().filter(|(_, p)| !p.asks.is_empty()) {
            let said: Vec<Result<String, String>> = said.by_ref().take(part.asks.len()).collect();
            judged(&mut metric, stretches[at], at * STRETCH, seed, part, said)?;
        }
    }
    Ok(parts)
}

/// The values over all stretches.
fn values(plugin: &Plugin, states: &[Vec<u8>]) -> Result<Values> {
    let mut metric = plugin.metric()?;
    metric.reset()?;
    for state in states {
        metric.merge(state)?;
    }
    let infos = metric.outputs()?;
    let info = |name: &str| infos.iter().find(|i| i.name == name).cloned();
    let values = metric.finalize()?;
    values
        .into_iter()
        .map(|v| Ok((info(&v.name).context("a value that was not announced")?, v)))
        .map(|r| r.map(|(i, v)| (v, i)))
        .collect()
}

/// Runs jobs `0..count` on threads with a tool of their own each; results in the order of the jobs.
fn in_parallel<T, R: Send>(
    threads: usize,
    count: usize,
    tool: impl Fn() -> Result<T, ovhost_plugin::PluginError> + Sync,
    job: impl Fn(&mut T, usize) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<R>>> = Mutex::new(BTreeMap::new());
    let work = || -> Result<()> {
        let mut tool = tool()?;
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            let result = job(&mut tool, at);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, result);
        }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        running.into_iter().fold(mine, |all, thread| {
            all.and(thread.join().unwrap_or_else(|_| Err(anyhow!("a scoring thread panicked"))))
        })
    })?;
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Scores a stretch; where a plugin fails, once more with failures as errors of their rows.
fn stretch(metric: &mut MetricInstance, rows: &[&Answer], first: usize, seed: u64) -> Result<Part> {
    metric.set_on_trap(OnTrap::Stop);
    match update(metric, rows, first, seed) {
        Ok(part) => Ok(part),
        Err(_) => {
            metric.set_on_trap(OnTrap::Reject);
            let part = update(metric, rows, first, seed);
            metric.set_on_trap(OnTrap::Stop);
            part
        }
    }
}

fn ctx(seed: u64, at: usize) -> CallCtx {
    CallCtx { run_seed: seed, shard: 0, batch_index: (at / ROWS) as u64, first_row: at as u64 }
}

fn update(metric: &mut MetricInstance, rows: &[&Answer], first: usize, seed: u64) -> Result<Part> {
    metric.reset()?;
    let mut part = Part { rows: vec![RowScore::default(); rows.len()], ..Part::default() };
    for (index, chunk) in rows.chunks(ROWS).enumerate() {
        let at = index * ROWS;
        let mut scored = metric.update(&ctx(seed, first + at), &columns(chunk, None)?)?;
        let asks = std::mem::take(&mut scored.needs_judge);
        part.asks.extend(asks.into_iter().map(|(row, messages)| (at + row as usize, messages)));
        put(scored, &mut part.rows[at..at + chunk.len()]);
    }
    part.asks.retain(|(row, _)| *row < rows.len());
    part.state = metric.save()?;
    Ok(part)
}

/// Hands the judge's words to the metric, row by row, as each has its own place in the stream.
fn judged(
    metric: &mut MetricInstance,
    rows: &[&Answer],
    first: usize,
    seed: u64,
    part: &mut Part,
    said: Vec<Result<String, String>>,
) -> Result<()> {
    metric.set_on_trap(OnTrap::Reject);
    metric.reset()?;
    metric.merge(&part.state)?;
    for ((row, _), said) in part.asks.iter().zip(said) {
        let into = &mut part.rows[*row];
        match said {
            Err(reason) => into.errors.push(reason),
            Ok(text) => {
                let batch = columns(&rows[*row..=*row], Some(&text))?;
                let scored = metric.judged(&ctx(seed, first + row), &batch)?;
                into.judgement = Some(text);
                put(scored, std::slice::from_mut(into));
            }
        }
    }
    part.state = metric.save()?;
    Ok(())
}

/// Per-row columns and errors to their rows.
fn put(scored: Scored, rows: &mut [RowScore]) {
    for column in &scored.per_row {
        let score = column.name.strip_prefix("score/");
        for (row, into) in rows.iter_mut().enumerate() {
            let valid = column.valid.as_ref().is_none_or(|v| v.get(row).is_some_and(|&b| b != 0));
            let Some(value) = cell(&column.data, row).filter(|_| valid) else { continue };
            if column.name.starts_with("read/") {
                into.read = Some(value);
            } else {
                into.scores.insert(score.unwrap_or(&column.name).to_owned(), value);
            }
        }
    }
    for (row, message) in scored.errors {
        if let Some(into) = rows.get_mut(row as usize) {
            into.errors.push(message);
        }
    }
}

/// The columns that metrics may read.
fn columns(rows: &[&Answer], judgement: Option<&str>) -> Result<Batch> {
    let references = rows.iter().map(|a| serde_json::to_string(&a.references)).collect::<Result<Vec<_>, _>>()?;
    let text = |name: &str, values: Vec<&str>| Column {
        name: name.to_owned(),
        data: ColumnData::Utf8(Ragged::<u8>::from_strs(values)),
        valid: None,
    };
    let mut columns = vec![
        text("key", rows.iter().map(|a| a.key.as_str()).collect()),
        text("source", rows.iter().map(|a| a.source.as_str()).collect()),
        text("prediction", rows.iter().map(|a| a.prediction.as_str()).collect()),
        text("references", references.iter().map(String::as_str).collect()),
        text("record", rows.iter().map(|a| a.record.get()).collect()),
    ];
    if let Some(judgement) = judgement {
        columns.push(text("judgement", vec![judgement; rows.len()]));
    }
    Ok(Batch { rows: rows.len() as u32, columns })
}

fn cell(data: &ColumnData, row: usize) -> Option<Value> {
    let number = |v: f64| serde_json::Number::from_f64(v).map(Value::Number);
    match data {
        ColumnData::U8s(v) => v.get(row).map(|x| json!(x)),
        ColumnData::U32s(v) => v.get(row).map(|x| json!(x)),
        ColumnData::S64s(v) => v.get(row).map(|x| json!(x)),
        ColumnData::F32s(v) => v.get(row).and_then(|x| number(f64::from(*x))),
        ColumnData::F64s(v) => v.get(row).and_then(|x| number(*x)),
        ColumnData::Utf8(v) => (row < v.len()).then(|| Value::String(String::from_utf8_lossy(v.row(row)).into_owned())),
        _ => None,
    }
}
