//! Answers and scores.

use std::{fs, process::Stdio};

use serde_json::Value;

use crate::lab::{COLOURS, Lab, command, jsonl};

const EVAL: [&str; 7] = ["eval", "--recipe", "recipe.toml", "--model", "runs/a/model", "--out", "e"];

fn trained() -> Lab {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=150", "--set", "train.lr=1e-2", "--set", "checkpoint.every=0"]).ok();
    lab
}

fn results(lab: &Lab, folder: &str) -> Value {
    serde_json::from_slice(&fs::read(lab.at(folder).join("results.json")).unwrap()).unwrap()
}

#[test]
fn a_trained_model_sees_and_a_blinded_one_does_not() {
    let lab = trained();
    lab.run(&EVAL).ok();
    let seen = results(&lab, "e");
    assert_eq!(seen["tasks"]["eval"]["metrics"]["exact_match"]["value"], 1.0, "{seen}");
    assert_eq!(seen["tasks"]["eval"]["metrics"]["exact_match"]["count"], 12);
    assert!(seen["tasks"]["eval"]["metrics"]["exact_match"]["stderr"].is_number());
    let samples = jsonl(lab.at("e/samples.jsonl"));
    assert_eq!(samples.len(), 12);
    for sample in &samples {
        assert_eq!(sample["filtered_resps"], sample["target"]);
        assert_eq!(sample["target"], sample["references"][0]);
        let input = sample["input"].as_str().unwrap();
        assert_eq!(input.matches("<image>").count(), 1, "the real prompt is logged: {input}");
        assert_eq!(sample["scores"]["exact_match"], 1.0);
    }
    let blind = ["eval", "--recipe", "recipe.toml", "--model", "runs/a/model", "--blank-images", "--out", "blind"];
    lab.run(&blind).ok();
    let value = results(&lab, "blind")["tasks"]["eval"]["metrics"]["exact_match"]["value"].as_f64().unwrap();
    assert!(value <= 0.3, "one of four colours at most, not {value}");

    // One picture, one question, by flags.
    let picture = format!("source/{}.png", COLOURS[2].0);
    let infer = ["infer", "--model", "runs/a/model", "--image", &picture, "--prompt", "what colour is it?"];
    assert_eq!(lab.run(&infer).ok().out.trim(), "blue");
    let json: Value = serde_json::from_str(&lab.run(&[infer.as_slice(), &["--json"]].concat()).ok().out).unwrap();
    assert_eq!(json["text"], "blue");
    assert_eq!(json["finish_reason"], "eos");
    let one = lab.run(&[infer.as_slice(), &["--max-new-tokens", "1", "--json"]].concat()).ok().out;
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["finish_reason"], "length");
    let sampled = [infer.as_slice(), &["--temperature", "5", "--seed", "1"]].concat();
    assert_eq!(lab.run(&sampled).ok().out, lab.run(&sampled).ok().out, "a seed repeats");
    lab.run(&["infer", "--model", "runs/a/model", "--prompt", "hello"]).ok();
    lab.run(&["infer", "--model", "runs/a/model", "--image", "none.png", "--prompt", "x"]).fails_with(&["none.png"]);
    lab.run(&["infer", "--model", "nowhere", "--prompt", "x"]).fails_with(&["nowhere"]);
}

#[test]
fn a_killed_evaluation_goes_on_and_gives_the_same_files() {
    let lab = trained();
    lab.run(&EVAL).ok();
    let whole = ["results.json", "samples.jsonl"].map(|f| fs::read(lab.at("e").join(f)).unwrap());
    let mut child = command(lab.path(), &EVAL[..5])
        .args(["--out", "f", "--batch-size", "1"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let answers = lab.at("f/answers.jsonl");
    while fs::read_to_string(&answers).map_or(0, |t| t.lines().count()) < 3 {
        assert!(child.try_wait().unwrap().is_none_or(|s| s.success()));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What a kill in the middle of a write leaves: half a line.
    let text = fs::read_to_string(&answers).unwrap();
    fs::write(&answers, format!("{text}{{\"key\": \"ha")).unwrap();
    let again = lab.run(&[EVAL[..5].to_vec(), vec!["--out", "f"]].concat()).ok();
    assert!(again.err.contains("already answered"), "{}", again.err);
    for (file, bytes) in ["results.json", "samples.jsonl"].iter().zip(whole) {
        assert_eq!(fs::read(lab.at("f").join(file)).unwrap(), bytes, "{file}");
    }
    // Other settings do not mix with saved answers.
    lab.run(&[EVAL.as_slice(), &["--blank-images"]].concat()).fails_with(&["e", "--out"]);
}

#[test]
fn verify_compares_a_folder_with_expected_tensors() {
    let lab = Lab::new();
    let fixture = crate::lab::root().join("tests/fixtures/tiny-llava-ov-1.5");
    let (model, expected) =
        (fixture.to_string_lossy().into_owned(), fixture.join("expected.safetensors").to_string_lossy().into_owned());
    let run = lab.run(&["model", "verify", "--model", &model, "--expected", &expected]).ok();
    for part in ["image.0.pixel_values", "image.3.merged", "seq.2.logits", "pass"] {
        assert!(run.out.contains(part), "{part} is missing:\n{}", run.out);
    }
    let strict = ["model", "verify", "--model", &model, "--expected", &expected, "--tolerance", "1e-12"];
    let strict = lab.run(&strict);
    assert_eq!(strict.code, 1, "{}", strict.out);
    assert!(strict.out.contains("FAIL"), "{}", strict.out);
}
