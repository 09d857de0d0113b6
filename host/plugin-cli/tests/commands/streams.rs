//! Streaming filters and two passes: state goes from one run to the next, and from a first pass to the second.

use serde_json::json;

use super::*;

fn texts(lab: &Lab, name: &str, list: &[&str]) {
    let rows: Vec<String> = list.iter().map(|text| json!({ "text": text }).to_string()).collect();
    lab.write(name, &rows.join("\n"));
}

#[test]
fn a_stream_goes_on_from_its_saved_state() {
    let lab = Lab::new();
    let guest = guest("counting");
    texts(&lab, "all.jsonl", &["a", "b", "a", "a", "c", "b"]);
    texts(&lab, "one.jsonl", &["a", "b", "a"]);
    texts(&lab, "two.jsonl", &["a", "c", "b"]);
    let run = |rows: &str, more: &[&str]| {
        lab.run(
            &[&["run", &guest, "--entry", "counting", "--rows", rows, "--format", "jsonl", "--batch", "2"][..], more]
                .concat(),
        )
        .ok()
        .out
    };
    let whole = run("all.jsonl", &[]);
    let first = run("one.jsonl", &["--save-state", "s"]);
    let second = run("two.jsonl", &["--load-state", "s", "--first-row", "3"]);
    assert_eq!(format!("{first}{second}"), whole);
    assert!(whole.contains("\"set\":{\"nth\":3}"), "{whole}");
    let kept = whole.lines().filter(|line| line.contains("\"keep\":true")).count();
    assert_eq!(kept, 3, "one of each text: {whole}");
}

#[test]
fn the_first_pass_is_an_asset_of_the_second() {
    let lab = Lab::new();
    let guest = guest("counting");
    texts(&lab, "rows.jsonl", &["a", "b", "a", "c", "a"]);
    lab.run(&["run", &guest, "--entry", "counting", "--rows", "rows.jsonl", "--save-state", "counts.state"])
        .ok()
        .says(&["wrote counts.state ("]);
    let args = ["run", &guest, "--entry", "frequent", "--rows", "rows.jsonl", "--asset", "counts=counts.state"];
    lab.run(&[&args[..], &["--config", "{\"least\": 2}", "--out", "kept.jsonl"]].concat()).ok();
    assert_eq!(lab.lines("kept.jsonl"), vec![json!({"text": "a"}); 3]);
}

#[test]
fn a_lost_stream_says_so_and_saves_nothing() {
    let lab = Lab::new();
    let guest = guest("counting");
    texts(&lab, "rows.jsonl", &["a", "poison", "b"]);
    let args = ["run", &guest, "--entry", "counting", "--rows", "rows.jsonl", "--save-state", "s"];
    lab.run(&args).fails(&["counting", "poison"]);
    assert!(!lab.path("s").exists());
    lab.run(&[&args[..6], &["--on-trap", "reject"]].concat()).fails(&["streaming filter cannot go on after a failure"]);
    lab.write("other.state", "not a state");
    lab.run(&[&args[..6], &["--load-state", "other.state"]].concat()).fails(&["the state other.state", "counting"]);
}

#[test]
fn a_packer_goes_on_from_its_saved_state() {
    let lab = Lab::new();
    let rows = |list: &[u32]| list.iter().map(|n| json!({ "length": n }).to_string()).collect::<Vec<_>>().join("\n");
    lab.write("all.jsonl", &rows(&[3, 4, 5, 1, 2, 6]))
        .write("one.jsonl", &rows(&[3, 4, 5]))
        .write("two.jsonl", &rows(&[1, 2, 6]));
    let run = |rows: &str, more: &[&str]| {
        let args = ["run", "packers/sequential", "--capacity", "9", "--format", "jsonl", "--rows", rows];
        lab.run(&[&args[..], more].concat()).ok()
    };
    let ids = |ran: &Ran| -> Vec<Value> {
        ran.out
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap())
            .map(|v| json!([v["ids"], v["tokens"]]))
            .collect()
    };
    let whole = ids(&run("all.jsonl", &[]));
    let first = run("one.jsonl", &["--save-state", "s"]);
    assert!(first.err.contains("1 still open, in the state"), "{}", first.err);
    let second = run("two.jsonl", &["--load-state", "s", "--first-row", "3"]);
    assert_eq!([ids(&first), ids(&second)].concat(), whole);
}

/// Golden cases of streaming filters are asked with the state saved and restored between batches.
#[test]
fn cases_of_streaming_filters_save_and_restore() {
    let lab = Lab::new();
    let rows: Vec<Value> = ["a", "b", "a", "a"].iter().map(|text| json!({ "text": text })).collect();
    let expect = json!([
        {"keep": true, "set": {"nth": 1}}, {"keep": true, "set": {"nth": 1}}, {"keep": true, "set": {"nth": 2}},
        {"drop": "seen before", "set": {"nth": 3}},
    ]);
    let case =
        json!({"name": "two of each", "entry": "counting", "config": {"most": 2}, "rows": rows, "expect": expect});
    lab.write("c.jsonl", &case.to_string());
    let ran = lab.run(&["test", &guest("counting"), "--cases", "c.jsonl"]);
    assert!(ran.out.contains("ok      two of each"), "{}", ran.out);
}
