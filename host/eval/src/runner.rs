//! Asks the model every question of every task, many at once, and saves each answer as it is finished.
//!
//! ```text
//!  tasks ─ reader thread: read, render, decode pictures ─► channel ─► model (prompts of all tasks run together)
//!                                                                └─► answers.jsonl, in the order of finishing
//! ```
//! What is answered already is not asked again, so that a run goes on where it was broken off. With greedy decoding an answer
//! does not depend on what runs beside it, as far as the device's sums do not: in bf16 on a GPU near ties may fall otherwise.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ovhost_data::pipeline::SampleSource;
use ovhost_data::{ChatTokenizer, EvalReader, EvalSample, ImageProcessor, Record, Reject, columns};
use ovhost_infer::{Generation, GenerationConfig, Prompt};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use crate::answers::{Answer, AnswerFile, Answers};
use crate::task::Data;

/// A task whose questions are asked.
pub struct Asking {
    /// Its name.
    pub name: String,
    /// Its questions.
    pub reader: EvalReader,
    /// Only so many of them, from the first.
    pub total: u64,
    /// Where its correct answers are.
    pub references: References,
    /// How its answers are made.
    pub config: Arc<GenerationConfig>,
    /// Black pictures of the same sizes: what the questions alone give away.
    pub blank_images: bool,
}

/// Pictures are decoded on so many threads at most.
const DECODERS: usize = 8;

/// Where correct answers are.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// The column; what records usually call it if absent.
    pub column: Option<String>,
    /// Whether they are numbers of options, from 0, and are recorded as letters.
    pub letters: bool,
}

impl References {
    /// As a task's data say it.
    pub fn of(data: &Data) -> Self {
        Self { column: data.references.clone(), letters: data.letters }
    }

    /// The correct answers of a record; `usual`: what records usually call it.
    fn answers(&self, record: &str, usual: Vec<String>) -> Result<Vec<String>> {
        let answers = match &self.column {
            None => usual,
            Some(column) => in_column(column, record)?,
        };
        let letter = |answer: String| match answer.parse::<u8>() {
            Ok(number) if number < 26 => char::from(b'A' + number).to_string(),
            _ => answer,
        };
        Ok(if self.letters { answers.into_iter().map(letter).collect() } else { answers })
    }
}

/// A question on its way to the model.
pub struct Question {
    /// What the model reads.
    pub prompt: Prompt,
    /// How the answer is made.
    pub config: Arc<GenerationConfig>,
}

/// Gives the next question with its number, which seeds its draws; none: there is no further one.
pub type Next<'a> = &'a mut dyn FnMut() -> Result<Option<(u64, Question)>>;
/// Takes an answer, or why that question alone cannot be answered.
pub type Done<'a> = &'a mut dyn FnMut(u64, Result<Generation, String>) -> Result<ControlFlow<()>>;

/// What answers questions: a model, or a stand-in.
pub trait Model {
    /// Pulls questions while there is room for more, and hands over each answer when it is finished, in any order.
    ///
    /// # Errors
    /// What ends the run: those of `next` and `done`, and the device's.
    fn serve(&mut self, next: Next<'_>, done: Done<'_>) -> Result<()>;
}

/// What the questions of all tasks have in common.
pub struct Common {
    /// The model's tokenizer.
    pub chat: Arc<ChatTokenizer>,
    /// Its image processor.
    pub images: Arc<ImageProcessor>,
    /// Questions that wait, ready, for the model.
    pub ahead: usize,
    /// Set by a signal handler: save and return.
    pub stop: Arc<AtomicBool>,
    /// Whether progress is shown.
    pub progress: bool,
}

/// Asks what is not answered yet. False where the stop flag broke it off.
///
/// # Errors
/// A plugin that fails as a whole, data that cannot be read any more, the disk, the model.
pub fn ask(
    tasks: &mut [Asking],
    common: &Common,
    model: &mut dyn Model,
    file: &mut AnswerFile,
    answers: &mut Answers,
) -> Result<bool> {
    let mut open = Vec::new();
    for (place, task) in tasks.iter().enumerate() {
        let known = answers.entry(task.name.clone()).or_default();
        // What could not be asked may be now.
        known.retain(|doc_id, answer| *doc_id < task.total && answer.error.is_none());
        let left: BTreeSet<u64> = (0..task.total).filter(|doc_id| !known.contains_key(doc_id)).collect();
        if !known.is_empty() {
            info!("{}: {} of {} questions are already answered", task.name, known.len(), task.total);
        }
        open.push((place, left));
    }
    let bars = Bars::new(tasks, answers, common.progress);
    if open.iter().all(|(_, left)| left.is_empty()) {
        return Ok(true);
    }
    // What the runner must know of a task while the reader thread has the readers.
    let configs: Vec<Arc<GenerationConfig>> = tasks.iter().map(|t| Arc::clone(&t.config)).collect();
    let (sender, receiver) = bounded(common.ahead.max(1));
    let (file_in, answers) = (&mut *file, answers);
    let (syncer, done) = (file_in.syncer()?, AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .name("eval-reader".into())
            // The sender goes with the thread: its end is the end of the questions.
            .spawn_scoped(scope, move || read_all(tasks, &open, common, &sender))
            .context("starting the reader thread")?;
        let syncing = scope.spawn(|| syncer.run(&done));
        let desk = Desk { file: file_in, answers, bars: &bars, waiting: HashMap::new() };
        let served = answer_all(&configs, &receiver, common, model, desk);
        // A reader that waits for room must see that nobody listens.
        drop(receiver);
        done.store(true, Ordering::SeqCst);
        syncing.thread().unpark();
        let read = reading.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the reader thread panicked")));
        served.and_then(|whole| read.map(|()| whole))
    });
    bars.clear();
    file.sync()?;
    result
}

/// A question that was read, or the answer that says why it could not be.
enum Ready {
    Question {
        task: usize,
        /// The answer without what the model will say.
        pending: Box<Answer>,
        prompt: Prompt,
    },
    Failed {
        task: usize,
        answer: Box<Answer>,
    },
}

/// What a question's preparation must know of its task.
#[derive(Clone, Copy)]
struct About<'a> {
    place: usize,
    name: &'a str,
    references: &'a References,
    blank_images: bool,
}

fn read_all(tasks: &mut [Asking], open: &[(usize, BTreeSet<u64>)], common: &Common, out: &Sender<Ready>) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(DECODERS);
    for (place, left) in open {
        let Asking { name, reader, references, blank_images, .. } = &mut tasks[*place];
        let about = About { place: *place, name, references, blank_images: *blank_images };
        let left: Vec<u64> = left.iter().copied().collect();
        for some in left.chunks(threads) {
            if common.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            let mut read = Vec::with_capacity(some.len());
            for &doc_id in some {
                read.push((doc_id, reader.read(doc_id)?));
            }
            for ready in decode_all(about, read, common) {
                if out.send(ready?).is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Decodes pictures, each question's on a thread of its own; results in order.
fn decode_all(task: About<'_>, read: Vec<(u64, Result<EvalSample, Reject>)>, common: &Common) -> Vec<Result<Ready>> {
    let one = |(doc_id, read): (u64, Result<EvalSample, Reject>)| match read {
        Ok(sample) => prepare(task, sample, common),
        Err(reject) => Ok(Ready::Failed { task: task.place, answer: Box::new(unanswered(task.name, doc_id, reject)) }),
    };
    let mut read = read.into_iter();
    let Some(first) = read.next() else { return Vec::new() };
    std::thread::scope(|scope| {
        let rest: Vec<_> = read.map(|sample| scope.spawn(move || one(sample))).collect();
        let first = one(first);
        let joined = |thread: std::thread::ScopedJoinHandle<'_, Result<Ready>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that decodes pictures panicked")))
        };
        std::iter::once(first).chain(rest.into_iter().map(joined)).collect()
    })
}

fn prepare(task: About<'_>, sample: EvalSample, common: &Common) -> Result<Ready> {
    let (pixel_values, grid_thw) = match sample.pixels(&common.images, task.blank_images) {
        Ok(pixels) => pixels,
        Err(reject) => {
            let answer = Box::new(unanswered(task.name, sample.ordinal, reject));
            return Ok(Ready::Failed { task: task.place, answer });
        }
    };
    let input_ids = sample.prompt.input_ids.iter().map(|&id| i64::from(id)).collect();
    // Those of the examples are the same for all.
    let own = sample.images.iter().skip(sample.example_images);
    let pictures: Vec<&[u8]> = own.map(|i| &*i.media.bytes).collect();
    let answer = Answer {
        task: task.name.to_owned(),
        doc_id: sample.ordinal,
        doc_hash: hex(Sha256::digest(&sample.record)),
        references: task.references.answers(&sample.record, sample.references)?,
        input: input(&common.chat, &sample.prompt.input_ids)?,
        record: RawValue::from_string(sample.record)?,
        key: sample.key,
        source: sample.source,
        prediction: String::new(),
        prompt_tokens: sample.prompt.input_ids.len(),
        answer_tokens: 0,
        finish_reason: "error".into(),
        cluster: cluster(&pictures),
        judgement: None,
        error: None,
    };
    Ok(Ready::Question {
        task: task.place,
        pending: Box::new(answer),
        prompt: Prompt { input_ids, pixel_values, grid_thw },
    })
}

/// Where answers are put. `next` and `done` both need it; the model never calls them at the same time.
struct Desk<'a> {
    file: &'a mut AnswerFile,
    answers: &'a mut Answers,
    bars: &'a Bars,
    /// Questions that the model has, by number, with their tasks.
    waiting: HashMap<u64, (usize, Answer)>,
}

impl Desk<'_> {
    fn save(&mut self, task: usize, answer: Answer) -> Result<()> {
        self.file.append(&answer)?;
        self.bars.step(task);
        self.answers.entry(answer.task.clone()).or_default().insert(answer.doc_id, answer);
        Ok(())
    }
}

fn answer_all(
    configs: &[Arc<GenerationConfig>],
    ready: &Receiver<Ready>,
    common: &Common,
    model: &mut dyn Model,
    desk: Desk<'_>,
) -> Result<bool> {
    let desk = RefCell::new(desk);
    let stopped = || common.stop.load(Ordering::SeqCst);
    let mut next = || -> Result<Option<(u64, Question)>> {
        while !stopped() {
            let Ok(ready) = ready.recv() else { return Ok(None) };
            let mut desk = desk.borrow_mut();
            match ready {
                Ready::Failed { task, answer } => desk.save(task, *answer)?,
                Ready::Question { task, pending, prompt } => {
                    let number = number(&pending.task, pending.doc_id);
                    if desk.waiting.insert(number, (task, *pending)).is_some() {
                        bail!("two questions have the number {number:x}; evaluate these tasks one after the other");
                    }
                    return Ok(Some((number, Question { prompt, config: Arc::clone(&configs[task]) })));
                }
            }
        }
        Ok(None)
    };
    let mut done = |number: u64, said: Result<Generation, String>| -> Result<ControlFlow<()>> {
        let mut desk = desk.borrow_mut();
        let asked = desk.waiting.remove(&number);
        let (task, mut answer) = asked.context("the model answered a question that was not asked")?;
        match said {
            Err(reason) => {
                warn!("{} sample {}: {reason}", answer.task, answer.key);
                answer.error = Some(format!("model: {reason}"));
            }
            Ok(generation) => finish(&common.chat, &mut answer, generation)?,
        }
        desk.save(task, answer)?;
        Ok(if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    model.serve(&mut next, &mut done)?;
    Ok(!stopped())
}

/// A question's number, the seed of its draws: the same whatever else is asked, and after a break.
fn number(task: &str, doc_id: u64) -> u64 {
    let hash = Sha256::digest(task);
    let task = u64::from(u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]));
    task << 32 | (doc_id & u64::from(u32::MAX))
}

fn finish(chat: &ChatTokenizer, answer: &mut Answer, generation: Generation) -> Result<()> {
    let ids: Vec<u32> = generation.ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
    let text = chat.decode(&ids, true)?;
    // The text of the last token may reach beyond the stop string that ended the answer.
    let text = generation.stop_string.as_deref().and_then(|stop| text.split(stop).next()).unwrap_or(&text);
    answer.prediction = text.trim().to_owned();
    answer.answer_tokens = ids.len();
    answer.finish_reason = generation.finish_reason.to_string();
    Ok(())
}

/// An answer that is given, and what a judge said of it.
pub type Said = (String, Option<String>);

/// Answers that are given instead of asked for: what `said` has by number or key, and what a judge said of it. Samples without one are not answered.
///
/// # Errors
/// Data that cannot be read any more.
pub fn given(
    name: &str,
    source: &dyn SampleSource,
    total: u64,
    references: &References,
    said: &dyn Fn(u64, &str) -> Option<Said>,
) -> Result<Vec<Answer>> {
    let mut out = Vec::new();
    let places = source.shards().into_iter().enumerate().flat_map(|(s, (_, n))| (0..n).map(move |i| (s as u32, i)));
    for (doc_id, (shard, index)) in places.enumerate().take(total as usize) {
        let doc_id = doc_id as u64;
        let record: Record = match source.record(shard, index) {
            Ok(record) => record,
            Err(reject) => match source.failure() {
                Some(why) => bail!(why),
                None => {
                    out.push(unanswered(name, doc_id, reject));
                    continue;
                }
            },
        };
        let json = columns::record_json(&record);
        let pictures: Vec<&[u8]> = record.media.iter().map(|m| &*m.bytes).collect();
        let (prediction, judgement) = said(doc_id, &record.key).map_or((None, None), |(p, j)| (Some(p), j));
        out.push(Answer {
            task: name.to_owned(),
            doc_id,
            doc_hash: hex(Sha256::digest(&json)),
            references: references.answers(&json, columns::references(&record.fields))?,
            input: String::new(),
            record: RawValue::from_string(json)?,
            key: record.key,
            source: record.shard,
            error: prediction.is_none().then(|| "given: the file of answers has none for it".into()),
            finish_reason: if prediction.is_some() { "given".into() } else { "error".into() },
            prediction: prediction.unwrap_or_default().trim().to_owned(),
            prompt_tokens: 0,
            answer_tokens: 0,
            cluster: cluster(&pictures),
            judgement,
        });
    }
    Ok(out)
}

fn unanswered(task: &str, doc_id: u64, reject: Reject) -> Answer {
    Answer {
        task: task.to_owned(),
        doc_id,
        doc_hash: String::new(),
        key: reject.key,
        source: reject.shard,
        prediction: String::new(),
        references: Vec::new(),
        input: String::new(),
        record: RawValue::NULL.to_owned(),
        prompt_tokens: 0,
        answer_tokens: 0,
        finish_reason: "error".into(),
        cluster: None,
        judgement: None,
        error: Some(format!("{}: {}", reject.stage, reject.reason)),
    }
}

/// The texts of a column, `{FIELD}` in its name standing for the value of that field.
fn in_column(column: &str, record: &str) -> Result<Vec<String>> {
    let fields: Map<String, Value> = serde_json::from_str(record)?;
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut name = column.to_owned();
    for (field, value) in fields.iter().filter(|_| column.contains('{')) {
        name = name.replace(&format!("{{{field}}}"), &text(value));
    }
    Ok(match fields.get(&name) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.iter().map(text).collect(),
        Some(value) => vec![text(value)],
    })
}

/// The text of a prompt, each picture as `<image>`.
fn input(chat: &ChatTokenizer, ids: &[u32]) -> Result<String> {
    let pad = chat.image_pad_id();
    let mut short = ids.to_vec();
    short.dedup_by(|a, b| a == b && Some(*a) == pad);
    let text = chat.decode(&short, false)?;
    use ovhost_data::chat::{IMAGE_PAD, VISION_END, VISION_START};
    Ok(text.replace(&format!("{VISION_START}{IMAGE_PAD}{VISION_END}"), "<image>"))
}

fn cluster(pictures: &[&[u8]]) -> Option<String> {
    if pictures.is_empty() {
        return None;
    }
    let mut hash = Sha256::new();
    for picture in pictures {
        hash.update(Sha256::digest(picture));
    }
    Some(hex(hash.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// A bar for all questions, and one for each task where there are several.
struct Bars {
    all: ProgressBar,
    of: Vec<ProgressBar>,
    shown: bool,
    /// When a line about progress was last written.
    told: Cell<Instant>,
    group: MultiProgress,
}

/// How often a line about progress is written where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(30);

impl Bars {
    fn new(tasks: &[Asking], answers: &Answers, shown: bool) -> Self {
        let group = MultiProgress::new();
        let answered = |t: &Asking| answers.get(&t.name).map_or(0, |a| a.len() as u64);
        let bar = |template: &str, total: u64, at: u64| {
            if !shown {
                return ProgressBar::hidden();
            }
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = group.add(ProgressBar::new(total).with_style(style));
            bar.set_position(at);
            bar.reset_eta();
            bar
        };
        let of = if tasks.len() > 1 {
            let template = "{prefix:24!} {bar:24} {pos}/{len}";
            tasks.iter().map(|t| bar(template, t.total, answered(t)).with_prefix(t.name.clone())).collect()
        } else {
            Vec::new()
        };
        let (total, at) = (tasks.iter().map(|t| t.total).sum(), tasks.iter().map(answered).sum());
        let all = bar("{wide_bar} {pos}/{len} answers · {per_sec} · ETA {eta}", total, at);
        Self { all, of, shown, told: Cell::new(Instant::now()), group }
    }

    fn step(&self, task: usize) {
        self.all.inc(1);
        if let Some(bar) = self.of.get(task) {
            bar.inc(1);
        }
        // No terminal: a line now and then.
        if self.shown && self.all.is_hidden() && self.told.get().elapsed() >= TELL_EVERY {
            self.told.set(Instant::now());
            let (at, of) = (self.all.position(), self.all.length().unwrap_or(0));
            info!("{at} of {of} questions answered, {:.0} s left", self.all.eta().as_secs_f64());
        }
    }

    fn clear(&self) {
        for bar in self.of.iter().chain([&self.all]) {
            bar.finish_and_clear();
        }
        let _ = self.group.clear();
    }
}
