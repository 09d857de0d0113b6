//! MMMU and MMMU-Pro.

use ovhost_eval_scoring::prompts::mmmu as prompt;
use ovhost_eval_scoring::python::literal;
use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::mmmu::{self, Choice, DOMAINS};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field};
use crate::rows::{self, Draw, Row, Spec};
use crate::setup::Setup;

/// `mmmu`: subjects are in the id.
pub struct Mmmu;
/// `mmmu_pro`: subjects are a field.
pub struct MmmuPro;

impl Task for Mmmu {
    const NAME: &'static str = "mmmu";
    const SUMMARY: &'static str = "MMMU: letters and open answers, by domain and subject.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["id", "question_type", "options", "answer"]
    }

    fn specs() -> Vec<Spec> {
        specs()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let id = field(record, "id")?;
        let subject =
            mmmu::subject(&id).ok_or_else(|| format!("the id `{id}` has no subject, as \"validation_Art_1\" has"))?;
        score(setup, record, answer, subject)
    }

    fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        value(setup, spec, rows)
    }
}

impl Task for MmmuPro {
    const NAME: &'static str = "mmmu_pro";
    const SUMMARY: &'static str = "MMMU-Pro: letters A to J, by domain and subject.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["subject", "question_type", "options", "answer"]
    }

    fn specs() -> Vec<Spec> {
        specs()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        score(setup, record, answer, &field(record, "subject")?)
    }

    fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        value(setup, spec, rows)
    }
}

fn specs() -> Vec<Spec> {
    let all = Spec::all("mmmu_acc", 1.0);
    let domains = DOMAINS.iter().map(|(domain, _)| all.group(domain));
    let subjects = DOMAINS.iter().flat_map(|(_, subjects)| *subjects).map(|subject| all.category(subject));
    std::iter::once(all.clone()).chain(domains).chain(subjects).collect()
}

fn score(setup: &Setup, record: &Fields<'_>, answer: &str, subject: &str) -> Result<Step, String> {
    let golds = mmmu::golds(&record.value("answer")?.ok_or("the record has no `answer`")?);
    let domain = DOMAINS.iter().find(|(_, subjects)| subjects.contains(&subject)).map_or("", |(domain, _)| domain);
    let outcome = if record.text("question_type")?.is_some_and(|kind| kind != "multiple-choice") {
        let candidates = mmmu::parse_open(answer);
        let kept = candidates.first().map(mmmu::Value::text).unwrap_or_default();
        let golds = golds.iter().map(String::as_str);
        let right = if setup.mended() {
            mmmu::open_is_right(golds, &candidates)
        } else {
            mmmu::open_is_right_by_characters(golds, &kept)
        };
        Outcome::read(Some(kept), right)
    } else {
        let options = options(record)?;
        let letter = if setup.mended() {
            read::letter(answer, &options)
        } else {
            match mmmu::parse_choice(answer, &options) {
                Choice::Letter(letter) => Some(letter),
                Choice::Unread => None,
            }
        };
        let read = letter.map(String::from);
        let mut outcome = Outcome::read(read.clone(), read.is_some_and(|read| golds.contains(&read)));
        if letter.is_none() && !setup.mended() {
            let letters = u32::try_from(options.len()).unwrap_or(u32::MAX);
            let gold = golds.into_iter().filter(|gold| gold.len() == 1).collect();
            outcome.row.draw = Some(Draw { letters, gold });
        }
        outcome
    };
    Ok(Step::Done(outcome.of(subject, domain, "")))
}

/// The texts of `options`, mostly a Python list as text.
fn options(record: &Fields<'_>) -> Result<Vec<String>, String> {
    match record.text("options")? {
        Some(text) => literal::texts(&text).map_err(|e| format!("the record's `options`: {e}")),
        None => prompt::options(&record.object()?),
    }
}

/// The reference weighs subjects by size and rounds to five places.
fn value(setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
    let (mean, error) = rows::mean(rows, spec.scale);
    if setup.mended() {
        return (mean, error);
    }
    let mut subjects: Vec<(&str, u64, u64)> = Vec::new();
    for row in rows {
        let at = subjects.iter().position(|(subject, ..)| *subject == row.category).unwrap_or(subjects.len());
        if at == subjects.len() {
            subjects.push((&row.category, 0, 0));
        }
        subjects[at].1 += u64::from(row.score == 1.0);
        subjects[at].2 += 1;
    }
    (mmmu::accuracy(subjects.into_iter().map(|(_, right, rows)| (right, rows))).unwrap_or(mean), error)
}
