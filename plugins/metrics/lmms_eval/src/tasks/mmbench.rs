//! MMBench: every copy of a question must be right.

use std::borrow::Cow;

use ovhost_eval_scoring::mcq;
use ovhost_eval_scoring::read;
use ovhost_eval_scoring::tasks::mmbench::{self, COPY};
use ovhost_sdk::prelude::*;

use crate::entry::{Outcome, Step, Task, field, optional};
use crate::rows::{Row, Spec};
use crate::setup::Setup;

/// `mmbench`.
pub struct MmBench;

const CATEGORIES: [&str; 20] = [
    "image_style",
    "image_topic",
    "image_scene",
    "image_emotion",
    "image_quality",
    "ocr",
    "celebrity_recognition",
    "object_localization",
    "attribute_recognition",
    "spatial_relationship",
    "attribute_comparison",
    "action_recognition",
    "physical_property_reasoning",
    "function_reasoning",
    "identity_reasoning",
    "social_relation",
    "nature_relation",
    "physical_relation",
    "structuralized_imagetext_understanding",
    "future_prediction",
];
const GROUPS: [&str; 6] = [
    "coarse_perception",
    "finegrained_perception (instance-level)",
    "finegrained_perception (cross-instance)",
    "attribute_reasoning",
    "relation_reasoning",
    "logic_reasoning",
];

/// The options that the record has. Without mending A to D, "nan" too; mended A to E, those that say something.
fn choices<'a>(record: &Fields<'a>, mended: bool) -> Vec<(char, Cow<'a, str>)> {
    let last = if mended { 'E' } else { 'D' };
    let there = |letter: char| {
        let text = field(record, &letter.to_string()).ok()?;
        (!mended || !(text.is_empty() || text == "nan")).then_some((letter, text))
    };
    ('A'..=last).filter_map(there).collect()
}

fn index(record: &Fields<'_>) -> Result<i64, String> {
    let index = field(record, "index")?;
    index.parse().map_err(|_| format!("the record's `index` is {index}; it should be a whole number"))
}

fn outcome(record: &Fields<'_>, letter: Option<char>) -> Result<Outcome, String> {
    let (gold, index) = (field(record, "answer")?, index(record)?);
    let read = letter.map(String::from);
    let right = read.as_deref() == Some(&*gold);
    Ok(Outcome::read(read, right).of(optional(record, "category"), optional(record, "L2-category"), index.to_string()))
}

impl Task for MmBench {
    const NAME: &'static str = "mmbench";
    const SUMMARY: &'static str = "MMBench: the circular score, by category.";

    fn fields(_setup: &Setup) -> &'static [&'static str] {
        &["A", "B", "C", "D", "E", "answer", "index", "category", "L2-category", "question"]
    }

    fn specs() -> Vec<Spec> {
        let all = Spec::all("gpt_eval_score", 100.0);
        let categories = CATEGORIES.iter().map(|category| all.category(category));
        let groups = GROUPS.iter().map(|group| all.group(group));
        std::iter::once(all.clone()).chain(groups).chain(categories).collect()
    }

    fn score(setup: &Setup, record: &Fields<'_>, answer: &str) -> Result<Step, String> {
        let choices = choices(record, setup.mended());
        let texts = || choices.iter().map(|(letter, text)| (*letter, &**text));
        let mended = || {
            let texts: Vec<&str> =
                ('A'..='E').map(|l| choices.iter().find(|(c, _)| *c == l).map_or("", |(_, t)| t)).collect();
            read::letter(answer, &texts).filter(|letter| choices.iter().any(|(choice, _)| choice == letter))
        };
        // Mended, no letter is guessed: "A" in a short sentence may be an article.
        let letter = if setup.mended() {
            mended().or_else(|| mmbench::option_text(answer, texts()))
        } else {
            mmbench::infer(answer, texts())
        };
        if letter.is_none() && setup.config.judge {
            return Ok(Step::Ask(request(record, &choices, answer, none(setup))?));
        }
        let letters: Vec<char> = choices.iter().map(|(letter, _)| *letter).collect();
        let letters = if letters.is_empty() { mcq::DEFAULT_CHOICES.to_vec() } else { letters };
        let letter = letter.or_else(|| if setup.mended() { None } else { mcq::extract(answer, &letters) });
        outcome(record, letter).map(Step::Done)
    }

    fn judged(setup: &Setup, record: &Fields<'_>, _answer: &str, reply: &str) -> Result<Outcome, String> {
        let choices = choices(record, setup.mended());
        if setup.mended() && says_none(reply) {
            return outcome(record, None);
        }
        let letter = mmbench::infer(reply, choices.iter().map(|(letter, text)| (*letter, &**text)));
        let letter = letter.ok_or_else(|| format!("the judge's reply names no option: {reply}"))?;
        outcome(record, Some(letter))
    }

    fn value(_setup: &Setup, spec: &Spec, rows: &[&Row]) -> (f64, Option<f64>) {
        let of = |row: &&Row| (row.item.parse().unwrap_or(0), row.score == 1.0, "", "");
        let numbered: Vec<_> = rows.iter().map(of).collect();
        let overall = mmbench::circular(numbered.iter().copied()).overall;
        let questions = numbered.iter().filter(|(index, ..)| *index < COPY).count() as f64;
        // Without the questions' own rows, as in a part of the data, copies stand for them.
        let overall = if overall.is_nan() {
            mmbench::circular(numbered.iter().map(|(index, right, ..)| (index % COPY, *right, "", ""))).overall
        } else {
            overall
        };
        let error = (questions > 1.0).then(|| (overall * (1.0 - overall) / (questions - 1.0)).sqrt() * spec.scale);
        (overall * spec.scale, error)
    }
}

/// What a judge says where an answer means no option: E to the reference, though a question's fifth option is E too.
fn none(setup: &Setup) -> &'static str {
    if setup.mended() { "none" } else { "E" }
}

/// Whether a judge's reply is "none", whatever the case and the marks.
fn says_none(reply: &str) -> bool {
    reply.trim_matches(|c: char| !c.is_alphanumeric()).eq_ignore_ascii_case("none")
}

fn request(record: &Fields<'_>, choices: &[(char, Cow<'_, str>)], answer: &str, none: &str) -> Result<String, String> {
    let options: String = choices.iter().map(|(letter, text)| format!("{letter}. {text}\n")).collect();
    Ok(format!(
        "A question with options was answered in free words. Say which option the answer means. Reply with the option's letter \
         alone; if the answer means none of them, reply with {none}.\n\nQuestion: {}\nOptions:\n{options}Answer: {answer}\nLetter: ",
        field(record, "question")?
    ))
}
