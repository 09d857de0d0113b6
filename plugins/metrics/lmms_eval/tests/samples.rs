//! The tasks' samples in their data sets' own form, with saved answers: values and scores are those that lmms-eval's own
//! functions give for them (`tests/fixtures/eval/make_expected.py`).

#[path = "../../../../tests/fixtures/eval/rows.rs"]
mod rows;

use lmms_eval::*;
use ovhost_sdk::prelude::*;
use ovhost_sdk::testing;
use rows::Task as File;

/// An answer, and what a judge says of it.
fn answers(task: &str) -> Vec<(String, Option<String>)> {
    let path = rows::root().join(format!("tests/fixtures/eval/answers/{task}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let line: Json = line.parse().unwrap();
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        (text("prediction").unwrap(), text("judgement"))
    };
    text.lines().map(line).collect()
}

struct Outcome {
    values: Vec<MetricValue>,
    scores: Vec<Json>,
    errors: Vec<String>,
}

/// Scores a task's answers, asking the saved judge where the entry asks one.
fn run<T: Task>(config: Json, texts: Option<&[u8]>, records: &[Json], answers: &[(String, Option<String>)]) -> Outcome {
    let assets: Vec<(&str, &[u8])> = texts.map(|texts| ("texts", texts)).into_iter().collect();
    let mut metric = testing::metric_with_assets::<Entry<T>>(config, &assets).unwrap();
    assert_eq!(records.len(), answers.len(), "{}", T::NAME);
    let (mut scores, mut errors) = (Vec::new(), Vec::new());
    for (record, (prediction, judgement)) in records.iter().zip(answers) {
        let row = json!({ "prediction": prediction, "record": record.to_string() });
        let mut outcome = metric.update(json!([row]));
        if !outcome.0.needs_judge.is_empty() {
            let judgement = judgement.as_ref().unwrap_or_else(|| panic!("{} asks a judge of {prediction}", T::NAME));
            let mut row = row.clone();
            row["judgement"] = json!(judgement);
            outcome = metric.judged(json!([row]));
        }
        errors.extend(outcome.errors().into_iter().map(|(_, error)| error.to_owned()));
        scores.extend(outcome.column("score/lmms_eval"));
    }
    Outcome { values: metric.finalize(), scores, errors }
}

fn play(name: &str, profile: &str, texts: Option<&[u8]>, suffix: &str) -> Outcome {
    let file = File::named(name);
    let records: Vec<Json> = file.samples(profile).into_iter().map(|sample| sample.record).collect();
    let entry = &file.0["metric"][0];
    let config = File::config(entry, profile);
    let answers = answers(&format!("{name}{suffix}"));
    macro_rules! entries {
        ($($name:literal $entry:ty),+) => {
            match entry["entry"].as_str().unwrap() {
                $($name => run::<$entry>(config, texts, &records, &answers),)+
                other => panic!("no entry {other}"),
            }
        };
    }
    entries! {
        "ai2d" Ai2d, "chartqa" ChartQa, "charxiv_descriptive" CharXivDescriptive, "charxiv_reasoning" CharXivReasoning,
        "docvqa" DocVqa, "mathvista" MathVista, "mmbench" MmBench, "mme" Mme, "mmerealworld" MmeRealWorld, "mmmu" Mmmu,
        "mmmu_pro" MmmuPro, "mmstar" MmStar, "scienceqa" ScienceQa, "vstar" VStar
    }
}

/// The tasks with metrics.
fn scored() -> Vec<String> {
    File::all().into_iter().filter(|name| File::named(name).0.contains_key("metric")).collect()
}

#[test]
fn values_of_the_profile_lmms_eval_are_the_references_own() {
    let text = std::fs::read_to_string(rows::root().join("tests/fixtures/eval/expected.json")).unwrap();
    let expected: Json = text.parse().unwrap();
    let theirs = std::env::var_os("OVHOST_EVAL_TEXTS").map(|path| std::fs::read(path).unwrap());
    let mut compared = 0;
    for name in scored() {
        let judged = name.starts_with("charxiv");
        if judged && theirs.is_none() {
            println!("{name}: not compared; it needs the reference's texts, by OVHOST_EVAL_TEXTS");
            continue;
        }
        let want = &expected["tasks"][&name];
        let got = play(&name, "lmms-eval", theirs.as_deref(), "");
        assert_eq!(got.errors, Vec::<String>::new(), "{name}");
        for (metric, value) in want["metrics"].as_object().unwrap() {
            let found =
                got.values.iter().find(|found| found.name == *metric).unwrap_or_else(|| panic!("{name}: {metric}"));
            let value = value.as_f64().unwrap();
            assert!(
                (found.value - value).abs() <= 1e-12 * value.abs(),
                "{name}, {metric}: {} is not {value}",
                found.value
            );
            compared += 1;
        }
        // Rows without a score of their own: a letter that is still to be drawn, and those that count with others.
        for (row, (got, want)) in got.scores.iter().zip(want["scores"].as_array().unwrap()).enumerate() {
            assert!(got.is_null() || want.is_null() || got == want, "{name}, row {row}: {got} is not {want}");
        }
    }
    assert!(compared >= 29, "{compared}");
}

#[test]
fn every_row_is_scored_in_every_profile_or_says_why() {
    let texts = std::fs::read(rows::root().join("tests/fixtures/eval/texts.json")).unwrap();
    for name in scored() {
        let judged = name.starts_with("charxiv");
        for profile in if judged { &["fixed"][..] } else { &["fixed", "lmms-eval", "paper-2025-09"] } {
            let suffix = if name == "charxiv_val_descriptive" { ".fixed" } else { "" };
            let got = play(&name, profile, judged.then_some(texts.as_slice()), suffix);
            // One judgement of each CharXiv task is no JSON.
            let failed = usize::from(judged);
            assert_eq!(got.errors.len(), failed, "{name} {profile}: {:?}", got.errors);
            let file = File::named(&name);
            let main = got.values.iter().find(|value| Some(value.name.as_str()) == file.0["main"].as_str());
            let main = main.unwrap_or_else(|| panic!("{name} has no value {}", file.0["main"]));
            assert!(main.value > 0.0 && main.count > 0, "{name} {profile}: {main:?}");
            assert_eq!(got.values[0].name, main.name, "{name}");
        }
    }
}
