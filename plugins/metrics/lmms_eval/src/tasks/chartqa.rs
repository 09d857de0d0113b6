//! ChartQA.

use ovhost_eval_scoring::tasks::chartqa;
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, optional};
use crate::rows::Spec;
use crate::setup::Setup;

/// `chartqa`.
pub struct ChartQa;

impl Task for ChartQa {
    const NAME: &'static str = "chartqa";
    const SUMMARY: &'static str = "ChartQA: relaxed accuracy, by split.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["answer", "type"]
    }

    fn specs() -> Vec<Spec> {
        let all = Spec::all("relaxed_overall", 1.0);
        let of = |split: &str| Spec { name: format!("relaxed_{split}_split"), ..all.category(split) };
        vec![all.clone(), of("human"), of("augmented")]
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let gold = field(record, "answer")?;
        let right =
            if setup.mended() { chartqa::is_right_mended(answer, &gold) } else { chartqa::is_right(answer, &gold) };
        let split = if optional(record, "type") == "human_test" { "human" } else { "augmented" };
        Ok(Step::Done(Outcome::read(Some(answer.into()), right).of(split, "", "")))
    }
}
