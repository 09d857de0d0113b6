//! Packers, prompts and metrics that break their rules.

use ovhost_plugin::{Column, ColumnData, Mode, OnTrap, PackLimits, PackerInstance, PluginError, Rendered};

use crate::{answers, assert_says, ctx, guest, load, samples};

const LIMITS: PackLimits = PackLimits { capacity: 4096, max_items_per_bin: 0, max_open_items: 0 };

fn packer(entry: &str) -> PackerInstance {
    let mut packer = load(guest("misbehave_packer"), entry).packer().unwrap();
    packer.start(&LIMITS).unwrap();
    packer
}

/// Pushes and flushes until something is wrong.
fn packing_fault(entry: &str) -> (PackerInstance, PluginError) {
    let mut packer = packer(entry);
    let items = [(1, 1000), (2, 900), (3, 800), (4, 700), (5, 600), (6, 500)];
    let result = packer.push(&ctx(), &samples(&items)).and_then(|_| packer.flush());
    let error = result.expect_err(entry);
    (packer, error)
}

#[test]
fn packers_cannot_lose_double_or_overfill() {
    let cases: [(&str, &[&str]); 6] = [
        ("lose", &["samples never came back, among them ids ["]),
        ("duplicate", &["returned id 1, which is not in the packer"]),
        ("overfull", &["bin 0 has 4500 tokens, the capacity is 4096"]),
        ("unknown", &["which is not in the packer (never pushed"]),
        ("hoard", &["6 samples never came back, among them ids [1, 2, 3, 4, 5]"]),
        ("offsets", &["offsets"]),
    ];
    for (entry, parts) in cases {
        let (mut packer, error) = packing_fault(entry);
        assert_says(&error, parts);
        assert_says(&error, &[entry, "defect of the plugin"]);
        assert_says(
            &packer.push(&ctx(), &samples(&[(9, 1)])).unwrap_err(),
            &["lost its state", "begin the stream again"],
        );
        packer.start(&LIMITS).unwrap();
    }
}

#[test]
fn bounds_on_items_are_checked() {
    let mut packer = load(guest("misbehave_packer"), "overfull").packer().unwrap();
    packer.start(&PackLimits { max_items_per_bin: 2, ..LIMITS }).unwrap();
    let error = packer.push(&ctx(), &samples(&[(1, 1), (2, 1), (3, 1)])).unwrap_err();
    assert_says(&error, &["bin 0 has 3 samples, max-items-per-bin is 2"]);
    let mut packer = load(guest("misbehave_packer"), "hoard").packer().unwrap();
    packer.start(&PackLimits { max_open_items: 2, ..LIMITS }).unwrap();
    let error = packer.push(&ctx(), &samples(&[(1, 1), (2, 1), (3, 1)])).unwrap_err();
    assert_says(&error, &["holds 3 samples back, max-open-items is 2"]);
}

#[test]
fn a_packer_that_traps_ends_the_stream() {
    let mut packer = packer("panic");
    let error = packer.push(&ctx(), &samples(&[(1, 2000)])).unwrap_err();
    assert!(matches!(error, PluginError::Trap { row: None, .. }), "{error}");
    assert_says(&packer.flush().unwrap_err(), &["lost its state"]);
    packer.start(&LIMITS).unwrap();
    assert_eq!(packer.push(&ctx(), &samples(&[(1, 10)])).unwrap().bins, [[1]]);
}

#[test]
fn the_hosts_own_mistakes_leave_the_stream_alone() {
    let mut packer = packer("hoard");
    packer.push(&ctx(), &samples(&[(1, 10)])).unwrap();
    assert_says(&packer.push(&ctx(), &samples(&[(2, 10), (1, 10)])).unwrap_err(), &["id 1 is in the packer already"]);
    assert_says(&packer.push(&ctx(), &samples(&[(2, 10), (-3, 10)])).unwrap_err(), &["id -3 is negative"]);
    assert_says(&packer.push(&ctx(), &samples(&[(2, 10), (3, 5000)])).unwrap_err(), &["sample 3 has 5000 tokens"]);
    assert_eq!(packer.open_items(), 1);
    packer.push(&ctx(), &samples(&[(2, 10)])).unwrap();
}

#[test]
fn bad_saved_state_is_refused() {
    let mut packer = packer("bad_state");
    let state = packer.save().unwrap();
    assert!(packer.restore(&state).is_err());
    let mut packer = self::packer("good");
    assert_says(&packer.restore(b"junk").unwrap_err(), &["cannot be restored"]);
    packer.start(&PackLimits { capacity: 1, ..LIMITS }).unwrap();
    assert_says(&packer.restore(&state).unwrap_err(), &["capacity: 4096", "capacity: 1"]);
}

fn records(rows: &[&str]) -> ovhost_plugin::Batch {
    let n = rows.len();
    ovhost_plugin::Batch {
        rows: n as u32,
        columns: vec![
            Column::utf8("record", rows),
            Column::new("num-images", ColumnData::U32s(vec![1; n])),
            Column::utf8("key", (0..n).map(|i| format!("k{i}"))),
        ],
    }
}

#[test]
fn prompts_are_held_to_their_rules() {
    let render = |entry: &str, rows: &[&str]| {
        let mut prompt = load(guest("misbehave_prompt"), entry).prompt().unwrap();
        prompt.render(&ctx(), Mode::Train, &records(rows))
    };
    assert_says(&render("wrong_length", &["a", "b"]).unwrap_err(), &["1 items for 2 rows"]);
    assert_says(&render("no_such_image", &["a"]).unwrap_err(), &["row 0 uses image 99 and has 1"]);
    assert_says(&render("undeclared_special", &["a"]).unwrap_err(), &["<|nonsense|>", "special-tokens does not name"]);
    assert!(render("unknown_special", &["a"]).is_ok(), "declared: for the tokenizer to judge");
    assert_says(&render("panic", &["a", "poison"]).unwrap_err(), &["on row 1001 (key \"k1\")", "is poison"]);
    let out = render("error_with_content", &["a"]).unwrap();
    assert_eq!(out.items, [Rendered::Conversation(vec![])]);
    assert_eq!(out.errors, [(0, "this row is bad".to_owned())]);
}

#[test]
fn a_contained_prompt_failure_rejects_one_row() {
    let mut prompt = load(guest("misbehave_prompt"), "panic").prompt().unwrap();
    prompt.set_on_trap(OnTrap::Reject);
    let out = prompt.render(&ctx(), Mode::Generate, &records(&["a", "poison", "c"])).unwrap();
    assert_eq!(out.items.len(), 3);
    assert_eq!(out.items[1], Rendered::Conversation(vec![]));
    assert_eq!(out.errors.len(), 1);
    assert!(matches!(&out.items[2], Rendered::Conversation(m) if m.len() == 1));
}

#[test]
fn metrics_are_held_to_their_rules() {
    let finalize = |entry: &str| {
        let mut metric = load(guest("misbehave_metric"), entry).metric().unwrap();
        metric.update(&ctx(), &answers(&["a", "b"])).unwrap();
        metric.finalize()
    };
    assert_eq!(finalize("good").unwrap()[0].count, 2);
    assert_says(&finalize("undeclared_value").unwrap_err(), &["\"surprise\" is none of its outputs (points)"]);
    assert_says(&finalize("missing_value").unwrap_err(), &["no value for its output \"points\""]);
    assert_says(&finalize("infinite").unwrap_err(), &["is inf"]);
    let mut metric = load(guest("misbehave_metric"), "wrong_length").metric().unwrap();
    let error = metric.update(&ctx(), &answers(&["a", "b"])).unwrap_err();
    assert_says(&error, &["score/points", "it has 1 values for 2 rows"]);
    let mut metric = load(guest("misbehave_metric"), "bad_state").metric().unwrap();
    let state = metric.save().unwrap();
    assert_says(&metric.merge(&state).unwrap_err(), &["merge", "this is not my state"]);
}

#[test]
fn a_failed_metric_never_goes_on_with_half_its_state() {
    let mut metric = load(guest("misbehave_metric"), "panic").metric().unwrap();
    metric.update(&ctx(), &answers(&["a", "b"])).unwrap();
    let error = metric.update(&ctx(), &answers(&["c", "poison"])).unwrap_err();
    assert_says(&error, &["on row 1001 (key \"k1\")"]);
    assert_says(&metric.finalize().unwrap_err(), &["lost its state", "reset()"]);
    metric.reset().unwrap();
    metric.update(&ctx(), &answers(&["a"])).unwrap();
    assert_eq!(metric.finalize().unwrap()[0].count, 1);
}

#[test]
fn a_contained_metric_keeps_its_state() {
    let mut metric = load(guest("misbehave_metric"), "panic").metric().unwrap();
    metric.set_on_trap(OnTrap::Reject);
    metric.update(&ctx(), &answers(&["a", "b", "c"])).unwrap();
    let scored = metric.update(&ctx(), &answers(&["d", "poison", "e", "f", "poison"])).unwrap();
    assert_eq!(scored.errors.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(scored.per_row[0].valid, Some(vec![1, 0, 1, 1, 0]));
    assert_eq!(metric.finalize().unwrap()[0].count, 6, "three of the first batch and three of the second");
}

#[test]
fn judged_rows_come_back() {
    let mut metric = load(guest("misbehave_metric"), "judge").metric().unwrap();
    let mut batch = answers(&["a", "b"]);
    let scored = metric.update(&ctx(), &batch).unwrap();
    assert_eq!(scored.needs_judge[1], (1, vec![("user".to_owned(), "Is it right?".to_owned())]));
    assert_says(&metric.judged(&ctx(), &batch).unwrap_err(), &["\"judgement\""]);
    batch.columns.push(Column::utf8("judgement", ["yes", "no"]));
    metric.judged(&ctx(), &batch).unwrap();
    let value = &metric.finalize().unwrap()[0];
    assert_eq!((value.value, value.count), (0.5, 2));
}
