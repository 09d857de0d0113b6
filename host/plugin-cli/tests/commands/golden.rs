//! Golden cases: those of every first-party plugin, and what the command does with good, bad and blessed ones.

use ovhost_plugin::{Host, HostOptions, Located};
use ovhost_plugin_cli::golden::{self, Cases, Verdict};

use super::*;

/// Every `plugins/KINDs/NAME` has cases, enough of them, and its component passes them all, in every way of asking.
#[test]
fn every_first_party_plugin_has_cases_and_passes_them() {
    let host = Host::new(HostOptions { cache_dir: Some(cache().join("wasm")) }).unwrap();
    let (mut count, mut problems) = (0, Vec::new());
    for kinds in ["filters", "packers", "prompts", "metrics"] {
        let mut names: Vec<_> =
            fs::read_dir(root().join("plugins").join(kinds)).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for folder in names.into_iter().filter(|path| path.join("Cargo.toml").is_file()) {
            let name = format!("{kinds}/{}", folder.file_name().unwrap().to_string_lossy());
            let file = folder.join("cases.jsonl");
            assert!(
                file.is_file(),
                "plugins/{name} has no cases.jsonl: write golden cases, see ovhost plugin test --help"
            );
            let cases = Cases::read(&file).unwrap();
            let refused = cases
                .cases
                .iter()
                .filter(|(_, c)| c.expect.as_ref().is_some_and(|e| e.get("refused").is_some()))
                .count();
            assert!(cases.cases.len() >= 5, "plugins/{name} has {} cases; 5 are the least", cases.cases.len());
            assert!(refused > 0, "plugins/{name} has no case of a configuration that is refused");
            let path = plugins().join(format!("{name}.wasm"));
            assert!(path.is_file(), "{} is missing: run cargo xtask plugins", path.display());
            let component = Located { path, sha256: None };
            for outcome in golden::test(&host, &component, &cases, None).unwrap() {
                if !outcome.passed() {
                    problems.push(format!("{name}, {}: {:?}", outcome.name, outcome.verdict));
                }
                count += 1;
            }
            if !folder.join("README.md").is_file() {
                problems.push(format!("plugins/{name} has no README.md"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 60, "only {count} cases were found");
}

const GOOD: &str = r#"{"name": "good", "config": {"min_chars": 3}, "rows": [{"text": "abc"}, {"text": "ab"}], "expect": [{"keep": true}, {"drop": "too short"}]}"#;

#[test]
fn failures_are_told_by_place() {
    let lab = Lab::new();
    let wrong = GOOD.replace("good", "wrong").replace("too short", "short");
    let open = r#"{"name": "open", "rows": []}"#;
    let missing = r#"{"name": "missing", "rows": [{"txet": "a"}], "expect": []}"#;
    lab.write("c.jsonl", &[GOOD, &wrong, open, missing].join("\n"));
    let ran = lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl"]);
    assert_eq!(ran.code, 1);
    ran.says(&[
        "ok      good\n",
        "FAILED  wrong\n        [1].drop: expected \"short\", got \"too short\"\n",
        "FAILED  open\n        it has no expect; --bless writes what the plugin answers\n",
        "FAILED  missing\n        plugin caption_quality reads column \"text\"",
        "1 passed, 3 failed\n",
    ]);
    let told = lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl", "--json"]);
    let json = told.json();
    assert_eq!((told.code, &json["passed"], &json["failed"]), (1, &1.into(), &3.into()), "{json}");
    let verdicts: Vec<&str> =
        json["outcomes"].as_array().unwrap().iter().map(|o| o["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["pass", "differs", "open", "error"]);
    let difference = &json["outcomes"][1]["differences"][0];
    assert_eq!((&difference["path"], &difference["seen"]), (&"[1].drop".into(), &"too short".into()), "{json}");
    lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl", "--filter", "goo"])
        .ok()
        .says(&["ok      good\n1 passed, 3 not asked for\n"]);
    lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl", "--filter", "nothing"])
        .fails(&["no case's name contains \"nothing\"", "good, wrong, open, missing"]);
}

#[test]
fn blessed_answers_pass_and_nothing_else_changes() {
    let lab = Lab::new();
    let wrong = GOOD.replace("good", "wrong").replace("too short", "short");
    let trap = r#"{"name":"trap","rows":[{"txet":"a"}],"expect":[]}"#;
    lab.write("c.jsonl", &format!("{GOOD}\n\n{wrong}\n{trap}\n"));
    let ran = lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl", "--bless"]);
    assert_eq!(ran.code, 1, "a case in error has no answer to bless");
    ran.says(&[
        "blessed wrong\n        [1].drop: expected \"short\", got \"too short\"\n",
        "1 passed, 1 failed, 1 blessed",
    ]);
    let blessed = GOOD.replace("good", "wrong");
    assert_eq!(lab.read("c.jsonl"), format!("{GOOD}\n\n{blessed}\n{trap}\n"));
}

#[test]
fn a_project_folder_brings_its_component_and_its_cases() {
    let lab = Lab::new();
    lab.run(&["test"]).fails(&["./dist holds no .wasm file", "ovhost-plugin build ."]);
    fs::create_dir_all(lab.path("p/dist")).unwrap();
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p/dist/mine.wasm")).unwrap();
    lab.run(&["test", "p"]).fails(&["p/dist/mine.wasm has no golden cases: write cases.jsonl"]);
    lab.write("p/cases.jsonl", GOOD);
    for given in ["p", "p/dist/mine.wasm"] {
        lab.run(&["test", given]).ok().says(&["p/dist/mine.wasm with p/cases.jsonl\n", "1 passed\n"]);
    }
}

#[test]
fn lines_that_are_no_cases_are_named() {
    let lab = Lab::new();
    for (text, parts) in [
        ("{\"name\": \"a\", \"row\": []}", &["c.jsonl line 1", "unknown field `row`", "`rows`"][..]),
        ("\n{\"rows\": []}", &["c.jsonl line 2", "missing field `name`"]),
        ("[1]\n", &["c.jsonl line 1"]),
        ("{\"name\": \"a\"}\n{\"name\": \"a\"}", &["line 2", "named \"a\" in line 1 already"]),
        ("{\"name\": \"a\", \"types\": {\"x\": \"float\"}}", &["no column type \"float\"; allowed: u8s, u32s"]),
        ("\n{\"name\": x}", &["c.jsonl line 2: expected value in column 10"]),
        ("{\"name\": \"\"}", &["an empty name"]),
        ("\n\n", &["has no case"]),
    ] {
        lab.write("c.jsonl", text);
        lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl"]).fails(parts);
    }
    lab.run(&["test", "filters/caption_quality", "--cases", "nowhere.jsonl"])
        .fails(&["reading the cases nowhere.jsonl"]);
}

/// A plugin that says it is pure and judges by the number of its calls passes no case.
#[test]
fn answers_that_depend_on_the_calls_are_found() {
    let lab = Lab::new();
    lab.write("c.jsonl", r#"{"name": "calls", "entry": "counts_calls", "rows": [{"text": "a"}, {"text": "b"}]}"#);
    let host = Host::new(HostOptions { cache_dir: Some(cache().join("wasm")) }).unwrap();
    let component = Located { path: guest("misbehave").into(), sha256: None };
    let cases = Cases::read(&lab.path("c.jsonl")).unwrap();
    let outcomes = golden::test(&host, &component, &cases, None).unwrap();
    assert!(
        matches!(outcomes[0].verdict, Verdict::Unstable { .. } | Verdict::Dependent(_)) && outcomes[0].answer.is_none(),
        "{:?}",
        outcomes[0].verdict
    );
    let ran = lab.run(&["test", &guest("misbehave"), "--cases", "c.jsonl", "--bless"]);
    assert_eq!(ran.code, 1);
    ran.says(&["FAILED  calls"]);
    assert!(!lab.read("c.jsonl").contains("expect"), "what is unstable is never blessed");
}

/// The pin of a name holds for tests too.
#[test]
fn a_pinned_component_is_that_component() {
    let lab = Lab::new();
    lab.write("c.jsonl", GOOD);
    let wrong = format!("filters/caption_quality@sha256:{}", "0".repeat(64));
    let ran = lab.run(&["test", &wrong, "--cases", "c.jsonl"]);
    assert_eq!(ran.code, 1);
    ran.says(&["FAILED  good", "sha256"]);
}

/// A file of cases that is a link is blessed where it lies.
#[test]
fn blessing_goes_through_links() {
    let lab = Lab::new();
    lab.write("real/c.jsonl", r#"{"name": "open", "rows": []}"#);
    std::os::unix::fs::symlink("real/c.jsonl", lab.path("c.jsonl")).unwrap();
    lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl", "--bless"]).ok();
    assert!(lab.read("real/c.jsonl").contains("expect"));
    assert!(lab.path("c.jsonl").symlink_metadata().unwrap().is_symlink());
}

/// However few its rows are, a case saves and restores.
#[test]
fn a_case_of_one_row_saves_its_state() {
    let lab = Lab::new();
    let row = |entry: &str| {
        format!(
            "{{\"name\": \"{entry}\", \"entry\": \"{entry}\", \"limits\": {{\"capacity\": 9}}, \"rows\": [{{\"length\": 1}}]}}"
        )
    };
    let entries = ["save_panic", "restore_panic", "bad_state"];
    lab.write("c.jsonl", &entries.map(row).join("\n"));
    let ran = lab.run(&["test", &guest("misbehave_packer"), "--cases", "c.jsonl"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.out.matches("asked in another way (a new instance for each row)").count(), 3, "{}", ran.out);
    let metric =
        r#"{"name": "m", "entry": "save_panic", "rows": [{"prediction": "a", "references": ["a"], "record": {}}]}"#;
    lab.write("m.jsonl", metric);
    lab.run(&["test", &guest("misbehave_metric"), "--cases", "m.jsonl"]).says(&["FAILED  m", "nothing to save"]);
}

/// What belongs to another kind is a mistake in a case as it is in a flag.
#[test]
fn keys_of_another_kind_are_refused() {
    let lab = Lab::new();
    lab.write(
        "c.jsonl",
        r#"{"name": "a", "limits": {"capacity": 9}, "rows": []}
{"name": "b", "mode": "generate", "rows": []}"#,
    );
    let ran = lab.run(&["test", "filters/caption_quality", "--cases", "c.jsonl"]);
    assert_eq!(ran.code, 1);
    ran.says(&[
        "\"limits\" are for packers; this is a filter plugin",
        "\"mode\" is for prompts; this is a filter plugin",
    ]);
}
