//! Answers to scores: metric plugins see every answer in order; results and per-sample scores are written whole.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, MetricInstance, Plugin, Ragged};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::answers::Answer;

/// Answers that a metric sees in one call.
const ROWS: usize = 256;

/// One value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The value.
    pub value: f64,
    /// Samples that it covers.
    pub count: u64,
    /// Standard error of the value, where the metric has one.
    pub stderr: Option<f64>,
    /// Name of the plugin that gave it.
    pub plugin: String,
}

/// `results.json`.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Value by name.
    pub metrics: BTreeMap<String, Score>,
    /// Samples in the data.
    pub samples: u64,
    /// Samples that got an answer and were scored.
    pub answered: u64,
    /// Samples without an answer: see `error` in samples.jsonl.
    pub failed: u64,
    /// Answers that a metric could not score.
    pub unscored: u64,
    /// Answers that ended at the length limit.
    pub truncated: u64,
    /// What was evaluated, and how.
    pub settings: Value,
}

/// Scores every answer with every metric; returns the results and the lines of samples.jsonl.
pub fn score(metrics: &[Plugin], answers: &[Answer], seed: u64, settings: Value) -> Result<(Results, Vec<Value>)> {
    let asked: Vec<&Answer> = answers.iter().filter(|a| a.error.is_none()).collect();
    let mut scores: Vec<Map<String, Value>> = vec![Map::new(); asked.len()];
    let mut errors: Vec<Vec<String>> = vec![Vec::new(); asked.len()];
    let mut values = BTreeMap::new();
    for plugin in metrics {
        let name = &plugin.info().name;
        let mut metric = plugin.metric()?;
        metric.reset()?;
        for (index, rows) in asked.chunks(ROWS).enumerate() {
            let at = index * ROWS;
            let ctx = CallCtx { run_seed: seed, shard: 0, batch_index: index as u64, first_row: at as u64 };
            update(&mut metric, name, &ctx, rows, &mut scores[at..at + rows.len()], &mut errors[at..at + rows.len()])?;
        }
        for value in metric.finalize()? {
            let score = Score { value: value.value, count: value.count, stderr: value.stderr, plugin: name.clone() };
            if values.insert(value.name.clone(), score).is_some() {
                bail!("two metric plugins give a value called {:?}; evaluate with one of them at a time", value.name);
            }
        }
    }
    let unscored = errors.iter().filter(|e| !e.is_empty()).count() as u64;
    let mut scored = scores.into_iter().zip(errors);
    let mut lines = Vec::with_capacity(answers.len());
    for answer in answers {
        let mut line = serde_json::to_value(answer)?;
        if answer.error.is_none()
            && let (Value::Object(map), Some((scores, errors))) = (&mut line, scored.next())
        {
            map.insert("scores".into(), Value::Object(scores));
            if !errors.is_empty() {
                map.insert("score_errors".into(), json!(errors));
            }
        }
        lines.push(line);
    }
    let results = Results {
        metrics: values,
        samples: answers.len() as u64,
        answered: asked.len() as u64,
        failed: (answers.len() - asked.len()) as u64,
        unscored,
        truncated: asked.iter().filter(|a| a.finish_reason == "length").count() as u64,
        settings,
    };
    Ok((results, lines))
}

fn update(
    metric: &mut MetricInstance,
    name: &str,
    ctx: &CallCtx,
    rows: &[&Answer],
    scores: &mut [Map<String, Value>],
    errors: &mut [Vec<String>],
) -> Result<()> {
    let scored = metric.update(ctx, &columns(rows)?)?;
    if let Some((row, _)) = scored.needs_judge.first() {
        bail!(
            "metric {name} wants a judge for sample {}; no judge can be configured yet: use a metric that scores by itself",
            rows.get(*row as usize).map_or("?", |a| a.key.as_str())
        );
    }
    for column in &scored.per_row {
        let short = column.name.strip_prefix("score/").unwrap_or(&column.name);
        for (row, into) in scores.iter_mut().enumerate() {
            let valid = column.valid.as_ref().is_none_or(|v| v.get(row).is_some_and(|&b| b != 0));
            if valid && let Some(value) = cell(&column.data, row) {
                into.insert(short.to_owned(), value);
            }
        }
    }
    for (row, message) in scored.errors {
        if let Some(list) = errors.get_mut(row as usize) {
            list.push(format!("{name}: {message}"));
        }
    }
    Ok(())
}

/// The columns that metrics may read.
fn columns(rows: &[&Answer]) -> Result<Batch> {
    let references = rows.iter().map(|a| serde_json::to_string(&a.references)).collect::<Result<Vec<_>, _>>()?;
    let records = rows.iter().map(|a| serde_json::to_string(&a.record)).collect::<Result<Vec<_>, _>>()?;
    let text = |name: &str, values: Vec<&str>| Column {
        name: name.to_owned(),
        data: ColumnData::Utf8(Ragged::<u8>::from_strs(values)),
        valid: None,
    };
    let columns = vec![
        text("key", rows.iter().map(|a| a.key.as_str()).collect()),
        text("source", rows.iter().map(|a| a.source.as_str()).collect()),
        text("prediction", rows.iter().map(|a| a.prediction.as_str()).collect()),
        text("references", references.iter().map(String::as_str).collect()),
        text("record", records.iter().map(String::as_str).collect()),
    ];
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

/// Writes `results.json` and `samples.jsonl`, each whole or not at all.
pub fn write(folder: &Path, results: &Results, lines: &[Value]) -> Result<()> {
    let mut samples = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut samples, line)?;
        samples.push(b'\n');
    }
    whole(&folder.join("samples.jsonl"), &samples)?;
    whole(&folder.join("results.json"), &serde_json::to_vec_pretty(results)?)
}

/// Writes a file under a temporary name, fsyncs, renames.
pub(crate) fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let staging = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        std::fs::write(&staging, bytes)?;
        std::fs::File::open(&staging)?.sync_all()?;
        std::fs::rename(&staging, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
