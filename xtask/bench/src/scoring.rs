//! 100,000 saved answers, read from files and scored by the metric plugin, against lmms-eval's own functions on the same files. CPU
//! seconds of one thread on both sides, so that a busy machine moves neither; then all threads by the clock.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, MetricInstance, MetricValue, Plugin, Ragged};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::saved_answers::{self, Answers};
use crate::{cpu_time, entry, median, python, time, verdict};

const ROUNDS: usize = 3;
/// Least that ours is faster by.
const RATIO: f64 = 20.0;
/// Answers in one call of the plugin.
const ROWS: usize = 1024;
/// Answers that a thread takes at once.
const PART: usize = 4 * ROWS;
const SCRIPT: &str = include_str!("scoring.py");

/// What the peer says of one task.
#[derive(Deserialize)]
struct Theirs {
    #[serde(default)]
    read: f64,
    #[serde(default)]
    score: f64,
    #[serde(default)]
    values: std::collections::BTreeMap<String, Option<f64>>,
    left_out: Option<String>,
}

/// A line of a file. What the metric reads of the record it parses itself.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    record: &'a RawValue,
    #[serde(borrow)]
    prediction: std::borrow::Cow<'a, str>,
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tasks = saved_answers::make();
    for (place, task) in tasks.iter().enumerate() {
        std::fs::write(dir.path().join(format!("{place}.jsonl")), &task.lines)?;
    }
    let plugins = tasks.iter().map(plugin).collect::<Result<Vec<_>>>()?;
    let peer = python::has(&["lmms_eval", "loguru", "numpy", "pandas", "Levenshtein"], "lmms_eval pandas Levenshtein");
    let names: Vec<&std::ffi::OsStr> = tasks.iter().map(|t| t.task.as_ref()).collect();
    let mut peer = match peer {
        true => Some(python::Peer::start(SCRIPT, &[&[dir.path().as_os_str()], names.as_slice()].concat())?),
        false => None,
    };
    let (mut ours, mut theirs) = (vec![Vec::new(); tasks.len()], vec![Vec::new(); tasks.len()]);
    let (mut values, mut said) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        values.clear();
        for (place, plugin) in plugins.iter().enumerate() {
            let (seconds, found) = cpu_time(|| alone(plugin, &dir.path().join(format!("{place}.jsonl"))))?;
            ours[place].push(seconds);
            values.push(found);
        }
        if let Some(peer) = &mut peer {
            said = peer.go::<Vec<Theirs>>()?;
            for (all, one) in theirs.iter_mut().zip(&said) {
                all.push((one.read, one.score));
            }
        }
    }
    let ours: Vec<f64> = ours.into_iter().map(median).collect();
    let threads = std::thread::available_parallelism()?.get();
    let mut together = Vec::new();
    for _ in 0..ROUNDS {
        let (seconds, found) = time(|| shared(&plugins, dir.path(), threads))?;
        ensure!(format!("{found:?}") == format!("{values:?}"), "{threads} threads give other values than one");
        together.push(seconds);
    }
    let rows: usize = tasks.iter().map(|t| t.rows).sum();
    let per_row = |seconds: f64, rows: usize| seconds * 1e6 / rows as f64;
    println!("{rows} answers; CPU microseconds an answer, reading included");
    let columns = ("", "rows", "ours", "their reading", "scoring", "ratio");
    println!("{:<26} {:>6} {:>7} {:>14} {:>8} {:>7}", columns.0, columns.1, columns.2, columns.3, columns.4, columns.5);
    let (mut compared, mut total) = ((0.0, 0.0), 0.0);
    for name in unique(&tasks) {
        let of: Vec<usize> = (0..tasks.len()).filter(|&i| tasks[i].task == name).collect();
        let count: usize = of.iter().map(|&i| tasks[i].rows).sum();
        let mine: f64 = of.iter().map(|&i| ours[i]).sum();
        total += mine;
        print!("{name:<26} {count:>6} {:>7.2}", per_row(mine, count));
        match of.first().and_then(|&i| said.get(i)).map(|s| &s.left_out) {
            None => println!(),
            Some(Some(why)) => println!("   left out: {why}"),
            Some(None) => {
                let part = |which: fn(&(f64, f64)) -> f64| -> f64 {
                    of.iter().map(|&i| median(theirs[i].iter().map(which).collect())).sum()
                };
                let (read, score) = (part(|s| s.0), part(|s| s.1));
                compared = (compared.0 + mine, compared.1 + read + score);
                let (r, s) = (per_row(read, count), per_row(score, count));
                println!(" {r:>14.2} {s:>8.2} {:>7.1}", (read + score) / mine);
            }
        }
    }
    let together = median(together);
    println!("one thread: {:.0} answers/s; {threads} threads: {:.0}", rows as f64 / total, rows as f64 / together);
    if peer.is_some() {
        check(&tasks, &values, &said)?;
        let (mine, peers) = compared;
        let one = peers / mine;
        // The tasks that are compared take the same share of the clock's time as of the processor's.
        let all = peers / (together * mine / total);
        println!("lmms-eval's functions: {peers:.2} s, ours on one thread {mine:.3} s; bar {RATIO} times as fast");
        println!(
            "  one thread {one:.1}: {}; {threads} threads, by the clock, {all:.1}: {}",
            verdict(one >= RATIO),
            verdict(all >= RATIO)
        );
    }
    Ok(())
}

fn unique(tasks: &[Answers]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for task in tasks {
        if !names.contains(&task.task) {
            names.push(task.task);
        }
    }
    names
}

fn plugin(task: &Answers) -> Result<Plugin> {
    entry("metrics/lmms_eval.wasm", Some(task.entry), json!({ "profile": "lmms-eval", "judge": false }))
}

/// One task's file on one thread.
fn alone(plugin: &Plugin, file: &Path) -> Result<Vec<MetricValue>> {
    let text = std::fs::read_to_string(file)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut metric = plugin.metric()?;
    add(&mut metric, &lines, 0)?;
    Ok(metric.finalize()?)
}

/// Adds lines, of which the first is number `first` of its task.
fn add(metric: &mut MetricInstance, lines: &[&str], first: usize) -> Result<()> {
    for (index, lines) in lines.chunks(ROWS).enumerate() {
        let rows = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<Vec<Line<'_>>, _>>()?;
        let text = |name: &str, values: &mut dyn Iterator<Item = &str>| {
            let data = ColumnData::Utf8(Ragged::<u8>::from_strs(values));
            Column { name: name.to_owned(), data, valid: None }
        };
        let columns = vec![
            text("prediction", &mut rows.iter().map(|r| &*r.prediction)),
            text("references", &mut rows.iter().map(|_| "[]")),
            text("record", &mut rows.iter().map(|r| r.record.get())),
        ];
        let ctx = CallCtx { first_row: (first + index * ROWS) as u64, ..CallCtx::default() };
        let scored = metric.update(&ctx, &Batch { rows: rows.len() as u32, columns })?;
        ensure!(scored.errors.is_empty(), "an answer has no score: {:?}", scored.errors.first());
        ensure!(scored.needs_judge.is_empty(), "an answer wants a judge");
    }
    Ok(())
}

/// All files, parts of them on several threads; states are merged in the rows' order.
fn shared(plugins: &[Plugin], folder: &Path, threads: usize) -> Result<Vec<Vec<MetricValue>>> {
    let read = |place| std::fs::read_to_string(folder.join(format!("{place}.jsonl")));
    let texts = on_threads(threads, plugins.len(), |place| Ok(read(place)?))?;
    let lines: Vec<Vec<&str>> = texts.iter().map(|t| t.lines().collect()).collect();
    let parts: Vec<(usize, usize)> =
        lines.iter().enumerate().flat_map(|(place, l)| (0..l.len()).step_by(PART).map(move |at| (place, at))).collect();
    let next = AtomicUsize::new(0);
    let states = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            // As an evaluation does it: an instance of a task's is used again.
            let mut own: HashMap<usize, MetricInstance> = HashMap::new();
            while let Some(&(place, at)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                let metric = match own.entry(place) {
                    Entry::Occupied(used) => used.into_mut(),
                    Entry::Vacant(new) => new.insert(plugins[place].metric()?),
                };
                metric.reset()?;
                add(metric, &lines[place][at..lines[place].len().min(at + PART)], at)?;
                let state = metric.save()?;
                states.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((place, at, state));
            }
            Ok(())
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread ended badly"))?)
    })?;
    let mut states = states.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    states.sort_unstable_by_key(|(place, at, _)| (*place, *at));
    // As an evaluation does it: the states of a task are merged on one thread, several tasks' at a time.
    on_threads(threads, plugins.len(), |place| {
        let mut metric = plugins[place].metric()?;
        for (_, _, state) in states.iter().filter(|(p, ..)| *p == place) {
            metric.merge(state)?;
        }
        Ok(metric.finalize()?)
    })
}

/// Jobs `0..count` on threads; their results in order.
fn on_threads<R: Send>(threads: usize, count: usize, job: impl Fn(usize) -> Result<R> + Sync) -> Result<Vec<R>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let result = job(at);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(at, result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect()
}

/// That both sides come to the same values.
fn check(tasks: &[Answers], ours: &[Vec<MetricValue>], theirs: &[Theirs]) -> Result<()> {
    let mut same = 0;
    for ((task, ours), theirs) in tasks.iter().zip(ours).zip(theirs) {
        if task.task == "mmmu_val (open)" {
            continue;
        }
        for (name, value) in &theirs.values {
            let found = ours.iter().find(|v| v.name == *name).with_context(|| format!("{}: no {name}", task.task))?;
            // MathVista's null is a zero.
            let value = value.unwrap_or(0.0);
            let what = format!("{} {name}: theirs is {value}, ours {}", task.task, found.value);
            ensure!((value - found.value).abs() <= 1e-9 * value.abs().max(1.0), "{what}");
            same += 1;
        }
    }
    println!(
        "{same} values are the same (not compared: open questions of MMMU, which lmms-eval reads since the version that the profile is)"
    );
    Ok(())
}
