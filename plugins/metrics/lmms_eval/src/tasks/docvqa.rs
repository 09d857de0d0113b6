//! DocVQA.

use ovhost_eval_scoring::python::text;
use ovhost_eval_scoring::{distance, stats};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, list, optional};
use crate::rows::Spec;
use crate::setup::Setup;

/// `docvqa`.
pub struct DocVqa;

impl Task for DocVqa {
    const NAME: &'static str = "docvqa";
    const SUMMARY: &'static str = "DocVQA: ANLS.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["answers", "docId"]
    }

    fn specs() -> Vec<Spec> {
        vec![Spec::all("anls", 1.0)]
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let golds = list(record, "answers").map_err(|e| format!("{e} (the test split has no answers to score)"))?;
        // Mended, spaces that do not count in the distance do not count in the length either.
        let plain = |said: &str| match setup.mended() {
            true => text::split(said).collect::<Vec<_>>().join(" "),
            false => said.to_owned(),
        };
        let golds: Vec<String> = golds.iter().map(|gold| plain(gold)).collect();
        let score = distance::anls(golds.iter().map(String::as_str), &plain(answer));
        let mut outcome = Outcome::read(Some(answer.into()), false).of("", "", optional(record, "docId"));
        outcome.row.score = score.ok_or("the record's `answers` is empty")?;
        Ok(Step::Done(outcome))
    }

    fn value(_setup: &Setup, spec: &Spec, rows: &[&crate::rows::Row]) -> (f64, Option<f64>) {
        let documents = rows.iter().all(|row| !row.item.is_empty());
        let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
        // Clusters only where every row says its document.
        let error = if documents { crate::rows::mean(rows, spec.scale).1 } else { Some(stats::mean_stderr(&scores)) };
        (stats::mean(&scores) * spec.scale, error.filter(|error| error.is_finite()))
    }
}
