//! `check`: every step of a sound component, and the step that each fault is found at.

use serde_json::json;

use super::*;

/// (step, entry, status) of every step, and the whole answer.
fn steps(ran: &Ran) -> Vec<(String, String)> {
    let all = ran.json()["steps"].as_array().unwrap().clone();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    all.iter().map(|s| (text(&s["step"]), text(&s["status"]))).collect()
}

fn failed(ran: &Ran) -> Vec<String> {
    steps(ran).into_iter().filter(|(_, status)| status == "failed").map(|(step, _)| step).collect()
}

#[test]
fn a_sound_component_passes_every_step() {
    let lab = Lab::new();
    lab.run(&["check", "filters/caption_quality"]).ok().says(&[
        "✓ file",
        "✓ component",
        "✓ imports    ovhost:plugin/",
        "✓ exports    filter, contract 0.1.0",
        "✓ compiles",
        "✓ describes  caption_quality",
        "entry caption_quality",
        "✓ schema     valid; 4 keys",
        "✓ init       with {}: {",
        "\"min_chars\": 50",
        "✓ again      a second init gave the same",
        "✓ resolved",
        "✓ columns    reads text; adds nothing",
        "nothing wrong was found",
    ]);
    for plugin in ["packers/padding_free", "prompts/conversation", "metrics/exact_match"] {
        let ran = lab.run(&["check", plugin, "--json"]).ok();
        assert!(ran.json()["ok"] == json!(true) && failed(&ran).is_empty(), "{}", ran.out);
    }
    lab.run(&["check", "metrics/exact_match"]).ok().says(&["values: exact_match"]);
}

#[test]
fn a_configuration_is_tried_as_given() {
    let lab = Lab::new();
    let ran = lab.run(&["check", "filters/caption_quality", "--config", "{\"min_chars\": 9, \"max_chars\": 8}"]);
    assert_eq!(ran.code, 1);
    ran.says(&["✗ init", "/max_chars: 8 is below min_chars = 9", "1 step failed"]);
    lab.run(&["check", "filters/caption_quality", "--config", "{\"min_chars\": 1}"]).ok().says(&["\"min_chars\": 1"]);
    lab.run(&["check", "filters/caption_quality", "--entry", "other"]).says(&["✗ entry", "it has: caption_quality"]);
}

#[test]
fn files_that_are_no_plugins_fail_at_their_step() {
    let lab = Lab::new();
    lab.write("text.wasm", "(component)").write("zip.wasm", "PK\u{3}\u{4}");
    fs::write(lab.path("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    fs::write(lab.path("empty.wasm"), b"\0asm\x0d\0\x01\0").unwrap();
    for (file, step, words) in [
        ("text.wasm", "component", "text format"),
        ("zip.wasm", "component", "first bytes"),
        ("module.wasm", "component", "core module"),
        ("empty.wasm", "exports", "exports none of"),
    ] {
        let ran = lab.run(&["check", file, "--json"]);
        assert_eq!((ran.code, failed(&ran)), (1, vec![step.to_owned()]), "{file}: {}", ran.out);
        assert!(ran.out.contains(words), "{file}: {}", ran.out);
    }
    lab.run(&["check", "nowhere.wasm"]).fails(&["\"nowhere.wasm\" was not found"]);
}

/// Each entry that fails in `init` is a finding of its own; the sound ones beside it are still looked at.
#[test]
fn every_entry_is_looked_at() {
    let lab = Lab::new();
    let ran = lab.run(&["check", &guest("misbehave"), "--json"]);
    assert_eq!(ran.code, 1);
    let all = ran.json()["steps"].as_array().unwrap().clone();
    let of = |entry: &str, step: &str| {
        let found = all.iter().find(|s| s["entry"] == entry && s["step"] == step);
        found.unwrap_or_else(|| panic!("{entry} has no step {step}")).clone()
    };
    assert_eq!(of("good", "again")["status"], "ok");
    for entry in ["init_panic", "init_loop", "init_memory", "init_overflow"] {
        assert_eq!(of(entry, "init")["status"], "failed", "{entry}");
    }
    // Refusing the empty configuration is no fault.
    let refuses = of("init_refuses", "init");
    assert_eq!(refuses["status"], "note", "{refuses}");
    assert!(refuses["detail"].as_str().unwrap().contains("--config"), "{refuses}");
    let only = lab.run(&["check", &guest("misbehave"), "--entry", "good", "--json"]).ok();
    assert!(only.json()["steps"].as_array().unwrap().iter().all(|s| s["entry"].is_null() || s["entry"] == "good"));
    // Given on purpose it is.
    let given = lab.run(&["check", &guest("misbehave"), "--entry", "init_refuses", "--config", "{}", "--json"]);
    assert_eq!((given.code, failed(&given)), (1, vec!["init".to_owned()]));
}

/// Without --config the golden cases say how an entry is configured.
#[test]
fn cases_say_how_an_entry_is_configured() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("p/dist")).unwrap();
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p/dist/mine.wasm")).unwrap();
    lab.write(
        "p/cases.jsonl",
        "{\"name\": \"no\", \"config\": {\"x\": 1}, \"expect\": {\"refused\": []}}\n{\"name\": \"a\", \"config\": {\"min_chars\": 7}}\n",
    );
    lab.run(&["check", "p"]).ok().says(&["with {\"min_chars\": 7} (of its golden cases)"]);
}

/// What the program says the host offers is what the data pipeline does offer.
#[test]
fn offered_columns_are_those_of_the_pipeline() {
    use ovhost_plugin::Kind;
    use ovhost_plugin::json::standard_type;
    use ovhost_plugin_cli::input::offered;
    assert_eq!(offered(Kind::Filter), ovhost_data::columns::STANDARD);
    assert_eq!(offered(Kind::Prompt), ovhost_data::columns::STANDARD);
    for kind in Kind::ALL {
        for name in offered(kind) {
            assert!(standard_type(name).is_some(), "{name} has no type for rows of JSON");
        }
    }
}

/// What a plugin remembers is saved, taken up and saved again before any data comes.
#[test]
fn state_that_cannot_be_kept_is_found() {
    let lab = Lab::new();
    lab.run(&["check", &guest("counting"), "--entry", "counting"]).ok().says(&["✓ state", "saves the same"]);
    lab.run(&["check", "packers/padding_free"]).ok().says(&["✓ state"]);
    lab.run(&["check", "metrics/exact_match"]).ok().says(&["✓ state"]);
    let none = lab.run(&["check", "filters/caption_quality"]).ok();
    assert!(!none.out.contains(" state "), "{}", none.out);
    for (component, entry) in [
        ("misbehave_packer", "save_panic"),
        ("misbehave_packer", "restore_panic"),
        ("misbehave_packer", "bad_state"),
        ("misbehave_metric", "save_panic"),
        ("misbehave_metric", "bad_state"),
    ] {
        let ran = lab.run(&["check", &guest(component), "--entry", entry, "--json"]);
        assert_eq!((ran.code, failed(&ran)), (1, vec!["state".to_owned()]), "{component} {entry}: {}", ran.out);
    }
}

/// The manifest's kind, world and name are those of what was built.
#[test]
fn a_manifest_that_says_something_else_is_found() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("p/dist")).unwrap();
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p/dist/caption_quality.wasm")).unwrap();
    let manifest = |name: &str, kind: &str, more: &str| {
        lab.write("p/ovhost-plugin.toml", &format!("name = '{name}'\nkind = '{kind}'\nlang = 'rust'\n{more}"));
        lab.run(&["check", "p", "--json"])
    };
    let status = |ran: &Ran| steps(ran).into_iter().find(|(step, _)| step == "manifest").map(|(_, status)| status);
    assert_eq!(status(&manifest("caption_quality", "filter", "").ok()).as_deref(), Some("ok"));
    let lies = manifest("caption_quality", "packer", "");
    assert_eq!((lies.code, status(&lies).as_deref()), (1, Some("failed")), "{}", lies.out);
    assert!(lies.out.contains("says kind = \\\"packer\\\", and what was built is a filter"), "{}", lies.out);
    let world = manifest("caption_quality", "filter", "world = 'stateful-filter-plugin'");
    assert!(world.code == 1 && world.out.contains("saves no state"), "{}", world.out);
    manifest("caption_quality", "filter", "world = 'sieve'").fails(&["no world of a filter", "stateful-filter-plugin"]);
    let renamed = manifest("caption_words", "filter", "").ok();
    assert_eq!(status(&renamed).as_deref(), Some("note"), "{}", renamed.out);
    assert!(renamed.err.contains("p/dist/caption_words.wasm is not built"), "{}", renamed.err);
    // An older name's file does not stand in the way.
    fs::copy(lab.path("p/dist/caption_quality.wasm"), lab.path("p/dist/caption_words.wasm")).unwrap();
    let renamed = manifest("caption_words", "filter", "").ok();
    assert!(renamed.json()["path"].as_str().unwrap().ends_with("caption_words.wasm"), "{}", renamed.out);
}

/// A component that is older than its sources is used, and said to be.
#[test]
fn a_component_older_than_its_sources_is_told_of() {
    let lab = Lab::new();
    fs::create_dir_all(lab.path("p/dist")).unwrap();
    fs::copy(plugins().join("filters/caption_quality.wasm"), lab.path("p/dist/caption_quality.wasm")).unwrap();
    lab.write("p/ovhost-plugin.toml", "name = 'caption_quality'\nkind = 'filter'\nlang = 'rust'\n");
    lab.write("p/src/lib.rs", "")
        .write("rows.jsonl", "{\"text\": \"a\"}\n")
        .write("p/cases.jsonl", "{\"name\": \"a\"}");
    let set = |name: &str, ago: u64| {
        let file = fs::File::options().append(true).open(lab.path(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(ago)).unwrap();
    };
    set("p/dist/caption_quality.wasm", 60);
    set("p/ovhost-plugin.toml", 90);
    let commands: [&[&str]; 5] = [
        &["check", "p"],
        &["check", "p/dist/caption_quality.wasm"],
        &["test", "p"],
        &["run", "p", "--rows", "rows.jsonl"],
        &["bench", "p", "--batches", "1", "--limit", "8", "--seconds", "0.001"],
    ];
    for (ago, said) in [(30, true), (90, false)] {
        set("p/src/lib.rs", ago);
        for command in commands {
            let ran = lab.run(command);
            assert_eq!(ran.err.contains("p/src/lib.rs is newer than p/dist/"), said, "{command:?}: {}", ran.err);
            assert_eq!(ran.err.contains("`ovhost-plugin build p` renews it"), said, "{command:?}: {}", ran.err);
        }
    }
}
