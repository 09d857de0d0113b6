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
