//! A live plugin: one store, warm between calls.
//!
//! ```text
//!  call ──► armed? ──no──► new store, instantiate, init ──► guest function under fuel, memory, stack, output limits
//!                                                            │ answer ──► counters, high-water check
//!                                                            └ trap ────► store dropped (a trapped store is dead)
//! ```
//! What a call may do to the instance's state is the business of the kinds (`filter`, `packer`, ...): this file only says that
//! state was lost.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use serde::Serialize;
use wasmtime::component::Instance;
use wasmtime::{Store, Trap};

use crate::backtrace::{Stopped, frames};
use crate::bindings::exports::ovhost::plugin::lifecycle;
use crate::bindings::ovhost::plugin::types as wit;
use crate::engine::{Runtime, words};
use crate::error::{PluginError, RefusalKind, TrapCause, clip, plain};
use crate::histogram::Histogram;
use crate::limits::{Limiter, Limits, MemoryRefused};
use crate::load::{Loaded, Plugin};
use crate::log::{LogSink, LoggedTooMuch, PluginLog, StoreData};
use crate::{Batch, CallCtx};

/// What an instance did: for the run manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Calls into the guest, without `describe` and `init`.
    pub calls: u64,
    /// Rows that went in, those of repeated calls of a bisection not counted.
    pub rows_in: u64,
    /// Rows kept (filters).
    pub rows_kept: u64,
    /// Rows dropped (filters), samples given up (packers).
    pub rows_dropped: u64,
    /// Dropped rows by the plugin's reason; past 1,000 different ones, "other reasons".
    pub dropped_by: BTreeMap<String, u64>,
    /// Rows that the plugin answered with an error, or that made it fail.
    pub row_errors: u64,
    /// Traps, those of a bisection included.
    pub traps: u64,
    /// Stores made after the first.
    pub rearms: u64,
    /// Of these, because memory had grown past the high-water mark.
    pub recycles: u64,
    /// Fuel used by all calls.
    pub fuel_total: u64,
    /// Fuel used by the costliest call.
    pub fuel_max: u64,
    /// How the fuel of calls is spread.
    pub fuel: Histogram,
    /// Of the call that came closest to its budget: fuel used, in thousandths of the budget. 1000: it ran out.
    pub fuel_peak_permille: u32,
    /// Bytes copied in.
    pub bytes_in: u64,
    /// Time spent in calls, nanoseconds (copying in and out included).
    pub call_ns: u64,
    /// Most linear memory, bytes.
    pub peak_memory: u64,
}

/// Different reasons that are counted: a plugin that makes up a new one for every row must not fill the host's memory.
const REASONS: usize = 1_000;
const OTHER_REASONS: &str = "other reasons";

impl Counters {
    /// Counts `n` rows that were dropped for a reason.
    pub(crate) fn drop_for(&mut self, reason: &str, n: u64) {
        if let Some(count) = self.dropped_by.get_mut(reason) {
            *count += n;
            return;
        }
        let reason = if self.dropped_by.len() < REASONS { reason } else { OTHER_REASONS };
        *self.dropped_by.entry(reason.to_owned()).or_default() += n;
    }

    /// Adds another instance's.
    pub fn add(&mut self, other: &Counters) {
        self.calls += other.calls;
        self.rows_in += other.rows_in;
        self.rows_kept += other.rows_kept;
        self.rows_dropped += other.rows_dropped;
        for (reason, n) in &other.dropped_by {
            self.drop_for(reason, *n);
        }
        self.row_errors += other.row_errors;
        self.traps += other.traps;
        self.rearms += other.rearms;
        self.recycles += other.recycles;
        self.fuel_total += other.fuel_total;
        self.fuel_max = self.fuel_max.max(other.fuel_max);
        self.fuel.merge(&other.fuel);
        self.fuel_peak_permille = self.fuel_peak_permille.max(other.fuel_peak_permille);
        self.bytes_in += other.bytes_in;
        self.call_ns += other.call_ns;
        self.peak_memory = self.peak_memory.max(other.peak_memory);
    }
}

/// How a call failed, before it is known which row to blame.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The guest trapped; the store is gone.
    Trap(&'static str, Stopped),
    /// The answer breaks a rule.
    Output(&'static str, String),
    /// Anything else.
    Fatal(PluginError),
}

impl From<PluginError> for CallError {
    fn from(error: PluginError) -> Self {
        CallError::Fatal(error)
    }
}

impl CallError {
    pub(crate) fn into_error(self, plugin: &str, row: Option<u64>, key: Option<String>) -> PluginError {
        let plugin = plugin.to_owned();
        match self {
            CallError::Trap(call, Stopped { cause, backtrace }) => {
                PluginError::Trap { plugin, call, row, key, cause, backtrace }
            }
            CallError::Output(call, rule) => PluginError::Output { plugin, call, rule },
            CallError::Fatal(error) => error,
        }
    }

    /// The failure of a single row, for its row error.
    pub(crate) fn row_words(&self) -> String {
        match self {
            CallError::Trap(call, stopped) => format!("{call} failed: {}", stopped.cause),
            CallError::Output(call, rule) => format!("{call}: the answer breaks the contract: {rule}"),
            CallError::Fatal(error) => error.to_string(),
        }
    }
}

/// The typed functions of one kind.
pub(crate) trait Guest: Sized + Send {
    /// Looks them up in a fresh instance.
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self>;
}

pub(crate) fn new_store(runtime: &Runtime, limits: &Limits, log: &std::sync::Arc<PluginLog>) -> Store<StoreData> {
    let data = StoreData { limiter: Limiter::new(limits.memory_mib), log: LogSink::new(log.clone()) };
    let mut store = Store::new(&runtime.engine, data);
    store.limiter(|data| &mut data.limiter);
    store.set_hostcall_fuel((limits.output_mib as usize) << 20);
    store
}

/// Runs one function under a fuel budget. Returns the fuel used.
pub(crate) fn guarded<R>(
    store: &mut Store<StoreData>,
    limits: &Limits,
    fuel: u64,
    run: impl FnOnce(&mut Store<StoreData>) -> wasmtime::Result<R>,
) -> (Result<R, Stopped>, u64) {
    // Only an engine without fuel refuses these two, and ours all count it.
    let set = store.set_fuel(fuel);
    store.data_mut().log.begin((limits.output_mib as usize) << 20);
    let answer = set.and_then(|()| run(store));
    let used = fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    let error = store.data_mut().log.take_error();
    store.data_mut().log.end();
    let stopped = |e: wasmtime::Error| Stopped { backtrace: frames(&e), cause: trap_cause(&e, limits, fuel, error) };
    (answer.map_err(stopped), used)
}

fn trap_cause(error: &wasmtime::Error, limits: &Limits, fuel: u64, logged: Option<String>) -> TrapCause {
    if let Some(refused) = error.downcast_ref::<MemoryRefused>() {
        return TrapCause::Memory { limit_mib: limits.memory_mib, wanted: refused.wanted };
    }
    if error.is::<LoggedTooMuch>() {
        return TrapCause::OutputTooLarge { limit_mib: limits.output_mib };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => TrapCause::OutOfFuel { budget: fuel },
        Some(Trap::StackOverflow) => TrapCause::StackOverflow { limit_kib: limits.stack_kib },
        Some(Trap::MemoryOutOfBounds) => TrapCause::OutOfBounds,
        Some(Trap::UnreachableCodeReached) => TrapCause::Panic { text: logged },
        Some(trap) => TrapCause::Other { text: trap.to_string() },
        None => {
            let text = words(error);
            // wasmtime's own type for it is private.
            if text.contains("fuel allocated for hostcalls") {
                return TrapCause::OutputTooLarge { limit_mib: limits.output_mib };
            }
            let text = clip(&text, 2048).to_owned();
            // Every other error of a call that is no trap comes of lifting its answer or its arguments.
            let of_the_host =
                error.is::<wasmtime::PoolConcurrencyLimitError>() || text.contains("resource limit exceeded");
            if of_the_host { TrapCause::Other { text } } else { TrapCause::Malformed { text } }
        }
    }
}

/// `init` in a fresh instance: the resolved configuration, or the plugin's findings.
pub(crate) fn init(
    loaded: &Loaded,
    store: &mut Store<StoreData>,
    instance: &Instance,
) -> Result<Result<String, Vec<wit::Diagnostic>>, CallError> {
    let failed = |e: wasmtime::Error| CallError::Trap("init", TrapCause::Other { text: words(&e) }.into());
    let guest = loaded.lifecycle.load(&mut *store, instance).map_err(failed)?;
    let assets: Vec<lifecycle::Asset<'_>> =
        loaded.assets.iter().map(|(name, data)| lifecycle::Asset { name, data }).collect();
    let bytes = loaded.config.len() + loaded.assets.iter().map(|(_, data)| data.len()).sum::<usize>();
    let fuel = loaded.limits.fuel(0, bytes as u64).max(INIT_FUEL);
    let (answer, _) =
        guarded(store, &loaded.limits, fuel, |store| guest.call_init(store, &loaded.entry, &loaded.config, &assets));
    answer.map_err(|cause| CallError::Trap("init", cause))
}

/// Instructions that `describe` and `init` may use at least: about half a second.
pub(crate) const INIT_FUEL: u64 = 1_000_000_000;

struct Armed<G> {
    store: Store<StoreData>,
    guest: G,
    /// Memory after `init`.
    baseline: u64,
}

/// An instance of a plugin, armed at first use and again after every failure.
pub(crate) struct Core<G> {
    pub plugin: Plugin,
    pub counters: Counters,
    armed: Option<Armed<G>>,
    ever_armed: bool,
}

impl<G: Guest> Core<G> {
    /// Instantiates at once, so that what cannot work fails here.
    pub(crate) fn new(plugin: Plugin) -> Result<Self, PluginError> {
        let mut core = Core { plugin, counters: Counters::default(), armed: None, ever_armed: false };
        if let Err(error) = core.arm() {
            return Err(error.into_error(core.name(), None, None));
        }
        Ok(core)
    }

    pub(crate) fn name(&self) -> &str {
        &self.plugin.info().name
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Drops the instance and all its state; the next call makes a new one.
    pub(crate) fn disarm(&mut self) {
        self.armed = None;
    }

    /// The live instance, made now if there is none.
    fn arm(&mut self) -> Result<(), CallError> {
        if self.armed.is_none() {
            let loaded = self.plugin.loaded();
            let mut store = new_store(&loaded.runtime, &loaded.limits, &loaded.log);
            let failed = |e: wasmtime::Error| {
                let cause = trap_cause(&e, &loaded.limits, INIT_FUEL, None);
                CallError::Trap("start", Stopped { backtrace: frames(&e), cause })
            };
            // Instantiation may run start functions.
            let (instance, _) = guarded(&mut store, &loaded.limits, INIT_FUEL, |store| loaded.pre.instantiate(store));
            let instance = instance.map_err(|cause| CallError::Trap("start", cause))?;
            match init(loaded, &mut store, &instance)? {
                Ok(resolved) if resolved == loaded.resolved_text => {}
                other => {
                    return Err(CallError::Fatal(PluginError::NotDeterministic {
                        plugin: loaded.info.name.clone(),
                        first: clip(&loaded.resolved_text, 400).to_owned(),
                        second: clip(&format!("{other:?}"), 400).to_owned(),
                    }));
                }
            }
            let guest = G::load(loaded, &mut store, &instance).map_err(failed)?;
            let baseline = store.data().limiter.used;
            self.counters.rearms += u64::from(self.ever_armed);
            self.ever_armed = true;
            self.counters.peak_memory = self.counters.peak_memory.max(baseline);
            self.armed = Some(Armed { store, guest, baseline });
        }
        Ok(())
    }

    /// Calls one function over `rows` rows and `bytes` copied bytes. A trap drops the instance.
    pub(crate) fn call<R>(
        &mut self,
        call: &'static str,
        rows: u64,
        bytes: u64,
        run: impl FnOnce(&G, &mut Store<StoreData>) -> wasmtime::Result<R>,
    ) -> Result<R, CallError> {
        self.arm()?;
        let limits = &self.plugin.loaded().limits;
        let Some(armed) = self.armed.as_mut() else {
            unreachable!("arm() either arms or fails");
        };
        let start = Instant::now();
        let guest = &armed.guest;
        let budget = limits.fuel(rows, bytes);
        let (answer, fuel) = guarded(&mut armed.store, limits, budget, |store| run(guest, store));
        let counters = &mut self.counters;
        counters.calls += 1;
        counters.bytes_in += bytes;
        counters.call_ns += start.elapsed().as_nanos() as u64;
        counters.fuel_total += fuel;
        counters.fuel_max = counters.fuel_max.max(fuel);
        counters.fuel.add(fuel);
        let permille = u128::from(fuel) * 1000 / u128::from(budget.max(1));
        counters.fuel_peak_permille = counters.fuel_peak_permille.max(permille as u32);
        counters.peak_memory = counters.peak_memory.max(armed.store.data().limiter.used);
        answer.map_err(|cause| {
            self.counters.traps += 1;
            self.armed = None;
            CallError::Trap(call, cause)
        })
    }

    /// For plugins without state: lets go of an instance that one big batch has made big, since wasm memory never shrinks.
    pub(crate) fn recycle(&mut self) {
        let Some(armed) = &self.armed else { return };
        let limiter = &armed.store.data().limiter;
        let grown = limiter.used.saturating_sub(armed.baseline);
        if grown > limiter.limit().saturating_sub(armed.baseline) / 2 {
            self.counters.recycles += 1;
            self.armed = None;
        }
    }

    /// The plugin's own refusal of a call.
    pub(crate) fn refused(&self, call: &'static str, error: wit::PluginError) -> CallError {
        let kind = match error.kind {
            wit::ErrorKind::BadConfig => RefusalKind::BadConfig,
            wit::ErrorKind::BadInput => RefusalKind::BadInput,
            wit::ErrorKind::Unsupported => RefusalKind::Unsupported,
            wit::ErrorKind::Internal => RefusalKind::Internal,
        };
        CallError::Fatal(PluginError::Refused {
            plugin: self.name().to_owned(),
            call,
            kind,
            message: plain(&error.message, 2048),
            detail: error.detail.map(|d| plain(&d, 4096)),
        })
    }

    /// The context as the guest sees it.
    pub(crate) fn ctx(&self, ctx: &CallCtx, skipped: u32) -> wit::CallCtx {
        wit::CallCtx {
            run_seed: mix(self.plugin.loaded().seed ^ ctx.run_seed),
            shard: ctx.shard,
            batch_index: ctx.batch_index,
            first_row: ctx.first_row + u64::from(skipped),
        }
    }
}

impl<G> Drop for Core<G> {
    fn drop(&mut self) {
        let mut totals = self.plugin.loaded().totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(&self.counters);
    }
}

/// splitmix64's finaliser: every bit of the input moves half of the output's.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The columns that go in, borrowed from the batch: those that the entry reads and those that the kind always gets. Also the
/// bytes that this copies.
pub(crate) fn select<'a>(
    plugin: &Plugin,
    batch: &'a Batch,
    always: &[&str],
) -> Result<(Vec<wit::ColumnParam<'a>>, u64), PluginError> {
    let info = plugin.info();
    let mut params = Vec::with_capacity(info.reads.len() + always.len());
    let mut bytes = 0;
    let mut take = |name: &str, required: bool| -> Result<(), PluginError> {
        match batch.column(name) {
            Some(column) => {
                column
                    .check(batch.rows as usize, false)
                    .map_err(|why| PluginError::BadBatch { plugin: info.name.clone(), why })?;
                bytes += column.data.bytes() as u64;
                params.push(column.as_param());
                Ok(())
            }
            None if !required => Ok(()),
            None => Err(PluginError::MissingColumn {
                plugin: info.name.clone(),
                column: name.to_owned(),
                available: batch.names(),
            }),
        }
    };
    for (name, required) in &info.reads {
        take(name, *required || always.contains(&name.as_str()))?;
    }
    for name in always {
        if !info.reads.iter().any(|(read, _)| read == name) {
            take(name, true)?;
        }
    }
    Ok((params, bytes))
}

/// Columns that a guest added: declared, unique, of the batch's length, well formed.
pub(crate) fn added(plugin: &Plugin, rows: u32, columns: Vec<wit::ColumnResult>) -> Result<Vec<crate::Column>, String> {
    let writes = &plugin.info().writes;
    let mut out: Vec<crate::Column> = Vec::with_capacity(columns.len());
    for column in columns {
        let column = crate::Column::from(column);
        if !writes.contains(&column.name) {
            let declared = if writes.is_empty() { "none".to_owned() } else { writes.join(", ") };
            return Err(format!(
                "it added column \"{}\", which it did not declare (writes: {declared})",
                plain(&column.name, 64)
            ));
        }
        if out.iter().any(|c| c.name == column.name) {
            return Err(format!("it added column \"{}\" twice", column.name));
        }
        column.check(rows as usize, true)?;
        out.push(column);
    }
    Ok(out)
}

/// Row errors: within the batch, each row once, text bounded. In row order.
pub(crate) fn row_errors(rows: u32, errors: Vec<wit::RowError>) -> Result<Vec<(u32, String)>, String> {
    let mut out: Vec<(u32, String)> = Vec::with_capacity(errors.len());
    for error in errors {
        if error.row >= rows {
            return Err(format!("an error names row {}, the batch has {rows}", error.row));
        }
        out.push((error.row, plain(&error.message, 1024)));
    }
    out.sort_by_key(|e| e.0);
    match out.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(w) => Err(format!("two errors name row {}", w[0].0)),
        None => Ok(out),
    }
}
