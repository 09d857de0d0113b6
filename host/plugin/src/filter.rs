//! Filters: batches in, checked decisions out.

use wasmtime::Store;
use wasmtime::component::Instance;

use crate::batch::ColumnJoiner;
use crate::bindings::exports::ovhost::plugin::filter as wit;
use crate::bindings::ovhost::plugin::types;
use crate::contain::{Failed, OnTrap, contain};
use crate::error::{PluginError, clip};
use crate::instance::{CallError, Core, Counters, Guest, added, row_errors, select};
use crate::load::{KindIndices, Loaded, Plugin};
use crate::log::StoreData;
use crate::scan::Kind;
use crate::{Batch, CallCtx, Column};

const REASONS: usize = 256;
const REASON_BYTES: usize = 128;

impl Guest for wit::Guest {
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self> {
        match &loaded.functions {
            KindIndices::Filter(indices) => indices.load(store, instance),
            _ => Err(wasmtime::Error::msg("not a filter")),
        }
    }
}

/// What a filter says of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decisions {
    /// Per row: stays.
    pub keep: Vec<bool>,
    /// Per row: why it was dropped; none for kept rows, for rows in `errors` and where the plugin gives no reasons.
    pub reason: Vec<Option<String>>,
    /// Columns that the filter added, `keep.len()` rows each.
    pub add: Vec<Column>,
    /// Rows that could not be judged, in order, each once. Their `keep` is false.
    pub errors: Vec<(u32, String)>,
}

/// An instance of a filter.
pub struct FilterInstance {
    core: Core<wit::Guest>,
    on_trap: OnTrap,
    /// A streaming filter's state is gone: what did it.
    lost: Option<String>,
}

impl Plugin {
    /// An instance of this filter. Errors: it is another kind, or cannot be instantiated.
    pub fn filter(&self) -> Result<FilterInstance, PluginError> {
        match &self.loaded().functions {
            KindIndices::Filter(_) => {
                Ok(FilterInstance { core: Core::new(self.clone())?, on_trap: OnTrap::Stop, lost: None })
            }
            _ => Err(self.wrong_kind(Kind::Filter)),
        }
    }
}

impl FilterInstance {
    /// What to do when the plugin fails on a batch; at first [`OnTrap::Stop`]. A streaming filter always stops: its state cannot
    /// be brought back.
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

    /// Judges the rows of a batch. Errors: a required column is missing, the plugin refused the batch, its answer breaks the
    /// contract, or it failed (named with the guilty row, see [`OnTrap`]).
    pub fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, PluginError> {
        if let Some(earlier) = &self.lost {
            let next = "start the stream again with a new instance";
            return Err(PluginError::Poisoned { plugin: self.core.name().to_owned(), earlier: earlier.clone(), next });
        }
        if batch.rows == 0 {
            return Ok(Decisions::default());
        }
        let pure = self.core.plugin.info().state_pure;
        let core = &mut self.core;
        let answer = if pure {
            contain(self.on_trap, batch.rows, |lo, hi| {
                if (lo, hi) == (0, batch.rows) {
                    return process(core, ctx, lo, batch);
                }
                process(core, ctx, lo, &batch.slice(lo, hi))
            })
        } else {
            process(core, ctx, 0, batch)
                .map(|d| vec![crate::contain::Piece { lo: 0, hi: batch.rows, answer: Ok(d) }])
                .map_err(Failed::from)
        };
        let pieces = answer.map_err(|failed| {
            let row = failed.row.map(|r| ctx.first_row + u64::from(r));
            let error = failed.error.into_error(self.core.name(), row, failed.row.and_then(|r| batch.key(r)));
            if !pure && matches!(error, PluginError::Trap { .. }) {
                self.lost = Some(error.to_string());
            }
            error
        })?;

        let mut pieces = pieces.into_iter();
        let decisions = match (pieces.next(), pieces.len()) {
            (Some(crate::contain::Piece { answer: Ok(only), .. }), 0) => only,
            (first, _) => join(first.into_iter().chain(pieces)),
        };
        if pure {
            self.core.recycle();
        }
        self.count(&decisions);
        Ok(decisions)
    }

    fn count(&mut self, decisions: &Decisions) {
        let counters = &mut self.core.counters;
        let kept = decisions.keep.iter().filter(|k| **k).count() as u64;
        let (rows, errors) = (decisions.keep.len() as u64, decisions.errors.len() as u64);
        counters.rows_in += rows;
        counters.rows_kept += kept;
        counters.row_errors += errors;
        counters.rows_dropped += rows - kept - errors;
        for reason in decisions.reason.iter().flatten() {
            match counters.dropped_by.get_mut(reason) {
                Some(n) => *n += 1,
                None => {
                    counters.dropped_by.insert(reason.clone(), 1);
                }
            }
        }
    }
}

/// One call. `skipped`: rows of the caller's batch before this part of it.
fn process(core: &mut Core<wit::Guest>, ctx: &CallCtx, skipped: u32, batch: &Batch) -> Result<Decisions, CallError> {
    let (columns, bytes) = select(&core.plugin, batch, &[])?;
    let wit_ctx = core.ctx(ctx, skipped);
    let wit_batch = types::Batch { rows: batch.rows, columns: &columns };
    let answer =
        core.call("process", batch.rows.into(), bytes, |guest, store| guest.call_process(store, wit_ctx, wit_batch))?;
    let decisions = answer.map_err(|e| core.refused("process", e))?;
    check(&core.plugin, batch.rows, decisions).map_err(|rule| CallError::Output("process", rule))
}

/// Every rule of `decisions`; the error is the broken one.
fn check(plugin: &Plugin, rows: u32, raw: wit::Decisions) -> Result<Decisions, String> {
    let n = rows as usize;
    if raw.keep.len() != n {
        return Err(format!("keep has {} entries for {n} rows", raw.keep.len()));
    }
    if let Some(i) = raw.keep.iter().position(|k| *k > 1) {
        return Err(format!("keep of row {i} is {}, allowed: 0 (drop), 1 (keep)", raw.keep[i]));
    }
    if raw.reasons.len() > REASONS {
        return Err(format!("{} reasons, at most {REASONS} are allowed", raw.reasons.len()));
    }
    if let Some(reason) = raw.reasons.iter().find(|r| r.len() > REASON_BYTES) {
        return Err(format!(
            "reason \"{}...\" has {} bytes, at most {REASON_BYTES} are allowed",
            clip(reason, 40),
            reason.len()
        ));
    }
    if !raw.reason.is_empty() && raw.reason.len() != n {
        return Err(format!("reason has {} entries for {n} rows; allowed: none, or one per row", raw.reason.len()));
    }
    let errors = row_errors(rows, raw.errors)?;
    let add = added(plugin, rows, raw.add)?;
    let mut keep: Vec<bool> = raw.keep.iter().map(|k| *k == 1).collect();
    for (row, _) in &errors {
        keep[*row as usize] = false;
    }
    let mut reason = vec![None; n];
    if !raw.reason.is_empty() {
        for (i, index) in raw.reason.iter().enumerate() {
            if raw.keep[i] == 1 {
                continue;
            }
            let text = raw
                .reasons
                .get(usize::from(*index))
                .ok_or_else(|| format!("row {i} gives reason {index} and there are {} reasons", raw.reasons.len()))?;
            reason[i] = Some(text.clone());
        }
        for (row, _) in &errors {
            reason[*row as usize] = None;
        }
    }
    Ok(Decisions { keep, reason, add, errors })
}

/// The answers of a split batch as one.
fn join(pieces: impl Iterator<Item = crate::contain::Piece<Decisions>>) -> Decisions {
    let mut all = Decisions::default();
    let mut columns = ColumnJoiner::default();
    for piece in pieces {
        let rows = (piece.hi - piece.lo) as usize;
        match piece.answer {
            Ok(part) => {
                all.keep.extend(part.keep);
                all.reason.extend(part.reason);
                all.errors.extend(part.errors.into_iter().map(|(row, text)| (row + piece.lo, text)));
                columns.push(rows, part.add);
            }
            Err(words) => {
                all.keep.push(false);
                all.reason.push(None);
                all.errors.push((piece.lo, words));
                columns.push(rows, Vec::new());
            }
        }
    }
    all.add = columns.finish();
    all
}
