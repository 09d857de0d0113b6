//! ScienceQA.

use ovhost_eval_scoring::python::text;
use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::scienceqa;
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, list};
use crate::rows::Spec;
use crate::setup::Setup;

/// `scienceqa`.
pub struct ScienceQa;

impl Task for ScienceQa {
    const NAME: &'static str = "scienceqa";
    const SUMMARY: &'static str = "ScienceQA: the option's letter.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["choices", "answer"]
    }

    fn specs() -> Vec<Spec> {
        vec![Spec::all("exact_match", 1.0)]
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let choices = list(record, "choices")?;
        let index =
            record.value("answer")?.as_ref().and_then(Json::as_u64).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|&index| index < choices.len());
        let gold = text::letter(index.ok_or("the record's `answer` is no index of its `choices`")?);
        Ok(Step::Done(if setup.mended() {
            let letter = read::letter(answer, &choices);
            Outcome::read(letter.map(String::from), letter == Some(gold))
        } else {
            Outcome::read(Some(answer.into()), scienceqa::is_right(answer, &gold.to_string()))
        }))
    }
}
