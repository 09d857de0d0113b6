//! Runs the jobs of a step, commits each, skips what is done, and finishes when all of them are.
//!
//! ```text
//!  Plan ─► OUT/.ovhost/STEP/plan.json      (another plan there: refused)
//!  job  ─► its files, renamed ─► jobs/NAME.rejects.jsonl ─► jobs/NAME.json   (the last one: the job is done)
//!  of a step in order, now and then: state   (what follows it runs again after a kill)
//!  all done ─► rejects.jsonl, manifest.json, whatever the step adds (.nv-meta)
//! ```
//! Any number of processes may work on one plan, each on its part; whoever sees that all jobs are done finishes the step, and
//! finishing twice writes the same bytes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ovhost_data::rejects::{BudgetWords, Counters, RejectBudget};
use ovhost_data::shards::ShardFile;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{AFRESH, PrepError, io};
use crate::files::{get_json, hex, put_json, put_with, sha256};
use crate::rejects::Rejects;

/// What a step will do: the settings that its output depends on, and its jobs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the step: `filter`, `pack`.
    pub step: &'static str,
    /// Everything that the output depends on, inputs included; no paths of this machine, no times.
    pub settings: Value,
    /// Names of the jobs, each a file name, in order.
    pub jobs: Vec<String>,
}

impl Plan {
    fn record(&self) -> Value {
        json!({ "version": 1, "step": self.step, "settings": self.settings, "jobs": self.jobs })
    }

    fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.record().to_string()))
    }
}

/// Which jobs this process does: those whose number leaves `index` when divided by `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From 0.
    pub index: usize,
    /// At least 1.
    pub count: usize,
}

impl Default for Part {
    fn default() -> Self {
        Part { index: 0, count: 1 }
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    /// `i/n` with i from 0 to n - 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no part; write i/n with i from 0 to n - 1, such as 0/8");
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let part = Part { index: index.parse().map_err(|_| wrong())?, count: count.parse().map_err(|_| wrong())? };
        if part.index < part.count { Ok(part) } else { Err(wrong()) }
    }
}

/// How a step's bound on rejects is set, and where its rejects are when it stops for them.
pub const WORDS: BudgetWords = BudgetWords {
    rate: "--max-reject-rate",
    count: "--max-rejects",
    list: "the *.rejects.jsonl of the output folder's .ovhost",
};

/// How to run a step.
pub struct RunOptions<'a> {
    /// Output folder.
    pub out: PathBuf,
    /// Threads.
    pub workers: usize,
    /// Which jobs.
    pub part: Part,
    /// Bound on rejects.
    pub budget: RejectBudget,
    /// Set when the process is asked to stop.
    pub stop: &'a AtomicBool,
    /// Told about progress, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

/// Something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The step will read so many samples.
    Total(u64),
    /// So many samples were read.
    Samples(u64),
    /// A job was found done, with so many samples.
    Skipped(u64),
    /// A job was done.
    Job,
}

/// A file that a job made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFile {
    /// Its name in the output folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
    /// Samples in it.
    pub samples: u64,
}

impl MadeFile {
    /// Describes the file at `path`, to be called `name`.
    pub fn of(path: &Path, name: &str, samples: u64) -> Result<Self, PrepError> {
        let bytes = fs::metadata(path).map_err(io(path, "read its size"))?.len();
        Ok(MadeFile { name: name.to_owned(), bytes, sha256: sha256(path)?, samples })
    }

    /// Closes a shard, puts it in place and describes it, to be called `name`.
    pub fn publish(mut shard: ShardFile, name: String) -> Result<Self, PrepError> {
        let written = shard.publish()?;
        let sha256 = hex(&shard.sha256().unwrap_or_default());
        Ok(MadeFile { name, bytes: written.bytes, sha256, samples: written.samples })
    }
}

/// What a job made.
#[derive(Debug, Default)]
pub struct Made {
    /// Files, in place under their final names.
    pub files: Vec<MadeFile>,
    /// What became of its samples.
    pub counts: Counters,
    /// The rejected and the filtered ones.
    pub rejects: Rejects,
}

impl Made {
    /// Nothing yet. Of many rejects most lie in a file in `out` until the job is committed.
    pub fn within(out: &Path) -> Self {
        Made { rejects: Rejects::within(out), ..Made::default() }
    }
}

/// The record of a job that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Fingerprint of the plan.
    pub plan: String,
    /// Name of the job.
    pub job: String,
    /// Its files.
    pub files: Vec<MadeFile>,
    /// What became of its samples.
    pub counts: Counters,
}

/// A step: how a job is done.
pub trait Step: Sync {
    /// What a thread needs, made once for each.
    type Worker: Send;

    /// Makes a worker.
    fn worker(&self) -> Result<Self::Worker, PrepError>;

    /// Whether a job goes on from the state that the one before it left: then they run in order, on one thread.
    fn in_order(&self) -> bool {
        false
    }

    /// The state after a job, of a step that runs in order.
    fn save(&self, _worker: &mut Self::Worker) -> Result<Vec<u8>, PrepError> {
        Ok(Vec::new())
    }

    /// Goes on from a saved state.
    fn restore(&self, _worker: &mut Self::Worker, _state: &[u8]) -> Result<(), PrepError> {
        Ok(())
    }

    /// Does job `index`: makes its files in `out`. `tick(n)` reports samples and fails when the process is to stop.
    fn job(
        &self,
        worker: &mut Self::Worker,
        index: usize,
        out: &Path,
        tick: &(dyn Fn(u64) -> Result<(), PrepError> + Sync),
    ) -> Result<Made, PrepError>;

    /// The step before this one on the same samples: its rejects and counts (which have those of the step before it) come
    /// first in what this one leaves.
    fn follows(&self) -> Option<&'static str> {
        None
    }

    /// Whether its list of rejects and its manifest are those of the output; else they stay with the step's records.
    fn is_last(&self) -> bool {
        true
    }

    /// After the last job: metadata beside the files. `counts` are of all jobs and of the steps before. Called again with the
    /// same records it writes the same.
    fn finish(&self, out: &Path, done: &[Done], counts: &Counters) -> Result<(), PrepError>;
}

/// What a run of a step came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Jobs of the plan.
    pub jobs: usize,
    /// Of these done now.
    pub done: usize,
    /// Of these done before this run.
    pub before: usize,
    /// Whether the step is finished.
    pub finished: bool,
    /// Counts of all done jobs, and of the steps before this one.
    pub counts: Counters,
    /// Files of all done jobs.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// File of the state that a step in order goes on from.
const STATE: &str = "state";

/// What a step was and came to.
const MANIFEST: &str = "manifest.json";

/// The samples that it left out.
const REJECTS: &str = "rejects.jsonl";

/// Of a manifest what the steps after it need.
#[derive(Deserialize)]
struct Manifest {
    counts: Counters,
}

/// Saving a state may take long (deduplication remembers every sample), so it is not done with every job: at most one part
/// in so many of the time goes into it.
const SAVE_SHARE: u32 = 20;

/// The state after the last job of a finished step that runs in order.
pub fn last_state(plan: &Plan, out: &Path) -> Result<Vec<u8>, PrepError> {
    Ok(Folder::open(plan, out)?.state()?.map(|(_, state)| state).unwrap_or_default())
}

/// The records of the jobs that are done, in order.
pub fn done_jobs(plan: &Plan, out: &Path) -> Result<Vec<Done>, PrepError> {
    let folder = Folder::open(plan, out)?;
    plan.jobs.iter().filter_map(|job| folder.done(job).transpose()).collect()
}

/// The folder of a step's own records.
pub fn records(out: &Path, step: &str) -> PathBuf {
    out.join(".ovhost").join(step)
}

/// Runs what is not done of this process's part of the plan.
///
/// # Errors
/// Another plan in the folder, a job that fails, too many rejects, a request to stop. What was committed stays.
pub fn run<S: Step>(step: &S, plan: &Plan, options: &RunOptions<'_>) -> Result<Summary, PrepError> {
    if step.in_order() && options.part.count > 1 {
        return Err(PrepError::Option(format!(
            "part {}/{} was asked for, but this {} remembers rows from shard to shard (a streaming plugin), so one process \
             must see all of them in order; leave the part out",
            options.part.index, options.part.count, plan.step
        )));
    }
    let folder = Folder::open(plan, &options.out)?;
    let mut done: Vec<Option<Done>> = Vec::new();
    for name in &plan.jobs {
        done.push(folder.done(name)?);
    }
    // What was done after the last saved state is done again: the state is not with every job, it may be large.
    let saved = if step.in_order() { folder.state()? } else { None };
    let from = saved.as_ref().map_or(0, |(last, _)| last + 1);
    if step.in_order() {
        if done.iter().take(from).any(Option::is_none) {
            return Err(PrepError::Record {
                path: folder.root.join(STATE).display().to_string(),
                why: "a shard before it is not whole any more".into(),
                next: AFRESH,
            });
        }
        done.iter_mut().skip(from).for_each(|d| *d = None);
    }
    let before = done.iter().flatten().count();
    let mine: Vec<usize> =
        (0..plan.jobs.len()).filter(|i| i % options.part.count == options.part.index && done[*i].is_none()).collect();
    let earlier = folder.earlier(step.follows())?;
    let mut counts = earlier.clone();
    for (i, one) in done.iter().enumerate() {
        let Some(one) = one else { continue };
        counts.add(&one.counts);
        if i % options.part.count == options.part.index {
            (options.progress)(Progress::Skipped(one.counts.read));
        }
    }
    let counts = Mutex::new(counts);

    // Results come back through this list, so that a thread never writes where another reads.
    let fresh: Mutex<Vec<(usize, Done)>> = Mutex::default();
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, PrepError)>> = Mutex::new(None);
    let give_up = AtomicBool::new(false);
    let tick = |n: u64| {
        (options.progress)(Progress::Samples(n));
        let stop = options.stop.load(Ordering::Relaxed) || give_up.load(Ordering::Relaxed);
        if stop { Err(PrepError::Stopped) } else { Ok(()) }
    };
    let one = |worker: &mut S::Worker, index: usize| -> Result<(), PrepError> {
        tick(0)?;
        let made = step.job(worker, index, &options.out, &tick)?;
        let last = made.rejects.last().map(str::to_owned);
        let record = folder.commit(&plan.jobs[index], made)?;
        let mut counts = lock(&counts);
        counts.add(&record.counts);
        lock(&fresh).push((index, record));
        (options.progress)(Progress::Job);
        options.budget.check(&counts, false, last.as_deref()).map_err(PrepError::Rejects)
    };
    let work = || -> Result<(), PrepError> {
        let mut worker = step.worker()?;
        if let Some((_, state)) = &saved {
            step.restore(&mut worker, state)?;
        }
        let mut saved_at = (Instant::now(), Duration::ZERO);
        while !give_up.load(Ordering::Relaxed) {
            let Some(index) = mine.get(next.fetch_add(1, Ordering::Relaxed)).copied() else { break };
            let keep_state = |worker: &mut S::Worker, (at, cost): &mut (Instant, Duration)| -> Result<(), PrepError> {
                if step.in_order() && (index + 1 == plan.jobs.len() || at.elapsed() >= *cost * SAVE_SHARE) {
                    let begin = Instant::now();
                    folder.put_state(index, &step.save(worker)?)?;
                    *cost = begin.elapsed();
                    *at = Instant::now();
                }
                Ok(())
            };
            one(&mut worker, index).and_then(|()| keep_state(&mut worker, &mut saved_at)).map_err(|error| {
                note(&failed, index, error);
                give_up.store(true, Ordering::Relaxed);
                PrepError::Stopped
            })?;
        }
        Ok(())
    };
    let threads = if step.in_order() { 1 } else { options.workers.max(1).min(mine.len()) };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(error) = work() {
                    // A worker that could not be made has no job to blame; the first of all is as good.
                    note(&failed, usize::MAX, error);
                    give_up.store(true, Ordering::Relaxed);
                }
            });
        }
    });
    if let Some((_, error)) = into_inner(failed) {
        return Err(error);
    }
    let fresh = into_inner(fresh);
    let made = fresh.len();
    for (index, record) in fresh {
        done[index] = Some(record);
    }
    // Another process may have finished the others since.
    for (name, slot) in plan.jobs.iter().zip(&mut done).filter(|(_, slot)| slot.is_none()) {
        *slot = folder.done(name)?;
    }
    let all: Vec<Done> = done.into_iter().flatten().collect();
    let mut counts = earlier;
    all.iter().for_each(|d| counts.add(&d.counts));
    let finished = all.len() == plan.jobs.len();
    if finished {
        options.budget.check(&counts, true, None).map_err(PrepError::Rejects)?;
        step.finish(&options.out, &all, &counts)?;
        folder.finish(plan, step.follows(), step.is_last(), &all, &counts)?;
    }
    let files = all.iter().flat_map(|d| &d.files);
    Ok(Summary {
        jobs: plan.jobs.len(),
        done: made,
        before,
        finished,
        files: files.clone().count(),
        bytes: files.map(|f| f.bytes).sum(),
        counts,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere ends the scope anyway; the data behind a lock is whole between statements.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps the error of the first job in order; a request to stop never hides the reason for it.
fn note(failed: &Mutex<Option<(usize, PrepError)>>, index: usize, error: PrepError) {
    let mut slot = lock(failed);
    let better = match &*slot {
        None => true,
        Some((_, PrepError::Stopped)) => true,
        Some((old, _)) => index < *old && !matches!(error, PrepError::Stopped),
    };
    if better {
        *slot = Some((index, error));
    }
}

/// The records of a plan.
struct Folder {
    jobs: PathBuf,
    root: PathBuf,
    out: PathBuf,
    fingerprint: String,
}

impl Folder {
    fn open(plan: &Plan, out: &Path) -> Result<Self, PrepError> {
        let names: BTreeSet<&String> = plan.jobs.iter().collect();
        if names.len() != plan.jobs.len() {
            return Err(PrepError::Option("two jobs have one name; give the input shards different names".into()));
        }
        let root = records(out, plan.step);
        let jobs = root.join("jobs");
        fs::create_dir_all(&jobs).map_err(io(&jobs, "make the folder"))?;
        let path = root.join("plan.json");
        let record = plan.record();
        match get_json::<Value>(&path)? {
            None => put_json(&path, &record)?,
            Some(old) if old == record => {}
            Some(old) => {
                let difference = difference("", &old, &record).unwrap_or_else(|| "its order of keys".into());
                return Err(PrepError::OtherPlan { out: out.display().to_string(), difference });
            }
        }
        Ok(Folder { jobs, root, out: out.to_owned(), fingerprint: plan.fingerprint() })
    }

    /// The record of a job, if it is done and its files are still there as they were made.
    fn done(&self, job: &str) -> Result<Option<Done>, PrepError> {
        let path = self.jobs.join(format!("{job}.json"));
        let Some(done) = get_json::<Done>(&path)? else { return Ok(None) };
        if done.plan != self.fingerprint {
            return Ok(None);
        }
        let whole = |file: &MadeFile| fs::metadata(self.out.join(&file.name)).is_ok_and(|m| m.len() == file.bytes);
        match done.files.iter().find(|f| !whole(f)) {
            None => Ok(Some(done)),
            Some(file) => {
                tracing::warn!(
                    "{} is missing or of another size than it was made with; job {job} runs again",
                    file.name
                );
                Ok(None)
            }
        }
    }

    /// Of a step that runs in order: the last job whose state was saved, and the state.
    fn state(&self) -> Result<Option<(usize, Vec<u8>)>, PrepError> {
        let path = self.root.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(&path, "read")(e)),
        };
        let damaged = |why: &str| PrepError::Record {
            path: path.display().to_string(),
            why: why.to_owned(),
            next: "remove it to do the step's shards again from the first",
        };
        let (hash, rest) = bytes.split_first_chunk::<32>().ok_or_else(|| damaged("it is cut short"))?;
        if hash[..] != Sha256::digest(rest)[..] {
            return Err(damaged("its hash is wrong"));
        }
        let (index, state) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
        let index = usize::try_from(u64::from_le_bytes(*index)).map_err(|_| damaged("it names no job"))?;
        Ok(Some((index, state.to_vec())))
    }

    fn put_state(&self, index: usize, state: &[u8]) -> Result<(), PrepError> {
        let index = (index as u64).to_le_bytes();
        let hash = Sha256::new().chain_update(index).chain_update(state).finalize();
        put_with(&self.root.join(STATE), |file| {
            let parts = [&hash[..], &index[..], state];
            parts.iter().try_for_each(|part| file.write_all(part)).map_err(io(&self.root, "write the state in"))
        })
    }

    fn commit(&self, job: &str, made: Made) -> Result<Done, PrepError> {
        made.rejects.put(&self.jobs.join(format!("{job}.rejects.jsonl")))?;
        let done = Done { plan: self.fingerprint.clone(), job: job.to_owned(), files: made.files, counts: made.counts };
        put_json(&self.jobs.join(format!("{job}.json")), &done)?;
        Ok(done)
    }

    /// Counts of a finished step.
    fn earlier(&self, step: Option<&str>) -> Result<Counters, PrepError> {
        let Some(step) = step else { return Ok(Counters::default()) };
        let path = records(&self.out, step).join(MANIFEST);
        let manifest = get_json::<Manifest>(&path)?.ok_or_else(|| PrepError::Record {
            path: path.display().to_string(),
            why: "it is missing, the step is not finished".into(),
            next: "run the same command again",
        })?;
        Ok(manifest.counts)
    }

    fn finish(
        &self,
        plan: &Plan,
        follows: Option<&str>,
        last: bool,
        done: &[Done],
        counts: &Counters,
    ) -> Result<(), PrepError> {
        let place = if last { &self.out } else { &self.root };
        put_with(&place.join(REJECTS), |rejects| {
            let before = follows.iter().map(|step| records(&self.out, step).join(REJECTS));
            let own = plan.jobs.iter().map(|job| self.jobs.join(format!("{job}.rejects.jsonl")));
            for path in before.chain(own) {
                let mut lines = fs::File::open(&path).map_err(io(&path, "open"))?;
                std::io::copy(&mut lines, rejects).map_err(io(&path, "copy"))?;
            }
            Ok(())
        })?;
        let jobs: Vec<Value> =
            done.iter().map(|d| json!({ "job": d.job, "files": d.files, "counts": d.counts })).collect();
        let manifest = json!({
            "ovhost": env!("CARGO_PKG_VERSION"), "step": plan.step, "settings": plan.settings, "counts": counts, "jobs": jobs,
        });
        if last {
            put_json(&self.out.join(MANIFEST), &manifest)?;
        }
        put_json(&self.root.join(MANIFEST), &manifest)
    }
}

/// Where two values first differ, in words.
fn difference(at: &str, old: &Value, new: &Value) -> Option<String> {
    let short = |value: &Value| {
        let text: String = value.to_string().chars().take(80).collect();
        text
    };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| {
                let place = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => difference(&place, a, b),
                    (Some(a), None) => Some(format!("{place} was {} and is not set now", short(a))),
                    (None, b) => Some(format!("{place} was not set and is {} now", b.map(short).unwrap_or_default())),
                }
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{at}[{i}]"), a, b))
        }
        (Value::Array(a), Value::Array(b)) => Some(format!("{at} had {} items and has {} now", a.len(), b.len())),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{at} was {} and is {} now", short(a), short(b))),
    }
}

#[cfg(test)]
#[path = "jobs/tests.rs"]
mod tests;
