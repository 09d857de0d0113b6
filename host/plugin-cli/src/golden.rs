//! Golden cases: rows and the answer that is expected for them, one JSON object a line, run through the real host.
//!
//! ```text
//!  cases.jsonl ──read──► Case ──play──► answer (the whole, and in other cuts) ──diff──► Outcome ──► report, or bless
//! ```
//! A case passes if the answer is exactly the expected one, and stays so however the rows are cut into batches and whatever
//! the instance did before: both are promises that every plugin makes.

mod bless;
mod diff;
mod play;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ovhost_plugin::json::{ColumnType, JsonRow};
use ovhost_plugin::{Host, Limits, Located, Mode, PackLimits};
use serde::Deserialize;
use serde_json::Value;

use crate::console::words;
use crate::rows::fault;

pub use bless::{bless, spaced};
pub use diff::{Difference, differences};

/// One line of `cases.jsonl`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows; unique in the file.
    pub name: String,
    /// Which entry; none: the component's only one.
    #[serde(default)]
    pub entry: Option<String>,
    /// Configuration; none: the empty one.
    #[serde(default)]
    pub config: Value,
    /// Files for `init`, relative to the file of cases.
    #[serde(default)]
    pub assets: BTreeMap<String, PathBuf>,
    /// Types of columns that are not as their names or values tell.
    #[serde(default)]
    pub types: BTreeMap<String, ColumnType>,
    /// Seed of the run.
    #[serde(default)]
    pub seed: u64,
    /// The rows, in order.
    #[serde(default)]
    pub rows: Vec<JsonRow>,
    /// Packers: bounds of the bins.
    #[serde(default)]
    pub limits: Option<Bounds>,
    /// Prompts: what for; none: train.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// What the plugin may use; none: the defaults.
    #[serde(default)]
    pub resources: Limits,
    /// The answer. None: not known yet, to be filled in by `--bless`.
    #[serde(default)]
    pub expect: Option<Value>,
}

/// Bounds of a packer's bins, as the contract has them.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Most tokens in a bin.
    pub capacity: u32,
    /// Most samples in a bin; 0: no bound.
    #[serde(default)]
    pub max_items_per_bin: u32,
    /// Most samples held back; 0: the plugin's choice.
    #[serde(default)]
    pub max_open_items: u32,
}

impl From<Bounds> for PackLimits {
    fn from(b: Bounds) -> Self {
        PackLimits { capacity: b.capacity, max_items_per_bin: b.max_items_per_bin, max_open_items: b.max_open_items }
    }
}

/// A file of cases.
#[derive(Debug)]
pub struct Cases {
    /// The file.
    pub path: PathBuf,
    /// Its text, as it is.
    pub text: String,
    /// The cases, each with its line (from 0) in `text`.
    pub cases: Vec<(usize, Case)>,
}

impl Cases {
    /// Reads a file of cases. Errors: it cannot be read, a line is no case (what was seen and what is allowed), a name comes
    /// twice, there is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the cases {}", path.display()))?;
        let mut cases: Vec<(usize, Case)> = Vec::new();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{} line {}", path.display(), i + 1);
            let case: Case = serde_json::from_str(line).map_err(|e| {
                let (why, at) = fault(&e);
                anyhow!("{}: {why}{at}", place())
            })?;
            ensure!(!case.name.is_empty(), "{}: the case has an empty name; say what it shows", place());
            if let Some((first, _)) = cases.iter().find(|(_, c)| c.name == case.name) {
                bail!("{}: a case is named {:?} in line {} already", place(), case.name, first + 1);
            }
            cases.push((i, case));
        }
        ensure!(
            !cases.is_empty(),
            "{} has no case; write one JSON object a line, with name, rows, expect",
            path.display()
        );
        Ok(Cases { path: path.to_owned(), text, cases })
    }
}

/// What became of a case.
#[derive(Debug)]
pub enum Verdict {
    /// The expected answer, however asked.
    Pass,
    /// Another answer than expected.
    Differs(Vec<Difference>),
    /// No answer is expected yet.
    Open,
    /// The answer depends on what it must not depend on.
    Unstable {
        /// How it was asked: "batches of 3".
        how: &'static str,
        /// Against the answer to the whole; `expected` is that one.
        differences: Vec<Difference>,
    },
    /// A row's answer depends on more than the row, though the plugin says that it is pure: which row, when, what.
    Dependent(String),
    /// There is no answer: a trap, a broken contract, rows that do not fit.
    Error(String),
}

/// A case and what became of it.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its line in the file, from 0.
    pub line: usize,
    /// What became of it.
    pub verdict: Verdict,
    /// The answer, where it is one that can be trusted.
    pub answer: Option<Value>,
}

impl Outcome {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        matches!(self.verdict, Verdict::Pass)
    }
}

/// Plays the cases whose name contains `filter` on a component. Errors: none of them does. What goes wrong in a case is its
/// verdict.
pub fn test(host: &Host, component: &Located, cases: &Cases, filter: Option<&str>) -> Result<Vec<Outcome>> {
    let folder = cases.path.parent().unwrap_or(Path::new(""));
    let chosen: Vec<_> = cases.cases.iter().filter(|(_, c)| filter.is_none_or(|part| c.name.contains(part))).collect();
    if let (Some(part), true) = (filter, chosen.is_empty()) {
        let names: Vec<&str> = cases.cases.iter().map(|(_, c)| c.name.as_str()).collect();
        bail!("no case's name contains {part:?}; there are: {}", names.join(", "));
    }
    let outcome = |(line, case): &(usize, Case)| {
        let played = play::play(host, component, case, folder);
        let (verdict, answer) = match (played, &case.expect) {
            (Err(error), _) => (Verdict::Error(words(&error)), None),
            (Ok(play::Played { unstable: Some(play::Unstable::Answer(how, other)), whole }), _) => {
                (Verdict::Unstable { how, differences: differences(&whole, &other) }, None)
            }
            (Ok(play::Played { unstable: Some(play::Unstable::Row(words)), .. }), _) => {
                (Verdict::Dependent(words), None)
            }
            (Ok(played), None) => (Verdict::Open, Some(played.whole)),
            (Ok(played), Some(expect)) => match differences(expect, &played.whole) {
                none if none.is_empty() => (Verdict::Pass, Some(played.whole)),
                some => (Verdict::Differs(some), Some(played.whole)),
            },
        };
        Outcome { name: case.name.clone(), line: *line, verdict, answer }
    };
    Ok(chosen.into_iter().map(outcome).collect())
}
