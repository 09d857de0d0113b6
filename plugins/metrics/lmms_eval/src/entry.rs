//! What all entries have in common: a record and an answer in, a row of the state out, values at the end.

use std::borrow::Cow;
use std::marker::PhantomData;

use ovhost_eval_scoring::prompts;
use ovhost_sdk::prelude::*;

use crate::rows::{self, Row as Kept, Spec, State};
use crate::setup::{Config, Setup, TEXTS};

/// What a task makes of an answer.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was read; `None` if nothing was.
    pub read: Option<String>,
    /// The score and the groups; the entry fills in the rest.
    pub row: Kept,
}

impl Outcome {
    /// What was read, and whether it is right.
    pub fn read(read: Option<String>, right: bool) -> Self {
        let row = Kept { score: f64::from(right), unread: read.is_none(), ..Kept::default() };
        Self { read, row }
    }

    /// With the groups of the row.
    #[must_use]
    pub fn of(mut self, category: impl Into<String>, group: impl Into<String>, item: impl Into<String>) -> Self {
        self.row.category = category.into();
        self.row.group = group.into();
        self.row.item = item.into();
        self
    }
}

/// An outcome, or what a judge must be asked first.
pub enum Step {
    /// Scored.
    Done(Outcome),
    /// One user message.
    Ask(String),
}

/// A task.
pub trait Task: 'static {
    /// The entry's name.
    const NAME: &'static str;
    /// One sentence.
    const SUMMARY: &'static str;
    /// Whether every answer is judged.
    const JUDGED: bool = false;

    /// The record's fields that are read; the others are not looked at.
    fn fields(setup: &Setup) -> &'static [&'static str];

    /// The values.
    fn specs() -> Vec<Spec>;

    /// What the reference does to the raw answer, before reasoning tags go.
    fn filter<'a>(setup: &Setup, answer: &'a str) -> &'a str {
        let _ = setup;
        answer
    }

    /// Scores an answer, which is stripped.
    ///
    /// # Errors
    /// The record is not the task's.
    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String>;

    /// Scores an answer with the judge's reply.
    ///
    /// # Errors
    /// The record is not the task's, or the reply says nothing.
    fn judged(setup: &Setup, record: &Fields<'_>, answer: &str, reply: &str) -> Result<Outcome, String> {
        let _ = (setup, record, answer, reply);
        Err("this task asks no judge".into())
    }

    /// A value of the rows that it covers, at least one, in the run's order; and its standard error.
    fn value(setup: &Setup, spec: &Spec, rows: &[&Kept]) -> (f64, Option<f64>) {
        let _ = setup;
        rows::mean(rows, spec.scale)
    }
}

/// A task as a plugin.
pub struct Entry<T> {
    setup: Setup,
    task: PhantomData<fn() -> T>,
}

/// The column of a row's score.
const SCORE: &str = "score/lmms_eval";
/// The column of what was read.
const READ: &str = "read/lmms_eval";
/// The value that counts answers that could not be read.
const UNREAD: &str = "unread";

impl<T: Task> Plugin for Entry<T> {
    type Config = Config;
    const NAME: &'static str = T::NAME;
    const SUMMARY: &'static str = T::SUMMARY;
    const READS: &'static [Need] =
        &[Need::utf8("prediction"), Need::utf8("record"), Need::utf8("judgement").optional()];
    const WRITES: &'static [Write] = &[Write::f64s(SCORE), Write::utf8(READ)];
    const ASSETS: &'static [&'static str] = &[TEXTS];

    fn new(config: Config, assets: &Assets) -> Result<Self, ConfigError> {
        Ok(Self { setup: Setup::new(config, assets, T::JUDGED)?, task: PhantomData })
    }
}

impl<T: Task> Entry<T> {
    fn parts<'a>(&self, row: &'a Row) -> Result<(Fields<'a>, Cow<'a, str>), String> {
        let prediction = row.str("prediction").ok_or("the row has no prediction")?;
        let record = row.fields("record", T::fields(&self.setup))?.ok_or("the row has no record")?;
        Ok((record, self.setup.without_tags(T::filter(&self.setup, prediction))))
    }

    fn keep(ctx: &mut RowCtx, outcome: Outcome, state: &mut State) {
        if outcome.row.draw.is_none() {
            ctx.set(SCORE, outcome.row.score);
        }
        // Of an answer that says nothing nothing is read, whatever the task compares.
        let read = outcome.read.filter(|read| !read.is_empty());
        let unread = outcome.row.unread || read.is_none();
        if let Some(read) = read {
            ctx.set(READ, read.as_str());
        }
        state.rows.push(Kept { ordinal: ctx.ordinal(), unread, ..outcome.row });
    }
}

impl<T: Task> Metric for Entry<T> {
    type State = State;

    fn outputs(&self) -> Vec<MetricInfo> {
        let (low, unit) = (Some(0.0), "rows".into());
        let unread = MetricInfo { name: UNREAD.into(), higher_is_better: false, low, high: None, unit };
        T::specs().iter().map(Spec::info).chain([unread]).collect()
    }

    fn score(&self, ctx: &mut RowCtx, row: &Row, state: &mut State) -> Result<Judge, String> {
        let (record, answer) = self.parts(row)?;
        Ok(match T::score(&self.setup, &record, &answer)? {
            Step::Done(outcome) => {
                Self::keep(ctx, outcome, state);
                Judge::NotNeeded
            }
            Step::Ask(message) => Judge::Ask(vec![("user".into(), message)]),
        })
    }

    fn judged(&self, ctx: &mut RowCtx, row: &Row, state: &mut State) -> Result<(), String> {
        let (record, answer) = self.parts(row)?;
        let reply = row.str("judgement").ok_or("the row has no judgement")?;
        Self::keep(ctx, T::judged(&self.setup, &record, &answer, reply)?, state);
        Ok(())
    }

    fn merge(&self, state: &mut State, other: State) {
        state.rows.extend(other.rows);
    }

    fn finalize(&self, state: &State) -> Vec<MetricValue> {
        let rows = state.settled();
        let value = |spec: &Spec| {
            let covered: Vec<&Kept> = rows.iter().map(|row| &**row).filter(|row| spec.covers(row)).collect();
            let none = (f64::NAN, None);
            let (value, stderr) = if covered.is_empty() { none } else { T::value(&self.setup, spec, &covered) };
            MetricValue { name: spec.name.clone(), value, count: covered.len() as u64, stderr }
        };
        let (count, unread) = (rows.len() as u64, rows.iter().filter(|row| row.unread).count());
        let unread = if count == 0 { f64::NAN } else { unread as f64 };
        let unread = MetricValue { name: UNREAD.into(), value: unread, count, stderr: None };
        T::specs().iter().map(value).chain([unread]).collect()
    }
}

/// A field as text, numbers as they are written.
///
/// # Errors
/// It is not there.
pub fn field<'a>(record: &Fields<'a>, key: &str) -> Result<Cow<'a, str>, String> {
    if let Some(text) = record.text(key)? {
        return Ok(text);
    }
    match record.value(key)? {
        None | Some(Json::Null) => Err(format!("the record has no `{key}`")),
        Some(other) => Ok(other.to_string().into()),
    }
}

/// A field as text, "" without it.
pub fn optional<'a>(record: &Fields<'a>, key: &str) -> Cow<'a, str> {
    field(record, key).unwrap_or_default()
}

/// A field that is a list, its items as texts.
///
/// # Errors
/// It is not there, or no list.
pub fn list(record: &Fields<'_>, key: &str) -> Result<Vec<String>, String> {
    // A list of texts, as most are, is read as such.
    match record.written(key).and_then(|written| ovhost_sdk::serde_json::from_str(written).ok()) {
        Some(texts) => Ok(texts),
        None => prompts::list(&record.object()?, key),
    }
}
