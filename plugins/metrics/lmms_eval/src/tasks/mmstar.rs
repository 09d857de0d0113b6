//! MMStar.

use ovhost_eval_scoring::python::text;
use ovhost_eval_scoring::tasks::mmstar::{self, CATEGORIES, CHOICES};
use ovhost_eval_scoring::{mcq, read};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, optional};
use crate::rows::{Row, Spec};
use crate::setup::{Profile, Setup};

/// `mmstar`.
pub struct MmStar;

impl Task for MmStar {
    const NAME: &'static str = "mmstar";
    const SUMMARY: &'static str =
        "MMStar: the mean over the 18 categories of the second level, and over those of each first one.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["answer", "category", "l2_category"]
    }

    fn specs() -> Vec<Spec> {
        let all = Spec::all("average", 1.0);
        let of = |category: &&str| Spec { name: (*category).into(), ..all.category(category) };
        std::iter::once(all.clone()).chain(CATEGORIES.iter().map(of)).collect()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let gold = field(record, "answer")?;
        let letter = match setup.config.profile {
            Profile::Fixed => read::letter(answer, &[""; 4]),
            Profile::LmmsEval | Profile::Paper => mcq::extract(answer, &CHOICES),
        };
        let read = letter.map(String::from);
        let right = match setup.config.profile {
            Profile::Paper => mmstar::is_right_2025_09(answer, &gold),
            Profile::Fixed | Profile::LmmsEval => {
                read.as_deref().unwrap_or_default() == text::upper(text::strip(&gold))
            }
        };
        Ok(Step::Done(Outcome::read(read, right).of(optional(record, "category"), optional(record, "l2_category"), "")))
    }

    fn value(_setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        // A mean of means of different sizes: no standard error of single rows fits.
        (mmstar::average(rows.iter().map(|row| (row.group.as_str(), row.score))) * spec.scale, None)
    }
}
