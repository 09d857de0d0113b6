//! Filters that remember rows: one stream, any cut, saved and restored anywhere.

use std::collections::BTreeMap;

use ovhost_plugin::{Batch, CallCtx, ColumnData, Decisions, FilterInstance, Limits, OnTrap, Plugin, PluginError};
use proptest::prelude::*;
use serde_json::json;

use crate::{assert_says, ctx, guest, host, load, spec, texts};

fn counting() -> Plugin {
    load(guest("counting"), "counting")
}

/// Rows `lo..hi` of a stream.
fn step(filter: &mut FilterInstance, batch: &Batch, lo: u32, hi: u32) -> Result<Decisions, PluginError> {
    let ctx = CallCtx { first_row: lo.into(), ..CallCtx::default() };
    filter.process(&ctx, &batch.slice(lo, hi))
}

fn nth(decisions: &Decisions) -> Vec<u32> {
    match &decisions.add[0].data {
        ColumnData::U32s(values) => values.clone(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_cut_and_a_move_to_another_instance_do_not_matter(
        words in prop::collection::vec("[a-c]{0,2}", 1..120),
        cuts in prop::collection::btree_set(0_usize..120, 0..6),
        moves in prop::collection::vec(any::<bool>(), 7),
    ) {
        let plugin = counting();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let batch = texts(&words);
        let mut filter = plugin.filter().unwrap();
        let whole = filter.process(&CallCtx::default(), &batch).unwrap();
        let end = filter.save().unwrap();
        let firsts: std::collections::BTreeSet<&str> = words.iter().copied().collect();
        prop_assert_eq!(whole.keep.iter().filter(|keep| **keep).count(), firsts.len());

        let mut filter = plugin.filter().unwrap();
        let (mut keep, mut reason, mut places) = (vec![], vec![], vec![]);
        let ends = cuts.iter().map(|cut| (*cut).min(words.len()) as u32).chain([words.len() as u32]);
        let mut lo = 0;
        for (hi, moved) in ends.zip(moves) {
            if moved {
                let state = filter.save().unwrap();
                filter = plugin.filter().unwrap();
                filter.restore(&state).unwrap();
            }
            if hi > lo {
                let part = step(&mut filter, &batch, lo, hi).unwrap();
                places.extend(nth(&part));
                keep.extend(part.keep);
                reason.extend(part.reason);
            }
            lo = hi;
        }
        prop_assert_eq!(keep, whole.keep.clone());
        prop_assert_eq!(reason, whole.reason.clone());
        prop_assert_eq!(places, nth(&whole));
        prop_assert_eq!(filter.save().unwrap(), end, "equal streams leave equal states");
    }
}

#[test]
fn the_state_of_one_pass_is_an_asset_of_the_next() {
    let mut first = counting().filter().unwrap();
    assert!(first.is_streaming());
    first.process(&ctx(), &texts(&["a", "b", "a", "c"])).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts");
    std::fs::write(&path, first.save().unwrap()).unwrap();

    let mut second = spec(guest("counting"), "frequent");
    second.assets = BTreeMap::from([("counts".to_owned(), path.clone())]);
    let plugin = host().load(&second).unwrap();
    assert!(plugin.info().state_pure);
    let mut filter = plugin.filter().unwrap();
    assert_eq!(filter.process(&ctx(), &texts(&["a", "b", "c", "a"])).unwrap().keep, [true, false, false, true]);
    assert!(!filter.is_streaming());
    assert_says(&filter.save().unwrap_err(), &["plugin frequent", "no state to save or restore"]);
    assert_says(&filter.restore(b"").unwrap_err(), &["no state to save or restore"]);
    filter.set_on_trap(OnTrap::Reject).unwrap();

    std::fs::write(&path, "damaged").unwrap();
    assert_says(&host().load(&second).unwrap_err(), &["the saved state is"]);
}

#[test]
fn a_failure_ends_the_stream_until_a_state_is_restored() {
    let plugin = counting();
    let mut filter = plugin.filter().unwrap();
    assert_says(&filter.set_on_trap(OnTrap::Reject).unwrap_err(), &["cannot go on after a failure", "\"stop\""]);
    for (poison, words) in [("poison", ["failed in process", "is poison"]), ("refuse", ["internal error", "`key`"])] {
        let mut filter = plugin.filter().unwrap();
        filter.process(&ctx(), &texts(&["a", "b"])).unwrap();
        let saved = filter.save().unwrap();
        let failed = filter.process(&ctx(), &texts(&["c", poison, "d"])).unwrap_err();
        assert_says(&failed, &words);
        // Half of that batch is counted and nobody has its answer: going on in the instance, or in a new one, would be wrong.
        for error in [filter.process(&ctx(), &texts(&["e"])).unwrap_err(), filter.save().unwrap_err()] {
            assert_says(&error, &["lost its state in an earlier failure", words[1], "restore a saved state"]);
        }
        filter.restore(&saved).unwrap();
        assert_eq!(filter.process(&ctx(), &texts(&["a", "c", "b"])).unwrap().keep, [false, true, false]);
        assert_eq!(filter.counters().rearms, 1);
    }
}

#[test]
fn a_batch_that_never_reached_the_plugin_costs_no_state() {
    let mut filter = counting().filter().unwrap();
    filter.process(&ctx(), &texts(&["a"])).unwrap();
    let mut batch = texts(&["a"]);
    batch.columns.remove(0);
    assert_says(&filter.process(&ctx(), &batch).unwrap_err(), &["\"text\"", "offered: key"]);
    assert_eq!(filter.process(&ctx(), &texts(&["a", "b"])).unwrap().keep, [false, true]);
}

#[test]
fn restoring_forgets_what_was_seen_and_refuses_foreign_bytes() {
    let mut filter = counting().filter().unwrap();
    let empty = filter.save().unwrap();
    filter.process(&ctx(), &texts(&["a"])).unwrap();
    filter.restore(&empty).unwrap();
    assert_eq!(filter.process(&ctx(), &texts(&["a"])).unwrap().keep, [true]);
    assert_says(&filter.restore(b"foreign").unwrap_err(), &["restore", "bad input", "the saved state is"]);
    assert_says(&filter.process(&ctx(), &texts(&["a"])).unwrap_err(), &["lost its state"]);
    filter.restore(&empty).unwrap();
}

#[test]
fn an_instance_with_state_is_never_replaced_for_its_size() {
    let mut spec = spec(guest("counting"), "counting");
    spec.limits = Limits { memory_mib: 16, ..Limits::default() };
    spec.config = json!({"most": 2});
    let mut filter = host().load(&spec).unwrap().filter().unwrap();
    let big = "x".repeat(4 << 20);
    assert_eq!(filter.process(&ctx(), &texts(&[&big])).unwrap().keep, [true]);
    assert!(filter.counters().peak_memory > 9_000_000, "{}", filter.counters().peak_memory);
    assert_eq!(filter.process(&ctx(), &texts(&[&big])).unwrap().keep, [true]);
    assert_eq!(filter.process(&ctx(), &texts(&[&big])).unwrap().keep, [false]);
    assert_eq!((filter.counters().recycles, filter.counters().rearms), (0, 0));
}
