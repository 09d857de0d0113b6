//! What `length_grouped` promises: like lengths in a bin, nothing lost, little padding, the same whatever the cut.

use super::*;
use ovhost_sdk::{Rng, testing};
use proptest::prelude::*;

fn limits(capacity: u32, max_items_per_bin: u32, max_open_items: u32) -> Limits {
    Limits { capacity, max_items_per_bin, max_open_items }
}

/// Lengths with the published histogram of 5,520,733 question-answer samples, even within its three parts.
fn published_lengths(count: usize) -> Vec<u32> {
    let mut rng = Rng::new(5);
    let mut draw = || match rng.below(5_520_733) {
        0..4_127_403 => 36 + rng.below(1024 - 36),
        4_127_403..5_212_621 => 1024 + rng.below(1024),
        _ => 2048 + rng.below(8193 - 2048),
    };
    (0..count).map(|_| draw() as u32).collect()
}

fn numbered(lengths: &[u32]) -> Vec<(u64, u32)> {
    (0..).zip(lengths.iter().copied()).collect()
}

fn pack(config: &Json, limits: Limits, lengths: &[u32], batch: usize) -> Vec<Vec<u64>> {
    let mut packer = testing::packer::<LengthGrouped>(config.clone(), limits).unwrap();
    let mut bins = Vec::new();
    for chunk in numbered(lengths).chunks(batch) {
        bins.extend(packer.push(chunk));
    }
    bins.extend(packer.flush());
    bins
}

/// (longest, sum) of a bin.
fn measure(bin: &[u64], lengths: &[u32]) -> (u64, u64) {
    let of = |id: &u64| u64::from(lengths[*id as usize]);
    (bin.iter().map(of).max().unwrap(), bin.iter().map(of).sum())
}

/// Share of a padded batch that is padding, when every bin is one rectangle.
fn padding(bins: &[Vec<u64>], lengths: &[u32]) -> f64 {
    let (mut area, mut tokens) = (0, 0);
    for bin in bins {
        let (longest, sum) = measure(bin, lengths);
        area += longest * bin.len() as u64;
        tokens += sum;
    }
    1.0 - tokens as f64 / area as f64
}

/// Share of the bins' capacity that holds tokens.
fn fill(bins: &[Vec<u64>], lengths: &[u32], capacity: u32) -> f64 {
    let tokens: u64 = bins.iter().map(|bin| measure(bin, lengths).1).sum();
    tokens as f64 / (bins.len() as f64 * f64::from(capacity))
}

#[test]
fn bins_hold_like_lengths_on_the_published_histogram() {
    let lengths = published_lengths(100_000);
    let free = {
        let items: Vec<_> = (0..).zip(&lengths).map(|(id, &length)| Item { id, length, patches: 0 }).collect();
        let answers = testing::pack_natively::<padding_free::PaddingFree>(json!({}), limits(8192, 0, 0), &items, 256);
        answers.iter().flat_map(Packing::bins).map(<[u64]>::to_vec).collect::<Vec<_>>()
    };
    println!("padding_free: padding {:.3}, fill {:.4}", padding(&free, &lengths), fill(&free, &lengths, 8192));
    for (config, most_padding, least_fill) in [
        (json!({}), 0.065, 0.90),
        (json!({ "ratio": 1.1 }), 0.03, 0.87),
        (json!({ "padded": true }), 0.03, 0.85),
        (json!({ "ratio": 1.1, "padded": true }), 0.015, 0.86),
    ] {
        let bins = pack(&config, limits(8192, 0, 0), &lengths, 256);
        let (padding, fill) = (padding(&bins, &lengths), fill(&bins, &lengths, 8192));
        println!("{config}: {} bins, padding {padding:.4}, fill {fill:.4}", bins.len());
        assert!(padding < most_padding && fill > least_fill, "{config}: padding {padding}, fill {fill}");
    }
    assert!(padding(&free, &lengths) > 0.3);
}

#[test]
fn a_bucket_ends_at_its_edge_and_the_oldest_comes_first() {
    let config = json!({ "edges": [3, 6], "depth": 1 });
    let mut packer = testing::packer::<LengthGrouped>(config, limits(10, 0, 0)).unwrap();
    // 3 | 4, 6 are full buckets' worth of nothing yet; the second 4 makes 14 tokens in the middle bucket.
    assert!(packer.push(&[(0, 3), (1, 4), (2, 6), (3, 7)]).is_empty());
    assert_eq!(packer.push(&[(4, 4)]), [vec![1, 2]]);
    // At the end buckets come in the order of their oldest sample.
    assert_eq!(packer.flush(), [vec![0], vec![3], vec![4]]);
}

#[test]
fn a_padded_bin_is_a_rectangle_that_fits() {
    let config = json!({ "edges": [10], "padded": true });
    let mut packer = testing::packer::<LengthGrouped>(config, limits(20, 0, 0)).unwrap();
    // Oldest 5; from below 4; then 6 from above (3 x 6 <= 20); a fourth would make 4 x 6.
    let mut bins = packer.push(&[(0, 5), (1, 4), (2, 6), (3, 6), (4, 10)]);
    bins.extend(packer.flush());
    assert_eq!(bins, [vec![0, 1, 2], vec![3, 4]]);
}

#[test]
fn ends_of_buckets_follow_the_ratio_up_to_the_capacity() {
    let config = |ratio: f64, first: u32| Config { ratio, first, ..Config::default() };
    assert_eq!(edges(&config(2.0, 64), 1000), [64, 128, 256, 512, 1000]);
    assert_eq!(edges(&config(2.0, 64), 64), [64]);
    assert_eq!(edges(&config(1.01, 1), 6), [1, 2, 3, 4, 5, 6]);
    assert_eq!(edges(&config(16.0, 1), u32::MAX).last(), Some(&u32::MAX));
    let given = Config { edges: vec![5, 9, 20], ..Config::default() };
    assert_eq!((edges(&given, 9), edges(&given, 30)), (vec![5, 9], vec![5, 9, 20, 30]));
}

#[test]
fn no_sample_waits_longer_than_max_wait() {
    let lengths: Vec<u32> = (0..300).map(|i| if i == 7 { 900 } else { 10 }).collect();
    let config = json!({ "max_wait": 100 });
    let mut packer = testing::packer::<LengthGrouped>(config, limits(1000, 0, 0)).unwrap();
    let bins = packer.push(&numbered(&lengths[..107]));
    assert!(!bins.iter().flatten().any(|&id| id == 7));
    assert!(packer.push(&[(107, 10)]).contains(&vec![7]));
    // Without a bound it stays until the end.
    let mut packer = testing::packer::<LengthGrouped>(json!({ "max_wait": 0 }), limits(1000, 0, 0)).unwrap();
    assert!(!packer.push(&numbered(&lengths)).iter().flatten().any(|&id| id == 7));
    assert!(packer.flush().iter().flatten().any(|&id| id == 7));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut packer = testing::packer::<LengthGrouped>(json!({}), limits(8192, 0, 0)).unwrap();
    packer.push(&numbered(&published_lengths(100)));
    let state = packer.save();
    let error = packer.restored(json!({ "window": 5 }), &state).err().unwrap();
    assert!(error.message.contains("the window holds 5"), "{}", error.message);
    assert!(packer.restored(json!({}), &state[..9]).is_err());
    let mut plain = LengthGrouped::new(Config::default(), &Assets::default()).unwrap();
    plain.start(limits(100, 0, 0)).unwrap();
    let item = |length| Item { id: 1, length, patches: 0 };
    let refused = |plain: &mut LengthGrouped, next, open| plain.restore(State { next, open }).unwrap_err();
    assert!(refused(&mut plain, 9, vec![(3, item(101))]).contains("101 tokens"));
    assert!(refused(&mut plain, 9, vec![(3, item(1)), (2, item(1))]).contains("order"));
    assert!(refused(&mut plain, 3, vec![(3, item(1))]).contains("order"));
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({ "edges": [0, 5, 5], "first": 0, "ratio": 1.0, "window": 0, "depth": 0 });
    let error = testing::packer::<LengthGrouped>(bad, limits(10, 0, 0)).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/edges/2", "/edges/0", "/first", "/ratio", "/window", "/depth"]);
    let both = json!({ "edges": [5], "first": 9, "ratio": 1.5 });
    let error = testing::packer::<LengthGrouped>(both, limits(10, 0, 0)).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/first", "/ratio"]);
    let edges = |count: u32| json!({ "edges": (1..=count).collect::<Vec<_>>() });
    assert!(testing::packer::<LengthGrouped>(edges(4095), limits(10, 0, 0)).is_ok());
    let error = testing::packer::<LengthGrouped>(edges(4096), limits(10, 0, 0)).err().unwrap();
    assert_eq!((error.findings[0].path.as_str(), error.findings.len()), ("/edges", 1));
    assert!(error.findings[0].message.contains("4096 edges") && error.findings[0].message.contains("4095"));
}

#[test]
fn no_ratio_makes_more_buckets_than_there_may_be() {
    let finest = Config { ratio: 1.01, first: 1, ..Config::default() };
    assert!(super::edges(&finest, u32::MAX).len() <= MAX_BUCKETS);
}

#[test]
fn the_cost_of_a_sample_does_not_grow_with_the_window() {
    // The same samples with a window 64 times as large, as a ratio of two times on this machine: a search over the window
    // would make it near 64, memory that no longer fits the cache makes it 2 or 3. The best of several turns counts.
    let lengths = published_lengths(150_000);
    let items: Vec<Item> = lengths.iter().zip(0..).map(|(&length, id)| Item { id, length, patches: 0 }).collect();
    let mut best = [f64::INFINITY; 2];
    for _ in 0..5 {
        for (best, window) in best.iter_mut().zip([1024, 65_536]) {
            let start = std::time::Instant::now();
            let answers = testing::pack_natively::<LengthGrouped>(
                json!({ "window": window, "depth": 16 }),
                limits(8192, 0, 0),
                &items,
                256,
            );
            *best = best.min(start.elapsed().as_secs_f64());
            assert!(answers.iter().flat_map(Packing::bins).count() > 10_000);
        }
    }
    let ratio = best[1] / best[0];
    println!("{best:?} s, ratio {ratio:.2}");
    assert!(ratio < 20.0, "{ratio:.1} times the time, with a window 64 times as large");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The harness checks at every call that each sample comes back once and that no limit is broken.
    #[test]
    fn nothing_is_lost_and_neither_the_cut_nor_a_restart_shows(
        lengths in proptest::collection::vec(prop_oneof![0..50u32, 0..400u32], 0..300),
        capacity in 1..300u32,
        max_items in 0..5u32,
        max_open in prop_oneof![Just(0u32), 1..40u32],
        window in 1..60u32,
        depth in 1..4u32,
        max_wait in 0..80u32,
        padded: bool,
        by_edges: bool,
        cut in 1..40usize,
        stop in 0..300usize,
    ) {
        let (edges, first, ratio): (&[u32], _, _) =
            if by_edges { (&[7, 30, 31, 120], 64, 1.25) } else { (&[], 9, 1.5) };
        let config = json!({
            "edges": edges, "first": first, "ratio": ratio, "window": window, "depth": depth, "max_wait": max_wait, "padded": padded
        });
        let limits = limits(capacity, max_items, max_open);
        let whole = pack(&config, limits, &lengths, 300);
        let placed: usize = whole.iter().map(Vec::len).sum();
        prop_assert_eq!(placed, lengths.iter().filter(|&&length| length <= capacity).count());
        prop_assert_eq!(&pack(&config, limits, &lengths, cut), &whole);

        let ends = edges_of(&config, capacity);
        for bin in &whole {
            let bucket = |id: &u64| ends.partition_point(|&end| end < lengths[*id as usize]);
            prop_assert!(bin.iter().all(|id| bucket(id) == bucket(&bin[0])), "a bin over two buckets: {:?}", bin);
            let (longest, _) = measure(bin, &lengths);
            prop_assert!(!padded || longest * bin.len() as u64 <= u64::from(capacity), "a rectangle too big: {:?}", bin);
            prop_assert!(bin.is_sorted());
        }

        let items = numbered(&lengths);
        let stop = stop.min(items.len());
        let mut packer = testing::packer::<LengthGrouped>(config.clone(), limits).unwrap();
        let mut bins = packer.push(&items[..stop]);
        let state = packer.save();
        let mut copy = packer.restored(config.clone(), &state).unwrap();
        prop_assert_eq!(copy.save(), state);
        bins.extend(copy.push(&items[stop..]));
        bins.extend(copy.flush());
        prop_assert_eq!(bins, whole);
    }
}

fn edges_of(config: &Json, capacity: u32) -> Vec<u32> {
    edges(&Config::deserialize(config).unwrap(), capacity)
}
