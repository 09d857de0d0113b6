//! The same bytes out, however the stream was cut, whoever worked on it, and whatever broke on the way; for every
//! first-party plugin that works without a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

use ovhost_plugin::{
    Batch, CallCtx, Column, ColumnData, Decisions, FilterInstance, Independence, Limits, MetricInstance, Mode,
    PackLimits, PackerInstance, Plugin, PluginError, PluginSpec, PromptInstance, Ragged, check_independence,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};

use crate::{guest, host, load, plugins_dir, workspace};

/// All first-party plugins of a kind, with limits under which a boulder of a row stops them.
fn all(kind: &str) -> &'static [Plugin] {
    static ALL: OnceLock<BTreeMap<&str, Vec<Plugin>>> = OnceLock::new();
    let kinds = ["filters", "packers", "prompts", "metrics"];
    &ALL.get_or_init(|| kinds.into_iter().map(|kind| (kind, load_all(kind))).collect())[kind]
}

fn load_all(kind: &str) -> Vec<Plugin> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(plugins_dir().join(kind))
        .unwrap_or_else(|e| panic!("{e}: run cargo xtask plugins"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "wasm"))
        .collect();
    paths.sort();
    let limits = Limits { fuel_base: 20_000_000, fuel_per_row: 5_000_000, fuel_per_byte: 0, ..Limits::default() };
    let mut plugins = Vec::new();
    for path in paths {
        for entry in host().inspect(&path, None).unwrap_or_else(|e| panic!("{e}")).description.entries {
            let spec = PluginSpec { limits: limits.clone(), entry: Some(entry.name), ..PluginSpec::new(&path) };
            let before = plugins.len();
            match host().load(&spec) {
                Ok(plugin) => plugins.push(plugin),
                // One that wants a word list or a table.
                Err(PluginError::Config { .. }) => plugins.extend(as_in_cases(kind, &spec, 2)),
                Err(other) => panic!("{other}"),
            }
            if kind == "packers" {
                plugins.extend(as_in_cases(kind, &spec, 6));
            }
            // Prompts and metrics may want the wording of others, which is not here.
            assert!(plugins.len() > before || !matches!(kind, "filters" | "packers"), "{spec:?} is not tried");
        }
    }
    assert!(!plugins.is_empty(), "no plugin in {kind} works without a configuration");
    plugins
}

/// An entry under the first few configurations of its golden cases that are not refused, with the files that they name.
fn as_in_cases(kind: &str, spec: &PluginSpec, most: usize) -> Vec<Plugin> {
    let folder = workspace().join("plugins").join(kind).join(spec.path.file_stem().unwrap());
    let cases = std::fs::read_to_string(folder.join("cases.jsonl")).unwrap();
    let mut tried = Vec::new();
    let mut plugins = Vec::new();
    for case in cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let named = case["entry"].as_str().is_none_or(|entry| Some(entry) == spec.entry.as_deref());
        let settings = (case["config"].clone(), case["assets"].clone());
        // A bound on the whole stream is not for the streams here.
        let bounded = settings.0.get("max_samples").is_some();
        if !named || bounded || plugins.len() == most || tried.contains(&settings) {
            continue;
        }
        let assets = settings.1.as_object().into_iter().flatten();
        let assets = assets.map(|(name, file)| (name.clone(), folder.join(file.as_str().unwrap()))).collect();
        plugins.extend(host().load(&PluginSpec { config: settings.0.clone(), assets, ..spec.clone() }));
        tried.push(settings);
    }
    plugins
}

/// What a sample is made of.
#[derive(Debug, Clone)]
struct Sample {
    text: Option<String>,
    sizes: Vec<(u32, u32)>,
    hash: u64,
}

fn sample() -> impl Strategy<Value = Sample> {
    let words = prop::sample::select(vec![
        "a", "red", "square", "the", "Sorry,", "I cannot", "图片", "é", "\n", "!!!", "🦀", "12",
    ]);
    let text = prop_oneof![
        3 => prop::collection::vec(words, 0..30).prop_map(|words| Some(words.join(" "))),
        1 => any::<String>().prop_map(Some),
        1 => Just(None),
    ];
    let sizes = prop::collection::vec((1_u32..3000, 1_u32..3000), 0..4);
    (text, sizes, 0_u64..6).prop_map(|(text, sizes, hash)| Sample { text, sizes, hash })
}

/// The columns that the host offers, and those of metrics and packers.
fn batch(samples: &[Sample]) -> Batch {
    let n = samples.len();
    let utf8 = |name: &str, f: &dyn Fn(usize, &Sample) -> String| {
        Column::utf8(name, samples.iter().enumerate().map(|(i, s)| f(i, s)))
    };
    let u32s =
        |name: &str, f: &dyn Fn(&Sample) -> u32| Column::new(name, ColumnData::U32s(samples.iter().map(f).collect()));
    let lists = |name: &str, f: &dyn Fn(&(u32, u32)) -> u32| {
        let rows = samples.iter().map(|s| s.sizes.iter().map(f).collect::<Vec<_>>());
        Column::new(name, ColumnData::U32Lists(Ragged::from_rows(rows)))
    };
    let valid = |has: &dyn Fn(&Sample) -> bool| Some(samples.iter().map(|s| u8::from(has(s))).collect::<Vec<_>>());
    let words = |s: &Sample| s.text.clone().unwrap_or_default();
    let record = |i: usize, s: &Sample| match i % 3 {
        0 => json!({"caption": words(s)}),
        1 => json!({"question": "What?", "answer": words(s)}),
        _ => json!({"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": words(s)}]}),
    };
    let hashes = samples.iter().map(|s| s.hash.wrapping_mul(0x0123_4567_89ab_cdef).to_be_bytes().repeat(s.sizes.len()));
    let embedding = samples.iter().map(|s| [1.0, s.hash as f32, words(s).len() as f32]);
    let first = |name: &str, f: fn(&(u32, u32)) -> u32| Column {
        valid: valid(&|s| !s.sizes.is_empty()),
        ..u32s(name, &|s| s.sizes.first().map_or(0, f))
    };
    Batch {
        rows: n as u32,
        columns: vec![
            Column::new("id", ColumnData::S64s((0..n as i64).collect())),
            Column::new("index", ColumnData::S64s((0..n as i64).collect())),
            utf8("key", &|i, _| format!("k{i}")),
            utf8("source", &|_, _| "a.tar".into()),
            utf8("record", &|i, s| record(i, s).to_string()),
            Column { valid: valid(&|s| s.text.is_some()), ..utf8("text", &|_, s| words(s)) },
            u32s("num-images", &|s| s.sizes.len() as u32),
            u32s("image-bytes", &|s| s.sizes.iter().map(|size| size.0).sum()),
            u32s("text-tokens", &|s| words(s).len() as u32),
            first("width", |size| size.0),
            first("height", |size| size.1),
            lists("widths", &|size| size.0),
            lists("heights", &|size| size.1),
            Column::new("phash", ColumnData::Bytes(Ragged::from_rows(hashes))),
            Column::new("embedding", ColumnData::F32Lists(Ragged::from_rows(embedding))),
            utf8("prediction", &|_, s| words(s)),
            utf8("references", &|i, s| if i % 2 == 0 { json!([words(s)]) } else { json!(["a", "red"]) }.to_string()),
        ],
    }
}

/// One row that costs more fuel than there is.
fn boulder() -> &'static Batch {
    static BOULDER: OnceLock<Batch> = OnceLock::new();
    let huge = || Sample { text: Some("boulder ".repeat(1 << 22)), sizes: vec![(3, 4); 1 << 20], hash: 1 };
    BOULDER.get_or_init(|| batch(&[huge()]))
}

/// What answers row by row.
trait Worker {
    fn rows(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError>;
}

impl Worker for FilterInstance {
    fn rows(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError> {
        let Decisions { keep, reason, add, errors } = self.process(ctx, batch)?;
        let added = Batch { rows: batch.rows, columns: add };
        let line = |row: u32| {
            let i = row as usize;
            let error = errors.iter().find(|e| e.0 == row).map(|e| &e.1);
            let cells = added.slice(row, row + 1).columns.into_iter().filter(|c| c.is_valid(0));
            let cells: Vec<String> = cells.map(|c| format!("{} {:?}", c.name, c.data)).collect();
            format!("{} {:?} {error:?} {cells:?}", keep[i], reason[i])
        };
        Ok((0..batch.rows).map(line).collect())
    }
}

struct Renders(PromptInstance, Mode);

impl Worker for Renders {
    fn rows(&mut self, ctx: &CallCtx, batch: &Batch) -> Result<Vec<String>, PluginError> {
        let out = self.0.render(ctx, self.1, batch)?;
        let error = |row: usize| out.errors.iter().find(|e| e.0 as usize == row).map(|e| &e.1);
        Ok(out.items.iter().enumerate().map(|(row, item)| format!("{item:?} {:?}", error(row))).collect())
    }
}

/// How a stream is worked on: where it is cut, how many workers there are, before which parts a worker is made to fail.
#[derive(Debug, Clone)]
struct Course {
    cuts: BTreeSet<usize>,
    workers: usize,
    fails: Vec<bool>,
}

fn course() -> impl Strategy<Value = Course> {
    let cuts = prop::collection::btree_set(1_usize..24, 0..6);
    (cuts, 1_usize..4, prop::collection::vec(prop::bool::weighted(0.15), 8)).prop_map(|(cuts, workers, fails)| Course {
        cuts,
        workers,
        fails,
    })
}

impl Course {
    /// Bounds of the parts of `n` rows.
    fn parts(&self, n: usize) -> Vec<(u32, u32)> {
        let ends: Vec<usize> = self.cuts.iter().copied().filter(|cut| *cut < n).chain([n]).collect();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).map(|(lo, hi)| (lo as u32, *hi as u32)).collect()
    }
}

/// The rows' answers when parts go round the workers, which run at once. Also the number of failures on the way.
fn work<W: Worker + Send>(course: &Course, batch: &Batch, new: impl Fn() -> W + Sync) -> (Vec<String>, usize) {
    let parts = course.parts(batch.rows as usize);
    let (boulder, new, parts) = (boulder(), &new, &parts);
    let worker = |me: usize| {
        let (mut worker, mut answers, mut failed) = (new(), Vec::new(), 0);
        for (i, (lo, hi)) in parts.iter().enumerate().filter(|(i, _)| i % course.workers == me) {
            let ctx = CallCtx { run_seed: 5, shard: 0, batch_index: i as u64, first_row: u64::from(*lo) };
            if course.fails[i % course.fails.len()] {
                failed += usize::from(worker.rows(&ctx, boulder).is_err());
            }
            answers.push((*lo, worker.rows(&ctx, &batch.slice(*lo, *hi)).unwrap()));
        }
        (answers, failed)
    };
    let mut answers = Vec::new();
    let mut failures = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..course.workers).map(|me| scope.spawn(move || worker(me))).collect();
        for thread in threads {
            let (part, failed) = thread.join().unwrap();
            answers.extend(part);
            failures += failed;
        }
    });
    answers.sort();
    (answers.into_iter().flat_map(|(_, rows)| rows).collect(), failures)
}

#[test]
fn a_boulder_stops_a_worker() {
    let course = Course { cuts: BTreeSet::new(), workers: 1, fails: vec![true] };
    let rows = batch(&[Sample { text: Some("a b".into()), sizes: vec![], hash: 0 }]);
    let failures = |new: &(dyn Fn() -> FilterInstance + Sync)| work(&course, &rows, new).1;
    let pure: Vec<&Plugin> = all("filters").iter().filter(|plugin| plugin.info().state_pure).collect();
    let stopped = pure.iter().filter(|plugin| failures(&|| plugin.filter().unwrap()) == 1).count();
    assert!(2 * stopped >= pure.len(), "only {stopped} of {} filters are stopped by it", pure.len());
    let prompts = all("prompts");
    assert_eq!(work(&course, &rows, || Renders(prompts[0].prompt().unwrap(), Mode::Train)).1, 1);
}

#[test]
fn first_party_plugins_are_what_they_claim() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let samples = prop::collection::vec(sample(), 40).new_tree(&mut runner).unwrap().current();
    let rows = batch(&samples);
    let mut held = 0;
    for kind in ["filters", "prompts", "metrics"] {
        for plugin in all(kind) {
            match check_independence(plugin, &CallCtx::default(), &rows).unwrap() {
                Independence::Holds => held += 1,
                Independence::NotClaimed => assert!(!plugin.info().state_pure),
                broken => panic!("{}: {broken}", plugin.info().name),
            }
        }
    }
    assert!(held >= 4, "{held}");
}

#[test]
fn the_course_of_work_notices_a_plugin_that_counts_calls() {
    let plugin = load(guest("misbehave"), "counts_calls");
    let samples = vec![Sample { text: Some("a".into()), sizes: vec![], hash: 0 }; 9];
    let rows = batch(&samples);
    let course = |cuts: &[usize]| Course { cuts: cuts.iter().copied().collect(), workers: 1, fails: vec![false] };
    let answers = |cuts: &[usize]| work(&course(cuts), &rows, || plugin.filter().unwrap()).0;
    assert_eq!(answers(&[]), answers(&[]));
    assert_ne!(answers(&[]), answers(&[4]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn filters_and_prompts_depend_on_the_row_alone(samples in prop::collection::vec(sample(), 1..24), course in course()) {
        let rows = batch(&samples);
        let plain = Course { cuts: BTreeSet::new(), workers: 1, fails: vec![false] };
        for plugin in all("filters").iter().filter(|plugin| plugin.info().state_pure) {
            let new = || plugin.filter().unwrap();
            let (whole, cut) = (work(&plain, &rows, new).0, work(&course, &rows, new).0);
            prop_assert_eq!(whole, cut, "{}", plugin.info().name);
        }
        for plugin in all("prompts") {
            for mode in [Mode::Train, Mode::Generate] {
                let new = || Renders(plugin.prompt().unwrap(), mode);
                let (whole, cut) = (work(&plain, &rows, new).0, work(&course, &rows, new).0);
                prop_assert_eq!(whole, cut, "{}", plugin.info().name);
            }
        }
    }

    /// Of filters that remember rows: one instance, any cut, another instance with the saved state anywhere.
    #[test]
    fn streaming_filters_depend_on_the_stream_alone(
        samples in prop::collection::vec(sample(), 1..24),
        course in course(),
        moves in prop::collection::vec(any::<bool>(), 8),
    ) {
        let rows = batch(&samples);
        for plugin in all("filters").iter().filter(|plugin| !plugin.info().state_pure) {
            let mut one = plugin.filter().unwrap();
            let whole = one.rows(&CallCtx::default(), &rows).unwrap();
            let mut other = plugin.filter().unwrap();
            let mut cut = Vec::new();
            for (i, (lo, hi)) in course.parts(samples.len()).into_iter().enumerate() {
                if moves[i % moves.len()] {
                    let state = other.save().unwrap();
                    other = plugin.filter().unwrap();
                    other.restore(&state).unwrap();
                    prop_assert_eq!(other.save().unwrap(), state, "{}", plugin.info().name);
                }
                let ctx = CallCtx { first_row: lo.into(), ..CallCtx::default() };
                cut.extend(other.rows(&ctx, &rows.slice(lo, hi)).unwrap());
            }
            prop_assert_eq!(whole, cut, "{}", plugin.info().name);
            prop_assert_eq!(one.save().unwrap(), other.save().unwrap(), "{}", plugin.info().name);
        }
    }

    /// Each part by an instance of its own, cut again on the way, merged in order.
    #[test]
    fn metrics_merge_to_the_same_bits(
        samples in prop::collection::vec(sample(), 1..24),
        course in course(),
        step in 1_u32..7,
    ) {
        let rows = batch(&samples);
        let score = |metric: &mut MetricInstance, lo: u32, hi: u32| {
            let ctx = CallCtx { first_row: lo.into(), ..CallCtx::default() };
            metric.update(&ctx, &rows.slice(lo, hi)).unwrap();
        };
        let bits = |metric: &mut MetricInstance| {
            let values = metric.finalize().unwrap().into_iter();
            values.map(|v| (v.name, v.value.to_bits(), v.count, v.stderr.map(f64::to_bits))).collect::<Vec<_>>()
        };
        for plugin in all("metrics") {
            let mut whole = plugin.metric().unwrap();
            score(&mut whole, 0, rows.rows);
            let mut sum = plugin.metric().unwrap();
            for (lo, hi) in course.parts(samples.len()) {
                let mut part = plugin.metric().unwrap();
                (lo..hi).step_by(step as usize).for_each(|at| score(&mut part, at, hi.min(at + step)));
                sum.merge(&part.save().unwrap()).unwrap();
            }
            prop_assert_eq!(bits(&mut whole), bits(&mut sum), "{}", plugin.info().name);
        }
    }
}

/// A stream of samples through a packer: what every call gave, bins and then what was given up. With `moves`, the stream
/// goes on in another instance before those calls.
fn pack(
    plugin: &Plugin,
    limits: &PackLimits,
    items: &[(u32, u32)],
    step: usize,
    moves: &[bool],
) -> Vec<(Vec<Vec<u64>>, Vec<u64>)> {
    let start = || -> PackerInstance {
        let mut packer = plugin.packer().unwrap();
        packer.start(limits).unwrap();
        packer
    };
    let (mut packer, mut out) = (start(), Vec::new());
    let ids: Vec<usize> = (0..items.len()).collect();
    for (call, chunk) in ids.chunks(step).enumerate() {
        if moves.get(call).copied().unwrap_or(false) {
            let state = packer.save().unwrap();
            packer = start();
            packer.restore(&state).unwrap();
            assert_eq!(packer.save().unwrap(), state, "{}", plugin.info().name);
        }
        let column = |name: &str, data| Column::new(name, data);
        let of = |f: fn(&(u32, u32)) -> u32| ColumnData::U32s(chunk.iter().map(|id| f(&items[*id])).collect());
        let id = ColumnData::S64s(chunk.iter().map(|id| *id as i64).collect());
        let columns = vec![column("id", id), column("length", of(|i| i.0)), column("patches", of(|i| i.1))];
        let ctx = CallCtx { batch_index: call as u64, first_row: chunk[0] as u64, ..CallCtx::default() };
        let packing = packer.push(&ctx, &Batch { rows: chunk.len() as u32, columns }).unwrap();
        if limits.max_open_items > 0 {
            assert!(packer.open_items() <= limits.max_open_items as usize);
        }
        out.push((packing.bins.to_vecs(), packing.dropped));
    }
    let (mut bins, mut dropped) = (Vec::new(), Vec::new());
    while let Some(rest) = packer.flush().unwrap() {
        bins.extend(rest.bins.to_vecs());
        dropped.extend(rest.dropped);
    }
    assert_eq!(packer.open_items(), 0);
    out.push((bins, dropped));
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packers_keep_their_promises(
        items in prop::collection::vec((0_u32..=512, 0_u32..800), 1..200),
        (capacity, max_items_per_bin, max_open_items) in (512_u32..1500, 0_u32..9, prop_oneof![Just(0_u32), 1..60_u32]),
        step in 1_usize..40,
        moves in prop::collection::vec(prop::bool::weighted(0.3), 20),
    ) {
        let limits = PackLimits { capacity, max_items_per_bin, max_open_items };
        for plugin in all("packers") {
            let name = &plugin.info().name;
            // Mode "offline" of padding_free holds every sample, and says so where that is not allowed.
            if let Err(refused) = plugin.packer().unwrap().start(&limits) {
                prop_assert!(max_open_items > 0 && refused.to_string().contains("set that limit to 0"), "{refused}");
                continue;
            }
            let calls = pack(plugin, &limits, &items, step, &[]);
            let bins: Vec<&Vec<u64>> = calls.iter().flat_map(|call| &call.0).collect();
            let mut ids: Vec<u64> = bins.iter().copied().flatten().chain(calls.iter().flat_map(|call| &call.1)).copied().collect();
            ids.sort_unstable();
            prop_assert_eq!(ids, (0..items.len() as u64).collect::<Vec<_>>(), "{}: every id once", name);
            for bin in bins {
                prop_assert!(bin.iter().map(|id| items[*id as usize].0).sum::<u32>() <= capacity, "{name}");
                prop_assert!(max_items_per_bin == 0 || bin.len() <= max_items_per_bin as usize, "{name}");
            }
            prop_assert_eq!(&pack(plugin, &limits, &items, step, &moves), &calls, "{}: moved", name);
            // Whatever the cut, the same bins in the same order.
            let all_bins = |calls: &[(Vec<Vec<u64>>, Vec<u64>)]| calls.iter().flat_map(|c| c.0.clone()).collect::<Vec<_>>();
            prop_assert_eq!(all_bins(&pack(plugin, &limits, &items, 1 + step / 3, &[])), all_bins(&calls), "{}: cut", name);
        }
    }
}
