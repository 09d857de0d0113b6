//! `inspect`: what a component is, for people and as JSON.

use super::*;

#[test]
fn everything_is_shown() {
    let lab = Lab::new();
    lab.run(&["inspect", "filters/caption_quality"]).ok().says(&[
        "  kind      filter\n",
        "  contract  0.1.0\n",
        "  package   caption_quality 0.1.0 (Apache-2.0)\n",
        "  imports   ovhost:plugin/",
        "ovhost:plugin/lifecycle@0.1.0",
        "  signature none\n",
        "entry caption_quality: Drops refusals",
        "  reads   text\n  writes  nothing\n",
        "  state   pure",
        "  config  min_chars = 50  Fewest characters that are kept.",
    ]);
    lab.run(&["inspect", "packers/sequential"]).ok().says(&["streaming: remembers rows"]);
    lab.run(&["inspect", &guest("counting"), "--entry", "counting"]).ok().says(&["filter-state@0.1.0", "writes  nth"]);
}

#[test]
fn schema_and_configuration_on_demand() {
    let lab = Lab::new();
    let schema = lab.run(&["inspect", "filters/caption_quality", "--schema"]).ok().json();
    assert_eq!(schema["properties"]["min_chars"]["default"], 50);
    let schemas = lab.run(&["inspect", &guest("counting"), "--schema"]).ok().json();
    assert!(schemas["counting"]["properties"]["most"].is_object() && schemas["frequent"].is_object(), "{schemas}");
    let args = ["inspect", "filters/caption_quality", "--json", "--config", "{\"min_chars\": 3}"];
    let seen = lab.run(&args).ok().json();
    assert_eq!(
        (&seen["resolved_config"]["min_chars"], &seen["resolved_config"]["max_chars"]),
        (&3.into(), &3500.into())
    );
    assert_eq!(seen["kind"], "filter");
    assert_eq!(seen["sha256"].as_str().unwrap().len(), 64);
    assert!(seen["imports"].is_array() && seen["signature"].is_null(), "{seen}");
    assert_eq!(seen["description"]["entries"][0]["state_pure"], true);
    lab.run(&["inspect", "filters/caption_quality", "--config", "{\"min_char\": 3}"]).fails(&["perhaps \"min_chars\""]);
    lab.run(&["inspect", &guest("counting"), "--entry", "none"]).fails(&["no entry \"none\"; it has: counting"]);
    lab.run(&["inspect", "filters/caption_qality"]).fails(&["was not found", "filters/caption_quality.wasm"]);
}

#[test]
fn help_has_examples_that_name_this_program() {
    let lab = Lab::new();
    for command in ["check", "test", "run", "bench", "inspect"] {
        let help = lab.run(&[command, "--help"]).ok();
        assert!(help.out.contains(&format!("ovhost-plugin {command}")), "{command}: {}", help.out);
        assert!(!help.out.contains("ovhost plugin "), "{command}: {}", help.out);
    }
}
