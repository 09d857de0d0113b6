//! The first-party plugins through the host: results, independence of the batch cut, conservation, saved state.

use ovhost_plugin::{Batch, CallCtx, Column, ColumnData, Mode, PackLimits, Part, PluginSpec, Rendered};
use proptest::prelude::*;

use crate::{answers, ctx, first_party, host, lists, samples, texts};

#[test]
fn filters_count_what_they_drop() {
    let mut filter = host().load(&PluginSpec::new(first_party("filters/image_geometry"))).unwrap().filter().unwrap();
    let batch = Batch {
        rows: 3,
        columns: vec![lists("widths", &[&[640], &[10], &[]]), lists("heights", &[&[480], &[480], &[]])],
    };
    let out = filter.process(&ctx(), &batch).unwrap();
    assert_eq!(out.keep, [true, false, true]);
    let reason = out.reason[1].clone().unwrap();
    let counters = filter.counters();
    let budget = filter.plugin().info().limits.fuel(3, counters.bytes_in);
    assert_eq!((counters.rows_in, counters.rows_kept, counters.rows_dropped), (3, 2, 1));
    assert_eq!(counters.dropped_by[&reason], 1);
    assert!(counters.fuel_total > 0 && counters.fuel_max <= counters.fuel_total && counters.peak_memory > 0);
    assert_eq!(counters.fuel.percentile(99), Some(counters.fuel_max), "one call");
    assert_eq!(u64::from(counters.fuel_peak_permille), counters.fuel_max * 1000 / budget);
}

#[test]
fn the_batch_cut_does_not_matter() {
    let plugin = host().load(&PluginSpec::new(first_party("filters/caption_quality"))).unwrap();
    let rows: Vec<String> = (0..60).map(|i| "a word and another ".repeat(i % 7)).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let batch = texts(&rows);
    let whole = plugin.filter().unwrap().process(&CallCtx::default(), &batch).unwrap();
    assert!(whole.keep.contains(&true) && whole.keep.contains(&false));
    let mut filter = plugin.filter().unwrap();
    for cut in [1, 13, 59] {
        let a = filter.process(&CallCtx::default(), &batch.slice(0, cut)).unwrap();
        let later = CallCtx { first_row: cut.into(), ..CallCtx::default() };
        let b = filter.process(&later, &batch.slice(cut, 60)).unwrap();
        assert_eq!([a.keep, b.keep].concat(), whole.keep);
        assert_eq!([a.reason, b.reason].concat(), whole.reason);
    }
}

#[test]
fn conversations_are_rendered() {
    let mut prompt = host().load(&PluginSpec::new(first_party("prompts/conversation"))).unwrap().prompt().unwrap();
    let batch = Batch {
        rows: 2,
        columns: vec![
            Column::utf8("record", [r#"{"question": "What?", "answer": "That."}"#, "{}"]),
            Column::new("num-images", ColumnData::U32s(vec![1, 0])),
        ],
    };
    let out = prompt.render(&ctx(), Mode::Train, &batch).unwrap();
    let Rendered::Conversation(messages) = &out.items[0] else { panic!("{out:?}") };
    assert_eq!(messages.last().unwrap().role, "assistant");
    assert!(messages.last().unwrap().train);
    assert!(messages[0].parts.contains(&Part::Image(0)));
    assert_eq!(out.errors[0].0, 1, "a record of no known shape is an error of its row");
    let asked = prompt.render(&ctx(), Mode::Generate, &batch).unwrap();
    let Rendered::Conversation(messages) = &asked.items[0] else { panic!("{asked:?}") };
    assert_eq!(messages.last().unwrap().role, "user");
}

#[test]
fn metrics_merge() {
    let plugin = host().load(&PluginSpec::new(first_party("metrics/exact_match"))).unwrap();
    let rows = ["yes", "no", "Yes", "maybe", "yes"];
    let mut whole = plugin.metric().unwrap();
    whole.update(&ctx(), &answers(&rows)).unwrap();
    let mut parts = plugin.metric().unwrap();
    parts.update(&ctx(), &answers(&rows[..2])).unwrap();
    let mut other = plugin.metric().unwrap();
    other.update(&ctx(), &answers(&rows[2..])).unwrap();
    parts.merge(&other.save().unwrap()).unwrap();
    let values = parts.finalize().unwrap();
    assert_eq!(values, whole.finalize().unwrap());
    assert_eq!(values[0].count, 5);
    assert_eq!(values.len(), plugin.metric().unwrap().outputs().unwrap().len());
}

/// Ids and lengths in order, whether or not the stream is saved and restored in another instance on the way.
fn pack(name: &str, lengths: &[u32], step: usize, move_at: Option<usize>) -> Vec<Vec<u64>> {
    let plugin = host().load(&PluginSpec::new(first_party(name))).unwrap();
    let limits = PackLimits { capacity: 512, max_items_per_bin: 9, max_open_items: 0 };
    let mut packer = plugin.packer().unwrap();
    packer.start(&limits).unwrap();
    let mut bins = Vec::new();
    let mut first = 0;
    for (call, chunk) in lengths.chunks(step).enumerate() {
        if move_at == Some(call) {
            let state = packer.save().unwrap();
            packer = plugin.packer().unwrap();
            packer.start(&limits).unwrap();
            packer.restore(&state).unwrap();
        }
        let items: Vec<(i64, u32)> = chunk.iter().enumerate().map(|(i, l)| ((first + i) as i64, *l)).collect();
        first += chunk.len();
        let packing = packer.push(&ctx(), &samples(&items)).unwrap();
        assert!(packing.dropped.is_empty());
        bins.extend(packing.bins.to_vecs());
    }
    while let Some(packing) = packer.flush().unwrap() {
        bins.extend(packing.bins.to_vecs());
    }
    assert_eq!(packer.open_items(), 0);
    bins
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packers_lose_nothing_and_move(
        lengths in prop::collection::vec(1_u32..=512, 1..300),
        step in 1_usize..80,
        move_at in 0_usize..4,
    ) {
        for name in ["packers/padding_free", "packers/sequential"] {
            let bins = pack(name, &lengths, step, None);
            let mut ids: Vec<u64> = bins.iter().flatten().copied().collect();
            ids.sort_unstable();
            prop_assert_eq!(ids, (0..lengths.len() as u64).collect::<Vec<_>>());
            for bin in &bins {
                prop_assert!(bin.iter().map(|id| lengths[*id as usize]).sum::<u32>() <= 512 && bin.len() <= 9);
            }
            prop_assert_eq!(pack(name, &lengths, step, Some(move_at)), bins);
        }
    }
}
