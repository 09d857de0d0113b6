//! What `padding_free` promises: nothing lost, nearly full, the same whatever the cut, continued exactly.

use super::*;
use ovhost_sdk::{Rng, testing};

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

/// Fill of all bins together.
fn fill(bins: &[Vec<u64>], lengths: &[u32], capacity: u32) -> f64 {
    let used: u64 = bins.iter().flatten().map(|&id| u64::from(lengths[id as usize])).sum();
    used as f64 / (bins.len() as f64 * f64::from(capacity))
}

fn pack(config: &Json, limits: Limits, lengths: &[u32], batch: usize) -> Vec<Vec<u64>> {
    let mut packer = testing::packer::<PaddingFree>(config.clone(), limits).unwrap();
    let mut bins = Vec::new();
    for chunk in numbered(lengths).chunks(batch) {
        bins.extend(packer.push(chunk));
    }
    bins.extend(packer.flush());
    bins
}

#[test]
fn bins_are_full_on_the_published_histogram() {
    let lengths = published_lengths(200_000);
    for (window, least) in [(4096, 0.999), (1024, 0.998), (256, 0.99)] {
        let bins = pack(&json!({ "window": window }), limits(8192, 0, 0), &lengths, 256);
        let fill = fill(&bins, &lengths, 8192);
        println!("window {window}: {} bins, fill {fill:.5}", bins.len());
        assert!(fill >= least, "window {window}: fill {fill}");
    }
}

#[test]
fn the_oldest_comes_first_and_the_longest_that_fits_follows() {
    let config = json!({ "window": 4 });
    let mut packer = testing::packer::<PaddingFree>(config, limits(10, 0, 0)).unwrap();
    assert!(packer.push(&[(0, 3), (1, 6), (2, 7), (3, 4)]).is_empty());
    // The oldest (3) leaves room for the 7, not for the 6 or the 4.
    assert_eq!(packer.push(&[(4, 9)]), [vec![0, 2]]);
    // At the end the longest starts.
    assert_eq!(packer.flush(), [vec![4], vec![1, 3]]);
}

/// The rule in the plainest words: look at everything, every time.
fn plainly(window: usize, limits: Limits, lengths: &[u32]) -> Vec<Vec<u64>> {
    let unless_zero = |value: u32| if value == 0 { usize::MAX } else { value as usize };
    let (most, max_open) = (unless_zero(limits.max_items_per_bin), unless_zero(limits.max_open_items).min(window));
    let (mut open, mut bins) = (Vec::new(), Vec::new());
    let longest = |open: &[(u64, u32)], room: u32| {
        let fits = open.iter().enumerate().filter(|(_, item)| item.1 <= room);
        // The first of the longest.
        fits.max_by_key(|(place, item)| (item.1, std::cmp::Reverse(*place))).map(|(place, _)| place)
    };
    let mut close = |open: &mut Vec<(u64, u32)>, first: usize| {
        let mut bin = vec![open.remove(first)];
        let mut room = limits.capacity - bin[0].1;
        while bin.len() < most
            && let Some(place) = longest(open, room)
        {
            room -= open[place].1;
            bin.push(open.remove(place));
        }
        bin.sort_unstable();
        bins.push(bin.into_iter().map(|item| item.0).collect());
    };
    for item in numbered(lengths) {
        open.push(item);
        if open.len() > max_open {
            close(&mut open, 0);
        }
    }
    while let Some(first) = longest(&open, limits.capacity) {
        close(&mut open, first);
    }
    bins
}

#[test]
fn bins_are_those_of_the_plain_rule() {
    let lengths = published_lengths(3000);
    // Few lengths, so that many are equal; zero and the capacity among them.
    let coarse: Vec<u32> = lengths.iter().map(|length| length / 1024 * 1024).collect();
    for lengths in [&lengths, &coarse] {
        for (window, limits) in [(300, limits(8192, 0, 0)), (300, limits(8192, 4, 0)), (64, limits(8192, 0, 20))] {
            let bins = pack(&json!({ "window": window }), limits, lengths, 100);
            assert_eq!(bins, plainly(window, limits, lengths), "window {window}, {limits:?}");
        }
    }
}

/// Best fit decreasing in the plainest words.
fn plainly_offline(capacity: u32, most: usize, lengths: &[u32]) -> Vec<Vec<u64>> {
    let mut items = numbered(lengths);
    items.sort_by_key(|item| std::cmp::Reverse(item.1));
    let mut bins: Vec<(u32, Vec<u64>)> = Vec::new();
    let mut turns = Vec::new();
    for (turn, (id, length)) in items.into_iter().enumerate() {
        let fits = (0..bins.len()).filter(|&bin| bins[bin].0 >= length && bins[bin].1.len() < most);
        // Of the bins with the least room, the one that has had it longest.
        let bin = fits.min_by_key(|&bin| (bins[bin].0, turns[bin])).unwrap_or_else(|| {
            bins.push((capacity, Vec::new()));
            turns.push(0);
            bins.len() - 1
        });
        bins[bin].0 -= length;
        bins[bin].1.push(id);
        turns[bin] = turn;
    }
    let mut bins: Vec<Vec<u64>> = bins.into_iter().map(|bin| bin.1).collect();
    bins.iter_mut().for_each(|bin| bin.sort_unstable());
    bins.sort_unstable();
    bins
}

#[test]
fn offline_is_best_fit_decreasing() {
    let mut lengths = published_lengths(2000);
    lengths.extend([0, 8192, 0]);
    for most in [0, 5] {
        let bins = pack(&json!({ "mode": "offline" }), limits(8192, most, 0), &lengths, 64);
        let most = if most == 0 { usize::MAX } else { most as usize };
        assert_eq!(bins, plainly_offline(8192, most, &lengths));
    }
    assert!(pack(&json!({ "mode": "offline" }), limits(8192, 0, 0), &[], 1).is_empty());
}

#[test]
fn ids_need_not_follow_each_other() {
    // The same samples under other ids: in offline mode those that follow each other are not listed one by one.
    let lengths = published_lengths(40_000);
    let leaping = |id: u64| if id < 20_000 { id + 5 } else { id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 40 };
    for config in [json!({ "window": 300 }), json!({ "mode": "offline" })] {
        let expected = pack(&config, limits(8192, 0, 0), &lengths, 777);
        let mut packer = testing::packer::<PaddingFree>(config, limits(8192, 0, 0)).unwrap();
        let items: Vec<(u64, u32)> = numbered(&lengths).into_iter().map(|(id, length)| (leaping(id), length)).collect();
        let mut bins: Vec<Vec<u64>> = items.chunks(777).flat_map(|items| packer.push(items)).collect();
        bins.extend(packer.flush());
        let renamed = expected.iter().map(|bin| bin.iter().map(|id| leaping(*id)).collect::<Vec<u64>>());
        assert!(bins.into_iter().eq(renamed));
    }
}

#[test]
fn offline_needs_no_more_bins_than_a_window() {
    let lengths = published_lengths(200_000);
    let bins = |config: &Json| pack(config, limits(8192, 0, 0), &lengths, 4096);
    let (offline, window) = (bins(&json!({ "mode": "offline" })), bins(&json!({ "window": 65_536 })));
    let full = fill(&offline, &lengths, 8192);
    println!("offline: {} bins, fill {full:.6}; window: {}", offline.len(), window.len());
    assert!(offline.len() <= window.len() && full >= 0.9998, "{full}");
}

#[test]
fn offline_wants_no_bound_on_open_samples() {
    let mut packer = testing::packer::<PaddingFree>(json!({ "mode": "offline" }), limits(10, 0, 0)).unwrap();
    assert!(packer.push(&[(0, 3), (1, 11), (2, 7)]).is_empty(), "a sample above the capacity is given up at once");
    assert_eq!((packer.open(), packer.flush()), (2, vec![vec![0, 2]]));
    let config = Config { mode: Packs::Offline, ..Config::default() };
    let mut packer = PaddingFree::new(config, &Assets::default()).unwrap();
    let error = packer.start(limits(10, 0, 100)).unwrap_err();
    assert!(error.contains("\"offline\"") && error.contains("100 open samples"), "{error}");
}

#[test]
fn offline_refuses_one_sample_too_many_when_it_comes() {
    let config = Config { mode: Packs::Offline, max_samples: 3, ..Config::default() };
    let mut packer = PaddingFree::new(config, &Assets::default()).unwrap();
    packer.start(limits(10, 0, 0)).unwrap();
    let item = |id, length| Item { id, length, patches: 0 };
    let mut out = Packing::default();
    packer.push(&[item(0, 3), item(1, 11), item(2, 7), item(3, 1)], &mut out);
    assert_eq!((out.failure(), out.dropped()), (None, &[1][..]));
    let saved = packer.state();
    packer.push(&[item(4, 1)], &mut out);
    let message = out.failure().unwrap();
    assert!(message.contains("holds 3 samples") && message.contains("max_samples") && message.contains("memory_mib"));
    // A saved state may hold no more either.
    let config = Config { mode: Packs::Offline, max_samples: 2, ..Config::default() };
    let mut small = PaddingFree::new(config, &Assets::default()).unwrap();
    small.start(limits(10, 0, 0)).unwrap();
    assert!(small.restore(saved).unwrap_err().contains("3 samples"));
}

#[test]
fn the_cut_into_batches_does_not_matter() {
    let lengths = published_lengths(5000);
    for config in [json!({ "window": 300 }), json!({ "mode": "offline" })] {
        let whole = pack(&config, limits(8192, 0, 0), &lengths, 5000);
        assert_eq!(pack(&config, limits(8192, 0, 0), &lengths, 1), whole);
        assert_eq!(pack(&config, limits(8192, 0, 0), &lengths, 77), whole);
    }
}

#[test]
fn limits_hold() {
    // The harness checks both bounds, the capacity and that nothing is lost, at every call.
    let lengths = published_lengths(3000);
    let bins = pack(&json!({}), limits(8192, 3, 50), &lengths, 10);
    assert!(bins.iter().any(|bin| bin.len() == 3));
    pack(&json!({}), limits(8192, 1, 1), &lengths, 10);
    // A sample above the capacity comes back as given up, and odd lengths do no harm.
    let mut odd = lengths;
    odd.extend([0, 0, 8192, 8193, u32::MAX]);
    let placed: usize = pack(&json!({ "window": 5 }), limits(8192, 0, 0), &odd, 7).iter().map(Vec::len).sum();
    assert_eq!(placed, odd.len() - 2);
}

#[test]
fn offline_bins_leave_in_pieces_of_bounded_size() {
    let items = |count: usize, id: fn(u64) -> u64| -> Vec<Item> {
        let lengths = published_lengths(count);
        lengths.into_iter().zip(0..).map(|(length, i)| Item { id: id(i), length, patches: 0 }).collect()
    };
    let config = json!({ "mode": "offline" });
    // Ids in a row and ids that leap: packed alike.
    let sizes: Vec<Vec<usize>> = [(|i| i) as fn(u64) -> u64, |i| 7 * i]
        .map(|id| {
            let items = items(50_000, id);
            let answers = testing::pack_natively::<PaddingFree>(config.clone(), limits(8192, 0, 0), &items, 4096);
            let sizes = answers.iter().map(|out| out.bins().map(<[u64]>::len).sum()).filter(|size| *size > 0);
            let bins: Vec<&[u64]> = answers.iter().flat_map(Packing::bins).collect();
            assert!(bins.is_sorted_by_key(|bin| bin[0]) && bins.iter().all(|bin| bin.is_sorted()));
            sizes.collect()
        })
        .into();
    assert_eq!(sizes[0], sizes[1]);
    assert_eq!(sizes[0].iter().sum::<usize>(), 50_000);
    assert!(sizes[0].len() > 6 && sizes[0].iter().all(|size| *size <= 1 << 13), "{sizes:?}");
    // One bin that is larger than a piece.
    let zeros: Vec<Item> = (0..20_000).map(|id| Item { id, length: 0, patches: 0 }).collect();
    let answers = testing::pack_natively::<PaddingFree>(config, limits(8192, 0, 0), &zeros, 4096);
    assert_eq!(answers.iter().flat_map(Packing::bins).map(<[u64]>::len).collect::<Vec<_>>(), [20_000]);
}

#[test]
fn saved_state_continues_exactly() {
    let items = numbered(&published_lengths(4000));
    for config in [json!({ "window": 500 }), json!({ "mode": "offline" })] {
        let mut packer = testing::packer::<PaddingFree>(config.clone(), limits(8192, 0, 0)).unwrap();
        packer.push(&items[..2001]);
        let state = packer.save();
        let mut copy = packer.restored(config.clone(), &state).unwrap();
        assert_eq!(copy.save(), state);
        assert_eq!(packer.push(&items[2001..]), copy.push(&items[2001..]));
        assert_eq!(packer.flush(), copy.flush());
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let config = json!({ "window": 500 });
    let mut packer = testing::packer::<PaddingFree>(config.clone(), limits(8192, 0, 0)).unwrap();
    packer.push(&numbered(&published_lengths(400)));
    let state = packer.save();
    let error = packer.restored(json!({ "window": 50 }), &state).err().unwrap();
    assert!(error.message.contains("400 samples") && error.message.contains("50"), "{}", error.message);
    assert!(packer.restored(config.clone(), &state[..state.len() - 1]).err().unwrap().message.contains("unreadable"));
    assert!(packer.restored(config, b"").err().unwrap().message.contains("unreadable"));
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
            let answers =
                testing::pack_natively::<PaddingFree>(json!({ "window": window }), limits(8192, 0, 0), &items, 256);
            *best = best.min(start.elapsed().as_secs_f64());
            assert!(answers.iter().flat_map(Packing::bins).count() > 10_000);
        }
    }
    let ratio = best[1] / best[0];
    println!("{best:?} s, ratio {ratio:.2}");
    assert!(ratio < 20.0, "{ratio:.1} times the time, with a window 64 times as large");
}
