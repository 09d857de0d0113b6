//! Filters: batches in, checked decisions out; of filters that remember rows, the state too.
//!
//! ```text
//!  pure       process ─► trap: find the guilty rows by halving ─► new instance, old answers still hold
//!  streaming  process ─► process ─► save ─► bytes ─► restore (fresh instance) ─► process …
//!                └─ any failure: the state is gone, and the stream with it
//! ```

use wasmtime::Store;
use wasmtime::component::Instance;

use crate::batch::ColumnJoiner;
use crate::bindings::exports::ovhost::plugin::{filter as wit, filter_state as state};
use crate::bindings::ovhost::plugin::types;
use crate::bundle::{Journal, Occasion, keep_pieces};
use crate::contain::{OnTrap, Piece, contain};
use crate::error::{PluginError, plain, turns};
use crate::instance::{CallError, Core, Counters, Guest, added, row_errors, select};
use crate::load::{KindIndices, Loaded, Plugin};
use crate::log::StoreData;
use crate::scan::Kind;
use crate::{Batch, CallCtx, Column};

const REASONS: usize = 256;
const REASON_BYTES: usize = 128;
const STATELESS: &str = "it judges every row alone and has no state to save or restore";

/// The functions of a filter.
struct Functions {
    filter: wit::Guest,
    state: Option<state::Guest>,
}

impl Guest for Functions {
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self> {
        match &loaded.functions {
            KindIndices::Filter(filter, state) => Ok(Functions {
                filter: filter.load(&mut *store, instance)?,
                state: state.as_ref().map(|indices| indices.load(&mut *store, instance)).transpose()?,
            }),
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
    core: Core<Functions>,
    on_trap: OnTrap,
    /// A streaming filter's state is gone: what did it.
    lost: Option<String>,
    /// What the state grows with, for the fuel of `save`: rows since the start, and bytes of the state restored before.
    grown: (u64, u64),
    /// What a streaming filter saw since its last saved state.
    journal: Journal,
}

impl Plugin {
    /// An instance of this filter. Errors: it is another kind, or cannot be instantiated.
    pub fn filter(&self) -> Result<FilterInstance, PluginError> {
        match &self.loaded().functions {
            KindIndices::Filter(..) => {
                let core = Core::new(self.clone())?;
                let journal = Journal::new(self.loaded());
                Ok(FilterInstance { core, on_trap: OnTrap::Stop, lost: None, grown: (0, 0), journal })
            }
            _ => Err(self.wrong_kind(Kind::Filter)),
        }
    }
}

impl FilterInstance {
    /// What to do when the plugin fails on a batch; at first [`OnTrap::Stop`]. Errors: [`OnTrap::Reject`] for a streaming
    /// filter, whose state a failure takes with it.
    pub fn set_on_trap(&mut self, policy: OnTrap) -> Result<(), PluginError> {
        if policy == OnTrap::Reject && self.is_streaming() {
            return Err(self.state_model(
                "a streaming filter cannot go on after a failure, because what it remembers is lost with its instance; set \
                 on_trap = \"stop\" for it, or let it answer bad rows with row errors",
            ));
        }
        self.on_trap = policy;
        Ok(())
    }

    /// Whether it remembers rows: it then wants the rows of one stream in order, all of them in this instance.
    pub fn is_streaming(&self) -> bool {
        !self.core.plugin.info().state_pure
    }

    fn state_model(&self, why: &'static str) -> PluginError {
        PluginError::StateModel { plugin: self.core.name().to_owned(), why }
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
    /// contract, or it failed (named with the guilty row, see [`OnTrap`]). A streaming filter is lost with any of the last
    /// three, and answers nothing until a saved state is restored.
    pub fn process(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, PluginError> {
        self.sound()?;
        if batch.rows == 0 {
            return Ok(Decisions::default());
        }
        let decisions = if self.is_streaming() { self.process_next(ctx, batch) } else { self.process_any(ctx, batch) }?;
        self.count(&decisions);
        Ok(decisions)
    }

    /// A batch whose rows are independent.
    fn process_any(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, PluginError> {
        let core = &mut self.core;
        let answer = contain(self.on_trap, batch.rows, |lo, hi| {
            if (lo, hi) == (0, batch.rows) {
                return process(core, ctx, lo, batch);
            }
            process(core, ctx, lo, &batch.slice(lo, hi))
        });
        let loaded = self.core.plugin.loaded();
        let pieces = answer.map_err(|failed| {
            loaded.keep(&failed.error, &Occasion::rows(ctx, batch, failed.row));
            let row = failed.row.map(|r| ctx.first_row + u64::from(r));
            failed.error.into_error(self.core.name(), row, failed.row.and_then(|r| batch.key(r)))
        })?;
        keep_pieces(loaded, &pieces, &Occasion::rows(ctx, batch, None));
        let mut pieces = pieces.into_iter();
        let decisions = match (pieces.next(), pieces.len()) {
            (Some(Piece { answer: Ok(only), .. }), 0) => only,
            (first, _) => join(first.into_iter().chain(pieces)),
        };
        self.core.recycle();
        Ok(decisions)
    }

    /// The next rows of a stream.
    fn process_next(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Decisions, PluginError> {
        let before = self.core.counters.calls;
        let answer = process(&mut self.core, ctx, 0, batch);
        self.grown.0 += u64::from(batch.rows);
        // A batch that never reached the plugin has changed nothing.
        let reached = self.core.counters.calls > before;
        if answer.is_ok() {
            self.journal.took(self.core.plugin.loaded(), ctx, batch);
        }
        answer.map_err(|error| self.fail(error, reached, Occasion::rows(ctx, batch, None)))
    }

    /// The state of a streaming filter as bytes, for [`restore`](Self::restore) in another instance. Errors: the filter has
    /// none, has lost it, or fails.
    pub fn save(&mut self) -> Result<Vec<u8>, PluginError> {
        self.sound()?;
        if !self.is_streaming() {
            return Err(self.state_model(STATELESS));
        }
        let (rows, bytes) = self.grown;
        let answer = self.core.call("save", rows, bytes, |guest, store| match &guest.state {
            Some(functions) => functions.call_save(store),
            None => Err(wasmtime::Error::msg("no filter-state")),
        });
        let state = self.settle("save", answer, Occasion::default())?;
        self.journal.at(&state);
        Ok(state)
    }

    /// Continues exactly where `save` was called: in a fresh instance, whatever this one saw or suffered before. Errors: the
    /// filter has no state, or refuses these bytes.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        if !self.is_streaming() {
            return Err(self.state_model(STATELESS));
        }
        let lost = self.lost.take().is_some();
        if lost || self.grown != (0, 0) {
            self.core.disarm();
        }
        self.grown = (0, state.len() as u64);
        let answer = self.core.call("restore", 0, state.len() as u64, |guest, store| match &guest.state {
            Some(functions) => functions.call_restore(store, state),
            None => Err(wasmtime::Error::msg("no filter-state")),
        });
        self.journal.started(None);
        self.settle("restore", answer, Occasion { argument: Some(state), ..Occasion::default() })?;
        self.journal.at(state);
        Ok(())
    }

    /// Turns a failed or refused call into the error that ends this stream.
    fn settle<R>(
        &mut self,
        call: &'static str,
        answer: Result<Result<R, types::PluginError>, CallError>,
        at: Occasion<'_>,
    ) -> Result<R, PluginError> {
        let answer = answer.and_then(|inner| inner.map_err(|e| self.core.refused(call, e)));
        answer.map_err(|error| self.fail(error, true, at))
    }

    /// The error of a streaming filter; its state is lost if the plugin was `reached`.
    fn fail(&mut self, error: CallError, reached: bool, at: Occasion<'_>) -> PluginError {
        self.core.plugin.loaded().keep(&error, &Occasion { journal: Some(&self.journal), ..at });
        let error = error.into_error(self.core.name(), None, None);
        if reached {
            self.lost = Some(error.to_string());
            self.core.disarm();
        }
        error
    }

    /// Fails once a streaming filter's state is lost.
    fn sound(&self) -> Result<(), PluginError> {
        let Some(earlier) = &self.lost else { return Ok(()) };
        let next = "restore a saved state, or start the stream again with a new instance";
        Err(PluginError::Poisoned { plugin: self.core.name().to_owned(), earlier: earlier.clone(), next })
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
            counters.drop_for(reason, 1);
        }
    }
}

/// One call. `skipped`: rows of the caller's batch before this part of it.
fn process(core: &mut Core<Functions>, ctx: &CallCtx, skipped: u32, batch: &Batch) -> Result<Decisions, CallError> {
    let (columns, bytes) = select(&core.plugin, batch, &[])?;
    let wit_ctx = core.ctx(ctx, skipped);
    let wit_batch = types::Batch { rows: batch.rows, columns: &columns };
    let answer = core.call("process", batch.rows.into(), bytes, |guest, store| {
        guest.filter.call_process(store, wit_ctx, wit_batch)
    })?;
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
            plain(reason, 40),
            reason.len()
        ));
    }
    if let Some(reason) = raw.reasons.iter().find(|r| r.chars().any(|c| c.is_control() || turns(c))) {
        return Err(format!("reason \"{}\" has control characters", plain(reason, REASON_BYTES)));
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
fn join(pieces: impl Iterator<Item = Piece<Decisions>>) -> Decisions {
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
            Err(error) => {
                all.keep.push(false);
                all.reason.push(None);
                all.errors.push((piece.lo, error.row_words()));
                columns.push(rows, Vec::new());
            }
        }
    }
    all.add = columns.finish();
    all
}
