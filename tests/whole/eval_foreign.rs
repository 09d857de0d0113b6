//! Tasks that come from elsewhere: one of one's own with its metric, plugins that fail, a model folder as the judge; and what is made of
//! finished evaluations.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{Lab, Ran, jsonl, ovhost, root};

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_string_lossy().into_owned()
}

fn data() -> String {
    text(root().join("tests/fixtures/eval/data"))
}

fn results(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap()
}

/// Files below a folder but for what building leaves.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let name = entry.file_name();
        if entry.path().is_dir() {
            if !["target", "dist"].contains(&name.to_str().unwrap()) {
                copy(&entry.path(), &to.join(name));
            }
        } else {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_task_and_a_metric_from_outside_the_repository() {
    let dir = tempfile::tempdir().unwrap();
    let example = dir.path().join("eval_task");
    copy(&root().join("examples/eval_task"), &example);
    let manifest = fs::read_to_string(example.join("Cargo.toml")).unwrap();
    let manifest = manifest.replace("../../sdk", &text(root().join("sdk")));
    fs::write(example.join("Cargo.toml"), manifest).unwrap();
    let target = text(Path::new(env!("CARGO_TARGET_TMPDIR")).join("example-guests"));
    ovhost(&example, &["plugin", "build", "--target-dir", &target]).ok();
    let task = ["eval", "--tasks", "./count_shapes.toml", "--data-root", "."];
    ovhost(&example, &[&task[..], &["--answers", "answers.jsonl", "--out", "scores"]].concat()).ok();
    let found = results(&example.join("scores"));
    assert_eq!(found["tasks"]["count_shapes"]["metrics"]["exact"]["value"], json!(4.0 / 6.0), "{found}");
    assert_eq!(found["tasks"]["count_shapes"]["plugins"][1]["name"], "counting");
    let rows = jsonl(example.join("scores/samples_count_shapes.jsonl"));
    assert!(rows.iter().all(|r| r["scores"]["counting"].is_number() && r["record"].get("image").is_none()));

    // From another folder, by its path, and by a model.
    let lab = Lab::new();
    let file = text(example.join("count_shapes.toml"));
    let small = ["--min-pixels", "3136", "--max-pixels", "25088"];
    let asked = ["eval", "--model", "model", "--tasks", &file, "--data-root", &text(&example), "--out", "e"];
    lab.run(&[&asked[..], &small].concat()).ok();
    let rows = jsonl(lab.at("e/samples_count_shapes.jsonl"));
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|r| r["input"].as_str().unwrap().contains("<image>") && r["finish_reason"] != "error"));
}

fn guest(name: &str) -> PathBuf {
    root().join("tests/fixtures/guests").join(name)
}

fn task(dir: &Path, name: &str, prompt: &str, metric: &str) -> String {
    let text = format!(
        "name = \"{name}\"\nsummary = \"x\"\n[data]\ndataset = \"lmms-lab-encoder/ai2d\"\nsplit = \"test\"\nimages = [\"image\"]\n\
         [generation]\nmax_new_tokens = 2\n[prompt]\n{prompt}\n[[metric]]\n{metric}\n"
    );
    fs::write(dir.join(format!("{name}.toml")), text).unwrap();
    format!("./{name}.toml")
}

#[test]
fn plugins_that_fail_are_counted_and_the_other_tasks_are_scored() {
    let lab = Lab::new();
    let good = ("plugin = \"prompts/conversation.wasm\"", "plugin = \"metrics/exact_match.wasm\"");
    let bad = |file: &str, entry: &str| format!("plugin = {:?}\nentry = \"{entry}\"", text(guest(file)));
    let names = [
        task(lab.path(), "good", good.0, good.1),
        task(lab.path(), "lost_state", good.0, &bad("misbehave_metric.wasm", "merge_panic")),
        task(lab.path(), "endless", good.0, &bad("misbehave_metric.wasm", "finalize_loop")),
        task(lab.path(), "many_values", good.0, &bad("misbehave_metric.wasm", "same_value")),
        task(lab.path(), "no_picture", &bad("misbehave_prompt.wasm", "no_such_image"), good.1),
    ];
    let tasks = names.join(",");
    let ran = lab.run(&["eval", "--model", "model", "--tasks", &tasks, "--data-root", &data(), "--out", "e"]);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    let found = results(&lab.at("e"));
    let of = |name: &str, key: &str| found["tasks"][name][key].clone();
    assert_eq!((of("good", "answered"), of("good", "failed")), (json!(8), json!(0)));
    assert!(found["tasks"]["good"]["metrics"]["exact_match"]["value"].is_number());
    for (name, entry) in [("lost_state", "merge_panic"), ("endless", "finalize_loop"), ("many_values", "same_value")] {
        assert_eq!(of(name, "answered"), 8, "{name}");
        assert!(of(name, "errors")[0].as_str().unwrap().contains(entry), "{name}: {found}");
        assert!(of(name, "metrics").as_object().unwrap().is_empty(), "{name}");
        assert!(ran.out.contains(&format!("{name}  metric failed")), "{}", ran.out);
    }
    // What is wrong in a task file is said before anything is asked.
    let (good_file, text_of) = (lab.at("good.toml"), fs::read_to_string(lab.at("good.toml")).unwrap());
    let wrong = |from: &str, to: &str, names: &[&str]| {
        assert!(text_of.contains(from), "{from}");
        fs::write(&good_file, text_of.replace(from, to)).unwrap();
        lab.run(&["eval", "--model", "model", "--tasks", "./good.toml", "--data-root", &data(), "--out", "w"])
            .fails_with(names);
    };
    wrong("[\"image\"]", "[\"imag\"]", &["data.images", "imag", "question"]);
    wrong("split =", "references = \"answr\"\nsplit =", &["data.references", "answr"]);
    wrong("lmms-lab-encoder/ai2d", "../data", &["../data", "ORG/NAME"]);
    wrong("[prompt]", "[submission]\nfile = \"x.csv\"\ncolumns = []\n[prompt]", &["x.csv", "xlsx"]);
    fs::write(&good_file, &text_of).unwrap();
    lab.run(&["eval", "--model", "model", "--tasks", "./good.toml", "--data-root", &data(), "--data", "god=x"])
        .fails_with(&["god=x", "TASK=FOLDER"]);
    // Another reading of the data is another evaluation.
    fs::write(&good_file, text_of.replace("split =", "references = \"answer\"\nletters = true\nsplit =")).unwrap();
    lab.run(&["eval", "--model", "model", "--tasks", "./good.toml", "--data-root", &data(), "--out", "e"])
        .fails_with(&["task of good"]);
    assert_eq!((of("no_picture", "failed"), of("no_picture", "answered")), (json!(8), json!(0)));
    let rows = jsonl(lab.at("e/samples_no_picture.jsonl"));
    assert!(rows.iter().all(|r| r["error"].as_str().unwrap().contains("image 99")), "{rows:?}");
}

#[test]
fn a_model_folder_judges_what_cannot_be_read() {
    let lab = Lab::new();
    let said: String = (0..10)
        .map(|i| json!({"doc_id": i, "prediction": "I would rather not say, but it may be either."}).to_string() + "\n")
        .collect();
    fs::write(lab.at("said.jsonl"), said).unwrap();
    let root = data();
    let base = ["eval", "--tasks", "mmbench_en_dev", "--data-root", &root, "--answers", "said.jsonl", "--out", "e"];
    let judge = ["--judge-model", "model", "--judge-reply-tokens", "4", "--judge-concurrency", "3"];
    let ran: Ran = lab.run(&[&base[..], &judge].concat());
    let found = results(&lab.at("e"));
    let task = &found["tasks"]["mmbench_en_dev"];
    // An untrained model says nonsense, or nothing at all: each answer is judged, or says why not.
    let (judged, unscored) = (task["judged"].as_u64().unwrap(), task["unscored"].as_u64().unwrap());
    assert!(judged > 0 && judged + unscored >= 10, "{task}\n{}", ran.err);
    assert_eq!(ran.code == 0, unscored == 0, "{}", ran.err);
    let kept = fs::read(lab.at("e/judge.jsonl")).unwrap();
    assert!(kept.iter().filter(|b| **b == b'\n').count() > 0, "replies are kept");
    let before = fs::read(lab.at("e/samples_mmbench_en_dev.jsonl")).unwrap();
    lab.run(&[&base[..], &judge].concat());
    assert_eq!(fs::read(lab.at("e/samples_mmbench_en_dev.jsonl")).unwrap(), before);
}

#[test]
fn evaluations_are_compared_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let answers = root().join("tests/fixtures/eval/answers");
    let said: String =
        ["ai2d", "chartqa"].iter().map(|t| fs::read_to_string(answers.join(format!("{t}.jsonl"))).unwrap()).collect();
    fs::write(dir.path().join("said.jsonl"), said).unwrap();
    for profile in ["fixed", "lmms-eval"] {
        let base = ["eval", "--tasks", "ai2d,chartqa", "--data-root", &data(), "--answers", "said.jsonl"];
        ovhost(dir.path(), &[&base[..], &["--profile", profile, "--out", profile]].concat()).ok();
    }
    let run = |args: &[&str]| ovhost(dir.path(), &[&["eval"], args].concat());
    let same = run(&["compare", "fixed", "fixed", "--fail-below", "0"]).ok();
    assert!(same.out.contains("verdict: pass"), "{}", same.out);
    let better = run(&["compare", "lmms-eval", "fixed", "--fail-below", "1", "--format", "json"]).ok();
    let better: Value = serde_json::from_str(&better.out).unwrap();
    assert_eq!(better["tasks"][0]["scores"][0]["difference"], 0.375, "{better}");
    let worse = run(&["compare", "fixed", "lmms-eval", "--fail-below", "1"]);
    assert_eq!(worse.code, 4, "{}", worse.out);
    assert!(worse.out.contains("FAIL: ai2d exact_match: B is 37.50 points worse"), "{}", worse.out);
    // So few samples may be chance.
    run(&["compare", "fixed", "lmms-eval", "--fail-below", "1", "--significant", "--task", "ai2d"]).ok();
    run(&["compare", "fixed", "nowhere"]).fails_with(&["nowhere"]);

    run(&["report", "fixed", "--worst", "2"]).ok();
    let page = fs::read_to_string(dir.path().join("fixed/report.html")).unwrap();
    assert!(
        page.contains("data:image/") && page.contains("chartqa") && !page.contains("http://"),
        "pictures are in it"
    );
    assert!(fs::read_to_string(dir.path().join("fixed/report.md")).unwrap().contains("## ai2d"));
    let bare = run(&["report", "fixed", "--out", "bare.html", "--data-root", "nowhere"]).ok();
    assert!(bare.err.contains("no pictures of ai2d"), "{}", bare.err);
}
