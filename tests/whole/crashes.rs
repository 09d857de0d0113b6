//! A plugin's failure in a run is a file beside the run's records, and `ovhost plugin replay` makes it fail again.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Lab, root};

/// A lab in which a filter panics at one of four samples.
fn lab() -> Lab {
    let lab = Lab::new();
    let mut poison = lab.good(0);
    poison[0].1 = br#"{"question": "what?", "answer": "poison"}"#.to_vec();
    lab.write_shard(&[("g0", lab.good(0)), ("g1", lab.good(1)), ("the-row", poison), ("g3", lab.good(3))]);
    let guest = root().join("tests/fixtures/guests/misbehave.wasm");
    fs::copy(guest, lab.at("misbehave.wasm")).unwrap();
    let use_ = "[[plugins.filter]]\nplugin = \"misbehave.wasm\"\nentry = \"panic\"\n\n[plugins.prompt]";
    lab.edit_recipe("[plugins.prompt]", use_);
    lab
}

fn kept(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.at("runs/a/crashes")).into_iter().flatten();
    entries.map(|e| e.unwrap().path()).collect()
}

#[test]
fn a_failure_is_kept_and_repeated() {
    let lab = lab();
    lab.run(&["train"]).fails_with(&["plugin panic", "panicked at", "the-row", " [in ", "ovhost plugin replay"]);
    let [file] = &kept(&lab)[..] else { panic!("{:?}", kept(&lab)) };
    let file = file.to_str().unwrap();
    let again = lab.run(&["plugin", "replay", file]);
    assert_eq!(again.code, 1, "{}{}", again.out, again.err);
    for part in ["reproduced", "panicked at", "on row", "misbehave::common::misdeed"] {
        assert!(again.out.contains(part), "{part}:\n{}", again.out);
    }
    let json = lab.run(&["plugin", "replay", file, "--json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json["verdict"].as_str(), json["now"]["class"].as_str()), (Some("reproduced"), Some("panic")));

    // A row that does no harm passes; a component that is gone, or another one, cannot be asked.
    let mended = fs::read_to_string(file).unwrap().replace("poison", "cure");
    fs::write(lab.at("mended.json"), mended).unwrap();
    assert_eq!(lab.run(&["plugin", "replay", "mended.json"]).ok().code, 0);
    fs::copy(root().join("tests/fixtures/guests/misbehave_packer.wasm"), lab.at("misbehave.wasm")).unwrap();
    let other = lab.run(&["plugin", "replay", file]);
    assert_eq!(other.code, 2, "{}{}", other.out, other.err);
    assert!(other.err.contains("cannot be replayed") && other.err.contains("is another build"), "{}", other.err);
    let given = root().join("tests/fixtures/guests/misbehave.wasm");
    assert_eq!(lab.run(&["plugin", "replay", file, "--plugin", given.to_str().unwrap()]).code, 1);
    assert_eq!(lab.run(&["plugin", "replay", "recipe.toml"]).code, 2);
}

#[test]
fn rejected_rows_are_kept_too() {
    let lab = lab();
    lab.edit_recipe("workers = 2", "workers = 2\non_plugin_failure = \"reject\"\nmax_reject_rate = 0.9");
    lab.run(&["train", "--set", "train.steps=1", "--set", "train.warmup_steps=0"]).ok();
    assert_eq!(kept(&lab).len(), 1, "the same row fails in every epoch, and is one file");
}
