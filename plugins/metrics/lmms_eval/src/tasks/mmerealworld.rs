//! MME-RealWorld, in English and Chinese.

use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::mmerealworld::{self, SUBTASKS};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, list};
use crate::rows::Spec;
use crate::setup::Setup;

/// `mmerealworld`.
pub struct MmeRealWorld;

impl Task for MmeRealWorld {
    const NAME: &'static str = "mmerealworld";
    const SUMMARY: &'static str = "MME-RealWorld: letters A to E, by task and subtask.";

    fn fields(setup: &Setup) -> &'static [&'static str] {
        if setup.mended() { &["answer", "category", "multi-choice options"] } else { &["answer", "category"] }
    }

    fn specs() -> Vec<Spec> {
        let all = Spec::all("mme_realworld_score", 1.0);
        let kinds = ["Perception", "Reasoning"].map(|kind| all.group(kind));
        let subtasks = SUBTASKS.map(|subtask| all.category(subtask));
        std::iter::once(all).chain(kinds).chain(subtasks).collect()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let (gold, category) = (field(record, "answer")?, field(record, "category")?);
        let (read, right) = if setup.mended() {
            let options = list(record, "multi-choice options")?;
            let texts: Vec<&str> = options.iter().map(|option| option.get(4..).unwrap_or(option)).collect();
            let read = read::letter(answer, &texts).map(String::from);
            let right = read.as_deref() == Some(gold.trim());
            (read, right)
        } else {
            let read = mmerealworld::parse(answer);
            let right = mmerealworld::is_right(&read, &gold);
            (Some(read).filter(|read| !read.is_empty()), right)
        };
        let (subtask, kind) = (mmerealworld::subtask(&category), mmerealworld::kind(&category));
        Ok(Step::Done(Outcome::read(read, right).of(subtask, kind, "")))
    }
}
