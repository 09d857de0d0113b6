//! The timing part runs on the CPU, too: the command is ready before a GPU is at hand.

use std::process::{Command, Output};

use serde_json::Value;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-llava-ov-1.5/config.json");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-llava-ov-1.5");

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ovhost-gpu-check")).args(["--fixtures", FIXTURES]).args(args).output().unwrap()
}

#[test]
fn every_policy_is_timed_and_every_operation() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report.json");
    let args = ["--device", "cpu", "--only", "time", "--size", CONFIG, "--tokens", "1100", "--steps", "2", "--out"];
    let args: Vec<&str> = args.into_iter().chain([out.to_str().unwrap()]).chain(["--peak-tflops", "0.1"]).collect();
    let output = check(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let times = report["times"].as_array().unwrap();
    let policies: Vec<&str> = times.iter().filter_map(|row| row["recompute"].as_str()).collect();
    assert_eq!(policies, ["none", "selective", "full"]);
    for row in times {
        let value = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
        assert!(value("step_ms") > 0.0 && value("forward_backward_ms") > 0.0 && value("optimizer_ms") > 0.0);
        assert_eq!(row["patches"], 1024);
        // One number divided by two measured seconds: the share of the peak is the operations over the time.
        let mfu = value("model_tflop") / (value("step_ms") / 1e3) / 0.1;
        assert!((value("mfu") / mfu - 1.0).abs() < 1e-6, "{row}");
        assert!(value("hfu") >= value("mfu"));
    }
    let names: Vec<&str> =
        report["profile"].as_array().unwrap().iter().filter_map(|row| row["name"].as_str()).collect();
    assert!(names.contains(&"q_proj") && names.contains(&"head and loss"), "{names:?}");
}

#[test]
fn a_device_or_size_that_is_not_there_is_named() {
    for (args, part) in [(["--device", "gpu"], "\"gpu\"; cpu or cuda:N"), (["--size", "5b"], "\"5b\"; 3b, 4b")] {
        let output = check(&[&["--only", "time", "--device", "cpu"], &args[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(part), "{error}");
    }
}
