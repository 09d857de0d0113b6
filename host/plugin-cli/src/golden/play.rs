//! One case through the real host: its answer to the whole, and whether it answers the same in every other way of asking.
//!
//! ```text
//!  rows ─► one batch ──────────────────────────────► the answer
//!       ├► batches of 1, of 3 ─────────────────────► ┐
//!       ├► an instance that did it all once before ─► │ must be equal
//!       └► a new instance for each batch of 1, of 3 ► ┘ (pure: as it is; state: saved and restored; metrics: merged)
//! ```

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ovhost_plugin::json;
use ovhost_plugin::{
    Batch, CallCtx, Host, Independence, Kind, Located, Mode, PackerInstance, Packing, Plugin, PluginError, PluginSpec,
    check_independence,
};
use serde_json::{Value, json};

use super::{Case, differences};
use crate::input::{columns_of, ordinals};
use crate::scoring::score;

/// The answer to a case.
pub(super) struct Played {
    /// To all rows in one batch.
    pub whole: Value,
    /// What was found that must not be.
    pub unstable: Option<Unstable>,
}

/// How an answer depends on what it must not depend on.
pub(super) enum Unstable {
    /// A way of asking that gives another answer, and that one.
    Answer(&'static str, Value),
    /// A row of a pure plugin, in the host's words.
    Row(String),
}

/// A way of asking.
#[derive(Clone, Copy, PartialEq)]
enum How {
    Whole,
    Cut(u32),
    /// The same instance has done all of it before.
    Again,
    /// A new instance for each batch of so many rows; what is remembered goes from one to the next.
    Anew(u32),
}

const OTHERS: [(How, &str); 5] = [
    (How::Cut(1), "batches of 1"),
    (How::Cut(3), "batches of 3"),
    (How::Again, "an instance that has done it before"),
    (How::Anew(1), "a new instance for each row"),
    (How::Anew(3), "a new instance for each batch of 3"),
];

/// Relative error that merging the parts of a metric may have: sums of floats depend on their order.
const MERGE_ERROR: f64 = 1e-9;

pub(super) fn play(host: &Host, component: &Located, case: &Case, folder: &Path) -> Result<Played> {
    let spec = PluginSpec {
        entry: case.entry.clone(),
        config: case.config.clone(),
        assets: case.assets.iter().map(|(name, path)| (name.clone(), folder.join(path))).collect(),
        limits: case.resources.clone(),
        seed: case.seed,
        sha256: component.sha256.clone(),
        ..PluginSpec::new(&component.path)
    };
    let plugin = match host.load(&spec) {
        Ok(plugin) => plugin,
        Err(PluginError::Config { diagnostics, .. }) => {
            let one = |d: &ovhost_plugin::Diagnostic| json!({ "path": d.path, "message": d.message });
            let whole = json!({ "refused": diagnostics.iter().map(one).collect::<Vec<_>>() });
            return Ok(Played { whole, unstable: None });
        }
        Err(error) => return Err(error.into()),
    };
    let kind = plugin.kind();
    ensure!(kind == Kind::Packer || case.limits.is_none(), "\"limits\" are for packers; this is a {kind} plugin");
    ensure!(kind == Kind::Prompt || case.mode.is_none(), "\"mode\" is for prompts; this is a {kind} plugin");
    let batch = rows(&plugin, case)?;
    let ask = |how: How| -> Result<Value> {
        let answer = match plugin.kind() {
            Kind::Filter => filter(&plugin, case, &batch, how),
            Kind::Packer => packer(&plugin, case, &batch, how),
            Kind::Prompt => prompt(&plugin, case, &batch, how),
            Kind::Metric => metric(&plugin, case, &batch, how),
        };
        match answer.map_err(|e| e.downcast::<PluginError>()) {
            Ok(answer) => Ok(answer),
            // The plugin's own refusal of a whole call is an answer too.
            Err(Ok(PluginError::Refused { call, kind, message, .. })) => {
                Ok(json!({ "fails": { "call": call, "kind": kind.to_string(), "message": message } }))
            }
            Err(Ok(error)) => Err(error.into()),
            Err(Err(error)) => Err(error),
        }
    };
    let whole = ask(How::Whole)?;
    if whole.get("fails").is_some() {
        return Ok(Played { whole, unstable: None });
    }
    let streaming = !plugin.info().state_pure;
    for (how, name) in OTHERS {
        // Streaming filters and prompts have no second beginning; what a streaming prompt remembers cannot be saved.
        let skip = match (plugin.kind(), how) {
            (Kind::Filter, How::Again) => streaming,
            (Kind::Prompt | Kind::Metric, How::Again | How::Anew(_)) => streaming,
            _ => false,
        };
        if skip {
            continue;
        }
        let other = ask(how).with_context(|| format!("asked in another way ({name})"))?;
        if !same(&whole, &other, plugin.kind() == Kind::Metric && matches!(how, How::Anew(_))) {
            return Ok(Played { whole, unstable: Some(Unstable::Answer(name, other)) });
        }
    }
    let ctx = CallCtx { run_seed: case.seed, ..CallCtx::default() };
    let unstable = match check_independence(&plugin, &ctx, &batch) {
        Ok(Independence::Holds | Independence::NotClaimed) => None,
        Ok(broken @ Independence::Broken { .. }) => Some(Unstable::Row(broken.to_string())),
        // It asks prompts for training and for answers, and this case is about one of the two.
        Err(PluginError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Played { whole, unstable })
}

fn same(whole: &Value, other: &Value, merged: bool) -> bool {
    let close = |a: &Option<Value>, b: &Option<Value>| match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= MERGE_ERROR * a.abs().max(b.abs()),
            _ => false,
        },
        _ => false,
    };
    let found = differences(whole, other);
    found.iter().all(|d| merged && d.path.starts_with("values.") && close(&d.expected, &d.seen))
}

/// The columns that the plugin reads, and those that its kind always gets.
fn rows(plugin: &Plugin, case: &Case) -> Result<Batch> {
    let mut batch = columns_of(plugin, case.types.clone()).batch(&case.rows, 0)?;
    ordinals(plugin, &mut batch, 0);
    Ok(batch)
}

/// The batches of one way of asking, each with its context.
fn batches(case: &Case, batch: &Batch, how: How) -> Vec<(CallCtx, Batch)> {
    let size = match how {
        How::Whole | How::Again => batch.rows,
        How::Cut(size) | How::Anew(size) => size,
    };
    let starts = (0..batch.rows).step_by(size.max(1) as usize);
    let one = |(i, lo): (usize, u32)| {
        let ctx = CallCtx { run_seed: case.seed, shard: 0, batch_index: i as u64, first_row: lo.into() };
        (ctx, batch.slice(lo, (lo + size).min(batch.rows)))
    };
    starts.enumerate().map(one).collect()
}

fn filter(plugin: &Plugin, case: &Case, batch: &Batch, how: How) -> Result<Value> {
    let mut filter = plugin.filter()?;
    let mut out = Vec::new();
    if how == How::Again {
        filter.process(&CallCtx { run_seed: case.seed, ..CallCtx::default() }, batch)?;
    }
    for (i, (ctx, part)) in batches(case, batch, how).iter().enumerate() {
        if matches!(how, How::Anew(_)) && i > 0 {
            let state = if filter.is_streaming() { Some(filter.save()?) } else { None };
            filter = plugin.filter()?;
            if let Some(state) = state {
                filter.restore(&state)?;
            }
        }
        out.extend(json::decisions(&filter.process(ctx, part)?));
    }
    // After the last row too, or a case of one row would never save.
    if matches!(how, How::Anew(_)) && filter.is_streaming() {
        let state = filter.save()?;
        plugin.filter()?.restore(&state)?;
    }
    Ok(out.into())
}

fn prompt(plugin: &Plugin, case: &Case, batch: &Batch, how: How) -> Result<Value> {
    let mode = case.mode.unwrap_or(Mode::Train);
    let mut prompt = plugin.prompt()?;
    let mut out = Vec::new();
    if how == How::Again {
        prompt.render(&CallCtx { run_seed: case.seed, ..CallCtx::default() }, mode, batch)?;
    }
    for (i, (ctx, part)) in batches(case, batch, how).iter().enumerate() {
        if matches!(how, How::Anew(_)) && i > 0 {
            prompt = plugin.prompt()?;
        }
        out.extend(json::prompt_items(&prompt.render(ctx, mode, part)?));
    }
    Ok(out.into())
}

fn packer(plugin: &Plugin, case: &Case, batch: &Batch, how: How) -> Result<Value> {
    let Some(bounds) = case.limits else {
        bail!("the case of a packer needs \"limits\": {{\"capacity\": N}}, in tokens");
    };
    let bounds = bounds.into();
    let mut packer = plugin.packer()?;
    packer.start(&bounds)?;
    let mut all = Packing::default();
    let mut add = |part: Packing| {
        all.bins.extend(&part.bins);
        all.dropped.extend(part.dropped);
    };
    let anew = |mut packer: PackerInstance| -> Result<PackerInstance> {
        let state = packer.save()?;
        packer = plugin.packer()?;
        packer.start(&bounds)?;
        packer.restore(&state)?;
        Ok(packer)
    };
    if how == How::Again {
        packer.push(&CallCtx { run_seed: case.seed, ..CallCtx::default() }, batch)?;
        packer.start(&bounds)?;
    }
    for (i, (ctx, part)) in batches(case, batch, how).iter().enumerate() {
        if matches!(how, How::Anew(_)) && i > 0 {
            packer = anew(packer)?;
        }
        add(packer.push(ctx, part)?);
    }
    if matches!(how, How::Anew(_)) {
        packer = anew(packer)?;
    }
    while let Some(part) = packer.flush()? {
        add(part);
    }
    Ok(json::packing(&all))
}

fn metric(plugin: &Plugin, case: &Case, batch: &Batch, how: How) -> Result<Value> {
    let mut metric = plugin.metric()?;
    let mut parts = Vec::new();
    let mut rows = Vec::new();
    if how == How::Again {
        score(&mut metric, &CallCtx { run_seed: case.seed, ..CallCtx::default() }, batch)?;
        metric.reset()?;
    }
    for (i, (ctx, part)) in batches(case, batch, how).iter().enumerate() {
        if matches!(how, How::Anew(_)) && i > 0 {
            parts.push(metric.save()?);
            metric = plugin.metric()?;
        }
        rows.extend(score(&mut metric, ctx, part)?);
    }
    if matches!(how, How::Anew(_)) {
        parts.push(metric.save()?);
        metric = plugin.metric()?;
        for part in &parts {
            metric.merge(part)?;
        }
    }
    Ok(json!({ "rows": rows, "values": json::metric_values(&metric.finalize()?) }))
}
