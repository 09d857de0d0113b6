//! AI2D, with and without masks.

use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::ai2d;
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, list};
use crate::rows::Spec;
use crate::setup::Setup;

/// `ai2d`.
pub struct Ai2d;

impl Task for Ai2d {
    const NAME: &'static str = "ai2d";
    const SUMMARY: &'static str = "AI2D: the option's letter.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["options", "answer"]
    }

    fn specs() -> Vec<Spec> {
        vec![Spec::all("exact_match", 1.0)]
    }

    fn filter<'a>(setup: &Setup, answer: &'a str) -> &'a str {
        if setup.mended() { answer } else { ai2d::filter(answer) }
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let options = list(record, "options")?;
        let index = field(record, "answer")?;
        let gold = ai2d::target(&index, options.len());
        let gold =
            gold.ok_or_else(|| format!("the record's `answer` is {index}, and it has {} options", options.len()))?;
        Ok(Step::Done(if setup.mended() {
            let letter = read::letter(answer, &options);
            Outcome::read(letter.map(String::from), letter == Some(gold))
        } else {
            Outcome::read(Some(answer.into()), ai2d::IGNORE.same(answer, &gold.to_string()))
        }))
    }
}
