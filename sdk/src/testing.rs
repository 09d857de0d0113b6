//! Tests without a host: rows as JSON in, the same path that a component takes, plain answers out.
//!
//! ```text
//!  json!([{...}, {...}]) ──► columns that READS declares ──► runner ──► your type ──► outcome
//! ```
//!
//! Panics are this module's way of saying that a test is wrong: it is for tests only.

use serde_json::Value as Json;

use crate::bindings::exports::ovhost::plugin::filter::Decisions;
use crate::bindings::exports::ovhost::plugin::lifecycle::Asset;
use crate::bindings::exports::ovhost::plugin::metric::Scored;
use crate::bindings::ovhost::plugin::types::{
    Batch, CallCtx, Column, ColumnData, RaggedF32, RaggedU8, RaggedU32, RowError,
};
use crate::columns::{ColumnType, Need};
use crate::config::ConfigError;
use crate::{
    Filter, Item, Limits, Metric, MetricValue, Mode, Packer, Packing, Plugin, PluginError, Prompt, Rendered, Row,
};

mod stateful;

pub use stateful::{StatefulFilterUnderTest, stateful_filter, stateful_filter_with_assets};

/// The seed that tests run with unless they set one.
pub const SEED: u64 = 0x0005_EED0_F7E5_7555;

/// As the host does it: no configuration is the empty one, and it is an object before and after.
fn make<P: Plugin>(config: &Json, assets: &[(&str, &[u8])]) -> Result<(P, Json), ConfigError> {
    let config = if config.is_null() { &Json::Object(Default::default()) } else { config };
    let assets = assets.iter().map(|(name, data)| Asset { name: (*name).into(), data: data.to_vec() }).collect();
    let (plugin, resolved) = crate::plugin::make::<P>(&config.to_string(), assets)?;
    let resolved: Json = serde_json::from_str(&resolved).expect("the resolved configuration is JSON");
    if !resolved.is_object() {
        return Err(ConfigError::at("", format!("the resolved configuration must be a JSON object, not {resolved}")));
    }
    Ok((plugin, resolved))
}

/// The resolved configuration for `config`.
///
/// # Errors
/// What the plugin finds wrong with it.
pub fn resolved<P: Plugin>(config: Json) -> Result<Json, ConfigError> {
    make::<P>(&config, &[]).map(|(_, resolved)| resolved)
}

/// A batch of the columns in `needs`, out of a JSON list of objects. A missing or null value has no validity; a text
/// column takes any JSON and keeps strings as they are; a column of bytes takes hexadecimal digits.
///
/// # Panics
/// `rows` is no list of objects, an object has a key that `needs` does not name, or a value has the wrong type.
pub fn batch(needs: &[Need], rows: &Json) -> Batch {
    let rows = rows.as_array().expect("rows are a JSON list");
    for row in rows {
        for key in row.as_object().expect("a row is a JSON object").keys() {
            assert!(needs.iter().any(|need| need.name == key), "the plugin does not read the column `{key}`");
        }
    }
    let columns = needs.iter().filter(|need| need.required || rows.iter().any(|row| !row[need.name].is_null()));
    let columns = columns.map(|need| column(need, rows)).collect();
    Batch { rows: rows.len() as u32, columns }
}

fn column(need: &Need, rows: &[Json]) -> Column {
    let values = || rows.iter().map(|row| &row[need.name]);
    let wrong = |value: &Json| -> ! { panic!("column `{}` is {}; not {value}", need.name, need.ty.name()) };
    let int = |v: &Json| match v {
        Json::Null => 0,
        Json::Bool(b) => i64::from(*b),
        v => v.as_i64().unwrap_or_else(|| wrong(v)),
    };
    let float = |v: &Json| if v.is_null() { 0.0 } else { v.as_f64().unwrap_or_else(|| wrong(v)) };
    let list = |v: &Json| if v.is_null() { vec![] } else { v.as_array().cloned().unwrap_or_else(|| wrong(v)) };
    let text = |v: &Json| match v {
        Json::Null => String::new(),
        Json::String(s) => s.clone(),
        other => other.to_string(),
    };
    let hex = |v: &Json| -> Vec<u8> {
        let digits = text(v);
        let pairs =
            digits.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        let good = digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if good { pairs.flatten().collect() } else { wrong(v) }
    };
    let ragged = |bytes: &dyn Fn(&Json) -> Vec<u8>| {
        let mut ragged = RaggedU8 { offsets: vec![0], data: vec![] };
        for value in values() {
            ragged.data.extend_from_slice(&bytes(value));
            ragged.offsets.push(ragged.data.len() as u32);
        }
        ragged
    };
    let data = match need.ty {
        ColumnType::U8 => ColumnData::U8s(values().map(|v| int(v) as u8).collect()),
        ColumnType::U32 => ColumnData::U32s(values().map(|v| int(v) as u32).collect()),
        ColumnType::S64 => ColumnData::S64s(values().map(int).collect()),
        ColumnType::F32 => ColumnData::F32s(values().map(|v| float(v) as f32).collect()),
        ColumnType::F64 => ColumnData::F64s(values().map(float).collect()),
        ColumnType::Utf8 => ColumnData::Utf8(ragged(&|v| text(v).into_bytes())),
        ColumnType::Bytes => ColumnData::Bytes(ragged(&hex)),
        ColumnType::U32List => {
            let mut ragged = RaggedU32 { offsets: vec![0], data: vec![] };
            for value in values() {
                ragged.data.extend(list(value).iter().map(|v| int(v) as u32));
                ragged.offsets.push(ragged.data.len() as u32);
            }
            ColumnData::U32Lists(ragged)
        }
        ColumnType::F32List => {
            let mut ragged = RaggedF32 { offsets: vec![0], data: vec![] };
            for value in values() {
                ragged.data.extend(list(value).iter().map(|v| float(v) as f32));
                ragged.offsets.push(ragged.data.len() as u32);
            }
            ColumnData::F32Lists(ragged)
        }
    };
    let mask: Vec<u8> = values().map(|v| u8::from(!v.is_null())).collect();
    Column { name: need.name.into(), data, valid: mask.contains(&0).then_some(mask) }
}

fn column_values(columns: &[Column], name: &str) -> Vec<Json> {
    let column = columns.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no column `{name}` was added"));
    let valid = |i: usize, value: Json| match &column.valid {
        Some(mask) if mask[i] == 0 => Json::Null,
        _ => value,
    };
    match &column.data {
        ColumnData::U8s(v) => v.iter().enumerate().map(|(i, &x)| valid(i, x.into())).collect(),
        ColumnData::U32s(v) => v.iter().enumerate().map(|(i, &x)| valid(i, x.into())).collect(),
        ColumnData::S64s(v) => v.iter().enumerate().map(|(i, &x)| valid(i, x.into())).collect(),
        ColumnData::F32s(v) => v.iter().enumerate().map(|(i, &x)| valid(i, f64::from(x).into())).collect(),
        ColumnData::F64s(v) => v.iter().enumerate().map(|(i, &x)| valid(i, x.into())).collect(),
        ColumnData::Utf8(v) => v
            .offsets
            .windows(2)
            .enumerate()
            .map(|(i, at)| valid(i, String::from_utf8_lossy(&v.data[at[0] as usize..at[1] as usize]).into()))
            .collect(),
        ColumnData::U32Lists(v) => {
            let rows = v.offsets.windows(2).enumerate();
            rows.map(|(i, at)| valid(i, v.data[at[0] as usize..at[1] as usize].into())).collect()
        }
        other => panic!("column `{name}` is {}, which a row cannot set", ColumnType::of(other).name()),
    }
}

fn row_errors(errors: &[RowError]) -> Vec<(u32, &str)> {
    errors.iter().map(|e| (e.row, e.message.as_str())).collect()
}

/// Counts rows as a stream does, so that randomness moves on between calls.
struct Stream {
    call: CallCtx,
}

impl Stream {
    fn new() -> Self {
        Self { call: CallCtx { run_seed: SEED, shard: 0, batch_index: 0, first_row: 0 } }
    }

    fn next(&mut self, rows: u32) -> CallCtx {
        let call = self.call;
        self.call.batch_index += 1;
        self.call.first_row += u64::from(rows);
        call
    }
}

/// A configured filter.
pub struct FilterUnderTest<F> {
    filter: F,
    stream: Stream,
}

/// Configures the filter `F`.
///
/// # Errors
/// What it finds wrong with `config`.
pub fn filter<F: Filter>(config: Json) -> Result<FilterUnderTest<F>, ConfigError> {
    filter_with_assets(config, &[])
}

/// Configures the filter `F` with assets (name, bytes).
///
/// # Errors
/// What it finds wrong with `config` or the assets.
pub fn filter_with_assets<F: Filter>(
    config: Json,
    assets: &[(&str, &[u8])],
) -> Result<FilterUnderTest<F>, ConfigError> {
    Ok(FilterUnderTest { filter: make::<F>(&config, assets)?.0, stream: Stream::new() })
}

impl<F: Filter> FilterUnderTest<F> {
    /// Judges rows.
    ///
    /// # Panics
    /// The whole call fails.
    pub fn run(&mut self, rows: Json) -> FilterOutcome {
        self.try_run(rows).unwrap_or_else(|e| panic!("the call failed: {}", e.message))
    }

    /// Judges rows.
    ///
    /// # Errors
    /// The whole call fails.
    pub fn try_run(&mut self, rows: Json) -> Result<FilterOutcome, PluginError> {
        self.process(&batch(F::READS, &rows))
    }

    /// Judges a prepared batch: for timing, where making rows out of JSON must not count.
    ///
    /// # Errors
    /// The whole call fails.
    pub fn process(&mut self, batch: &Batch) -> Result<FilterOutcome, PluginError> {
        let call = self.stream.next(batch.rows);
        crate::filter::process(&mut self.filter, &call, batch).map(FilterOutcome)
    }
}

/// What a filter said.
#[derive(Debug)]
pub struct FilterOutcome(pub Decisions);

impl FilterOutcome {
    /// Whether each row is kept.
    pub fn kept(&self) -> Vec<bool> {
        self.0.keep.iter().map(|&keep| keep != 0).collect()
    }

    /// Why each row is dropped; `None` for kept rows and for errors.
    pub fn reasons(&self) -> Vec<Option<&str>> {
        let failed = |i: usize| self.0.errors.iter().any(|e| e.row as usize == i);
        let reason = |i: usize| self.0.reasons[self.0.reason[i] as usize].as_str();
        self.0.keep.iter().enumerate().map(|(i, &keep)| (keep == 0 && !failed(i)).then(|| reason(i))).collect()
    }

    /// Rows that could not be judged.
    pub fn errors(&self) -> Vec<(u32, &str)> {
        row_errors(&self.0.errors)
    }

    /// The values of an added column; null where a row set none.
    pub fn column(&self, name: &str) -> Vec<Json> {
        column_values(&self.0.add, name)
    }
}

/// A configured, started packer that checks the contract: every sample comes back once, no bin is too big.
pub struct PackerUnderTest<P: Packer> {
    runner: crate::packer::Runner<P>,
    limits: Limits,
    open: std::collections::BTreeMap<u64, u32>,
}

/// Configures and starts the packer `P`.
///
/// # Errors
/// What it finds wrong with `config`.
///
/// # Panics
/// It refuses the limits.
pub fn packer<P: Packer>(config: Json, limits: Limits) -> Result<PackerUnderTest<P>, ConfigError> {
    let mut runner = crate::packer::Runner::new(make::<P>(&config, &[])?.0);
    runner.start(limits).unwrap_or_else(|e| panic!("start failed: {}", e.message));
    Ok(PackerUnderTest { runner, limits, open: Default::default() })
}

impl<P: Packer> PackerUnderTest<P> {
    /// Pushes samples of (id, length); gives the finished bins.
    ///
    /// # Panics
    /// The call fails or breaks the contract.
    pub fn push(&mut self, items: &[(u64, u32)]) -> Vec<Vec<u64>> {
        let flat = |data: ColumnData, name: &str| Column { name: name.into(), data, valid: None };
        let ids = ColumnData::S64s(items.iter().map(|item| item.0 as i64).collect());
        let lengths = ColumnData::U32s(items.iter().map(|item| item.1).collect());
        self.open.extend(items.iter().copied());
        let columns = vec![flat(ids, "id"), flat(lengths, "length")];
        let packing = self.runner.push(&Batch { rows: items.len() as u32, columns });
        let bins = self.check(packing);
        let most = self.limits.max_open_items as usize;
        assert!(most == 0 || self.open.len() <= most, "{} samples are held back, allowed {most}", self.open.len());
        bins
    }

    /// Ends the stream, with as many calls as the packer takes; gives the last bins.
    ///
    /// # Panics
    /// The call fails or breaks the contract.
    pub fn flush(&mut self) -> Vec<Vec<u64>> {
        let mut bins = Vec::new();
        loop {
            let before = self.open.len();
            let packing = self.runner.flush();
            bins.extend(self.check(packing));
            if self.open.is_empty() {
                return bins;
            }
            assert!(self.open.len() < before, "{before} samples never came back");
        }
    }

    /// Samples that are held back now.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The saved state.
    ///
    /// # Panics
    /// The call fails.
    pub fn save(&self) -> Vec<u8> {
        self.runner.save().unwrap_or_else(|e| panic!("save failed: {}", e.message))
    }

    /// Continues in a fresh instance from `state`, which this instance saved just now.
    ///
    /// # Errors
    /// The packer refuses the state.
    pub fn restored(&self, config: Json, state: &[u8]) -> Result<Self, PluginError> {
        let mut fresh = packer::<P>(config, self.limits).expect("the configuration is good");
        fresh.runner.restore(state)?;
        fresh.open = self.open.clone();
        Ok(fresh)
    }

    fn check(&mut self, packing: Result<crate::__private::packer::Packing, PluginError>) -> Vec<Vec<u64>> {
        let packing = packing.unwrap_or_else(|e| panic!("the call failed: {}", e.message));
        for id in &packing.dropped {
            assert!(self.open.remove(id).is_some(), "sample {id} is dropped and was not open");
        }
        let ends = packing.offsets.windows(2);
        let bins: Vec<Vec<u64>> = ends.map(|at| packing.ids[at[0] as usize..at[1] as usize].to_vec()).collect();
        for bin in &bins {
            let lengths = bin.iter().map(|id| self.open.remove(id).unwrap_or_else(|| panic!("{id} was not open")));
            let total: u64 = lengths.map(u64::from).sum();
            assert!(total <= u64::from(self.limits.capacity), "a bin of {total} tokens");
            let most = self.limits.max_items_per_bin as usize;
            assert!(!bin.is_empty() && (most == 0 || bin.len() <= most), "a bin of {} samples", bin.len());
        }
        bins
    }
}

/// Packs `items` through `P` directly, without columns or checks, and gives its answer to each call: for timing.
///
/// # Panics
/// The configuration or the limits are refused.
pub fn pack_natively<P: Packer>(config: Json, limits: Limits, items: &[Item], batch: usize) -> Vec<Packing> {
    let (mut packer, _) = make::<P>(&config, &[]).expect("the configuration is good");
    packer.start(limits).expect("the limits are good");
    let mut answers: Vec<Packing> = Vec::with_capacity(items.len() / batch.max(1) + 2);
    let mut open = items.len();
    for chunk in items.chunks(batch) {
        let mut out = Packing::with_room(chunk.len());
        packer.push(chunk, &mut out);
        open -= out.samples();
        answers.push(out);
    }
    while open > 0 {
        let mut out = Packing::default();
        packer.flush(&mut out);
        assert_eq!(out.failure(), None, "the call failed");
        assert!(out.samples() > 0, "{open} samples never came back");
        open -= out.samples();
        answers.push(out);
    }
    answers
}

/// A configured prompt.
pub struct PromptUnderTest<P> {
    prompt: P,
    stream: Stream,
}

/// Configures the prompt `P`.
///
/// # Errors
/// What it finds wrong with `config`.
pub fn prompt<P: Prompt>(config: Json) -> Result<PromptUnderTest<P>, ConfigError> {
    prompt_with_assets(config, &[])
}

/// Configures the prompt `P` with assets (name, bytes).
///
/// # Errors
/// What it finds wrong with `config` or the assets.
pub fn prompt_with_assets<P: Prompt>(
    config: Json,
    assets: &[(&str, &[u8])],
) -> Result<PromptUnderTest<P>, ConfigError> {
    Ok(PromptUnderTest { prompt: make::<P>(&config, assets)?.0, stream: Stream::new() })
}

impl<P: Prompt> PromptUnderTest<P> {
    /// Renders rows: one result per row.
    ///
    /// # Panics
    /// The whole call fails.
    pub fn run(&mut self, mode: Mode, rows: Json) -> Vec<Result<Rendered, String>> {
        let batch = batch(P::READS, &rows);
        let call = self.stream.next(batch.rows);
        let output = crate::prompt::render(&mut self.prompt, &call, mode, &batch)
            .unwrap_or_else(|e| panic!("the call failed: {}", e.message));
        let mut results: Vec<_> = output.items.into_iter().map(Ok).collect();
        for error in output.errors {
            results[error.row as usize] = Err(error.message);
        }
        results
    }
}

/// A configured metric.
pub struct MetricUnderTest<M: Metric> {
    runner: crate::metric::Runner<M>,
    stream: Stream,
}

/// Configures the metric `M`.
///
/// # Errors
/// What it finds wrong with `config`.
pub fn metric<M: Metric>(config: Json) -> Result<MetricUnderTest<M>, ConfigError> {
    metric_with_assets(config, &[])
}

/// Configures the metric `M` with assets (name, bytes).
///
/// # Errors
/// What it finds wrong with `config` or the assets.
pub fn metric_with_assets<M: Metric>(
    config: Json,
    assets: &[(&str, &[u8])],
) -> Result<MetricUnderTest<M>, ConfigError> {
    Ok(MetricUnderTest { runner: crate::metric::Runner::new(make::<M>(&config, assets)?.0), stream: Stream::new() })
}

impl<M: Metric> MetricUnderTest<M> {
    /// Scores rows.
    ///
    /// # Panics
    /// The whole call fails.
    pub fn update(&mut self, rows: Json) -> MetricOutcome {
        let batch = batch(M::READS, &rows);
        let call = self.stream.next(batch.rows);
        MetricOutcome(self.runner.update(&call, &batch).unwrap_or_else(|e| panic!("the call failed: {}", e.message)))
    }

    /// Scores rows that asked for a judge, with what the judge said in a column `judgement`.
    ///
    /// # Panics
    /// The whole call fails.
    pub fn judged(&mut self, rows: Json) -> MetricOutcome {
        let batch = batch(M::READS, &rows);
        let call = self.stream.next(batch.rows);
        MetricOutcome(self.runner.judged(&call, &batch).unwrap_or_else(|e| panic!("the call failed: {}", e.message)))
    }

    /// The partial state as bytes.
    ///
    /// # Panics
    /// The call fails.
    pub fn save(&self) -> Vec<u8> {
        self.runner.save().unwrap_or_else(|e| panic!("save failed: {}", e.message))
    }

    /// Adds another instance's state.
    ///
    /// # Errors
    /// The bytes are no state of this metric.
    pub fn merge(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.runner.merge(state)
    }

    /// The values.
    pub fn finalize(&self) -> Vec<MetricValue> {
        self.runner.finalize()
    }
}

/// What a metric said of some rows.
#[derive(Debug)]
pub struct MetricOutcome(pub Scored);

impl MetricOutcome {
    /// The values of a score column; null where a row set none.
    pub fn column(&self, name: &str) -> Vec<Json> {
        column_values(&self.0.per_row, name)
    }

    /// Rows that could not be scored.
    pub fn errors(&self) -> Vec<(u32, &str)> {
        row_errors(&self.0.errors)
    }
}

/// Calls `read` with each row of `rows`, for testing functions that take a [`Row`].
///
/// ```
/// use ovhost_sdk::prelude::*;
/// use ovhost_sdk::testing;
///
/// fn words(row: &Row) -> usize {
///     row.str("text").unwrap_or_default().split_whitespace().count()
/// }
///
/// const READS: &[Need] = &[Need::utf8("text")];
/// let mut counts = Vec::new();
/// testing::for_each_row(READS, &json!([{ "text": "a red chair" }, { "text": null }]), |row| counts.push(words(&row)));
/// assert_eq!(counts, [3, 0]);
/// ```
///
/// # Panics
/// As [`batch`].
pub fn for_each_row(needs: &'static [Need], rows: &Json, read: impl FnMut(Row<'_>)) {
    let batch = batch(needs, rows);
    crate::rows::Rows::new(&batch, needs).expect("the batch is good").iter().for_each(read);
}
