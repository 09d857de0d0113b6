//! `run`: rows in, tables, lines and files out, for each kind of plugin; and everything a user can get wrong.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use super::*;

const CAPTIONS: &str = "{\"key\": \"a\", \"text\": \"long enough\", \"extra\": [1, \"x\"]}
{\"key\": \"b\", \"text\": \"I'm sorry.\"}
{\"key\": \"c\", \"text\": null}
{\"key\": \"d\", \"text\": \"ab\"}
";

fn captions() -> Lab {
    let lab = Lab::new();
    lab.write("rows.jsonl", CAPTIONS);
    lab
}

const FILTER: [&str; 5] = ["run", "filters/caption_quality", "--config", "{\"min_chars\": 5}", "--rows"];

#[test]
fn a_filter_shows_its_verdicts_and_sums_them_up() {
    let lab = captions();
    lab.run(&[&FILTER[..], &["rows.jsonl"]].concat()).ok().says(&[
        "  row  key  verdict  reason\n    0  a    keep\n    1  b    drop     refusal\n    2  c    drop     no text\n    3  d    drop     too short\n",
        "4 rows: 1 kept (25.0 %), 3 dropped, 0 errors\n",
        "  too short     1\n",
        "1 call, ",
    ]);
    lab.run(&[&FILTER[..], &["rows.jsonl", "--show", "1", "--batch", "2"]].concat())
        .ok()
        .says(&["    0  a    keep\n  … and 3 more; --show N", "2 calls, "]);
}

#[test]
fn kept_rows_and_rejects_are_written_whole() {
    let lab = captions();
    let files = ["rows.jsonl", "--out", "kept.jsonl", "--rejects", "rejects.jsonl"];
    lab.run(&[&FILTER[..], &files].concat()).ok().says(&["wrote kept.jsonl (1 line), rejects.jsonl (3 lines)"]);
    assert_eq!(lab.lines("kept.jsonl"), [json!({"key": "a", "text": "long enough", "extra": [1, "x"]})]);
    let rejects = lab.lines("rejects.jsonl");
    assert_eq!(rejects[0], json!({"row": 1, "key": "b", "reason": "refusal"}));
    assert_eq!(rejects[2], json!({"row": 3, "key": "d", "reason": "too short"}));
    // A bad line after good ones: nothing is written, and what was there stays.
    lab.write("bad.jsonl", &format!("{CAPTIONS}nothing\n"));
    let files = ["bad.jsonl", "--batch", "1", "--out", "kept.jsonl", "--rejects", "new.jsonl"];
    lab.run(&[&FILTER[..], &files].concat()).fails(&["bad.jsonl line 5 is no row; each line is one JSON object"]);
    assert_eq!(lab.lines("kept.jsonl").len(), 1);
    assert!(!lab.path("new.jsonl").exists());
    assert_eq!(fs::read_dir(lab.0.path()).unwrap().count(), 4, "no temporary file is left");
}

#[test]
fn one_file_is_not_written_twice_and_the_state_comes_last() {
    let lab = captions();
    let files = ["rows.jsonl", "--out", "same.jsonl", "--rejects", "./same.jsonl"];
    lab.run(&[&FILTER[..], &files].concat()).fails(&["--out and --rejects are one file", "give each its own"]);
    assert!(!lab.path("same.jsonl").exists());
    // What a state covers must be there: a folder in the place of the output stops both.
    fs::create_dir(lab.path("folder")).unwrap();
    let filter = ["run", "filters/exact_dup", "--entry", "exact_text", "--rows", "rows.jsonl"];
    lab.run(&[&filter[..], &["--save-state", "state", "--out", "folder"]].concat()).fails(&["folder"]);
    assert!(!lab.path("state").exists());
    let last = ["--first-row", "18446744073709551615", "--batch", "1"];
    lab.run(&[&filter[..], &last].concat()).fails(&["--first-row"]);
}

#[test]
fn lines_of_json_for_other_programs() {
    let lab = captions();
    let ran = lab.run(&[&FILTER[..], &["rows.jsonl", "--format", "jsonl", "--limit", "2"]].concat()).ok();
    let lines: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines, [json!({"row": 0, "key": "a", "keep": true}), json!({"row": 1, "key": "b", "drop": "refusal"})]);
    assert!(ran.err.contains("2 rows: 1 kept"), "{}", ran.err);
}

#[test]
fn rows_may_come_from_standard_input() {
    let lab = Lab::new();
    let mut child = lab.command(&FILTER[..4]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(CAPTIONS.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap()).ok().says(&["4 rows: 1 kept"]);
}

#[test]
fn a_prompt_shows_conversations() {
    let lab = Lab::new();
    let row = |record: Value, images: u32| json!({"key": "k", "record": record, "num-images": images}).to_string();
    let rows = [row(json!({"question": "What?", "answer": "A cup."}), 1), row(json!({"id": 1}), 0)].join("\n");
    lab.write("rows.jsonl", &rows);
    let args = ["run", "prompts/conversation", "--rows", "rows.jsonl", "--out", "out.jsonl"];
    lab.run(&args).ok().says(&[
        "row 0 (k)\n    user        [image 0]What?\n  * assistant   A cup.\n",
        "row 1 (k)\n    error       the record has none of `conversations`",
        "2 rows: 1 rendered, 1 error\n",
    ]);
    assert_eq!(lab.lines("out.jsonl")[0]["conversation"][1]["parts"], json!([{"text": "A cup."}]));
    let asked = lab.run(&["run", "prompts/conversation", "--rows", "rows.jsonl", "--mode", "generate"]).ok();
    assert!(!asked.out.contains("A cup."), "{}", asked.out);
}

#[test]
fn a_metric_shows_scores_and_values() {
    let lab = Lab::new();
    let row = |prediction: &str| json!({"prediction": prediction, "references": ["red"], "record": {}}).to_string();
    lab.write("rows.jsonl", &[row("Red."), row("red"), row("redd"), row("blue")].join("\n"));
    let args = ["run", "metrics/exact_match", "--rows", "rows.jsonl", "--show", "1", "--out", "out.jsonl"];
    lab.run(&args).ok().says(&[
        "  row  score/exact_match  note\n    0  1.0\n  … and 3 more",
        "  metric       value       standard error  rows\n",
        "  exact_match    0.5  0.28867513459481287     4\n",
        "4 rows: 4 scored, 0 errors",
    ]);
    let lines = lab.lines("out.jsonl");
    assert_eq!(lines[4]["values"]["exact_match"]["value"], 0.5);
    // Halves, the second of which goes on where the first ended.
    lab.write("first.jsonl", &[row("Red."), row("red")].join("\n"))
        .write("second.jsonl", &[row("redd"), row("blue")].join("\n"));
    lab.run(&["run", "metrics/exact_match", "--rows", "first.jsonl", "--save-state", "s"]).ok();
    lab.run(&["run", "metrics/exact_match", "--rows", "second.jsonl", "--load-state", "s"])
        .ok()
        .says(&["  exact_match    0.5  0.28867513459481287     4\n"]);
}

#[test]
fn a_packer_shows_bins() {
    let lab = Lab::new();
    let lengths = [6, 5, 4, 1, 30, 9, 1];
    let rows: Vec<String> = lengths.iter().map(|n| json!({"length": n}).to_string()).collect();
    lab.write("rows.jsonl", &rows.join("\n"));
    let args = ["run", "packers/sequential", "--rows", "rows.jsonl", "--capacity", "10"];
    for batch in ["1", "3", "256"] {
        let files = ["--batch", batch, "--out", "bins.jsonl", "--rejects", "rejects.jsonl"];
        lab.run(&[&args[..], &files].concat()).ok().says(&[
            "  bin  samples  tokens     fill  ids\n",
            "    1        3      10  100.0 %  1 2 3\n",
            "7 samples: 6 in 3 bins, fill 86.67 %, 1 longer than a bin\n",
        ]);
        assert_eq!(lab.lines("bins.jsonl")[0], json!({"bin": 0, "tokens": 6, "fill": 0.6, "ids": [0]}));
        assert_eq!(lab.lines("rejects.jsonl"), [json!({"row": 4, "reason": "30 tokens, a bin holds 10"})]);
    }
    lab.run(&args[..4]).fails(&["a packer needs --capacity", "8192"]);
    lab.run(&[&args[..], &["--max-items-per-bin", "1"]].concat()).ok().says(&["6 in 6 bins"]);
}

#[test]
fn types_can_be_given() {
    let lab = Lab::new();
    lab.write("rows.jsonl", "{\"text\": 3}\n");
    let args = ["run", "filters/caption_quality", "--rows", "rows.jsonl"];
    lab.run(&args).fails(&["rows.jsonl: row 0, column \"text\": 3 does not fit its type utf8; allowed: a text"]);
    // The plugin is then asked, and says what it reads.
    lab.run(&[&args[..], &["--types", "text=u32s"]].concat())
        .fails(&["column `text` is u32s; this plugin reads it as utf8"]);
    lab.run(&[&args[..], &["--types", "text"]].concat())
        .fails(&["--types \"text\" is not NAME=VALUE", "--types score=f32s"]);
    lab.run(&[&args[..], &["--types", "text=string"]].concat()).fails(&["no column type \"string\"; allowed: u8s"]);
}

#[test]
fn what_a_user_can_get_wrong_is_named() {
    let lab = captions();
    lab.run(&["run", "filters/caption_quality", "--rows", "none.jsonl"]).fails(&["opening the rows none.jsonl"]);
    lab.run(&["run", "filters/caption_quality", "--rows", "."]).fails(&[". is a folder; rows are a file"]);
    lab.run(&["run", "filters/nothing", "--rows", "rows.jsonl"]).fails(&["\"filters/nothing\" was not found"]);
    let run =
        |more: &[&str]| lab.run(&[&["run", "filters/caption_quality", "--rows", "rows.jsonl"][..], more].concat());
    run(&["--config", "{min: 1}"]).fails(&["--config '{min: 1}' is not JSON; give an object"]);
    run(&["--config", "{\"min_char\": 1}"]).fails(&["\"min_char\" is not known, perhaps \"min_chars\""]);
    run(&["--asset", "words"]).fails(&["--asset \"words\" is not NAME=VALUE"]);
    run(&["--asset", "words=rows.jsonl"]).fails(&["has no asset \"words\"; it takes none"]);
    run(&["--limits", "{\"memory\": 3}"]).fails(&["--limits", "unknown field `memory`", "memory_mib"]);
    run(&["--capacity", "3"]).fails(&["for packers; this is a filter plugin"]);
    run(&["--mode", "generate"]).fails(&["--mode is for prompts; this is a filter plugin"]);
    run(&["--save-state", "s"]).fails(&["caption_quality", "no state to save"]);
    run(&["--entry", "other"]).fails(&["there is no entry \"other\"; it has: caption_quality"]);
    run(&["--out", "no/where.jsonl"]).fails(&["writing no/where.jsonl: its folder must exist"]);
    lab.write("wrong.jsonl", "{\"caption\": \"x\"}\n");
    lab.run(&["run", "filters/caption_quality", "--rows", "wrong.jsonl"]).fails(&[
        "wrong.jsonl",
        "reads column \"text\"",
        "the rows do not have; they have: caption",
    ]);
    lab.write("near.jsonl", "{\"txet\": \"x\", \"key\": \"k\"}\n");
    lab.run(&["run", "filters/caption_quality", "--rows", "near.jsonl"])
        .fails(&["perhaps \"txet\" is meant; they have: key, txet"]);
    run(&["--types", "txet=utf8"]).fails(&["--types txet", "no such column, perhaps \"text\"", "it reads: text, key"]);
}

#[test]
fn failing_rows_stop_the_run_or_are_taken_out() {
    let lab = Lab::new();
    lab.write("rows.jsonl", "{\"key\": \"a\", \"text\": \"x\"}\n{\"key\": \"b\", \"text\": \"poison\"}\n{\"key\": \"c\", \"text\": \"y\"}\n");
    let guest = guest("misbehave");
    let args = ["run", &guest, "--entry", "panic", "--rows", "rows.jsonl"];
    lab.run(&args).fails(&["rows.jsonl", "panic", "row 1", "\"b\""]);
    lab.run(&[&args[..], &["--on-trap", "reject", "--rejects", "r.jsonl"]].concat())
        .ok()
        .says(&["3 rows: 2 kept (66.7 %), 0 dropped, 1 error\n", "failures contained"]);
    assert_eq!(lab.lines("r.jsonl")[0]["key"], "b");
}

/// A reader that has seen enough ends no run whose files are wanted.
#[test]
fn files_are_written_though_nobody_reads_the_table() {
    let lab = Lab::new();
    lab.write("rows.jsonl", &"{\"text\": \"long enough\"}\n".repeat(20_000));
    let mut command = lab.command(&[&FILTER[..], &["rows.jsonl", "--format", "jsonl", "--out", "kept.jsonl"]].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    Ran::of(child.wait_with_output().unwrap()).ok();
    assert_eq!(lab.lines("kept.jsonl").len(), 20_000);
}

/// An interrupt ends a run between two batches with its own code, and leaves no file.
#[test]
fn an_interrupt_ends_the_run_cleanly() {
    let lab = Lab::new();
    let args = ["run", "filters/caption_quality", "--batch", "1", "--format", "jsonl", "--out", "kept.jsonl"];
    let mut child = lab.command(&args);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut rows = child.stdin.take().unwrap();
    rows.write_all(b"{\"text\": \"one\"}\n").unwrap();
    rows.flush().unwrap();
    // Its first answer says that it is at work and that the handler is in place.
    let mut first = [0_u8; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    // The reader waits for a row; the batch after the signal is the last.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let _ = rows.write_all(b"{\"text\": \"two\"}\n{\"text\": \"three\"}\n");
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert!(ran.err.contains("no file was written"), "{}", ran.err);
    assert_eq!(fs::read_dir(lab.0.path()).unwrap().count(), 0);
}

/// What is read is never written over, by whatever name it is given.
#[test]
fn inputs_are_no_outputs() {
    let lab = captions();
    std::os::unix::fs::symlink("rows.jsonl", lab.path("link.jsonl")).unwrap();
    fs::hard_link(lab.path("rows.jsonl"), lab.path("hard.jsonl")).unwrap();
    for out in ["rows.jsonl", "./rows.jsonl", "link.jsonl", "hard.jsonl"] {
        lab.run(&[&FILTER[..], &["rows.jsonl", "--out", out]].concat()).fails(&["--rows and --out are one file"]);
        lab.run(&[&FILTER[..], &["rows.jsonl", "--rejects", out]].concat()).fails(&["--rows and --rejects are one"]);
    }
    let counting = guest("counting");
    let args = ["run", &counting, "--entry", "counting", "--rows", "rows.jsonl"];
    lab.run(&[&args[..], &["--save-state", "s"]].concat()).ok();
    lab.run(&[&args[..], &["--load-state", "s", "--out", "s"]].concat())
        .fails(&["--load-state and --out are one file"]);
    // A stream that goes on may keep its state in one file.
    lab.run(&[&args[..], &["--load-state", "s", "--save-state", "s"]].concat()).ok();
    let args = ["run", &counting, "--entry", "frequent", "--rows", "rows.jsonl", "--asset", "counts=s", "--out", "s"];
    lab.run(&args).fails(&["--asset counts and --out are one file"]);
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p.wasm")).unwrap();
    lab.run(&["run", "p.wasm", "--rows", "rows.jsonl", "--out", "p.wasm"])
        .fails(&["the plugin and --out are one file"]);
    assert_eq!(lab.read("rows.jsonl"), CAPTIONS);
}

/// Outputs go through links into their targets, and into pipes; neither becomes a file.
#[test]
fn links_and_pipes_stay_what_they_are() {
    use std::os::unix::fs::{FileTypeExt as _, symlink};
    let lab = captions();
    lab.write("target.jsonl", "old");
    symlink("target.jsonl", lab.path("out.jsonl")).unwrap();
    assert!(Command::new("mkfifo").arg(lab.path("pipe")).status().unwrap().success());
    let reader = {
        let pipe = lab.path("pipe");
        std::thread::spawn(move || fs::read_to_string(pipe).unwrap())
    };
    lab.run(&[&FILTER[..], &["rows.jsonl", "--out", "out.jsonl", "--rejects", "pipe"]].concat()).ok();
    assert_eq!(lab.lines("target.jsonl").len(), 1);
    assert_eq!(reader.join().unwrap().lines().count(), 3);
    assert!(lab.path("out.jsonl").symlink_metadata().unwrap().is_symlink());
    assert!(lab.path("pipe").symlink_metadata().unwrap().file_type().is_fifo());
}

/// `run --crashes` keeps a failure for `replay`, which says how to call another build.
#[test]
fn failures_are_kept_for_replay() {
    let lab = Lab::new();
    lab.write("rows.jsonl", "{\"key\": \"a\", \"text\": \"poison\"}\n");
    fs::copy(guest("misbehave"), lab.path("p.wasm")).unwrap();
    let args = ["run", "p.wasm", "--entry", "panic", "--rows", "rows.jsonl", "--crashes", "kept"];
    lab.run(&args).fails(&["panic"]);
    let kept: Vec<PathBuf> = fs::read_dir(lab.path("kept")).unwrap().map(|e| e.unwrap().path()).collect();
    let [bundle] = &kept[..] else { panic!("{kept:?}") };
    let replay = |more: &[&str]| lab.run(&[&["replay", bundle.to_str().unwrap()], more].concat());
    assert_eq!(replay(&[]).says(&["reproduced"]).code, 1);
    // Another build in its place, and then none.
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p.wasm")).unwrap();
    let changed = replay(&[]);
    assert!(
        changed.code == 2 && changed.err.contains("another build") && changed.err.contains("--plugin"),
        "{}",
        changed.err
    );
    fs::remove_file(lab.path("p.wasm")).unwrap();
    let gone = replay(&[]);
    assert!(gone.code == 2 && gone.err.contains("--plugin dist/p.wasm"), "{}", gone.err);
    assert_eq!(replay(&["--plugin", &guest("misbehave")]).says(&["reproduced"]).code, 1);
}

/// In a checkout, whatever program finds what `cargo xtask plugins` built there.
#[test]
fn plugins_of_a_checkout_are_found_by_name() {
    let lab = captions();
    fs::create_dir_all(lab.path("target/plugins/filters")).unwrap();
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("target/plugins/filters/of_here.wasm")).unwrap();
    lab.run(&["run", "filters/of_here", "--rows", "rows.jsonl"]).ok();
    lab.run(&["run", "filters/of_there", "--rows", "rows.jsonl"]).fails(&["OVHOST_PLUGIN_PATH=", "target/plugins"]);
}

/// What data hold cannot turn a line around or reach the terminal.
#[test]
fn marks_of_direction_are_shown_as_what_they_are() {
    let lab = Lab::new();
    let record = json!({"question": "a\u{202e}b", "answer": "c\u{1b}[31m"});
    lab.write("rows.jsonl", &json!({"key": "k\u{2066}", "record": record, "num-images": 0}).to_string());
    let ran = lab.run(&["run", "prompts/conversation", "--rows", "rows.jsonl"]).ok();
    ran.says(&["row 0 (k\\u{2066})", "a\\u{202e}b", "c\\u{1b}[31m"]);
    lab.write("rows.jsonl", &json!({"key": "k\u{202e}", "text": "x"}).to_string());
    lab.run(&["run", "filters/caption_quality", "--rows", "rows.jsonl"]).ok().says(&["k\\u{202e}"]);
}
