//! Packers, prompts and metrics that break their rules.

use ovhost_plugin::{
    Column, ColumnData, Limits, Mode, OnTrap, PackLimits, PackerInstance, PluginError, PluginSpec, Rendered,
};

use crate::{answers, assert_says, ctx, guest, host, load, samples, spec};

const LIMITS: PackLimits = PackLimits { capacity: 4096, max_items_per_bin: 0, max_open_items: 0 };

fn packer(entry: &str) -> PackerInstance {
    let mut packer = load(guest("misbehave_packer"), entry).packer().unwrap();
    packer.start(&LIMITS).unwrap();
    packer
}

/// Flushes until all is out or something is wrong.
fn flush_all(packer: &mut PackerInstance) -> Result<(), PluginError> {
    while packer.flush()?.is_some() {}
    Ok(())
}

/// Pushes and flushes until something is wrong.
fn packing_fault(entry: &str) -> (PackerInstance, PluginError) {
    let mut packer = packer(entry);
    let items = [(1, 900), (2, 900), (3, 800), (4, 700), (5, 600), (6, 500)];
    let result = packer.push(&ctx(), &samples(&items)).and_then(|_| flush_all(&mut packer));
    let error = result.expect_err(entry);
    (packer, error)
}

#[test]
fn packers_cannot_lose_double_or_overfill() {
    let cases: [(&str, &[&str]); 11] = [
        ("lose", &["samples never came back, among them ids ["]),
        ("duplicate", &["returned id 1, which is not in the packer"]),
        ("overfull", &["bin 0 has 4400 tokens, the capacity is 4096"]),
        ("unknown", &["which is not in the packer (never pushed"]),
        ("hoard", &["6 samples never came back, among them ids [1, 2, 3, 4, 5]"]),
        ("offsets", &["offsets run from 0 to 16 over 6 ids"]),
        ("offsets_from", &["offsets run from 1 to 6 over 6 ids"]),
        ("offsets_back", &["offsets of bin 1 are 1 and 0"]),
        ("drops_packed", &["returned id 1, which is not in the packer"]),
        ("empty_bin", &["bin 1 is empty"]),
        ("many_bins", &["bin 0 is empty"]),
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
    assert_eq!(packer.push(&ctx(), &samples(&[(1, 10)])).unwrap().bins.to_vecs(), [[1]]);
}

#[test]
fn packers_that_fail_outside_of_push_end_the_stream_too() {
    let says = |packer: &mut PackerInstance, error: PluginError, parts: &[&str]| {
        assert_says(&error, parts);
        assert_says(
            &packer.push(&ctx(), &samples(&[(9, 1)])).unwrap_err(),
            &["lost its state", "begin the stream again"],
        );
        packer.start(&LIMITS).unwrap();
        assert_eq!(packer.push(&ctx(), &samples(&[(9, 1)])).unwrap().bins.to_vecs(), [[9]]);
    };
    let mut flush = packer("flush_panic");
    let error = flush.flush().unwrap_err();
    says(&mut flush, error, &["flush_panic failed in flush", "nothing to flush"]);
    let mut flush = packer("flush_loop");
    let error = flush.flush().unwrap_err();
    says(&mut flush, error, &["failed in flush", "stopped after", "fuel"]);
    let mut save = packer("save_panic");
    let error = save.save().unwrap_err();
    says(&mut save, error, &["failed in save", "nothing to save"]);
    let mut save = packer("huge_state");
    let error = save.save().unwrap_err();
    says(&mut save, error, &["failed in save", "more than limits.output_mib = 64"]);
    let mut restore = packer("restore_panic");
    let state = restore.save().unwrap();
    let error = restore.restore(&state).unwrap_err();
    says(&mut restore, error, &["failed in restore", "nothing to restore"]);
    let mut refuses = load(guest("misbehave_packer"), "start_refuses").packer().unwrap();
    assert_says(&refuses.start(&LIMITS).unwrap_err(), &["start_refuses, start: bad input: not today"]);
    assert_says(&refuses.push(&ctx(), &samples(&[(9, 1)])).unwrap_err(), &["lost its state"]);
}

#[test]
fn a_packer_that_forgets_what_it_was_given_to_restore_is_caught_at_the_end() {
    let mut packer = packer("forgets_state");
    packer.push(&ctx(), &samples(&[(1, 10), (2, 10)])).unwrap();
    let state = packer.save().unwrap();
    packer.start(&LIMITS).unwrap();
    packer.restore(&state).unwrap();
    assert_eq!(packer.open_items(), 2);
    assert_says(&packer.flush().unwrap_err(), &["2 samples never came back, among them ids [1, 2]"]);
}

#[test]
fn every_packer_leaves_the_host_as_it_was() {
    let entries = host().inspect(&guest("misbehave_packer"), None).unwrap().description.entries;
    assert!(entries.len() > 30);
    let mut witness = packer("good");
    for (i, entry) in entries.iter().enumerate() {
        let limits = Limits { fuel_base: 50_000_000, ..Limits::default() };
        let spec = PluginSpec { limits, ..spec(guest("misbehave_packer"), &entry.name) };
        let mut packer = host().load(&spec).unwrap().packer().unwrap();
        let result = packer.start(&LIMITS).and_then(|()| {
            packer.push(&ctx(), &samples(&[(1, 2000), (2, 2000), (3, 2000)]))?;
            let state = packer.save()?;
            packer.restore(&state)?;
            flush_all(&mut packer)
        });
        assert_eq!(result.is_ok(), entry.name == "good", "{}: {result:?}", entry.name);
        let id = i as i64;
        assert_eq!(
            witness.push(&ctx(), &samples(&[(id, 10)])).unwrap().bins.to_vecs(),
            [[id as u64]],
            "after {}",
            entry.name
        );
    }
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
    assert_says(&packer.restore(&state).unwrap_err(), &["bins of 4096 tokens", "this stream has bins of 1 token"]);
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
    assert!(render("unknown_role", &["a"]).is_ok(), "for the chat template to judge");
    assert!(render("no_such_video", &["a"]).is_ok(), "nobody says how many videos there are");
    assert_says(&render("panic", &["a", "poison"]).unwrap_err(), &["on row 1001 (key \"k1\")", "is poison"]);
    assert_says(&render("too_long", &["a"]).unwrap_err(), &["2 items for 1 rows"]);
    assert_says(&render("no_role", &["a"]).unwrap_err(), &["row 0 has a message with role \"\""]);
    assert_says(&render("long_role", &["a"]).unwrap_err(), &["row 0 has a message with role \"rrr", "1 to 64 bytes"]);
    assert_says(&render("no_messages", &["a"]).unwrap_err(), &["row 0 has no messages and no error"]);
    assert_says(&render("no_segments", &["a"]).unwrap_err(), &["row 0 has no segments and no error"]);
    assert_says(&render("empty_special", &["a"]).unwrap_err(), &["special token of 0 bytes"]);
    assert_says(&render("error_out_of_range", &["a"]).unwrap_err(), &["names row 1, the batch has 1"]);
    assert_says(&render("huge_text", &["a"]).unwrap_err(), &["more than limits.output_mib = 64"]);
    assert_says(&render("abort", &["a", "poison"]).unwrap_err(), &["on row 1001", "without saying why"]);
    let out = render("error_with_content", &["a"]).unwrap();
    assert_eq!(out.items, [Rendered::Conversation(vec![])]);
    assert_eq!(out.errors, [(0, "this row is bad".to_owned())]);
}

#[test]
fn names_that_a_prompt_gives_are_bounded() {
    let new = |entry: &str| load(guest("misbehave_prompt"), entry).prompt();
    assert_says(&new("many_specials").err().unwrap(), &["special-tokens", "100000 strings, at most 256"]);
    assert_says(&new("long_special").err().unwrap(), &["special-tokens", "is empty or over 256 bytes"]);
    assert_says(&new("specials_panic").err().unwrap(), &["failed in special-tokens", "no special tokens today"]);
    let stops = |entry: &str| new(entry).unwrap().stop_strings().unwrap_err();
    assert_says(&stops("empty_stop"), &["stop-strings", "\"\" is empty"]);
    assert_says(&stops("many_stops"), &["stop-strings", "100000 strings, at most 256"]);
    assert_says(&stops("stops_loop"), &["failed in stop-strings", "stopped after"]);
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
    assert_says(&finalize("infinite").unwrap_err(), &["value \"points\" over 2 rows is inf"]);
    assert_says(&finalize("not_a_number").unwrap_err(), &["value \"points\" over 2 rows is NaN"]);
    assert_says(&finalize("same_value").unwrap_err(), &["two values are named \"points\""]);
    assert_says(&finalize("above_its_range").unwrap_err(), &["\"points\" is 100, its outputs say 0 to 1"]);
    assert_says(&finalize("below_its_range").unwrap_err(), &["\"points\" is -0.5, its outputs say 0 to 1"]);
    assert_says(&finalize("negative_stderr").unwrap_err(), &["standard error of \"points\" is -0.25"]);
    assert_says(&finalize("infinite_stderr").unwrap_err(), &["standard error of \"points\" is inf"]);
    assert_says(&finalize("nan_stderr").unwrap_err(), &["standard error of \"points\" is NaN"]);
    assert_says(&finalize("finalize_loop").unwrap_err(), &["failed in finalize", "stopped after"]);
    assert_says(&finalize("no_outputs").unwrap_err(), &["outputs", "0 outputs; 1 to 256"]);
    assert_says(&finalize("many_outputs").unwrap_err(), &["1000 outputs; 1 to 256"]);
    assert_says(&finalize("same_outputs").unwrap_err(), &["two outputs are named \"points\""]);
    assert_says(&finalize("long_output").unwrap_err(), &["a name has 1 to 64 bytes"]);
    assert_says(&finalize("empty_range").unwrap_err(), &["output \"points\"", "from 2 to 1"]);
    assert_says(&finalize("outputs_change").unwrap_err(), &["\"points\" is none of its outputs (points0)"]);
    let mut metric = load(guest("misbehave_metric"), "wrong_length").metric().unwrap();
    let error = metric.update(&ctx(), &answers(&["a", "b"])).unwrap_err();
    assert_says(&error, &["score/points", "it has 1 values for 2 rows"]);
    let update = |entry: &str| {
        let mut metric = load(guest("misbehave_metric"), entry).metric().unwrap();
        metric.update(&ctx(), &answers(&["a", "b"])).unwrap_err()
    };
    assert_says(&update("judge_out_of_range"), &["a judge request names row 2, the batch has 2"]);
    assert_says(&update("judge_twice"), &["two judge requests name row 0"]);
    assert_says(&update("judge_nothing"), &["the judge request of row 0 has no messages"]);
    let metric = |entry: &str| load(guest("misbehave_metric"), entry).metric().unwrap();
    assert_says(&metric("save_panic").save().unwrap_err(), &["failed in save", "nothing to save"]);
    assert_says(&metric("huge_state").save().unwrap_err(), &["failed in save", "limits.output_mib = 64"]);
    assert_says(&metric("merge_panic").merge(b"x").unwrap_err(), &["failed in merge", "nothing to merge"]);
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
