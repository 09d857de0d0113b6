//! Made-up evaluations in temporary folders.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A samples line: right or wrong, with what every line has.
pub fn line(doc_id: u64, score: f64) -> Value {
    json!({
        "doc_id": doc_id, "doc_hash": format!("{doc_id:064x}"), "key": format!("k{doc_id}"), "source": "x.parquet",
        "target": "A", "filtered_resps": if score == 1.0 { "A" } else { "B" }, "input": "Which?\nA. yes\nB. no",
        "token_counts": [{"input_tokens": 9, "output_tokens": 2}], "finish_reason": "eos",
        "scores": {"lmms_eval": score}, "exact_match": score, "read": if score == 1.0 { "A" } else { "B" },
        "record": {"answer": "A", "score": 77},
    })
}

/// What results.json says of a task with the main metric `exact_match`.
pub fn task(samples: u64, value: f64) -> Value {
    json!({
        "main": "exact_match", "summary": "A task.", "samples": samples, "answered": samples, "failed": 0, "unscored": 0,
        "unparsed": 0, "truncated": 0, "judged": 0,
        "metrics": {"exact_match": {"value": value, "count": samples, "stderr": 0.1, "plugin": "lmms_eval/x",
                                    "higher_is_better": true, "low": 0.0, "high": 1.0}},
        "plugins": [{"kind": "metric", "name": "lmms_eval", "entry": "x", "sha256": "a".repeat(64), "config": {}}],
        "notes": [],
    })
}

/// results.json of tasks.
pub fn results(tasks: &[(&str, Value)]) -> Value {
    let by_name = |of: &dyn Fn(&Value) -> Value| {
        Value::Object(tasks.iter().map(|(name, task)| ((*name).to_owned(), of(task))).collect())
    };
    json!({
        "tasks": by_name(&Value::clone), "versions": by_name(&|_| json!(1)), "n-shot": by_name(&|_| json!(0)),
        "n-samples": by_name(&|task| json!({"original": 100, "effective": task["samples"]})),
        "configs": by_name(&|_| json!({"generation": {"max_new_tokens": 16}})),
        "config": {"model": "ovhost", "limit": null, "gen_kwargs": {"max_new_tokens": 16}},
        "model_name": "model-a", "ovhost_version": "0.1.0", "profile": "fixed",
        "settings": {"model": "b".repeat(64), "seed": 1}, "an_unknown_field": [1, 2],
    })
}

/// Writes lines as JSONL.
pub fn write_lines(path: &Path, lines: &[Value]) {
    fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

/// An evaluation of tasks, each with its lines.
pub fn evaluation(results: &Value, samples: &[(&str, Vec<Value>)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("results.json"), results.to_string()).unwrap();
    for (task, lines) in samples {
        write_lines(&folder.path().join(format!("samples_{task}.jsonl")), lines);
    }
    let path = folder.path().to_path_buf();
    (folder, path)
}

/// One task `t` with these scores by doc_id.
pub fn scored(scores: &[f64]) -> (TempDir, PathBuf) {
    let lines: Vec<Value> = scores.iter().enumerate().map(|(i, score)| line(i as u64, *score)).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    evaluation(&results(&[("t", task(scores.len() as u64, mean))]), &[("t", lines)])
}
