//! Comparisons of made-up evaluations, their numbers by hand.

mod common;

use std::fs;
use std::path::Path;

use common::{evaluation, line, results, scored, task, write_lines};
use ovhost_eval_report::{CompareOptions, Comparison, Pairing, Verdict, compare};
use serde_json::{Value, json};

fn compared(a: &Path, b: &Path) -> Comparison {
    compare(a, b, &CompareOptions::default()).unwrap()
}

fn error(a: &Path, b: &Path, options: &CompareOptions) -> String {
    format!("{:#}", compare(a, b, options).unwrap_err())
}

/// A 1 1 0 0 1 and B 1 0 1 1 1: differences 0 -1 1 1 0, mean 0.2, squares of deviations 0.04 1.44 0.64 0.64 0.04 = 2.8,
/// variance 0.7, error sqrt(0.14); t(0.975, 4) = 2.776445…
#[test]
fn pairs_by_hand() {
    let ((_a, a), (_b, b)) = (scored(&[1.0, 1.0, 0.0, 0.0, 1.0]), scored(&[1.0, 0.0, 1.0, 1.0, 1.0]));
    let all = compared(&a, &b);
    let [score] = &all.tasks[0].scores[..] else {
        panic!("the plugin's own name for the same value is no second score")
    };
    assert_eq!((score.score.as_str(), score.pairs, score.clusters), ("exact_match", 5, None));
    assert!((score.mean_a - 0.6).abs() < 1e-15 && (score.mean_b - 0.8).abs() < 1e-15);
    assert!((score.difference.difference - 0.2).abs() < 1e-15);
    assert!((score.difference.stderr.unwrap() - 0.14_f64.sqrt()).abs() < 1e-15);
    assert!((score.difference.high.unwrap() - (0.2 + 2.776_445_105_197_799 * 0.14_f64.sqrt())).abs() < 1e-12);
    assert_eq!((score.wins, score.losses, score.ties), (2, 1, 2));
    // Of three that differ: 2 (1 + 3) / 8.
    assert_eq!(score.mcnemar_p_value, Some(1.0));
    assert!(all.overall.is_none() && all.warnings.is_empty(), "{:?}", all.warnings);
    assert_eq!(all.verdict(), Verdict::Pass);
    let wide = compare(&a, &b, &CompareOptions { confidence: 0.99, ..Default::default() }).unwrap();
    assert!(wide.tasks[0].scores[0].difference.high > score.difference.high);
}

/// The same differences, the first two and the last two of one picture: sums of clusters' deviations (-0.2 -1.2), 0.8 and
/// (0.8 -0.2): products within, doubled: 2 (0.24) + 2 (-0.16) = 0.16, over 25; variance over n 0.14. Two degrees of freedom.
#[test]
fn clusters_by_hand() {
    let make = |scores: &[f64]| {
        let cluster = |mut line: Value, name: &str| {
            line["cluster"] = json!(name);
            line
        };
        let lines = scores.iter().enumerate().map(|(i, s)| {
            let line = line(i as u64, *s);
            match i {
                0 | 1 => cluster(line, "p"),
                3 | 4 => cluster(line, "q"),
                // Without a picture: alone.
                _ => line,
            }
        });
        evaluation(&results(&[("t", task(5, 0.5))]), &[("t", lines.collect())])
    };
    let ((_a, a), (_b, b)) = (make(&[1.0, 1.0, 0.0, 0.0, 1.0]), make(&[1.0, 0.0, 1.0, 1.0, 1.0]));
    let all = compared(&a, &b);
    let score = &all.tasks[0].scores[0];
    assert!((score.difference.stderr.unwrap() - (0.14_f64 + 0.16 / 25.0).sqrt()).abs() < 1e-15);
    assert_eq!(
        (score.clusters, score.difference.degrees_of_freedom, score.mcnemar_p_value),
        (Some(3), Some(2.0), None)
    );
    assert!(all.text().contains("Pairs of one cluster share pictures"), "{}", all.text());
}

#[test]
fn equal_runs_pass_whatever_is_asked() {
    let (_a, a) = scored(&[1.0, 0.0, 1.0, 0.0]);
    for significant in [false, true] {
        let options = CompareOptions { fail_below: Some(0.0), significant, ..Default::default() };
        let same = compare(&a, &a, &options).unwrap();
        let score = &same.tasks[0].scores[0];
        assert_eq!(
            (score.difference.difference, score.difference.stderr, score.difference.p_value),
            (0.0, Some(0.0), Some(1.0))
        );
        assert_eq!((score.wins, score.losses, score.ties, same.verdict()), (0, 0, 4, Verdict::Pass));
        assert!(same.warnings.is_empty() && same.text().contains("verdict: pass"), "{}", same.text());
    }
}

#[test]
fn the_verdict_is_about_points_and_chance() {
    let (first, second): (Vec<f64>, Vec<f64>) = (vec![1.0; 50], (0..50).map(|i| f64::from(u8::from(i >= 1))).collect());
    let ((_a, a), (_b, b)) = (scored(&first), scored(&second));
    let of = |a: &Path, b: &Path, points: f64, significant: bool| {
        compare(a, b, &CompareOptions { fail_below: Some(points), significant, ..Default::default() })
            .unwrap()
            .verdict()
    };
    // One of fifty is two points: as many as allowed is no failure, and one alone is chance.
    assert_eq!(of(&a, &b, 2.0, false), Verdict::Pass);
    let Verdict::Fail(reasons) = of(&a, &b, 1.9, false) else { panic!() };
    assert!(reasons[0].contains("t exact_match: B is 2.00 points worse than A, 1.9 are allowed"), "{reasons:?}");
    assert_eq!(of(&a, &b, 1.9, true), Verdict::Pass);
    assert_eq!(of(&b, &a, 0.0, false), Verdict::Pass, "better is never a failure");
    let worse: Vec<f64> = (0..50).map(|i| f64::from(u8::from(i >= 20))).collect();
    let (_c, c) = scored(&worse);
    let Verdict::Fail(reasons) = of(&a, &c, 5.0, true) else { panic!() };
    assert!(reasons[0].contains("its interval is -"), "{reasons:?}");
    // A single pair has no interval.
    let ((_d, d), (_e, e)) = (scored(&[1.0]), scored(&[0.0]));
    assert!(matches!(of(&d, &e, 1.0, true), Verdict::Incomparable(_)));
    assert!(matches!(of(&d, &e, 1.0, false), Verdict::Fail(_)));
}

#[test]
fn what_b_could_not_score_does_not_pass_unseen() {
    let (_a, a) = scored(&[1.0, 1.0, 1.0, 1.0]);
    let mut failed = line(3, 0.0);
    for field in ["scores", "exact_match", "read"] {
        failed.as_object_mut().unwrap().remove(field);
    }
    failed["error"] = json!("image: damaged");
    let lines = vec![line(0, 1.0), line(1, 1.0), line(2, 1.0), failed];
    let (_b, b) = evaluation(&results(&[("t", task(4, 1.0))]), &[("t", lines)]);
    let options = CompareOptions { fail_below: Some(1.0), ..Default::default() };
    let all = compare(&a, &b, &options).unwrap();
    assert_eq!((all.tasks[0].scores[0].pairs, all.tasks[0].scores[0].scored_a), (3, 4));
    let Verdict::Incomparable(reasons) = all.verdict() else { panic!("{:?}", all.verdict()) };
    assert!(reasons[0].contains("1 of 4 scored samples of A have no partner"), "{reasons:?}");
    let loose = CompareOptions { allow_missing: 0.25, ..options };
    assert_eq!(compare(&a, &b, &loose).unwrap().verdict(), Verdict::Pass);
    assert!(all.text().contains("1 of A's scores and 0 of B's have no partner"), "{}", all.text());
}

#[test]
fn other_data_are_not_paired() {
    let (_a, a) = scored(&[1.0, 1.0, 1.0]);
    let mut other = line(1, 0.0);
    other["doc_hash"] = json!("f".repeat(64));
    let (_b, b) = evaluation(&results(&[("t", task(3, 0.5))]), &[("t", vec![line(0, 1.0), other, line(7, 0.0)])]);
    let all = compared(&a, &b);
    let task = &all.tasks[0];
    assert_eq!((task.mismatched, &task.mismatched_doc_ids[..]), (1, &[1][..]));
    assert_eq!((task.only_in_a, task.only_in_b, task.scores[0].pairs), (1, 1, 1));
    for words in
        ["are not the same (paired by doc_id and doc_hash): doc_id 1", "1 samples are in A alone, 1 in B alone"]
    {
        assert!(all.text().contains(words), "{}", all.text());
    }
}

#[test]
fn a_file_of_lmms_eval_is_paired_by_target() {
    let constant = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b";
    let theirs = |doc_id: u64, target: &str, score: Value| {
        json!({"doc_id": doc_id, "target": target, "filtered_resps": "A", "doc_hash": constant, "input": "Which?",
               "token_counts": [null], "exact_match": score, "submission": {"score": 5}})
    };
    let (_a, a) = scored(&[1.0, 0.0, 1.0]);
    let folder = tempfile::tempdir().unwrap();
    let b = folder.path().join("20260801_101500_samples_t.jsonl");
    let lines = [theirs(2, "A", json!(1.0)), theirs(0, "['A']", json!({"score": 0.0})), theirs(1, "B", json!(1.0))];
    write_lines(&b, &lines);
    // Their folder, and the file by its name.
    for b in [folder.path(), &b] {
        let all = compared(&a, b);
        let task = &all.tasks[0];
        assert_eq!((task.mismatched, task.scores.len(), task.scores[0].pairs), (1, 1, 2));
        assert!((task.scores[0].difference.difference + 0.5).abs() < 1e-15);
        assert!(all.text().contains("paired by doc_id where the target is equal"), "{}", all.text());
        assert!(
            all.text().contains("profile: A fixed, B lmms-eval") && all.text().contains("not known"),
            "{}",
            all.text()
        );
    }
    // Several references: as a list of theirs, or the first of ours.
    let mut ours = line(2, 1.0);
    ours["references"] = json!(["A", "it's"]);
    write_lines(&a.join("samples_t.jsonl"), &[ours]);
    for (target, pairs) in [("['A', \"it's\"]", 1), ("A", 1), ("['A', 'its']", 0)] {
        write_lines(&b, &[theirs(2, target, json!(1.0))]);
        let all = compared(&a, &b);
        assert_eq!(all.tasks[0].scores.first().map_or(0, |score| score.pairs), pairs, "{target}");
    }
    write_lines(&b, &lines);
    write_lines(&a.join("samples_t.jsonl"), &[line(0, 1.0), line(1, 0.0), line(2, 1.0)]);
    let by_id = compare(&a, &b, &CompareOptions { pairing: Pairing::DocId, ..Default::default() }).unwrap();
    assert_eq!((by_id.tasks[0].mismatched, by_id.tasks[0].scores[0].pairs), (0, 3));
    // Their objects without a score of one sample: said, and no verdict.
    let lines = [json!({"doc_id": 0, "target": "A", "gpt_eval_score": {"index": 1, "answer": "A", "prediction": "A"}})];
    write_lines(&b, &lines);
    let none = compared(&a, &b);
    assert!(none.text().contains("gpt_eval_score hold none"), "{}", none.text());
    assert!(matches!(none.verdict(), Verdict::Incomparable(_)));
}

#[test]
fn unfair_settings_are_named() {
    let of = |results: Value| evaluation(&results, &[("t", vec![line(0, 1.0)])]);
    let mut one = results(&[("t", task(1, 1.0))]);
    one["tasks"]["t"]["plugins"][0]["config"] = json!({"profile": "fixed"});
    let mut other = one.clone();
    other["profile"] = json!("lmms-eval");
    other["config"]["limit"] = json!(1);
    other["config"]["gen_kwargs"]["temperature"] = json!(0.7);
    other["versions"]["t"] = json!(2);
    other["configs"]["t"]["generation"]["max_new_tokens"] = json!(32);
    other["tasks"]["t"]["plugins"][0]["sha256"] = json!("c".repeat(64));
    other["tasks"]["t"]["plugins"][0]["config"] = json!({"profile": "lmms-eval"});
    other["tasks"]["t"]["plugins"][0]["trust"] = json!("pinned");
    other["config"]["judge"] = json!({"model": "j"});
    other["settings"]["blank_images"] = json!(true);
    other["settings"]["model"] = json!("d".repeat(64));
    let ((_a, a), (_b, b)) = (of(one), of(other));
    let all = compared(&a, &b);
    let expected = [
        "profile: A fixed, B lmms-eval: their rules of prompts and scores differ",
        "limit: A nothing, B 1",
        "gen_kwargs.temperature: A nothing, B 0.7",
        "judge: A nothing, B {\"model\":\"j\"}",
        "settings.blank_images: A nothing, B true",
        "t: version: A 1, B 2",
        "t: generation.max_new_tokens: A 16, B 32",
        "t: plugin metric lmms_eval: sha256: A aaaaaaaaaaaa…, B cccccccccccc…",
    ];
    assert_eq!(all.warnings, expected, "the model and who trusts a plugin are no differences");
    assert!(all.markdown().contains("* t: version: A 1, B 2"));
    // What was really asked with stands before what the task files say.
    let asked = |folder: &Path, tokens: u64| {
        let path = folder.join("results.json");
        let mut results: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        results["settings"]["tasks"] =
            json!({"t": {"generation": {"max_new_tokens": tokens}, "data": [["x.parquet", 5]]}});
        fs::write(path, results.to_string()).unwrap();
    };
    asked(&a, 64);
    asked(&b, 128);
    let generation: Vec<String> =
        compared(&a, &b).warnings.into_iter().filter(|warning| warning.contains("max_new_tokens")).collect();
    assert_eq!(generation, ["t: generation.max_new_tokens: A 64, B 128"]);
}

/// Two tasks: differences -0.5 (pairs -1, 0: error 0.5) and 0.25 (pairs 0 0 0 1: error 0.25); mean -0.125, error
/// sqrt(0.25 + 0.0625) / 2.
#[test]
fn the_overall_line_is_the_mean_of_tasks() {
    let of = |x: &[f64], y: &[f64]| {
        let lines = |scores: &[f64]| scores.iter().enumerate().map(|(i, s)| line(i as u64, *s)).collect::<Vec<_>>();
        evaluation(
            &results(&[("x", task(2, 0.5)), ("y", task(4, 0.5)), ("empty", task(0, 0.0))]),
            &[("x", lines(x)), ("y", lines(y)), ("empty", vec![])],
        )
    };
    let ((_a, a), (_b, b)) = (of(&[1.0, 1.0], &[0.0; 4]), of(&[0.0, 1.0], &[0.0, 0.0, 0.0, 1.0]));
    let all = compared(&a, &b);
    let overall = all.overall.clone().unwrap();
    assert_eq!(overall.tasks, 2);
    assert!((overall.difference.difference + 0.125).abs() < 1e-15);
    assert!((overall.difference.stderr.unwrap() - 0.3125_f64.sqrt() / 2.0).abs() < 1e-15);
    // The empty task is in the table and in no mean.
    assert!(all.text().contains("empty    nothing to compare"), "{}", all.text());
    let one = compare(&a, &b, &CompareOptions { tasks: vec!["x".into()], ..Default::default() }).unwrap();
    assert!(one.overall.is_none() && one.tasks.len() == 1);
    let json: Value = serde_json::from_str(&all.json().unwrap()).unwrap();
    assert_eq!(
        (&json["tasks"][0]["scores"][0]["difference"], &json["verdict"]["verdict"]),
        (&json!(-0.5), &json!("pass"))
    );
    assert_eq!(json["tasks"][1]["scores"][0]["pairs"], 4);
}

#[test]
fn the_tables_stand() {
    let ((_a, a), (_b, b)) = (scored(&[1.0, 1.0, 0.0, 0.0, 1.0]), scored(&[1.0, 0.0, 1.0, 1.0, 1.0]));
    let clean = |text: String| {
        let place = |path: &Path| path.display().to_string();
        text.replace(&place(&a), "A_FOLDER").replace(&place(&b), "B_FOLDER")
    };
    let all = compared(&a, &b);
    let expected = "\
A  model-a (A_FOLDER, profile fixed)
B  model-a (B_FOLDER, profile fixed)

task  score        pairs  clusters      A      B   B - A  stderr          interval       p  better/worse/same  McNemar p
t     exact_match      5         -  60.00  80.00  +20.00   37.42  -83.89 to +123.89  0.6213              2/1/2     1.0000

Scores from 0 to 1 are shown in points, hundredths; intervals are of 95 %.
verdict: pass
";
    let spaces = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(spaces(&clean(all.text())), spaces(expected));
    let table: Vec<String> = all.text().lines().skip(3).take(2).map(str::to_owned).collect();
    assert_eq!(table[0].chars().count(), table[1].chars().count(), "columns stand below their heads");
    let markdown = all.markdown();
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.matches('|').count() == 13), "{rows:?}");
}

#[test]
fn what_many_tasks_have_is_said_once() {
    let names = ["a", "b", "c", "d", "e"];
    let of = |version: u64, count: usize| {
        let tasks: Vec<(&str, Value)> = names[..count].iter().map(|name| (*name, task(1, 1.0))).collect();
        let mut all = results(&tasks);
        for name in &names[..count] {
            all["versions"][name] = json!(version);
        }
        let lines: Vec<(&str, Vec<Value>)> = names[..count].iter().map(|name| (*name, vec![line(0, 1.0)])).collect();
        evaluation(&all, &lines)
    };
    for (count, words) in [(5, "a, b, c and 2 more tasks: version: A 1, B 2"), (2, "a, b: version: A 1, B 2")] {
        let ((_a, a), (_b, b)) = (of(1, count), of(2, count));
        assert_eq!(compared(&a, &b).warnings, [words]);
    }
}

/// A value that is a sum over pairs of questions, as MME's, is not what the samples' scores say.
#[test]
fn values_that_are_no_means_are_told_apart() {
    let of = |value: f64| evaluation(&results(&[("t", task(2, value))]), &[("t", vec![line(0, 1.0), line(1, 0.0)])]);
    let ((_a, a), (_b, b)) = (of(0.5), of(50.0));
    assert!(compared(&a, &b).tasks[0].notes.is_empty(), "as a share or in hundredths");
    let (_c, c) = of(130.0);
    let notes = &compared(&a, &c).tasks[0].notes;
    assert!(notes[0].contains("exact_match as the task's value is 0.5000 in A and 130.0000 in B"), "{notes:?}");
}

#[test]
fn scores_that_less_is_better_of_and_those_beyond_one() {
    let with = |values: &[f64]| {
        let lines = values.iter().enumerate().map(|(i, value)| {
            let mut line = line(i as u64, 1.0);
            line["loss"] = json!(value);
            line
        });
        let mut results = results(&[("t", task(values.len() as u64, 1.0))]);
        results["higher_is_better"] = json!({"t": {"loss": false}});
        evaluation(&results, &[("t", lines.collect())])
    };
    let ((_a, a), (_b, b)) = (with(&[2.0, 3.0]), with(&[2.5, 3.0]));
    let options = CompareOptions { metrics: vec!["loss".into()], fail_below: Some(0.2), ..Default::default() };
    let all = compare(&a, &b, &options).unwrap();
    let score = &all.tasks[0].scores[0];
    assert_eq!((score.points, score.higher_is_better, score.wins, score.losses), (1.0, false, 0, 1));
    assert!((score.points_worse() - 0.25).abs() < 1e-15 && score.mcnemar_p_value.is_none());
    assert!(matches!(all.verdict(), Verdict::Fail(_)));
    assert_eq!(compare(&b, &a, &options).unwrap().verdict(), Verdict::Pass);
}

#[test]
fn what_cannot_be_compared_is_an_error_that_helps() {
    let (_a, a) = scored(&[1.0]);
    let (_b, b) = evaluation(&results(&[("u", task(1, 1.0))]), &[("u", vec![line(0, 1.0)])]);
    let default = CompareOptions::default();
    assert!(error(&a, &b, &default).contains("A has t, B has u"));
    let metric = CompareOptions { metrics: vec!["anls".into()], ..default.clone() };
    let said = error(&a, &a, &metric);
    assert!(said.contains("--metric anls") && said.contains("A has exact_match, lmms_eval"), "{said}");
    let task = CompareOptions { tasks: vec!["nope".into()], ..default.clone() };
    assert!(error(&a, &a, &task).contains("--task nope"));
    for (options, words) in [
        (CompareOptions { confidence: 95.0, ..default.clone() }, "--confidence 95"),
        (CompareOptions { fail_below: Some(-1.0), ..default.clone() }, "--fail-below -1"),
        (CompareOptions { significant: true, ..default.clone() }, "--significant"),
        (CompareOptions { allow_missing: 2.0, ..default.clone() }, "--allow-missing 2"),
    ] {
        assert!(error(&a, &a, &options).contains(words));
    }
    // Files that were named one by one belong together.
    let all = compared(&a.join("samples_t.jsonl"), &b.join("samples_u.jsonl"));
    assert!(all.tasks[0].scores[0].pairs == 1 && all.text().contains("the task of A is called t"), "{}", all.text());
    fs::write(a.join("samples_t.jsonl"), "{\"doc_id\": 0}\noops\n").unwrap();
    let said = error(&a, &a, &default);
    assert!(said.contains("line 2") && said.contains("samples of t in A"), "{said}");
}

#[test]
fn many_samples_take_seconds() {
    let (_a, a) = scored(&[1.0]);
    let scores: Vec<Value> = (0..20_000).map(|i| line(i, f64::from(u8::from(i % 3 == 0)))).collect();
    write_lines(&a.join("samples_t.jsonl"), &scores);
    let all = compared(&a, &a);
    assert_eq!((all.tasks[0].scores[0].pairs, all.tasks[0].scores[0].difference.difference), (20_000, 0.0));
}
