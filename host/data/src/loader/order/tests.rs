//! The order: complete, the same wherever it is taken up, dealt out to ranks, mixed in exact shares.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::pipeline::MixPart;

/// A spec over sources of these shard sizes and shares.
fn mixed(mixing: Mixing, sources: &[(&[u64], f64)], window: usize) -> OrderSpec {
    let shards: Vec<(String, u64)> = sources.iter().flat_map(|(counts, _)| *counts).map(|n| ("s".into(), *n)).collect();
    let part = |(counts, share): &(&[u64], f64)| MixPart { name: "p".into(), shards: counts.len(), share: *share };
    let mix = Mix { mixing, parts: sources.iter().map(part).collect() };
    let (sources, epoch_len) = slots(&mix, &shards).unwrap();
    OrderSpec { sources, epoch_len, seed: 5, window, epochs: Some(2), rank: 0, world: 1, chunk: 64, rebase: None }
}

fn spec(window: usize) -> OrderSpec {
    mixed(Mixing::Repetitions, &[(&[100, 0, 37, 63], 1.0)], window)
}

fn coordinates(chunks: &[Chunk]) -> Vec<(u32, u64)> {
    chunks.iter().flat_map(|c| &c.items).map(|i| (i.shard, i.index)).collect()
}

fn all(spec: OrderSpec) -> Vec<(u32, u64)> {
    coordinates(&Order::new(spec, Position::default()).collect::<Vec<_>>())
}

#[test]
fn every_sample_once_an_epoch() {
    for window in [0, 1, 10, 1000] {
        let chunks: Vec<Chunk> = Order::new(spec(window), Position::default()).collect();
        let all = coordinates(&chunks);
        assert_eq!(all.len(), 400);
        for epoch in all.chunks(200) {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 200, "window {window}");
        }
        assert_eq!(all[..200] == all[200..], window == 0);
        assert_eq!(chunks.iter().filter(|c| c.epoch_end).count(), 2);
        let ordinals: Vec<u64> = chunks.iter().flat_map(|c| &c.items).map(|i| i.ordinal).collect();
        assert_eq!(ordinals, (0..400).collect::<Vec<_>>());
    }
    assert!(all(spec(0))[..200].is_sorted());
}

#[test]
fn taken_up_anywhere() {
    let blend = mixed(Mixing::Repetitions, &[(&[40, 21], 1.0), (&[13], 2.5), (&[30], 0.3)], 9);
    let weights = mixed(Mixing::Weights, &[(&[40, 21], 0.2), (&[13], 0.5), (&[30], 0.3)], 9);
    for spec in [spec(30), blend, weights] {
        let spec = OrderSpec { chunk: 5, ..spec };
        let chunks: Vec<Chunk> = Order::new(spec.clone(), Position::default()).collect();
        for (i, chunk) in chunks.iter().enumerate() {
            let rest: Vec<Chunk> = Order::new(spec.clone(), chunk.after.clone()).collect();
            assert_eq!(rest, chunks[i + 1..]);
        }
    }
}

#[test]
fn ranks_share_an_epoch() {
    let mut dealt: Vec<_> = (0..3).flat_map(|rank| all(OrderSpec { rank, world: 3, ..spec(20) })).collect();
    let mut one = all(spec(20));
    dealt.sort();
    one.sort();
    assert_eq!(dealt, one);
}

#[test]
fn repetitions_are_exact_in_every_epoch() {
    let spec = mixed(Mixing::Repetitions, &[(&[7, 3], 1.0), (&[4], 3.0), (&[20], 0.5)], 4);
    assert_eq!(spec.epoch_len, 10 + 12 + 10);
    let all = all(spec);
    let count = |epoch: &[(u32, u64)]| {
        let mut seen: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        epoch.iter().for_each(|c| *seen.entry(*c).or_default() += 1);
        seen
    };
    for epoch in all.chunks(32) {
        let seen = count(epoch);
        let times =
            |shards: &[u32]| seen.iter().filter(|(c, _)| shards.contains(&c.0)).map(|(_, n)| *n).collect::<Vec<_>>();
        assert_eq!(times(&[0, 1]), [1; 10]);
        assert_eq!(times(&[2]), [3; 4]);
        assert_eq!(times(&[3]), [1; 10]);
    }
    // What half a time leaves out of one epoch is what the next one has.
    assert_eq!(count(&all).len(), 10 + 4 + 20);
}

/// The order is part of the format of saved positions; it must never change by accident.
#[test]
fn the_order_is_pinned() {
    let one = mixed(Mixing::Repetitions, &[(&[8], 1.0)], 8);
    let order: Vec<u64> = all(OrderSpec { seed: 1, epochs: Some(1), ..one }).into_iter().map(|(_, i)| i).collect();
    assert_eq!(order, PINNED);
    let two = mixed(Mixing::Weights, &[(&[4, 2], 0.25), (&[5], 0.75)], 3);
    let order: Vec<String> =
        all(OrderSpec { epochs: Some(1), ..two }).iter().map(|(s, i)| format!("{s}.{i}")).collect();
    assert_eq!(order.join(" "), PINNED_BLEND);
}

#[test]
fn shuffling_is_pinned_too() {
    let shuffled = |purpose, seed| {
        let mut items: Vec<u32> = (0..8).collect();
        shuffle(&mut items, purpose, seed);
        items
    };
    assert_eq!(shuffled("a", 1), SHUFFLED);
    assert!(shuffled("b", 1) != SHUFFLED && shuffled("a", 2) != SHUFFLED);
}
const SHUFFLED: [u32; 8] = [6, 7, 2, 5, 4, 3, 1, 0];
const PINNED: [u64; 8] = [0, 4, 7, 2, 1, 6, 3, 5];
const PINNED_BLEND: &str = "2.0 2.2 0.1 2.4 2.1 2.3 0.2 2.0 2.2 2.1 1.0";

#[test]
fn shares_that_make_no_sense_are_refused() {
    let refused = |mixing, parts: &[(u64, f64)], words: &str| {
        let shards: Vec<_> = parts.iter().map(|(n, _)| ("s".to_owned(), *n)).collect();
        let parts = parts.iter().map(|(_, share)| MixPart { name: "these".into(), shards: 1, share: *share }).collect();
        let error = slots(&Mix { mixing, parts }, &shards).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("these"), "{error}");
    };
    refused(Mixing::Weights, &[(5, 1.0), (0, 1.0)], "no samples");
    refused(Mixing::Weights, &[(5, 1.0), (5, 1e-12)], "larger or smaller");
    refused(Mixing::Repetitions, &[(5, 0.01)], "larger or smaller");
    refused(Mixing::Repetitions, &[(5, 1e18)], "larger or smaller");
}

proptest! {
    #[test]
    fn weights_hold_at_every_moment(
        sizes in prop::collection::vec((1_u64..40, 1_u32..1000), 2..7),
        window in 0_usize..20,
    ) {
        let counts: Vec<[u64; 1]> = sizes.iter().map(|(n, _)| [*n]).collect();
        let sources: Vec<(&[u64], f64)> = counts.iter().zip(&sizes).map(|(n, (_, w))| (&n[..], f64::from(*w))).collect();
        let spec = OrderSpec { epochs: Some(4), ..mixed(Mixing::Weights, &sources, window) };
        let slots: Vec<f64> = spec.sources.iter().map(|s| s.slots as f64).collect();
        let sum: f64 = slots.iter().sum();
        let order = all(spec);
        let mut drawn = vec![0_u64; sizes.len()];
        for (n, (source, index)) in order.iter().enumerate() {
            drawn[*source as usize] += 1;
            for (i, drawn) in drawn.iter().enumerate() {
                let off = *drawn as f64 - (n + 1) as f64 * slots[i] / sum;
                prop_assert!(off.abs() < 1.0 + 1e-9, "source {i} is {off} off after {n}");
            }
            prop_assert!(*index < sizes[*source as usize].0);
        }
        // A source goes through all of its samples before it begins again.
        for (i, (size, _)) in sizes.iter().enumerate() {
            let own: Vec<u64> = order.iter().filter(|c| c.0 as usize == i).map(|c| c.1).collect();
            for pass in own.chunks(*size as usize) {
                let mut sorted = pass.to_vec();
                sorted.sort_unstable();
                sorted.dedup();
                prop_assert_eq!(sorted.len(), pass.len());
            }
        }
    }

    #[test]
    fn ranks_deal_out_the_one_order(
        sizes in prop::collection::vec((1_u64..30, 1_u32..4), 1..4),
        window in 0_usize..20,
        world in 1_u64..6,
        chunk in 1_u64..9,
    ) {
        let counts: Vec<[u64; 1]> = sizes.iter().map(|(n, _)| [*n]).collect();
        let sources: Vec<(&[u64], f64)> = counts.iter().zip(&sizes).map(|(n, (_, w))| (&n[..], f64::from(*w))).collect();
        let spec = mixed(Mixing::Repetitions, &sources, window);
        prop_assume!(spec.epoch_len >= world);
        let one = all(spec.clone());
        let ranks: Vec<Vec<_>> = (0..world).map(|rank| all(OrderSpec { rank, world, chunk, ..spec.clone() })).collect();
        let mut dealt = vec![0; world as usize];
        for (k, expected) in one.iter().enumerate() {
            let rank = (k as u64 % spec.epoch_len % world) as usize;
            prop_assert_eq!(&ranks[rank][dealt[rank]], expected);
            dealt[rank] += 1;
        }
        prop_assert!(ranks.iter().zip(&dealt).all(|(r, n)| r.len() == *n));
    }
}
