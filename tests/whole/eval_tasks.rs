//! Tasks: their samples through data sets, prompts, a model, metrics and files; broken off, scored again, judged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use serde_json::{Value, json};

use crate::lab::{Lab, Ran, command, jsonl, ovhost, root};

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/eval")
}

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}

fn results(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap()
}

/// Tasks with saved answers.
fn answered() -> Vec<String> {
    let all = fs::read_dir(fixtures().join("answers")).unwrap().flatten();
    let mut names: Vec<String> =
        all.filter_map(|e| e.file_name().to_str()?.strip_suffix(".jsonl").map(str::to_owned)).collect();
    names.retain(|n| !n.contains('.'));
    names.sort();
    names
}

/// Scores the saved answers of tasks.
fn score(dir: &Path, tasks: &[&str], files: &[&str], more: &[&str]) -> Ran {
    let all: String =
        files.iter().map(|f| fs::read_to_string(fixtures().join(format!("answers/{f}.jsonl"))).unwrap()).collect();
    fs::write(dir.join("said.jsonl"), all).unwrap();
    let data = text(fixtures().join("data"));
    let tasks = tasks.join(",");
    let base = ["eval", "--tasks", &tasks, "--data-root", &data, "--answers", "said.jsonl", "--out", "e"];
    ovhost(dir, &[&base[..], more].concat())
}

#[test]
fn saved_answers_get_the_references_scores() {
    let dir = tempfile::tempdir().unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    // CharXiv's other profiles want texts that this project does not hold.
    let names: Vec<String> = answered().into_iter().filter(|n| !n.starts_with("charxiv")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    score(dir.path(), &names, &names, &["--profile", "lmms-eval"]).ok();
    let found = results(&dir.path().join("e"));
    let mut compared = 0;
    for (task, wanted) in expected["tasks"].as_object().unwrap() {
        if task.starts_with("charxiv") {
            continue;
        }
        let filter = found["configs"][task]["result_filter"].as_str().unwrap();
        for (metric, value) in wanted["metrics"].as_object().unwrap() {
            let entry = &found["results"][task];
            // Parts of a score have the whole's name before theirs.
            let part = |key: &&String| {
                key.strip_suffix(&format!(",{filter}")).is_some_and(|k| {
                    k == metric || k.ends_with(&format!("/{metric}")) || metric.contains(k.rsplit('/').next().unwrap())
                })
            };
            let keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
            let key =
                keys.iter().find(|k| ***k == format!("{metric},{filter}")).or_else(|| keys.iter().find(|k| part(k)));
            let seen = key.and_then(|k| entry[k.as_str()].as_f64());
            let seen = seen.unwrap_or_else(|| panic!("{task}: no {metric} in {entry}"));
            let wanted = value.as_f64().unwrap();
            assert!((seen - wanted).abs() < 1e-9, "{task} {metric}: {seen}, the reference {wanted}");
            compared += 1;
        }
        let rows = jsonl(dir.path().join(format!("e/samples_{task}.jsonl")));
        for (row, wanted) in rows.iter().zip(wanted["scores"].as_array().unwrap()) {
            // A drawn letter and a question with copies have no score of their own.
            if let (Some(seen), Some(wanted)) = (row["scores"]["lmms_eval"].as_f64(), wanted.as_f64()) {
                assert_eq!(seen, wanted, "{task} {}", row["key"]);
                compared += 1;
            }
        }
        assert_eq!(rows.len(), wanted["scores"].as_array().unwrap().len(), "{task}");
    }
    assert!(compared > 120, "{compared} comparisons");

    let sheet = fs::read(dir.path().join("e/submissions/mmbench_en_test_results.xlsx")).unwrap();
    assert_eq!(&sheet[..2], b"PK");
    let list: Vec<Value> =
        serde_json::from_slice(&fs::read(dir.path().join("e/submissions/docvqa_test_for_submission.json")).unwrap())
            .unwrap();
    assert!(list.len() == 3 && list.iter().all(|e| e["questionId"].is_u64() && e["answer"].is_string()), "{list:?}");
    assert!(found["results"]["docvqa_test"]["submission,none"].is_null());

    // The same answers by other rules.
    let fixed = tempfile::tempdir().unwrap();
    score(fixed.path(), &["ai2d"], &["ai2d"], &[]).ok();
    let fixed = results(&fixed.path().join("e"));
    let value = |r: &Value| r["results"]["ai2d"]["exact_match,flexible-extract"].as_f64().unwrap();
    assert!(value(&fixed) > value(&found), "{} and {}", value(&fixed), value(&found));
    assert_eq!((&fixed["profile"], &found["profile"]), (&json!("fixed"), &json!("lmms-eval")));
    assert!(
        fixed["tasks"]["ai2d"]["notes"][0].as_str().unwrap().contains("lmms-eval"),
        "where profiles differ is said"
    );
}

#[test]
fn a_group_of_judged_tasks_is_scored_by_given_judgements() {
    let dir = tempfile::tempdir().unwrap();
    let texts = format!("texts={}", text(fixtures().join("texts.json")));
    let files = ["charxiv_val_descriptive.fixed", "charxiv_val_reasoning"];
    let ran = score(dir.path(), &["charxiv"], &files, &["--asset", &texts]);
    // A judgement of each is no JSON: unscored, and said so by the exit code.
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    let found = results(&dir.path().join("e"));
    assert_eq!(found["group_subtasks"]["charxiv"], json!(["charxiv_val_reasoning", "charxiv_val_descriptive"]));
    assert_eq!(found["tasks"]["charxiv_val_descriptive"]["samples"], 32, "each figure is asked its four questions");
    assert_eq!(found["tasks"]["charxiv_val_descriptive"]["unscored"], 1);
    assert_eq!(found["tasks"]["charxiv_val_reasoning"]["unscored"], 1);
    assert!(found["tasks"]["charxiv_val_reasoning"]["judged"].as_u64().unwrap() >= 7);
    // Without the benchmark's questions the task cannot be asked.
    score(dir.path(), &["charxiv"], &files, &[]).fails_with(&["charxiv_val_reasoning", "texts"]);
}

#[test]
fn every_form_of_a_data_set_gives_the_same_rows() {
    let run = |data: &str| {
        let dir = tempfile::tempdir().unwrap();
        let folder = format!("ai2d={}", text(fixtures().join(data)));
        score(dir.path(), &["ai2d"], &["ai2d"], &["--data", &folder]).ok();
        let mut rows = jsonl(dir.path().join("e/samples_ai2d.jsonl"));
        for row in &mut rows {
            let row = row.as_object_mut().unwrap();
            for of_the_file in ["source", "key", "doc_hash"] {
                row.remove(of_the_file);
            }
        }
        rows
    };
    let parquet = run("data/lmms-lab-encoder/ai2d");
    assert_eq!(parquet.len(), 8);
    assert!(parquet.iter().all(|r| r["cluster"].is_string() && r["record"].get("image").is_none()), "{parquet:?}");
    assert_eq!(parquet, run("forms/jsonl/ai2d"));
    assert_eq!(parquet, run("forms/webdataset/ai2d"));
}

const TASKS: &str = "ai2d,mme,scienceqa,mmmu_val,docvqa_test,mmerealworld,mathvista_testmini_format";

fn ask(out: &str, more: &[&str]) -> Vec<String> {
    let data = text(fixtures().join("data"));
    let args =
        ["eval", "--model", "model", "--tasks", TASKS, "--data-root", &data, "--max-new-tokens", "5", "--no-judge"];
    [&args[..], &["--min-pixels", "3136", "--max-pixels", "25088", "--out", out], more]
        .concat()
        .iter()
        .map(|s| (*s).to_owned())
        .collect()
}

fn go(lab: &Lab, out: &str, more: &[&str]) -> Ran {
    let args = ask(out, more);
    lab.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What an evaluation leaves but for times.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for folder in [folder.to_owned(), folder.join("submissions")] {
        for entry in fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().is_file()) {
            let name = entry.file_name().into_string().unwrap();
            if !["run.json", "answers.jsonl"].contains(&name.as_str()) {
                out.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    out.sort();
    out
}

#[test]
fn many_tasks_in_one_pass_are_resumed_rescored_and_as_good_alone() {
    let lab = Lab::new();
    go(&lab, "whole", &[]).ok();
    let whole = files(&lab.at("whole"));
    let found = results(&lab.at("whole"));
    assert_eq!(found["tasks"].as_object().unwrap().len(), 7);
    for (name, task) in found["tasks"].as_object().unwrap() {
        assert_eq!((&task["failed"], &task["answered"]), (&json!(0), &task["samples"]), "{name}");
    }
    let targets: Vec<Value> = jsonl(lab.at("whole/samples_ai2d.jsonl")).iter().map(|r| r["target"].clone()).collect();
    assert!(targets.iter().all(|t| "ABCD".contains(t.as_str().unwrap())), "{targets:?}");
    let asked = jsonl(lab.at("whole/samples_mmmu_val.jsonl"));
    assert!(asked.iter().any(|r| r["input"].as_str().unwrap().matches("<image>").count() == 2), "two pictures");

    // Killed again and again, and run to the end.
    let total: u64 = found["tasks"].as_object().unwrap().values().map(|t| t["samples"].as_u64().unwrap()).sum();
    let answers = lab.at("parts/answers.jsonl");
    let held = || fs::read_to_string(&answers).map_or(0, |t| t.lines().count());
    let mut kills = 0;
    while held() < total as usize / 2 {
        let before = held();
        let args = ask("parts", &["--batch-size", "3"]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = command(lab.path(), &args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        while held() < before + 6 && child.try_wait().unwrap().is_none() {
            thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 2, "{kills} kills");
    let again = go(&lab, "parts", &["--batch-size", "5"]).ok();
    assert!(again.err.contains("already answered"), "{}", again.err);
    assert_eq!(files(&lab.at("parts")), whole);

    // Without the model, from what is saved; a metric that changed is no reason to ask again.
    fs::remove_file(lab.at("parts/results.json")).unwrap();
    let args = ask("parts", &["--rescore"]);
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|a| !["--model", "model"].contains(a)).collect();
    lab.run(&args).ok();
    let rescored = files(&lab.at("parts"));
    for ((name, bytes), (_, wanted)) in rescored.iter().zip(&whole) {
        if name.starts_with("samples_") {
            assert_eq!(bytes, wanted, "{name}");
        }
    }
    assert_eq!(results(&lab.at("parts"))["results"], found["results"]);

    // Some of what is saved; and less than there should be is said.
    let few: Vec<&str> = [&args[..], &["--limit", "2"]].concat();
    lab.run(&few).ok();
    assert_eq!(jsonl(lab.at("parts/samples_mme.jsonl")).len(), 2);
    let kept = fs::read_to_string(lab.at("parts/answers.jsonl")).unwrap();
    let cut: Vec<&str> = kept.lines().filter(|l| !l.contains("\"task\":\"mme\",\"doc_id\":3,")).collect();
    fs::write(lab.at("parts/answers.jsonl"), cut.join("\n") + "\n").unwrap();
    let short = lab.run(&args);
    assert!(short.code == 3 && short.err.contains("mme: 13 of 14"), "{}{}", short.code, short.err);

    // One task alone, with a limit, gives the same answers; raising the limit goes on.
    let alone = |limit: &str| {
        let data = text(fixtures().join("data"));
        let base = ["eval", "--model", "model", "--tasks", "mme", "--data-root", &data, "--max-new-tokens", "5"];
        lab.run(
            &[&base[..], &["--min-pixels", "3136", "--max-pixels", "25088", "--out", "mme", "--limit", limit]].concat(),
        )
        .ok();
        jsonl(lab.at("mme/samples_mme.jsonl"))
    };
    let both = jsonl(lab.at("whole/samples_mme.jsonl"));
    assert_eq!(alone("0.25")[..], both[..4], "a quarter of 14, rounded up");
    assert_eq!(alone("6")[..], both[..6]);
    // Answers of other settings never mix.
    go(&lab, "whole", &["--blank-images"]).fails_with(&["blank_images", "--out"]);
}

#[test]
fn examples_are_shown_before_each_question_of_a_task_of_ones_own() {
    let lab = Lab::new();
    let picture = |name: &str, rgb| fs::write(lab.at(name), crate::lab::png(40, 40, rgb)).unwrap();
    fs::create_dir_all(lab.at("data/colours")).unwrap();
    for (name, rgb) in [("r", [250, 0, 0]), ("g", [0, 250, 0]), ("b", [0, 0, 250])] {
        picture(&format!("data/colours/{name}.png"), rgb);
    }
    let row = |name: &str, answer: &str| {
        json!({"image": format!("{name}.png"), "question": "which?", "answer": answer}).to_string() + "\n"
    };
    fs::write(lab.at("data/colours/train.jsonl"), row("r", "red") + &row("g", "green")).unwrap();
    fs::write(lab.at("data/colours/test.jsonl"), row("b", "blue") + &row("r", "red")).unwrap();
    let task = "name = \"colours\"\nsummary = \"Colours.\"\n[data]\ndataset = \"me/colours\"\nsplit = \"test\"\nimages = [\"image\"]\n\
        [generation]\nmax_new_tokens = 3\n[prompt]\nplugin = \"prompts/conversation.wasm\"\n[[metric]]\nplugin = \"metrics/exact_match.wasm\"\n\
        [fewshot]\nsplit = \"train\"\nanswer = \"answer\"\ncount = 1\n";
    fs::write(lab.at("colours.toml"), task).unwrap();
    let run = |out: &str, more: &[&str]| {
        let base = ["eval", "--model", "model", "--tasks", "./colours.toml", "--data-root", "data", "--out", out];
        lab.run(&[&base[..], more].concat())
    };
    run("one", &[]).ok();
    run("none", &["--num-fewshot", "0"]).ok();
    run("two", &["--num-fewshot", "2"]).ok();
    let inputs = |out: &str| -> Vec<String> {
        jsonl(lab.at(&format!("{out}/samples_colours.jsonl")))
            .iter()
            .map(|r| r["input"].as_str().unwrap().to_owned())
            .collect()
    };
    let (none, one, two) = (inputs("none"), inputs("one"), inputs("two"));
    assert_eq!([&none[0], &one[0], &two[0]].map(|i| i.matches("<image>").count()), [1, 2, 3]);
    assert_eq!([&none[0], &one[0], &two[0]].map(|i| i.matches("which?").count()), [1, 2, 3]);
    assert!(two[0].find("red").unwrap() < two[0].find("green").unwrap() && !two[0].contains("blue"), "{}", two[0]);
    assert!(one[0].ends_with(&none[0][none[0].find("<image>").unwrap()..]), "the question is as it is alone");
    assert_eq!(results(&lab.at("two"))["n-shot"]["colours"], 2);
    run("three", &["--num-fewshot", "3"]).fails_with(&["3 examples", "train", "2"]);
    let data = text(fixtures().join("data"));
    lab.run(&["eval", "--model", "model", "--tasks", "ai2d", "--data-root", &data, "--num-fewshot", "1"])
        .fails_with(&["ai2d", "no examples"]);
}

/// A server that judges every answer by its length; counts requests.
fn judge() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counted = Arc::clone(&counted);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut length = 0;
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap_or(0) > 2 {
                    if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
                        length = n.trim().parse().unwrap();
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body: Value = serde_json::from_slice(&body).unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                assert_eq!((&body["model"], &body["temperature"]), (&json!("tester"), &json!(0)), "{body}");
                let said =
                    json!({"choices": [{"message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 10, "completion_tokens": 1}})
                    .to_string();
                let mut stream = stream;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    said.len()
                );
                let _ = stream.write_all((head + &said).as_bytes());
            });
        }
    });
    (url, count)
}

#[test]
fn what_cannot_be_read_goes_to_a_judge_within_its_budget_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(fixtures().join("data"));
    // Sentences that no rule reads.
    let said: String = (0..10)
        .map(|i| json!({"doc_id": i, "prediction": "I would rather not say, but it may be either."}).to_string() + "\n")
        .collect();
    fs::write(dir.path().join("said.jsonl"), said).unwrap();
    let (url, count) = judge();
    let run = |more: &[&str]| {
        let base = ["eval", "--tasks", "mmbench_en_dev", "--data-root", &data, "--answers", "said.jsonl", "--out", "e"];
        ovhost(dir.path(), &[&base[..], more].concat())
    };
    let none = run(&[]);
    assert_eq!(none.code, 3);
    assert!(none.err.contains("--judge-model") && none.err.contains("--no-judge"), "{}", none.err);
    assert_eq!(results(&dir.path().join("e"))["tasks"]["mmbench_en_dev"]["unscored"], 10);

    let endpoint = ["--judge-url", &url, "--judge-model", "tester"];
    let few = run(&[&endpoint[..], &["--judge-max-requests", "4"]].concat());
    assert_eq!(few.code, 3, "{}", few.err);
    assert_eq!(results(&dir.path().join("e"))["tasks"]["mmbench_en_dev"]["judged"], 4);
    assert_eq!(count.load(Ordering::SeqCst), 4);

    run(&endpoint).ok();
    let found = results(&dir.path().join("e"));
    assert_eq!((&found["tasks"]["mmbench_en_dev"]["judged"], count.load(Ordering::SeqCst)), (&json!(10), 10));
    assert_eq!(found["config"]["judge"]["judge"]["model"], "tester");
    run(&endpoint).ok();
    assert_eq!(count.load(Ordering::SeqCst), 10, "what was said is known");

    run(&["--no-judge"]).ok();
    assert_eq!(results(&dir.path().join("e"))["tasks"]["mmbench_en_dev"]["unparsed"], 10);
    run(&["--judge-model", "nowhere"]).fails_with(&["nowhere", "--judge-url"]);
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(fixtures().join("data"));
    let run = |args: &[&str]| ovhost(dir.path(), &[&["eval"], args].concat());
    run(&["--tasks", "ai2", "--data-root", &data, "--answers", "x"]).fails_with(&["\"ai2\"", "ai2d", "--list-tasks"]);
    run(&["--tasks", "ai2d", "--answers", "x"]).fails_with(&["x"]);
    run(&["--tasks", "ai2d", "--data-root", &data]).fails_with(&["--model"]);
    run(&["--tasks", "ai2d", "--data-root", &data, "--profile", "best", "--answers", "x"])
        .fails_with(&["best", "fixed, lmms-eval"]);
    run(&["--tasks", "ai2d", "--limit", "1.5"]).fails_with(&["1.5", "0.1"]);
    run(&["--tasks", "ai2d", "--rescore"]).fails_with(&["--out"]);
    fs::write(dir.path().join("x"), "{\"doc_id\": 0, \"prediction\": \"B\"}\n").unwrap();
    run(&["--tasks", "ai2d", "--answers", "x"]).fails_with(&["--data-root"]);
    run(&["--tasks", "ai2d", "--answers", "x", "--data-root", "nowhere"])
        .fails_with(&["lmms-lab-encoder/ai2d", "nowhere"]);
    // One answer of eight: the others are reported, not dropped.
    let ran = run(&["--tasks", "ai2d", "--answers", "x", "--data-root", &data]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    let found = results(&dir.path().join("eval"));
    assert_eq!((&found["tasks"]["ai2d"]["answered"], &found["tasks"]["ai2d"]["failed"]), (&json!(1), &json!(7)));
    let listed = run(&["--list-tasks"]).ok().out;
    for name in ["mmmu_val", "charxiv", "llava_ov_1_5", "no_judge"] {
        assert!(listed.contains(name), "{listed}");
    }
}
