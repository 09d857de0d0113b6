//! Reports of made-up evaluations.

mod common;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use common::{evaluation, line, results, scored, task, write_lines};
use ovhost_eval_report::{Report, ReportOptions, report};
use serde_json::{Value, json};
use tempfile::TempDir;

fn none(_: &str, _: u64) -> Vec<(String, Vec<u8>)> {
    Vec::new()
}

fn reported(folder: &Path) -> Report {
    report(folder, &none, &ReportOptions::default()).unwrap()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image::RgbImage::from_pixel(width, height, image::Rgb([9, 99, 199]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A small evaluation with everything: categories, notes, unread and failed samples, a judge, a task that a server scores.
fn small() -> (TempDir, PathBuf) {
    let mut vstar = task(6, 0.4);
    vstar["summary"] = json!("V*: small things in large pictures.");
    vstar["unparsed"] = json!(1);
    vstar["truncated"] = json!(1);
    vstar["errors"] = json!(["other: it traps on every row"]);
    vstar["failed"] = json!(1);
    vstar["answered"] = json!(5);
    vstar["notes"] = json!(["`lmms-eval` reads \"Because\" as B; `fixed` does not."]);
    for (name, value) in [("exact_match/color", 0.5), ("exact_match/position", 0.25)] {
        vstar["metrics"][name] = json!({"value": value, "count": 2, "higher_is_better": true, "low": 0.0, "high": 1.0});
    }
    vstar["metrics"]["exact_match/nothing"] = json!({"value": null, "count": 0, "low": 0.0, "high": 1.0});
    vstar["metrics"]["unread"] = json!({"value": 1.0, "count": 5, "higher_is_better": false});
    let mut send = task(1, 0.0);
    send["metrics"] = json!({});
    send["main"] = Value::Null;
    send["summary"] = json!("DocVQA, test split.");
    let mut all = results(&[("vstar", vstar), ("docvqa_test", send)]);
    all["configs"]["vstar"]["data"] =
        json!({"dataset": "lmms-lab-encoder/vstar-bench", "config": null, "split": "test"});
    all["configs"]["docvqa_test"]["submission"] = json!({"file": "docvqa_test_for_submission.json"});
    all["group_subtasks"] = json!({"all": ["vstar", "docvqa_test"]});
    let mut unread = line(2, 0.0);
    unread["read"] = Value::Null;
    unread["filtered_resps"] = json!("Because");
    unread["input"] = json!("<image>\nWhich?");
    unread["finish_reason"] = json!("length");
    unread["token_counts"][0]["output_tokens"] = json!(16);
    let mut judged = line(3, 0.0);
    judged["judgement"] = json!("0");
    let failed =
        json!({"doc_id": 4, "doc_hash": "00", "key": "k4", "finish_reason": "error", "error": "image: damaged"});
    let unscored = json!({"doc_id": 5, "doc_hash": "00", "key": "k5", "input": "?", "filtered_resps": "x",
                          "finish_reason": "eos", "token_counts": [{"output_tokens": 5}], "score_errors": ["lmms_eval: no category"]});
    let lines = vec![line(0, 1.0), line(1, 0.0), unread, judged, failed, unscored];
    let sent = json!({"doc_id": 0, "doc_hash": "00", "key": "k0", "filtered_resps": "42", "input": "How many?", "finish_reason": "eos"});
    evaluation(&all, &[("vstar", lines), ("docvqa_test", vec![sent])])
}

#[test]
fn markdown_is_as_blessed() {
    let (_folder, folder) = small();
    let markdown = reported(&folder).markdown;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small.md");
    if std::env::var_os("OVHOST_BLESS").is_some() {
        fs::write(&golden, &markdown).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert_eq!(markdown, expected, "if it should be so: OVHOST_BLESS=1 cargo test -p ovhost-eval-report");
}

#[test]
fn the_page_needs_nothing_else_and_has_the_worst_first() {
    let (_folder, folder) = small();
    let page = reported(&folder).html;
    let order = ["<h4>2 · k2</h4>", "<h4>1 · k1</h4>", "<h4>3 · k3</h4>", "<h4>4 · k4</h4>", "<h4>5 · k5</h4>"];
    let places: Vec<usize> = order.iter().map(|title| page.find(title).unwrap_or_else(|| panic!("{title}"))).collect();
    assert!(places.is_sorted(), "unread, then wrong, then without a score: {places:?}");
    assert!(!page.contains("k0</h4>"), "what is right is not among the worst");
    for words in [
        "Evaluation of model-a",
        "<td class=\"n\">0.4000 ± 0.1000",
        "width:25.0%",
        "1 of 1 pictures are not at hand",
        "image: damaged",
        "lmms_eval: no category",
        "send submissions&#x2f;docvqa_test_for_submission.json",
        "metric lmms_eval&#x2f;x aaaaaaaaaaaa",
        "A metric failed: other: it traps on every row",
        "generation max_new_tokens 16",
        "prefers-color-scheme: dark",
        "@media print",
    ] {
        assert!(page.contains(words), "{words}");
    }
    for outside in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!((page.matches("<article>").count(), page.matches("</article>").count()), (5, 5));
    let two =
        report(&folder, &none, &ReportOptions { worst: 1, tasks: vec!["vstar".into()], ..Default::default() }).unwrap();
    assert_eq!(two.html.matches("<article>").count(), 2, "one of the worst, one without a score");
    assert!(!two.html.contains("docvqa_test</h2>"));
    assert_eq!(reported(&folder).html, page, "the same every time");
}

#[test]
fn what_samples_say_stays_text() {
    let evil = "</dd><script>alert(1)</script><img src=x onerror=y> \u{0} ``` \"'|";
    let mut bad = line(0, 0.0);
    for field in ["key", "input", "filtered_resps", "target", "read", "judgement", "finish_reason"] {
        bad[field] = json!(evil);
    }
    let mut failed = line(1, 0.0);
    failed["error"] = json!(evil);
    failed["score_errors"] = json!([evil]);
    failed["scores"] = json!({});
    failed.as_object_mut().unwrap().remove("exact_match");
    let mut all = results(&[("t", task(2, 0.0))]);
    all["model_name"] = json!(evil);
    all["config"]["gen_kwargs"] = json!({evil: evil});
    all["tasks"]["t"]["notes"] = json!([evil]);
    all["tasks"]["t"]["summary"] = json!(evil);
    all["tasks"]["t"]["errors"] = json!([evil]);
    all["configs"]["t"]["data"] = json!({"dataset": evil});
    all["tasks"]["t"]["plugins"][0]["entry"] = json!(evil);
    all["tasks"]["t"]["metrics"][format!("exact_match/{evil}")] = json!({"value": 1.0, "low": 0.0, "high": 1.0});
    all["group_subtasks"] = json!({evil: [evil]});
    let (_folder, folder) = evaluation(&all, &[("t", vec![bad, failed])]);
    let pictures = |_: &str, _: u64| vec![(evil.to_owned(), png(8, 8)), (evil.to_owned(), b"none".to_vec())];
    let both = report(&folder, &pictures, &ReportOptions::default()).unwrap();
    assert!(!both.html.contains("<script") && !both.html.contains("<img src=x") && !both.html.contains('\0'));
    assert!(both.html.matches("&lt;script&gt;").count() > 10);
    assert!(both.html.contains("alt=\"&lt;&#x2f;dd&gt;&lt;script"), "quotes end no attribute");
    // Markdown: outside of fences nothing is HTML, and no text ends its fence.
    let mut fence: Option<String> = None;
    for line in both.markdown.lines() {
        let ticks: String = line.chars().take_while(|c| *c == '`').collect();
        match &fence {
            None if ticks.len() >= 3 => fence = Some(ticks),
            Some(open) if *open == line => fence = None,
            None => assert!(!line.contains("<script"), "{line}"),
            Some(_) => {}
        }
    }
    assert!(fence.is_none());
}

#[test]
fn pictures_are_small_and_their_absence_is_said() {
    let mut two = line(0, 0.0);
    two["input"] = json!("<image> and <image>: which?");
    let (_folder, folder) = evaluation(&results(&[("t", task(1, 0.0))]), &[("t", vec![two])]);
    let asked = std::cell::RefCell::new(Vec::new());
    let pictures = |task: &str, doc_id: u64| {
        asked.borrow_mut().push((task.to_owned(), doc_id));
        vec![("one.png".to_owned(), png(2000, 1000)), ("two.jpg".to_owned(), b"\xff\xd8damaged".to_vec())]
    };
    let both = report(&folder, &pictures, &ReportOptions { thumbnail: 100, ..Default::default() }).unwrap();
    assert_eq!(*asked.borrow(), [("t".to_owned(), 0)]);
    assert_eq!(both.html.matches("src=\"data:image/jpeg;base64,").count(), 1);
    assert!(both.html.contains("width=\"100\" height=\"50\" alt=\"one.png\"") && both.html.len() < 20_000);
    assert!(both.html.contains("one.png 2000×1000") && both.html.contains("two.jpg cannot be shown"));
    assert!(both.markdown.contains("* one.png 2000×1000"));
    let without = reported(&folder);
    assert!(without.html.contains("2 of 2 pictures are not at hand") && !without.html.contains("<img"));
    let off = report(&folder, &pictures, &ReportOptions { thumbnail: 0, ..Default::default() }).unwrap();
    assert!(off.html.contains("2 pictures, left out") && asked.borrow().len() == 1);
}

#[test]
fn tasks_without_samples_or_scores() {
    let mut unscored = task(2, 0.0);
    unscored["metrics"]["exact_match"]["value"] = Value::Null;
    unscored["metrics"]["exact_match"]["stderr"] = Value::Null;
    unscored["unscored"] = json!(2);
    let without = |doc_id: u64| json!({"doc_id": doc_id, "filtered_resps": "x", "score_errors": ["no judge"], "finish_reason": "eos"});
    let all =
        results(&[("empty", task(0, 0.0)), ("unscored", unscored), ("gone", task(3, 0.5)), ("right", task(1, 1.0))]);
    let (_folder, folder) = evaluation(
        &all,
        &[("empty", vec![]), ("unscored", vec![without(0), without(1)]), ("right", vec![line(0, 1.0)])],
    );
    let both = reported(&folder);
    for words in [
        "It has no samples.",
        "No sample has a score.",
        "samples_gone.jsonl is not there",
        "All 1 scored samples have the full score.",
    ] {
        assert!(both.html.contains(words) || both.html.contains(&words.replace('/', "&#x2f;")), "{words}");
    }
    assert_eq!(both.html.matches("no judge").count(), 2);
    assert!(both.markdown.contains("| unscored | exact_match | – | 2 | 0 | 0 | 2 | 0 | 0 |"), "{}", both.markdown);
}

#[test]
fn a_recipes_data_and_old_or_foreign_folders() {
    let (folder, path) = evaluation(&results(&[("eval", task(1, 0.0))]), &[]);
    write_lines(&path.join("samples.jsonl"), &[line(0, 0.0)]);
    assert!(reported(&path).html.contains("<h4>0 · k0</h4>"));
    let gone = format!(
        "{:#}",
        report(&path, &none, &ReportOptions { tasks: vec!["x".into()], ..Default::default() }).unwrap_err()
    );
    assert!(gone.contains("--task x") && gone.contains("which has eval"), "{gone}");
    drop(folder);
    let theirs = tempfile::tempdir().unwrap();
    write_lines(&theirs.path().join("20260801_1_samples_t.jsonl"), &[json!({"doc_id": 0})]);
    let said = format!("{:#}", report(theirs.path(), &none, &ReportOptions::default()).unwrap_err());
    assert!(said.contains("ovhost eval --out"), "{said}");
}

#[test]
fn many_samples_are_streamed() {
    let (_folder, folder) = scored(&[1.0]);
    let mut lines: Vec<Value> = (0..20_000).map(|i| line(i, f64::from(u8::from(i % 2 == 0)))).collect();
    lines.reverse();
    write_lines(&folder.join("samples_t.jsonl"), &lines);
    let page = reported(&folder).html;
    let order: Vec<usize> = [1, 3, 39].iter().map(|id| page.find(&format!("<h4>{id} · ")).unwrap()).collect();
    assert!(order.is_sorted() && page.matches("<article>").count() == 20, "by doc_id where equally bad");
    assert!(page.contains("10,000 of 20,000 scored samples are below the full score."));
}
