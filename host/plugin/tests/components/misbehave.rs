//! Filters that break every rule: each ends in its own error text, and the host and later batches live on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ovhost_plugin::{
    ColumnData, Independence, Limits, OnTrap, Plugin, PluginError, PluginSpec, TrapCause, check_independence,
};

use crate::{assert_says, ctx, guest, host, load, spec, texts};

/// An entry with little fuel, so that what runs without end soon does not; enough to write to all its memory.
fn hasty(entry: &str) -> Plugin {
    let fuel_base = if entry == "memory" { 400_000_000 } else { 50_000_000 };
    let limits = Limits { fuel_base, ..Limits::default() };
    host().load(&PluginSpec { limits, ..spec(guest("misbehave"), entry) }).unwrap()
}

/// The error of one batch whose row 5 of 8 is poison; then a clean batch must work in the same instance.
fn fault(entry: &str) -> PluginError {
    let mut filter = hasty(entry).filter().unwrap();
    let error = filter.process(&ctx(), &texts(&["a", "b", "c", "d", "e", "poison", "g", "h"])).unwrap_err();
    if matches!(error, PluginError::Trap { row: Some(1005), .. }) {
        assert_eq!(filter.process(&ctx(), &texts(&["a", "b"])).unwrap().keep, [true, true], "{entry}");
    }
    error
}

fn trap(entry: &str) -> TrapCause {
    match fault(entry) {
        PluginError::Trap { row: Some(1005), key: Some(key), cause, .. } if key == "k5" => cause,
        other => panic!("{entry}: {other}"),
    }
}

#[test]
fn traps_name_the_row_and_the_cause() {
    let error = fault("panic");
    assert_says(&error, &["plugin panic failed in process on row 1005 (key \"k5\")", "is poison", "common.rs"]);
    assert!(matches!(trap("loop"), TrapCause::OutOfFuel { .. }));
    assert!(matches!(trap("memory"), TrapCause::Memory { limit_mib: 256, .. }));
    assert!(matches!(trap("overflow"), TrapCause::OutOfBounds | TrapCause::StackOverflow { .. }));
    assert!(matches!(trap("wild_pointer"), TrapCause::OutOfBounds));
    assert!(matches!(trap("abort"), TrapCause::Panic { text: None }));
    assert_says(&fault("abort"), &["on row 1005", "aborted (wasm `unreachable`) without saying why"]);
    assert_says(
        &fault("memory"),
        &["on row 1005", "limits.memory_mib is 256", "raise it or, in a call with rows, send smaller batches"],
    );
    assert_says(&fault("overflow"), &["on row 1005", "recursion"]);
}

#[test]
fn storms_end_soon_and_in_their_own_words() {
    let start = Instant::now();
    assert!(matches!(trap("grow_storm"), TrapCause::Memory { limit_mib: 256, .. }));
    assert!(matches!(trap("grow_nothing"), TrapCause::OutOfFuel { .. }));
    // Filling and copying cost by the byte.
    assert!(matches!(trap("memset_storm"), TrapCause::OutOfFuel { .. }));
    assert!(matches!(trap("memcpy_storm"), TrapCause::OutOfFuel { .. }));
    assert!(matches!(trap("log_flood"), TrapCause::OutputTooLarge { limit_mib: 64 } | TrapCause::OutOfFuel { .. }));
    // What the host copies for a log line is no instruction of the guest: the bytes themselves are counted.
    assert!(matches!(trap("log_bomb"), TrapCause::OutputTooLarge { limit_mib: 64 }));
    assert_says(&fault("log_bomb"), &["on row 1005", "returned (or logged) more than limits.output_mib = 64"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn a_loop_is_stopped_at_the_same_fuel_every_time() {
    let limits = Limits { fuel_base: 1_000_000, fuel_per_row: 1_000, fuel_per_byte: 10, ..Limits::default() };
    let spec = ovhost_plugin::PluginSpec { limits: limits.clone(), ..spec(guest("misbehave"), "loop") };
    let plugin = host().load(&spec).unwrap();
    for _ in 0..2 {
        let mut filter = plugin.filter().unwrap();
        let error = filter.process(&ctx(), &texts(&["poison"])).unwrap_err();
        // 1 row, 6 bytes of text and 2 offsets of 4.
        assert_says(&error, &[&format!("stopped after {} fuel", limits.fuel(1, 14)), "limits.fuel_per_row"]);
    }
}

#[test]
fn malformed_answers_name_the_rule() {
    let cases = [
        ("wrong_length", "keep has 7 entries for 8 rows"),
        ("too_long", "keep has 1000008 entries for 8 rows"),
        ("short_reason", "reason has 7 entries for 8 rows"),
        ("escaped_reason", "reason \"too \\u{1b}[31mred\" has control characters"),
        ("same_column", "added column \"added\" twice"),
        ("far_offsets", "the last offset is 4294967295 and there are 8 values"),
        ("cut_characters", "cuts a UTF-8 character"),
        ("same_error", "two errors name row 0"),
        ("bad_keep", "keep of row 0 is 2"),
        ("bad_reason", "row 0 gives reason 7 and there are 1 reasons"),
        ("many_reasons", "1000 reasons, at most 256"),
        ("long_reason", "has 1048576 bytes, at most 128"),
        ("undeclared_column", "column \"surprise\", which it did not declare (writes: added, added64)"),
        ("bad_utf8", "byte 0 is not UTF-8"),
        ("bad_offsets", "first offset is 8"),
        ("bad_valid", "0 validity bytes for 8 rows"),
        ("error_out_of_range", "names row 1008, the batch has 8"),
    ];
    for (entry, rule) in cases {
        let error = fault(entry);
        assert!(matches!(error, PluginError::Output { .. }), "{entry}: {error}");
        assert_says(&error, &[entry, rule, "defect of the plugin"]);
    }
}

#[test]
fn too_much_output_is_cut_off() {
    let mut filter = load(guest("misbehave"), "huge_output").filter().unwrap();
    match filter.process(&ctx(), &texts(&["a", "b"])).unwrap_err() {
        PluginError::Trap { cause: TrapCause::OutputTooLarge { limit_mib: 64 }, .. } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn refusals_and_row_errors_pass_through() {
    assert_says(&fault("call_error"), &["bad input: row 5 is poison", "on purpose"]);
    let mut filter = load(guest("misbehave"), "row_error").filter().unwrap();
    let out = filter.process(&ctx(), &texts(&["a", "poison"])).unwrap();
    assert_eq!(out.keep, [true, false]);
    assert_eq!(out.errors, [(1, "this row is poison".to_owned())]);
    assert_eq!(filter.counters().row_errors, 1);
    assert_eq!(filter.counters().rows_dropped, 0);
}

#[test]
fn words_of_a_plugin_cannot_paint_over_the_terminal() {
    let error = fault("escapes");
    assert_says(&error, &["bad input: \\u{1b}[2J\\u{1b}[31mall is well\\u{7}\\r\\u{9b}", "on purpose"]);
    assert!(error.to_string().chars().all(|c| !c.is_control() || c == '\n'));
    let mut filter = load(guest("misbehave"), "long_error").filter().unwrap();
    let out = filter.process(&ctx(), &texts(&["a", "poison"])).unwrap();
    assert_eq!((out.errors[0].0, out.errors[0].1.len()), (1, 1024));
}

#[test]
fn reasons_that_never_end_do_not_fill_the_hosts_memory() {
    let mut filter = load(guest("misbehave"), "new_reasons").filter().unwrap();
    let rows = vec!["a"; 200];
    for _ in 0..20 {
        filter.process(&ctx(), &texts(&rows)).unwrap();
    }
    let counters = filter.counters().clone();
    assert_eq!((counters.rows_dropped, counters.dropped_by.values().sum::<u64>()), (4_000, 4_000));
    assert_eq!((counters.dropped_by.len(), counters.dropped_by["other reasons"]), (1_001, 3_000));
    let plugin = filter.plugin().clone();
    drop(filter);
    let mut again = plugin.filter().unwrap();
    again.process(&ctx(), &texts(&rows)).unwrap();
    drop(again);
    assert!(plugin.counters().dropped_by.len() <= 1_001, "nor does the sum over instances");
    assert_eq!(plugin.counters().dropped_by.values().sum::<u64>(), 4_200);
}

#[test]
fn an_error_line_of_an_earlier_call_does_not_explain_a_trap() {
    let mut filter = load(guest("misbehave"), "log_lies").filter().unwrap();
    filter.process(&ctx(), &texts(&["a"])).unwrap();
    let error = filter.process(&ctx(), &texts(&["poison"])).unwrap_err();
    assert_says(&error, &["without saying why"]);
    assert!(!error.to_string().contains("this is not why"), "{error}");
}

#[test]
fn log_lines_of_many_fields_are_cut() {
    let mut filter = load(guest("misbehave"), "log_fields").filter().unwrap();
    let lines = Lines::default();
    let out = tracing::subscriber::with_default(lines.clone(), || filter.process(&ctx(), &texts(&["a"]))).unwrap();
    assert_eq!(out.keep, [true]);
    let lines = lines.0.lock().unwrap();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(line.matches('=').count(), 32, "{line}");
    assert!(line.len() <= 4 << 10, "{}", line.len());
}

/// What plugins log on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "plugin"
    }
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
        tracing::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, _: &tracing::Id) {}
}

#[test]
fn plugins_that_are_not_pure_are_found_out() {
    let rows: Vec<String> = (0..40).map(|i| format!("row {i}")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let check = |entry: &str| check_independence(&load(guest("misbehave"), entry), &ctx(), &texts(&rows)).unwrap();
    assert_eq!(check("good"), Independence::Holds);
    assert_eq!(check("nan"), Independence::Holds, "NaNs are compared by their bits");
    let Independence::Broken { row, key, how, first, second } = check("counts_calls") else { panic!("not found out") };
    assert_eq!((row, key.as_deref()), (Some(1000), Some("k0")));
    assert_eq!((how, first.as_str(), second.as_str()), ("the second time in the same instance", "drop", "keep"));
    let found = check("uninitialised");
    assert!(matches!(&found, Independence::Broken { .. }), "{found}");
    let words = found.to_string();
    assert!(
        words.contains("row 1000 (key \"k0\")") && words.contains("read no memory that it did not write"),
        "{words}"
    );
}

#[test]
fn new_instances_begin_alike_whatever_others_left() {
    // Memory that the guest never wrote holds the same in every new instance: nothing of another's.
    let plugin = load(guest("misbehave"), "uninitialised");
    let first = |rows: &[&str]| {
        let mut filter = plugin.filter().unwrap();
        let out = filter.process(&ctx(), &texts(rows)).unwrap();
        filter.process(&ctx(), &texts(rows)).unwrap();
        out.add[0].data.clone()
    };
    let whole = first(&["a", "b", "c"]);
    for _ in 0..20 {
        assert_eq!(first(&["a", "b", "c"]), whole);
    }
}

#[test]
fn a_plugin_that_leaks_is_replaced_in_time() {
    let limits = Limits { memory_mib: 32, ..Limits::default() };
    let mut filter =
        host().load(&PluginSpec { limits, ..spec(guest("misbehave"), "leaks") }).unwrap().filter().unwrap();
    for i in 0..40 {
        assert_eq!(filter.process(&ctx(), &texts(&["a", "b"])).unwrap().keep, [true, true], "call {i}");
    }
    let counters = filter.counters();
    assert!(counters.recycles >= 8 && counters.traps == 0, "{counters:?}");
}

/// All entries in one host, whatever they do, each in an instance that lives on: clean batches are judged as ever.
#[test]
fn every_entry_leaves_the_host_as_it_was() {
    let entries = host().inspect(&guest("misbehave"), None).unwrap().description.entries;
    assert!(entries.len() > 50);
    let good = load(guest("misbehave"), "good");
    let mut witness = good.filter().unwrap();
    let clean = texts(&["a", "b", "c"]);
    let whole = witness.process(&ctx(), &clean).unwrap();
    let (mut errors, mut fine) = (0, 0);
    for entry in entries.iter().map(|entry| entry.name.as_str()).filter(|name| !name.starts_with("init_")) {
        let mut filter = hasty(entry).filter().unwrap();
        filter.set_on_trap(OnTrap::Reject).unwrap();
        match filter.process(&ctx(), &texts(&["a", "poison", "c"])) {
            Ok(out) if out.errors.is_empty() => fine += 1,
            _ => errors += 1,
        }
        // The instance that has just failed judges on, if it was only the poison that it stumbled over.
        if common_misdeeds().contains(&entry) {
            assert_eq!(filter.process(&ctx(), &clean).unwrap(), whole, "{entry}");
        }
        assert_eq!(witness.process(&ctx(), &clean).unwrap(), whole, "after {entry}");
        assert_eq!(good.filter().unwrap().process(&ctx(), &clean).unwrap(), whole, "after {entry}");
    }
    assert!(errors > 30 && fine < 12, "{errors} failed and {fine} did not");
}

/// The entries that fail at a poison row only, as `common.rs` of the guests lists them.
pub fn common_misdeeds() -> [&'static str; 12] {
    [
        "panic",
        "abort",
        "loop",
        "memory",
        "grow_storm",
        "grow_nothing",
        "memset_storm",
        "memcpy_storm",
        "overflow",
        "wild_pointer",
        "log_flood",
        "log_bomb",
    ]
}

#[test]
fn contained_failures_reject_only_the_guilty_rows() {
    let mut filter = load(guest("misbehave"), "panic").filter().unwrap();
    filter.set_on_trap(OnTrap::Reject).unwrap();
    let rows: Vec<String> =
        (0..100).map(|i| if i % 33 == 7 { format!("poison {i}") } else { format!("row {i}") }).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let out = filter.process(&ctx(), &texts(&rows)).unwrap();
    let guilty: Vec<u32> = out.errors.iter().map(|e| e.0).collect();
    assert_eq!(guilty, [7, 40, 73]);
    assert!(out.errors[0].1.contains("is poison"), "{}", out.errors[0].1);
    assert_eq!(out.keep.iter().filter(|k| **k).count(), 97);
    let counters = filter.counters().clone();
    assert_eq!((counters.rows_in, counters.rows_kept, counters.row_errors), (100, 97, 3));
    assert_eq!(counters.rearms, counters.traps, "every trap costs one new instance");
    let plugin = filter.plugin().clone();
    drop(filter);
    assert_eq!(plugin.counters(), counters, "an instance leaves its counters with the plugin");
}

#[test]
fn malformed_answers_are_contained_too() {
    let mut filter = load(guest("misbehave"), "wrong_length").filter().unwrap();
    filter.set_on_trap(OnTrap::Reject).unwrap();
    let out = filter.process(&ctx(), &texts(&["a", "b"])).unwrap();
    assert_eq!(out.keep, [false, false]);
    assert!(out.errors[1].1.contains("keep has 0 entries for 1 rows"), "{:?}", out.errors);
}

#[test]
fn an_instance_that_grew_is_replaced() {
    let limits = Limits { memory_mib: 16, ..Limits::default() };
    let spec = ovhost_plugin::PluginSpec { limits, ..spec(guest("misbehave"), "good") };
    let mut filter = host().load(&spec).unwrap().filter().unwrap();
    let big = "x".repeat(9 << 20);
    filter.process(&ctx(), &texts(&[&big])).unwrap();
    filter.process(&ctx(), &texts(&["a"])).unwrap();
    assert_eq!((filter.counters().recycles, filter.counters().rearms), (1, 1));
    assert!(filter.counters().peak_memory > 9 << 20);
}

#[test]
fn only_columns_that_are_read_are_copied() {
    let mut filter = load(guest("misbehave"), "good").filter().unwrap();
    let mut batch = texts(&["ab"]);
    batch.columns.push(ovhost_plugin::Column::new("unread", ColumnData::F64s(vec![1.0])));
    filter.process(&ctx(), &batch).unwrap();
    assert_eq!(filter.counters().bytes_in, 2 + 2 * 4);
}
