//! Metrics: answers in, scores per row and values at the end out.
//!
//! An instance holds the state of its metric. When a call fails the store is gone and the state with it, so under
//! [`OnTrap::Reject`] the host keeps the state as of the last good call and merges it into the next instance.

use serde::{Deserialize, Serialize};
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::batch::ColumnJoiner;
use crate::bindings::exports::ovhost::plugin::metric as wit;
use crate::bindings::ovhost::plugin::types;
use crate::bundle::Occasion;
use crate::contain::{OnTrap, contain};
use crate::error::{PluginError, plain};
use crate::instance::{CallError, Core, Counters, Guest, added, row_errors, select};
use crate::load::{KindIndices, Loaded, Plugin};
use crate::log::StoreData;
use crate::scan::Kind;
use crate::{Batch, CallCtx, Column};

const OUTPUTS: usize = 256;
const STATE_UNKNOWN: &str = "the metric's state, which is kept only where failing rows are rejected";

impl Guest for wit::Guest {
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self> {
        match &loaded.functions {
            KindIndices::Metric(indices) => indices.load(store, instance),
            _ => Err(wasmtime::Error::msg("not a metric")),
        }
    }
}

/// A value that a metric will give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricInfo {
    /// Its name.
    pub name: String,
    /// Which way is good.
    pub higher_is_better: bool,
    /// Least possible value.
    pub low: Option<f64>,
    /// Greatest possible value.
    pub high: Option<f64>,
    /// "%", "tokens", or empty.
    pub unit: String,
}

/// A value that a metric gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// Its name, one of the metric's outputs.
    pub name: String,
    /// The value; NaN over no rows.
    pub value: f64,
    /// Rows that it covers.
    pub count: u64,
    /// Its standard error, where the metric knows it.
    pub stderr: Option<f64>,
}

/// What a metric says of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// Columns of scores, one value per row.
    pub per_row: Vec<Column>,
    /// Rows that could not be scored, in order, each once.
    pub errors: Vec<(u32, String)>,
    /// Rows whose score needs a judge, with the judge's messages (role, text).
    pub needs_judge: Vec<(u32, Vec<(String, String)>)>,
}

/// An instance of a metric with its state.
pub struct MetricInstance {
    core: Core<wit::Guest>,
    on_trap: OnTrap,
    outputs: Option<Vec<MetricInfo>>,
    /// State as of the last good call; kept under `OnTrap::Reject`. None: nothing was added yet.
    snapshot: Option<Vec<u8>>,
    lost: Option<String>,
}

#[derive(Clone, Copy)]
enum Step {
    Update,
    Judged,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Update => "update",
            Step::Judged => "judged",
        }
    }

    fn always(self) -> &'static [&'static str] {
        match self {
            Step::Update => &["prediction", "references", "record"],
            Step::Judged => &["prediction", "references", "record", "judgement"],
        }
    }
}

impl Plugin {
    /// An instance of this metric. Errors: it is another kind, or cannot be instantiated.
    pub fn metric(&self) -> Result<MetricInstance, PluginError> {
        match &self.loaded().functions {
            KindIndices::Metric(_) => Ok(MetricInstance {
                core: Core::new(self.clone())?,
                on_trap: OnTrap::Stop,
                outputs: None,
                snapshot: None,
                lost: None,
            }),
            _ => Err(self.wrong_kind(Kind::Metric)),
        }
    }
}

impl MetricInstance {
    /// What to do when the plugin fails on a batch; at first [`OnTrap::Stop`]. To be set before the first `update`: under
    /// [`OnTrap::Reject`] every call also saves the state.
    pub fn set_on_trap(&mut self, policy: OnTrap) {
        self.on_trap = policy;
    }

    /// What this instance did so far.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// The plugin.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// The values that `finalize` gives.
    pub fn outputs(&mut self) -> Result<Vec<MetricInfo>, PluginError> {
        if let Some(known) = &self.outputs {
            return Ok(known.clone());
        }
        let answer = self.call("outputs", 0, 0, |guest, store| guest.call_outputs(store))?;
        let infos: Vec<MetricInfo> = answer
            .into_iter()
            .map(|i| MetricInfo {
                name: i.name,
                higher_is_better: i.higher_is_better,
                low: i.low,
                high: i.high,
                unit: i.unit,
            })
            .collect();
        check_outputs(&infos).map_err(|rule| self.fault("outputs", rule))?;
        self.outputs = Some(infos.clone());
        Ok(infos)
    }

    /// Forgets all rows, and an earlier failure.
    pub fn reset(&mut self) -> Result<(), PluginError> {
        self.lost = None;
        self.snapshot = None;
        if self.core.is_armed() {
            return self.call("reset", 0, 0, |guest, store| guest.call_reset(store));
        }
        Ok(())
    }

    /// Adds rows: columns `prediction`, `references`, `record`, others by the plugin's `reads`. Errors: as
    /// [`FilterInstance::process`](crate::FilterInstance::process); after a failure the state is lost until [`Self::reset`].
    pub fn update(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Scored, PluginError> {
        self.step(Step::Update, ctx, batch)
    }

    /// The rows that asked for a judge, again, with the column `judgement`.
    pub fn judged(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Scored, PluginError> {
        self.step(Step::Judged, ctx, batch)
    }

    /// The state, to be merged into another instance's.
    pub fn save(&mut self) -> Result<Vec<u8>, PluginError> {
        self.sound()?;
        let answer = self.call("save", 0, 0, |guest, store| guest.call_save(store))?;
        answer.map_err(|e| self.end(CallError::Fatal(fatal(self.core.refused("save", e)))))
    }

    /// Adds another instance's state to this one's.
    pub fn merge(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.sound()?;
        let answer =
            self.call_with("merge", 0, state.len() as u64, Some(state), |guest, store| guest.call_merge(store, state))?;
        answer.map_err(|e| self.end(CallError::Fatal(fatal(self.core.refused("merge", e)))))?;
        if self.on_trap == OnTrap::Reject {
            self.snapshot = Some(self.save()?);
        }
        Ok(())
    }

    /// The values over all rows.
    pub fn finalize(&mut self) -> Result<Vec<MetricValue>, PluginError> {
        self.sound()?;
        let outputs = self.outputs()?;
        let rows = self.core.counters.rows_in;
        let answer = self.call("finalize", rows, 0, |guest, store| guest.call_finalize(store))?;
        let raw = answer.map_err(|e| fatal(self.core.refused("finalize", e)))?;
        let values: Vec<MetricValue> = raw
            .into_iter()
            .map(|v| MetricValue { name: v.name, value: v.value, count: v.count, stderr: v.stderr })
            .collect();
        check_values(&outputs, &values).map_err(|rule| self.fault("finalize", rule))?;
        Ok(values)
    }

    fn step(&mut self, step: Step, ctx: &CallCtx, batch: &Batch) -> Result<Scored, PluginError> {
        self.sound()?;
        if batch.rows == 0 {
            return Ok(Scored::default());
        }
        // Errors that are the caller's cost no state.
        select(&self.core.plugin, batch, step.always())?;
        let (core, snapshot, policy) = (&mut self.core, &mut self.snapshot, self.on_trap);
        let answer = contain(policy, batch.rows, |lo, hi| {
            if policy == OnTrap::Reject {
                revive(core, snapshot.as_deref())?;
            }
            let scored = if (lo, hi) == (0, batch.rows) {
                score(core, step, ctx, lo, batch)
            } else {
                score(core, step, ctx, lo, &batch.slice(lo, hi))
            };
            if let Err(error) = &scored
                && policy == OnTrap::Reject
                && hi - lo == 1
            {
                // Now, while the state is the one that it failed in.
                let at = Occasion { state: snapshot.as_deref(), ..Occasion::rows(ctx, batch, Some(lo)) };
                core.plugin.loaded().keep(error, &at);
            }
            match &scored {
                Ok(_) if policy == OnTrap::Reject => *snapshot = Some(save(core)?),
                Ok(_) => {}
                // A malformed answer leaves a state that nobody can vouch for.
                Err(_) => core.disarm(),
            }
            scored
        });
        let pieces = answer.map_err(|failed| {
            // A row that fails alone does so without the rows before it.
            let missing = (failed.row.is_none() && self.core.counters.rows_in > 0).then_some(STATE_UNKNOWN);
            let at = Occasion { missing, ..Occasion::rows(ctx, batch, failed.row) };
            self.core.plugin.loaded().keep(&failed.error, &at);
            let row = failed.row.map(|r| ctx.first_row + u64::from(r));
            let error = failed.error.into_error(self.core.name(), row, failed.row.and_then(|r| batch.key(r)));
            self.core.disarm();
            self.lost = Some(error.to_string());
            error
        })?;
        let mut all = Scored::default();
        let mut columns = ColumnJoiner::default();
        for piece in pieces {
            let rows = (piece.hi - piece.lo) as usize;
            match piece.answer {
                Ok(part) => {
                    all.errors.extend(part.errors.into_iter().map(|(row, text)| (row + piece.lo, text)));
                    all.needs_judge.extend(part.needs_judge.into_iter().map(|(row, m)| (row + piece.lo, m)));
                    columns.push(rows, part.per_row);
                }
                Err(error) => {
                    all.errors.push((piece.lo, error.row_words()));
                    columns.push(rows, Vec::new());
                }
            }
        }
        all.per_row = columns.finish();
        let counters = &mut self.core.counters;
        counters.rows_in += u64::from(batch.rows);
        counters.row_errors += all.errors.len() as u64;
        Ok(all)
    }

    /// A call outside `update`: state that a failure takes with it is restored under `Reject`, else lost.
    fn call<R>(
        &mut self,
        call: &'static str,
        rows: u64,
        bytes: u64,
        run: impl FnOnce(&wit::Guest, &mut Store<StoreData>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        self.call_with(call, rows, bytes, None, run)
    }

    fn call_with<R>(
        &mut self,
        call: &'static str,
        rows: u64,
        bytes: u64,
        argument: Option<&[u8]>,
        run: impl FnOnce(&wit::Guest, &mut Store<StoreData>) -> wasmtime::Result<R>,
    ) -> Result<R, PluginError> {
        let revived = revive(&mut self.core, self.snapshot.as_deref());
        revived.and_then(|()| self.core.call(call, rows, bytes, run)).map_err(|e| {
            self.keep(&e, argument);
            self.end(e)
        })
    }

    /// Keeps the failure of a call without rows.
    fn keep(&self, error: &CallError, argument: Option<&[u8]>) {
        let known = self.snapshot.is_some() || self.core.counters.rows_in == 0;
        let missing = (!known).then_some(STATE_UNKNOWN);
        let at = Occasion { argument, state: self.snapshot.as_deref(), missing, ..Occasion::default() };
        self.core.plugin.loaded().keep(error, &at);
    }

    fn end(&mut self, error: CallError) -> PluginError {
        let error = error.into_error(self.core.name(), None, None);
        self.core.disarm();
        if self.on_trap == OnTrap::Stop {
            self.lost = Some(error.to_string());
        }
        error
    }

    fn fault(&self, call: &'static str, rule: String) -> PluginError {
        let error = CallError::Output(call, rule);
        self.keep(&error, None);
        error.into_error(self.core.name(), None, None)
    }

    fn sound(&self) -> Result<(), PluginError> {
        match &self.lost {
            None => Ok(()),
            Some(earlier) => Err(PluginError::Poisoned {
                plugin: self.core.name().to_owned(),
                earlier: earlier.clone(),
                next: "call reset() and score the rows again",
            }),
        }
    }
}

fn fatal(error: CallError) -> PluginError {
    error.into_error("", None, None)
}

/// Gives a new instance the state that the last one had.
fn revive(core: &mut Core<wit::Guest>, snapshot: Option<&[u8]>) -> Result<(), CallError> {
    if core.is_armed() {
        return Ok(());
    }
    let Some(state) = snapshot else { return Ok(()) };
    let answer = core.call("merge", 0, state.len() as u64, |guest, store| guest.call_merge(store, state))?;
    answer.map_err(|e| core.refused("merge", e))
}

fn save(core: &mut Core<wit::Guest>) -> Result<Vec<u8>, CallError> {
    let answer = core.call("save", 0, 0, |guest, store| guest.call_save(store))?;
    answer.map_err(|e| core.refused("save", e))
}

fn score(
    core: &mut Core<wit::Guest>,
    step: Step,
    ctx: &CallCtx,
    skipped: u32,
    batch: &Batch,
) -> Result<Scored, CallError> {
    let (columns, bytes) = select(&core.plugin, batch, step.always())?;
    let wit_ctx = core.ctx(ctx, skipped);
    let wit_batch = types::Batch { rows: batch.rows, columns: &columns };
    let answer = core.call(step.name(), batch.rows.into(), bytes, |guest, store| match step {
        Step::Update => guest.call_update(store, wit_ctx, wit_batch),
        Step::Judged => guest.call_judged(store, wit_ctx, wit_batch),
    })?;
    let raw = answer.map_err(|e| core.refused(step.name(), e))?;
    check(&core.plugin, batch.rows, raw).map_err(|rule| CallError::Output(step.name(), rule))
}

/// Every rule of `scored`; the error is the broken one.
fn check(plugin: &Plugin, rows: u32, raw: wit::Scored) -> Result<Scored, String> {
    let per_row = added(plugin, rows, raw.per_row)?;
    let errors = row_errors(rows, raw.errors)?;
    let mut needs_judge: Vec<(u32, Vec<(String, String)>)> = Vec::with_capacity(raw.needs_judge.len());
    for request in raw.needs_judge {
        if request.row >= rows {
            return Err(format!("a judge request names row {}, the batch has {rows}", request.row));
        }
        if request.messages.is_empty() || request.messages.iter().any(|(role, _)| role.is_empty()) {
            return Err(format!("the judge request of row {} has no messages or one without a role", request.row));
        }
        needs_judge.push((request.row, request.messages));
    }
    needs_judge.sort_by_key(|r| r.0);
    if let Some(twice) = needs_judge.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(format!("two judge requests name row {}", twice[0].0));
    }
    Ok(Scored { per_row, errors, needs_judge })
}

fn check_outputs(infos: &[MetricInfo]) -> Result<(), String> {
    if infos.is_empty() || infos.len() > OUTPUTS {
        return Err(format!("{} outputs; 1 to {OUTPUTS} are allowed", infos.len()));
    }
    for (i, info) in infos.iter().enumerate() {
        if info.name.is_empty() || info.name.len() > 64 || info.unit.len() > 32 {
            let name = plain(&info.name, 80);
            return Err(format!("output \"{name}\": a name has 1 to 64 bytes, a unit at most 32"));
        }
        if infos[..i].iter().any(|other| other.name == info.name) {
            return Err(format!("two outputs are named \"{}\"", info.name));
        }
        let (low, high) = (info.low.unwrap_or(f64::NEG_INFINITY), info.high.unwrap_or(f64::INFINITY));
        if low.is_nan() || high.is_nan() || low > high {
            return Err(format!("output \"{}\" lies from {low} to {high}", info.name));
        }
    }
    Ok(())
}

/// Whether a value is in its range; what rounding adds to a mean does not count. NaN, over no rows, is.
fn within(value: f64, low: Option<f64>, high: Option<f64>) -> bool {
    let slack = |bound: f64| 1e-9 * bound.abs().max(1.0);
    !(low.is_some_and(|low| value < low - slack(low)) || high.is_some_and(|high| value > high + slack(high)))
}

fn check_values(outputs: &[MetricInfo], values: &[MetricValue]) -> Result<(), String> {
    let names = || outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
    for (i, value) in values.iter().enumerate() {
        let name = plain(&value.name, 80);
        let Some(output) = outputs.iter().find(|o| o.name == value.name) else {
            return Err(format!("value \"{name}\" is none of its outputs ({})", names()));
        };
        if values[..i].iter().any(|other| other.name == value.name) {
            return Err(format!("two values are named \"{name}\""));
        }
        if value.value.is_infinite() || (value.value.is_nan() && value.count > 0) {
            return Err(format!("value \"{name}\" over {} rows is {}", value.count, value.value));
        }
        if !within(value.value, output.low, output.high) {
            let bound = |bound: Option<f64>| bound.map_or("any".to_owned(), |b| b.to_string());
            let (low, high) = (bound(output.low), bound(output.high));
            return Err(format!("value \"{name}\" is {}, its outputs say {low} to {high}", value.value));
        }
        if let Some(error) = value.stderr.filter(|e| !e.is_finite() || *e < 0.0) {
            return Err(format!("the standard error of \"{name}\" is {error}; leave it out where there is none"));
        }
    }
    match outputs.iter().find(|o| !values.iter().any(|v| v.name == o.name)) {
        Some(missing) => Err(format!("there is no value for its output \"{}\"", missing.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_held_to_the_outputs() {
        let info = |name: &str| MetricInfo {
            name: name.into(),
            higher_is_better: true,
            low: None,
            high: None,
            unit: String::new(),
        };
        let value = |name: &str, value: f64, count: u64| MetricValue { name: name.into(), value, count, stderr: None };
        let outputs = [info("acc"), info("f1")];
        check_outputs(&outputs).unwrap();
        assert!(check_outputs(&[info("a"), info("a")]).unwrap_err().contains("two outputs"));
        assert!(check_outputs(&[]).unwrap_err().contains("0 outputs"));
        let rule = |values: &[MetricValue]| check_values(&outputs, values).unwrap_err();
        assert!(check_values(&outputs, &[value("acc", 0.5, 2), value("f1", f64::NAN, 0)]).is_ok());
        assert!(rule(&[value("acc", 0.5, 2)]).contains("no value for its output \"f1\""));
        assert!(rule(&[value("bleu", 0.5, 2)]).contains("none of its outputs (acc, f1)"));
        assert!(rule(&[value("acc", f64::NAN, 2)]).contains("over 2 rows is NaN"));
        let share = [MetricInfo { low: Some(0.0), high: Some(1.0), ..info("share") }];
        let of_share = |v: f64| check_values(&share, &[value("share", v, 3)]);
        of_share(1.0 + 1e-12).unwrap();
        assert!(of_share(1.1).unwrap_err().contains("is 1.1, its outputs say 0 to 1"));
        let unsure = MetricValue { stderr: Some(f64::NAN), ..value("share", 0.5, 3) };
        assert!(check_values(&share, &[unsure]).unwrap_err().contains("standard error of \"share\" is NaN"));
        assert!(rule(&[value("acc", 0.5, 2), value("acc", 0.5, 2)]).contains("two values"));
    }
}
