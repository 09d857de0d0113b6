//! MME.

use ovhost_eval_scoring::tasks::mme::{self, COGNITION, PERCEPTION};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field};
use crate::rows::{Pick, Row, Spec};
use crate::setup::Setup;

/// `mme`.
pub struct Mme;

impl Task for Mme {
    const NAME: &'static str = "mme";
    const SUMMARY: &'static str = "MME: yes or no, scores of categories summed to perception and cognition.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["answer", "category", "question_id"]
    }

    fn specs() -> Vec<Spec> {
        let sum = |name: &str, scale: f64| Spec { pick: Pick::Group(name.into()), ..Spec::all(name, scale) };
        let of = |category: &&str| Spec { name: (*category).into(), ..Spec::all("", 200.0).category(category) };
        let sums = [sum("mme_perception_score", 2000.0), sum("mme_cognition_score", 800.0)];
        sums.into_iter().chain(PERCEPTION.iter().chain(&COGNITION).map(of)).collect()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let (gold, category) = (field(record, "answer")?, field(record, "category")?);
        if !PERCEPTION.contains(&&*category) && !COGNITION.contains(&&*category) {
            return Err(format!("the category `{category}` is none of MME's"));
        }
        let read = if setup.mended() { mme::parse_words(answer) } else { mme::parse(answer) };
        let score = mme::score(&gold, read)
            .ok_or_else(|| format!("the record's `answer` is {gold}; it should be Yes or No"))?;
        let group = mme::metric(&category);
        let read = Some(read.to_owned()).filter(|read| read != "other");
        Ok(Step::Done(Outcome::read(read, score == 1.0).of(category, group, field(record, "question_id")?)))
    }

    fn value(_setup: &Setup, _spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        let triples = rows.iter().map(|row| (row.category.as_str(), row.item.as_str(), row.score));
        let sum = mme::categories(triples, false).map(|scores| scores.iter().map(|(_, score)| score).sum());
        (sum.unwrap_or(f64::NAN), None)
    }
}
