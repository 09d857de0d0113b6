//! Plugins that are wrong or wicked: each ends in its own error, and the host lives to say so.

use std::fs;

use crate::lab::{Lab, plugins, root};

fn misbehave() -> String {
    root().join("tests/fixtures/guests/misbehave.wasm").to_string_lossy().into_owned()
}

/// Puts an entry of the misbehaving guest into the recipe, as a filter, and the row that sets it off into the data.
fn with_entry(entry: &str, limits: &str) -> Lab {
    let lab = Lab::new();
    let mut poison = lab.good(0);
    poison[0].1 = br#"{"question": "what?", "answer": "poison"}"#.to_vec();
    let samples = [("g0", lab.good(0)), ("g1", lab.good(1)), ("the-row", poison), ("g3", lab.good(3))];
    lab.write_shard(&samples);
    let use_ =
        format!("[[plugins.filter]]\nplugin = {:?}\nentry = \"{entry}\"\n{limits}\n\n[plugins.prompt]", misbehave());
    lab.edit_recipe("[plugins.prompt]", &use_);
    lab
}

#[test]
fn one_that_loops_is_stopped() {
    with_entry("loop", "").run(&["train"]).fails_with(&["plugin loop", "fuel_per_row", "the-row"]);
}

#[test]
fn one_that_panics_shows_its_own_text() {
    with_entry("panic", "").run(&["train"]).fails_with(&["plugin panic", "panicked at", "the-row"]);
}

#[test]
fn one_that_eats_memory_is_stopped() {
    with_entry("memory", "limits = { memory_mib = 32 }").run(&["train"]).fails_with(&[
        "plugin memory",
        "memory_mib",
        "32",
    ]);
}

#[test]
fn one_that_recurses_without_end_is_stopped() {
    with_entry("overflow", "").run(&["train"]).fails_with(&["plugin overflow", "stack"]);
}

#[test]
fn one_that_answers_a_wrong_length_is_told_the_rule() {
    with_entry("wrong_length", "").run(&["train"]).fails_with(&["plugin wrong_length", "keep"]);
}

#[test]
fn one_whose_answer_is_too_large_is_told_the_limit() {
    with_entry("huge_output", "limits = { output_mib = 1 }")
        .run(&["train"])
        .fails_with(&["plugin huge_output", "output_mib"]);
}

#[test]
fn one_of_the_wrong_kind() {
    let lab = Lab::new();
    lab.edit_recipe("packers/padding_free.wasm", "filters/caption_quality.wasm");
    lab.run(&["train"]).fails_with(&[
        "plugins.packer",
        "caption_quality",
        "is a filter plugin, a packer plugin is needed here",
    ]);
    let lab = Lab::new();
    lab.run(&["eval", "--model", "model", "--data", "data/test", "--plugins", "packers/sequential.wasm"])
        .fails_with(&["is a packer plugin; this command uses"]);
}

#[test]
fn one_whose_hash_differs_from_the_pin() {
    let lab = Lab::new();
    let pin = "0".repeat(64);
    lab.edit_recipe(
        "plugin = \"packers/padding_free.wasm\"",
        &format!("plugin = \"packers/padding_free.wasm\"\nsha256 = \"{pin}\""),
    );
    lab.run(&["train"]).fails_with(&["padding_free", &pin, "sha256"]);
}

#[test]
fn one_that_is_not_there() {
    let lab = Lab::new();
    lab.run(&["train", "--plugins", "packers/padding_fre.wasm"]).fails_with(&["padding_fre.wasm", "padding_free"]);
}

#[test]
fn one_that_is_no_component() {
    let lab = Lab::new();
    fs::write(lab.at("text.wasm"), "hello").unwrap();
    lab.run(&["train", "--plugins", "text.wasm"]).fails_with(&["text.wasm", "component"]);
    let mut half = fs::read(plugins().join("packers/sequential.wasm")).unwrap();
    half.truncate(half.len() / 2);
    fs::write(lab.at("half.wasm"), half).unwrap();
    lab.run(&["train", "--plugins", "half.wasm"]).fails_with(&["half.wasm"]);
}

#[test]
fn a_configuration_that_the_schema_refuses() {
    let lab = Lab::new();
    lab.edit_recipe("config = { min_side = 8 }", "config = { min_sid = 8 }");
    lab.run(&["train"]).fails_with(&["image_geometry", "min_sid"]);
    let lab = Lab::new();
    lab.edit_recipe("config = { min_side = 8 }", "config = { min_side = \"large\" }");
    lab.run(&["train"]).fails_with(&["image_geometry", "min_side"]);
}

#[test]
fn inspect_shows_what_a_plugin_is() {
    let lab = Lab::new();
    let out = lab.run(&["plugin", "inspect", "filters/caption_quality.wasm"]).ok().out;
    for part in ["filter", "sha256", "caption_quality", "text"] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
}
