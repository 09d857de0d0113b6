//! Whether a plugin that says it is pure answers for each row by that row alone.
//!
//! ```text
//!  one batch ──► whole, in a new instance ──────────────► answers per row ─┐
//!            ├─► again in the same instance                                │
//!            ├─► in a second new instance                                  ├─► the same bits, or: which row, when, what
//!            ├─► cut in two, in a third                                    │
//!            └─► row by row from the last to the first, in a fourth ───────┘
//! ```
//! Nothing else notices a plugin that remembers calls, or that reads memory which it never wrote: its answers are well
//! formed, and change with the number of workers. A run does not pay for this; `ovhost-plugin test` and tests do.

use std::fmt;

use crate::{
    Batch, CallCtx, Column, ColumnData, Decisions, FilterInstance, Kind, MetricInstance, Mode, Plugin, PluginError,
    PromptInstance, PromptOutput, Scored,
};

/// Rows that are also given one by one; the others' turn comes in the larger parts.
const SINGLES: u32 = 256;

/// What came of asking a plugin the same thing in several ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Independence {
    /// Every way gave the same bits.
    Holds,
    /// It says that it is streaming: its answers may build on one another.
    NotClaimed,
    /// One way gave something else.
    Broken {
        /// Ordinal in the stream of the first row that differs; none: the values of a metric.
        row: Option<u64>,
        /// That row's `key` column.
        key: Option<String>,
        /// Which way.
        how: &'static str,
        /// What the whole batch in a new instance gave.
        first: String,
        /// What this way gave.
        second: String,
    },
}

impl fmt::Display for Independence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Independence::Holds => f.write_str("answers depend on the row alone"),
            Independence::NotClaimed => f.write_str("it is streaming and does not claim that rows are independent"),
            Independence::Broken { row, key, how, first, second } => {
                match (row, key) {
                    (Some(row), Some(key)) => {
                        write!(f, "row {row} (key \"{}\")", crate::error::plain(key, crate::error::KEY_BYTES))?
                    }
                    (Some(row), None) => write!(f, "row {row}")?,
                    (None, _) => f.write_str("the values over all rows")?,
                }
                write!(
                    f,
                    " gave\n  {first}\nin a new instance and\n  {second}\n{how}. A pure plugin may keep nothing between calls \
                     and read no memory that it did not write; if it must remember rows, it is streaming"
                )
            }
        }
    }
}

/// Gives a pure filter, prompt or metric the rows of `batch` in several ways. Errors: the plugin fails on them.
pub fn check_independence(plugin: &Plugin, ctx: &CallCtx, batch: &Batch) -> Result<Independence, PluginError> {
    if !plugin.info().state_pure {
        return Ok(Independence::NotClaimed);
    }
    match plugin.kind() {
        Kind::Packer => Ok(Independence::NotClaimed),
        Kind::Filter => compare(ctx, batch, || plugin.filter()),
        Kind::Prompt => {
            let training = compare(ctx, batch, || Ok(Rendering(plugin.prompt()?, Mode::Train)))?;
            if training != Independence::Holds {
                return Ok(training);
            }
            compare(ctx, batch, || Ok(Rendering(plugin.prompt()?, Mode::Generate)))
        }
        Kind::Metric => {
            let rows = compare(ctx, batch, || plugin.metric())?;
            if rows != Independence::Holds {
                return Ok(rows);
            }
            merged(plugin, ctx, batch)
        }
    }
}

/// Something that answers row by row: one line of text per row, equal for equal bits.
trait Answers {
    fn answers(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError>;
}

impl Answers for FilterInstance {
    fn answers(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError> {
        let Decisions { keep, reason, add, errors } = self.process(ctx, batch)?;
        let mut lines: Vec<String> = keep.iter().map(|keep| if *keep { "keep" } else { "drop" }.to_owned()).collect();
        for (line, reason) in lines.iter_mut().zip(reason) {
            if let Some(reason) = reason {
                line.push_str(&format!(" {reason:?}"));
            }
        }
        note(&mut lines, &errors, &add);
        Ok(lines)
    }
}

struct Rendering(PromptInstance, Mode);

impl Answers for Rendering {
    fn answers(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError> {
        let PromptOutput { items, errors } = self.0.render(ctx, self.1, batch)?;
        let mut lines: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        note(&mut lines, &errors, &[]);
        Ok(lines)
    }
}

impl Answers for MetricInstance {
    fn answers(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError> {
        let Scored { per_row, errors, needs_judge } = self.update(ctx, batch)?;
        let mut lines = vec![String::new(); batch.rows as usize];
        for (row, messages) in needs_judge {
            lines[row as usize].push_str(&format!("judge {messages:?}"));
        }
        note(&mut lines, &errors, &per_row);
        Ok(lines)
    }
}

/// Adds errors and columns to the rows' lines.
fn note(lines: &mut [String], errors: &[(u32, String)], columns: &[Column]) {
    for (row, text) in errors {
        lines[*row as usize].push_str(&format!(" error {text:?}"));
    }
    for column in columns {
        for (row, line) in lines.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
            line.push_str(&format!(" {}={}", column.name, bits(&column.data, row)));
        }
    }
}

/// A value; of numbers that are not whole also the bits, since NaNs differ and 0 is -0.
fn bits(data: &ColumnData, row: usize) -> String {
    match data {
        ColumnData::U8s(v) => v[row].to_string(),
        ColumnData::U32s(v) => v[row].to_string(),
        ColumnData::S64s(v) => v[row].to_string(),
        ColumnData::F32s(v) => format!("{} ({:08x})", v[row], v[row].to_bits()),
        ColumnData::F64s(v) => format!("{} ({:016x})", v[row], v[row].to_bits()),
        ColumnData::Utf8(v) => format!("{:?}", v.str(row).unwrap_or_default()),
        ColumnData::Bytes(v) => format!("{:02x?}", v.row(row)),
        ColumnData::U32Lists(v) => format!("{:?}", v.row(row)),
        ColumnData::F32Lists(v) => format!("{:08x?}", v.row(row).iter().map(|x| x.to_bits()).collect::<Vec<_>>()),
    }
}

/// Rows `lo..hi` of the batch at their place in the stream.
fn part(one: &mut impl Answers, ctx: &CallCtx, batch: &Batch, lo: u32, hi: u32) -> Result<Vec<String>, PluginError> {
    let at = CallCtx { first_row: ctx.first_row + u64::from(lo), ..*ctx };
    one.answers(&at, &batch.slice(lo, hi))
}

fn compare<A: Answers>(
    ctx: &CallCtx,
    batch: &Batch,
    new: impl Fn() -> Result<A, PluginError>,
) -> Result<Independence, PluginError> {
    let rows = batch.rows;
    let mut instance = new()?;
    let whole = part(&mut instance, ctx, batch, 0, rows)?;
    let differs = |answers: &[String], from: u32, how| {
        let row = (0..answers.len()).find(|i| answers[*i] != whole[from as usize + i]);
        row.map(|i| {
            let (first, second) = clip_both(&whole[from as usize + i], &answers[i]);
            let at = from + i as u32;
            Independence::Broken { row: Some(ctx.first_row + u64::from(at)), key: batch.key(at), how, first, second }
        })
    };
    let again = part(&mut instance, ctx, batch, 0, rows)?;
    if let Some(broken) = differs(&again, 0, "the second time in the same instance") {
        return Ok(broken);
    }
    let fresh = part(&mut new()?, ctx, batch, 0, rows)?;
    if let Some(broken) = differs(&fresh, 0, "in another new instance") {
        return Ok(broken);
    }
    let mut instance = new()?;
    for (lo, hi) in [(0, rows / 2), (rows / 2, rows)] {
        let answers = part(&mut instance, ctx, batch, lo, hi)?;
        if let Some(broken) = differs(&answers, lo, "when the batch was cut in two") {
            return Ok(broken);
        }
    }
    let mut instance = new()?;
    for lo in (0..rows.min(SINGLES)).rev() {
        let answers = part(&mut instance, ctx, batch, lo, lo + 1)?;
        if let Some(broken) = differs(&answers, lo, "when the rows came one by one, the last first") {
            return Ok(broken);
        }
    }
    Ok(Independence::Holds)
}

/// The beginning of both from a little before where they part.
fn clip_both(first: &str, second: &str) -> (String, String) {
    let same = first.bytes().zip(second.bytes()).take_while(|(a, b)| a == b).count();
    let cut = |text: &str| {
        let mut from = same.saturating_sub(80).min(text.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        let dots = if from > 0 { "..." } else { "" };
        format!("{dots}{}", crate::error::plain(&text[from..], 400))
    };
    (cut(first), cut(second))
}

/// A metric's values over the whole, and over two parts merged in order.
fn merged(plugin: &Plugin, ctx: &CallCtx, batch: &Batch) -> Result<Independence, PluginError> {
    let values = |metric: &mut MetricInstance| -> Result<String, PluginError> {
        let line = |v: crate::MetricValue| {
            let stderr = v.stderr.map(|e| format!(" ± {e} ({:016x})", e.to_bits())).unwrap_or_default();
            format!("{} = {} ({:016x}) over {}{stderr}", v.name, v.value, v.value.to_bits(), v.count)
        };
        Ok(metric.finalize()?.into_iter().map(line).collect::<Vec<_>>().join("; "))
    };
    let mut whole = plugin.metric()?;
    part(&mut whole, ctx, batch, 0, batch.rows)?;
    let whole = values(&mut whole)?;
    let cut = batch.rows / 3;
    let (mut head, mut tail) = (plugin.metric()?, plugin.metric()?);
    part(&mut head, ctx, batch, 0, cut)?;
    part(&mut tail, ctx, batch, cut, batch.rows)?;
    head.merge(&tail.save()?)?;
    let parts = values(&mut head)?;
    if parts == whole {
        return Ok(Independence::Holds);
    }
    let (first, second) = clip_both(&whole, &parts);
    let how = "when two instances scored a part each and were merged";
    Ok(Independence::Broken { row: None, key: None, how, first, second })
}
