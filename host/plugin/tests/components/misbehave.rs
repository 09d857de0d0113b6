//! Filters that break every rule: each ends in its own error text, and the host and later batches live on.

use ovhost_plugin::{ColumnData, Limits, OnTrap, PluginError, TrapCause};

use crate::{assert_says, ctx, guest, host, load, spec, texts};

/// The error of one batch whose row 5 of 8 is poison; then a clean batch must work in the same instance.
fn fault(entry: &str) -> PluginError {
    let mut filter = load(guest("misbehave"), entry).filter().unwrap();
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
    assert_says(&error, &["plugin panic failed in process on row 1005 (key \"k5\")", "is poison", "lib.rs"]);
    assert!(matches!(trap("loop"), TrapCause::OutOfFuel { .. }));
    assert!(matches!(trap("memory"), TrapCause::Memory { limit_mib: 256, .. }));
    assert!(matches!(trap("overflow"), TrapCause::OutOfBounds | TrapCause::StackOverflow { .. }));
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
        ("bad_keep", "keep of row 0 is 2"),
        ("bad_reason", "row 0 gives reason 7 and there are 1 reasons"),
        ("many_reasons", "1000 reasons, at most 256"),
        ("long_reason", "has 1048576 bytes, at most 128"),
        ("undeclared_column", "column \"surprise\", which it did not declare (writes: added)"),
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
    match fault("huge_output") {
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
fn a_flood_of_log_lines_is_bounded() {
    let mut filter = load(guest("misbehave"), "log_flood").filter().unwrap();
    // Out of fuel or through: either way the host lives, and a later batch is answered the same.
    let first = filter.process(&ctx(), &texts(&["a"])).map_err(|e| e.to_string());
    let second = filter.process(&ctx(), &texts(&["a"])).map_err(|e| e.to_string());
    assert_eq!(first, second);
}

#[test]
fn contained_failures_reject_only_the_guilty_rows() {
    let mut filter = load(guest("misbehave"), "panic").filter().unwrap();
    filter.set_on_trap(OnTrap::Reject);
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
    filter.set_on_trap(OnTrap::Reject);
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
