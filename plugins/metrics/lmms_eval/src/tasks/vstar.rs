//! V*.

use ovhost_eval_scoring::python::text;
use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::vstar;
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, optional};
use crate::rows::Spec;
use crate::setup::Setup;

/// `vstar`.
pub struct VStar;

impl Task for VStar {
    const NAME: &'static str = "vstar";
    const SUMMARY: &'static str = "V*: letters A to D, by category.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["label", "category"]
    }

    fn specs() -> Vec<Spec> {
        let all = Spec::all("vstar_overall_acc", 100.0);
        let of = |category: &str| Spec { name: format!("vstar_{category}_acc"), ..all.category(category) };
        vec![all.clone(), of("direct_attributes"), of("relative_position")]
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let gold = text::upper(text::strip(&field(record, "label")?));
        let letter = if setup.mended() { read::letter(answer, &[""; 4]) } else { vstar::parse(answer) };
        let read = letter.map(String::from);
        let right = read.as_ref() == Some(&gold);
        Ok(Step::Done(Outcome::read(read, right).of(optional(record, "category"), "", "")))
    }
}
