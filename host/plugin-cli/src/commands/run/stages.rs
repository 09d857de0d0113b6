//! The four kinds of plugin as one: batches in, answers to the output, a summary at the end.

use std::collections::HashMap;

use anyhow::{Context, Result};
use ovhost_plugin::json::{self, JsonRow};
use ovhost_plugin::{
    Batch, CallCtx, ColumnData, Counters, FilterInstance, Kind, MetricInstance, Mode, PackLimits, PackerInstance,
    Packing, Plugin, PromptInstance,
};
use serde_json::{Map, Value, json};

use super::Args;
use super::output::Output;
use crate::scoring::score;
use crate::table::{Table, bytes, count, plain, short, time};

/// A plugin at work on a stream of rows.
pub enum Stage {
    /// Rows stay or go.
    Filter(FilterInstance),
    /// Samples to bins.
    Packer(Box<Bins>),
    /// Rows to conversations.
    Prompt(PromptInstance, Mode),
    /// Answers to scores.
    Metric(MetricInstance, Vec<String>),
}

/// A packer and what is known of its bins.
pub struct Bins {
    packer: PackerInstance,
    limits: PackLimits,
    /// Length of each sample that is in the packer.
    open: HashMap<u64, u32>,
    bins: u64,
    tokens: u64,
    samples: u64,
    given_up: u64,
    too_long: u64,
}

impl Stage {
    /// An instance of the plugin. Errors: it cannot be made, a flag is missing.
    pub fn new(plugin: &Plugin, args: &Args) -> Result<Self> {
        Ok(match plugin.kind() {
            Kind::Filter => {
                let mut filter = plugin.filter()?;
                filter.set_on_trap(args.policy())?;
                Stage::Filter(filter)
            }
            Kind::Packer => {
                let capacity =
                    args.capacity.context("a packer needs --capacity: the most tokens in a bin, such as 8192")?;
                let (max_items_per_bin, max_open_items) = (args.max_items_per_bin, args.max_open_items);
                let limits = PackLimits { capacity, max_items_per_bin, max_open_items };
                let mut packer = plugin.packer()?;
                packer.start(&limits)?;
                let open = HashMap::new();
                Stage::Packer(Box::new(Bins {
                    packer,
                    limits,
                    open,
                    bins: 0,
                    tokens: 0,
                    samples: 0,
                    given_up: 0,
                    too_long: 0,
                }))
            }
            Kind::Prompt => {
                let mut prompt = plugin.prompt()?;
                prompt.set_on_trap(args.policy());
                Stage::Prompt(prompt, args.mode())
            }
            Kind::Metric => {
                let mut metric = plugin.metric()?;
                metric.set_on_trap(args.policy());
                Stage::Metric(metric, plugin.info().writes.clone())
            }
        })
    }

    /// Begins with a saved state.
    pub fn load(&mut self, state: &[u8]) -> Result<()> {
        match self {
            Stage::Filter(filter) => filter.restore(state)?,
            Stage::Packer(bins) => {
                bins.packer.restore(state)?;
                bins.open = bins.packer.open_lengths().into_iter().collect();
            }
            Stage::Metric(metric, _) => metric.merge(state)?,
            Stage::Prompt(..) => {}
        }
        Ok(())
    }

    /// What it remembers.
    pub fn save(&mut self) -> Result<Vec<u8>> {
        Ok(match self {
            Stage::Filter(filter) => filter.save()?,
            Stage::Packer(bins) => bins.packer.save()?,
            Stage::Metric(metric, _) => metric.save()?,
            Stage::Prompt(..) => Vec::new(),
        })
    }

    /// The next rows. `rows` are those of the batch, as the file has them.
    pub fn batch(&mut self, ctx: &CallCtx, rows: &[JsonRow], batch: &Batch, out: &mut Output) -> Result<()> {
        match self {
            Stage::Filter(filter) => filtered(filter, ctx, rows, batch, out),
            Stage::Packer(bins) => bins.push(ctx, rows, batch, out),
            Stage::Prompt(prompt, mode) => prompted(prompt, *mode, ctx, rows, batch, out),
            Stage::Metric(metric, writes) => scored(metric, writes, ctx, rows, batch, out),
        }
    }

    /// The stream ends: what is held back comes now.
    pub fn end(&mut self, out: &mut Output) -> Result<()> {
        match self {
            Stage::Packer(bins) => {
                while let Some(last) = bins.packer.flush()? {
                    bins.show(&last, out)?;
                }
                Ok(())
            }
            Stage::Metric(metric, _) => {
                let values = metric.finalize()?;
                let line = json!({ "values": json::metric_values(&values) });
                out.keep(&line)?;
                let mut table = Table::new(["metric", ">value", ">standard error", ">rows"]);
                for v in &values {
                    let stderr = v.stderr.map_or(String::new(), |e| e.to_string());
                    table.row([&v.name, &v.value.to_string(), &stderr, &v.count.to_string()]);
                }
                out.last(&table.render(), &line)
            }
            Stage::Filter(_) | Stage::Prompt(..) => Ok(()),
        }
    }

    fn counters(&self) -> &Counters {
        match self {
            Stage::Filter(filter) => filter.counters(),
            Stage::Packer(bins) => bins.packer.counters(),
            Stage::Prompt(prompt, _) => prompt.counters(),
            Stage::Metric(metric, _) => metric.counters(),
        }
    }

    /// Numbers about the run, `rows` rows long, as lines.
    pub fn summary(&self, rows: u64) -> String {
        let c = self.counters();
        let mut out = match self {
            Stage::Filter(_) => format!(
                "{}: {} kept ({:.1} %), {} dropped, {}\n",
                count(rows, "row"),
                c.rows_kept,
                100.0 * c.rows_kept as f64 / rows.max(1) as f64,
                c.rows_dropped,
                count(c.row_errors, "error")
            ),
            Stage::Packer(bins) => bins.summary(rows),
            Stage::Prompt(..) => {
                format!(
                    "{}: {} rendered, {}\n",
                    count(rows, "row"),
                    rows - c.row_errors.min(rows),
                    count(c.row_errors, "error")
                )
            }
            Stage::Metric(..) => {
                format!(
                    "{}: {} scored, {}\n",
                    count(rows, "row"),
                    rows - c.row_errors.min(rows),
                    count(c.row_errors, "error")
                )
            }
        };
        let mut reasons: Vec<(&String, &u64)> = c.dropped_by.iter().collect();
        reasons.sort_by_key(|(reason, n)| (std::cmp::Reverse(**n), reason.as_str()));
        if !reasons.is_empty() {
            let mut table = Table::new(["reason", ">rows"]);
            reasons.into_iter().for_each(|(reason, n)| table.row([reason, &n.to_string()]));
            out.push_str(&table.render());
        }
        let per_row = |total: u64| total as f64 / c.rows_in.max(1) as f64;
        out.push_str(&format!(
            "{}, {} and {} fuel a row, {} memory at most{}\n",
            count(c.calls, "call"),
            time(per_row(c.call_ns)),
            short(per_row(c.fuel_total)),
            bytes(c.peak_memory),
            if c.traps > 0 { format!(", {} contained", count(c.traps, "failure")) } else { String::new() }
        ));
        out
    }
}

/// The key of a row for tables, where rows have keys.
fn key_cell(rows: &[JsonRow], i: usize) -> Option<String> {
    let keyed = rows.first().is_some_and(|row| row.contains_key("key"));
    keyed.then(|| rows[i].get("key").map(cell).unwrap_or_default())
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn heads(first: &[&str], keyed: bool, then: &[&str], columns: &[String]) -> Vec<String> {
    let key = keyed.then_some("key");
    let fixed = first.iter().copied().chain(key).chain(then.iter().copied()).map(str::to_owned);
    fixed.chain(columns.iter().cloned()).collect()
}

/// `{"row": n, "key": …}` and then the members of an answer.
fn line(row: u64, fields: &JsonRow, answer: &Value) -> Value {
    let mut out = Map::new();
    out.insert("row".into(), row.into());
    if let Some(key) = fields.get("key") {
        out.insert("key".into(), key.clone());
    }
    out.extend(answer.as_object().cloned().unwrap_or_default());
    Value::Object(out)
}

fn filtered(
    filter: &mut FilterInstance,
    ctx: &CallCtx,
    rows: &[JsonRow],
    batch: &Batch,
    out: &mut Output,
) -> Result<()> {
    let decisions = filter.process(ctx, batch)?;
    let writes = &filter.plugin().info().writes;
    for (i, answer) in json::decisions(&decisions).into_iter().enumerate() {
        let row = ctx.first_row + i as u64;
        let added = json::set(&decisions.add, i);
        let cells = || {
            let (verdict, reason) = if decisions.keep[i] {
                ("keep", String::new())
            } else if let Some(error) = answer.get("error") {
                ("error", cell(error))
            } else {
                ("drop", answer.get("drop").filter(|r| !r.is_null()).map(cell).unwrap_or_default())
            };
            let values = writes.iter().map(|name| added.get(name).map(cell).unwrap_or_default());
            let start = std::iter::once(row.to_string()).chain(key_cell(rows, i));
            start.chain([verdict.to_owned(), reason]).chain(values).collect()
        };
        let head = || heads(&[">row"], key_cell(rows, i).is_some(), &["verdict", "reason"], writes);
        out.show(head, cells, &line(row, &rows[i], &answer))?;
        if decisions.keep[i] {
            let mut kept = rows[i].clone();
            kept.extend(added.clone());
            out.keep(&kept)?;
        } else {
            match answer.get("error") {
                Some(error) => out.reject(row, &rows[i], "error", error)?,
                None => out.reject(row, &rows[i], "reason", &answer["drop"])?,
            }
        }
    }
    Ok(())
}

fn prompted(
    prompt: &mut PromptInstance,
    mode: Mode,
    ctx: &CallCtx,
    rows: &[JsonRow],
    batch: &Batch,
    out: &mut Output,
) -> Result<()> {
    let items = json::prompt_items(&prompt.render(ctx, mode, batch)?);
    for (i, answer) in items.into_iter().enumerate() {
        let row = ctx.first_row + i as u64;
        let whole = line(row, &rows[i], &answer);
        let name = key_cell(rows, i).map(|key| format!(" ({})", plain(&key))).unwrap_or_default();
        out.show_text(|| format!("row {row}{name}\n{}", talk(&answer)), &whole)?;
        match answer.get("error") {
            Some(error) => out.reject(row, &rows[i], "error", error)?,
            None => out.keep(&whole)?,
        }
    }
    Ok(())
}

/// A rendered row for people: `*` marks what is learnt.
fn talk(answer: &Value) -> String {
    let piece = |part: &Value| {
        let (kind, value) =
            part.as_object().and_then(|o| o.iter().next()).map_or(("", Value::Null), |(k, v)| (k, v.clone()));
        match kind {
            "text" | "special" => cell(&value),
            kind => format!("[{kind} {value}]"),
        }
    };
    let learnt = |of: &Value| if of["train"] == true { "*" } else { " " };
    let list = |key: &str| answer.get(key).and_then(Value::as_array);
    let mut out = String::new();
    let mut say = |mark: &str, who: &str, text: &str| {
        let text = plain(text).replace('\n', "\n                ");
        out.push_str(&format!("  {mark} {who:<10}  {text}\n"));
    };
    if let Some(messages) = list("conversation") {
        for message in messages {
            let text: String = message["parts"].as_array().into_iter().flatten().map(piece).collect();
            say(learnt(message), &cell(&message["role"]), &text);
        }
    } else if let Some(segments) = list("segments") {
        for segment in segments {
            let kind = segment.as_object().and_then(|o| o.keys().next()).cloned().unwrap_or_default();
            say(learnt(segment), &kind, &piece(segment));
        }
    } else {
        say(" ", "error", &answer.get("error").map(cell).unwrap_or_default());
    }
    out
}

fn scored(
    metric: &mut MetricInstance,
    writes: &[String],
    ctx: &CallCtx,
    rows: &[JsonRow],
    batch: &Batch,
    out: &mut Output,
) -> Result<()> {
    for (i, answer) in score(metric, ctx, batch)?.into_iter().enumerate() {
        let row = ctx.first_row + i as u64;
        let whole = line(row, &rows[i], &answer);
        let note = || match (answer.get("error"), answer.get("needs_judge"), answer.get("judged")) {
            (Some(error), ..) => cell(error),
            (_, Some(_), None) => "needs a judge: give the row a judgement".to_owned(),
            (_, Some(_), Some(judged)) => format!("judged: {judged}"),
            _ => String::new(),
        };
        let cells = || {
            let values = writes.iter().map(|name| answer.get(name).map(cell).unwrap_or_default());
            std::iter::once(row.to_string()).chain(key_cell(rows, i)).chain(values).chain([note()]).collect()
        };
        let head = || {
            let mut head = heads(&[">row"], key_cell(rows, i).is_some(), &[], writes);
            head.push("note".into());
            head
        };
        out.show(head, cells, &whole)?;
        match answer.get("error") {
            Some(error) => out.reject(row, &rows[i], "error", error)?,
            None => out.keep(&whole)?,
        }
    }
    Ok(())
}

impl Bins {
    fn push(&mut self, ctx: &CallCtx, rows: &[JsonRow], batch: &Batch, out: &mut Output) -> Result<()> {
        let (Some(ColumnData::S64s(ids)), Some(ColumnData::U32s(lengths))) =
            (batch.column("id").map(|c| &c.data), batch.column("length").map(|c| &c.data))
        else {
            anyhow::bail!("a packer's rows need the column length (u32s), and id, if there, must be s64s");
        };
        // As the host does it: what no bin can hold never reaches the packer.
        let fits: Vec<bool> = lengths.iter().map(|length| *length <= self.limits.capacity).collect();
        for (i, _) in fits.iter().enumerate().filter(|(_, fits)| !**fits) {
            self.too_long += 1;
            let words = json!(format!("{} tokens, a bin holds {}", lengths[i], self.limits.capacity));
            out.reject(ctx.first_row + i as u64, &rows[i], "reason", &words)?;
        }
        let keep: Vec<u32> = (0..batch.rows).filter(|i| fits[*i as usize]).collect();
        for i in &keep {
            self.open.insert(ids[*i as usize].cast_unsigned(), lengths[*i as usize]);
        }
        let packing = if keep.len() == rows.len() {
            self.packer.push(ctx, batch)?
        } else {
            // Runs of rows that fit, each a batch of its own.
            let mut all = Packing::default();
            for run in keep.chunk_by(|a, b| a + 1 == *b) {
                let (Some(lo), Some(hi)) = (run.first(), run.last()) else { continue };
                let at = CallCtx { first_row: ctx.first_row + u64::from(*lo), ..*ctx };
                let part = self.packer.push(&at, &batch.slice(*lo, hi + 1))?;
                part.bins.iter().for_each(|bin| all.bins.push(bin));
                all.dropped.extend(part.dropped);
            }
            all
        };
        self.show(&packing, out)
    }

    fn show(&mut self, packing: &Packing, out: &mut Output) -> Result<()> {
        for ids in packing.bins.iter() {
            let tokens: u64 = ids.iter().filter_map(|id| self.open.remove(id)).map(u64::from).sum();
            let fill = tokens as f64 / f64::from(self.limits.capacity.max(1));
            let line = json!({ "bin": self.bins, "tokens": tokens, "fill": fill, "ids": ids });
            let cells = || {
                let list: Vec<String> = ids.iter().map(u64::to_string).collect();
                vec![
                    self.bins.to_string(),
                    ids.len().to_string(),
                    tokens.to_string(),
                    format!("{:.1} %", 100.0 * fill),
                    list.join(" "),
                ]
            };
            out.show(|| [">bin", ">samples", ">tokens", ">fill", "ids"].map(str::to_owned).into(), cells, &line)?;
            out.keep(&line)?;
            self.bins += 1;
            self.tokens += tokens;
            self.samples += ids.len() as u64;
        }
        for id in &packing.dropped {
            self.open.remove(id);
            self.given_up += 1;
            out.keep(&json!({ "dropped": id }))?;
        }
        Ok(())
    }

    fn summary(&self, rows: u64) -> String {
        let room = self.bins * u64::from(self.limits.capacity);
        let also = |n: u64, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
        format!(
            "{}: {} in {}, fill {:.2} %{}{}{}\n",
            count(rows, "sample"),
            self.samples,
            count(self.bins, "bin"),
            100.0 * self.tokens as f64 / room.max(1) as f64,
            also(self.given_up, "given up"),
            also(self.too_long, "longer than a bin"),
            also(self.packer.open_items() as u64, "still open, in the state")
        )
    }
}
