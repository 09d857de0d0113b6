//! What `balanced` promises: full bins, alike in patches, nothing lost, the same whatever the cut, continued exactly.

use std::collections::BTreeMap;

use super::*;
use ovhost_sdk::{Rng, testing};
use proptest::prelude::*;

fn limits(capacity: u32, max_items_per_bin: u32, max_open_items: u32) -> Limits {
    Limits { capacity, max_items_per_bin, max_open_items }
}

/// A made-up mixture: lengths with the published histogram of 5,520,733 question-answer samples, even within its three
/// parts; 15 % of those under 2048 tokens are text alone; of the others 30 to 95 % of the tokens are images', at four
/// patches a token.
fn mixture(count: usize) -> Vec<Item> {
    let mut rng = Rng::new(5);
    let mut draw = |id| {
        let length = match rng.below(5_520_733) {
            0..4_127_403 => 36 + rng.below(1024 - 36),
            4_127_403..5_212_621 => 1024 + rng.below(1024),
            _ => 2048 + rng.below(8193 - 2048),
        } as u32;
        let share = 0.3 + 0.65 * rng.unit();
        let text_alone = rng.unit() < 0.15 && length < 2048;
        let patches = if text_alone { 0 } else { 4 * (f64::from(length) * share) as u32 };
        Item { id, length, patches }
    };
    (0..count as u64).map(&mut draw).collect()
}

/// Of a list of bins: share of the capacity that holds tokens; mean and variance of the patches per bin.
fn figures(answers: &[Packing], items: &[Item], capacity: u32) -> (f64, f64, f64) {
    let sums: Vec<(f64, f64)> = answers
        .iter()
        .flat_map(Packing::bins)
        .map(|bin| {
            let items = bin.iter().map(|&id| items[id as usize]);
            items.fold((0.0, 0.0), |sum, item| (sum.0 + f64::from(item.length), sum.1 + f64::from(item.patches)))
        })
        .collect();
    let count = sums.len() as f64;
    let mean = sums.iter().map(|sum| sum.1).sum::<f64>() / count;
    let variance = sums.iter().map(|sum| (sum.1 - mean).powi(2)).sum::<f64>() / count;
    (sums.iter().map(|sum| sum.0).sum::<f64>() / (count * f64::from(capacity)), mean, variance)
}

/// Calls of one packer, with the contract's rules checked: every sample comes back once, no limit is broken.
struct Checked {
    packer: Balanced,
    limits: Limits,
    open: BTreeMap<u64, Item>,
}

impl Checked {
    fn new(config: &Json, limits: Limits) -> Self {
        let config = Config::deserialize(config).unwrap();
        let mut packer = Balanced::new(config, &Assets::default()).unwrap();
        packer.start(limits).unwrap();
        Self { packer, limits, open: BTreeMap::new() }
    }

    fn push(&mut self, items: &[Item]) -> Vec<Vec<u64>> {
        self.open.extend(items.iter().map(|item| (item.id, *item)));
        let mut out = Packing::default();
        self.packer.push(items, &mut out);
        let bins = self.check(&out);
        let most = self.limits.max_open_items as usize;
        assert!(most == 0 || self.open.len() <= most, "{} samples are held back, allowed {most}", self.open.len());
        bins
    }

    fn flush(&mut self) -> Vec<Vec<u64>> {
        let mut out = Packing::default();
        self.packer.flush(&mut out);
        let bins = self.check(&out);
        assert!(self.open.is_empty(), "{} samples never came back", self.open.len());
        bins
    }

    fn check(&mut self, packing: &Packing) -> Vec<Vec<u64>> {
        for id in packing.dropped() {
            let item = self.open.remove(id).expect("a dropped sample was open");
            assert!(item.length > self.limits.capacity);
        }
        for bin in packing.bins() {
            let lengths = bin.iter().map(|id| self.open.remove(id).expect("a placed sample was open").length);
            assert!(lengths.map(u64::from).sum::<u64>() <= u64::from(self.limits.capacity));
            let most = self.limits.max_items_per_bin as usize;
            assert!(most == 0 || bin.len() <= most);
        }
        packing.bins().map(<[u64]>::to_vec).collect()
    }
}

fn pack(config: &Json, limits: Limits, items: &[Item], batch: usize) -> Vec<Vec<u64>> {
    let mut packer = Checked::new(config, limits);
    let mut bins: Vec<_> = items.chunks(batch).flat_map(|chunk| packer.push(chunk)).collect();
    bins.extend(packer.flush());
    bins
}

fn items(sizes: &[(u32, u32)]) -> Vec<Item> {
    (0..).zip(sizes).map(|(id, &(length, patches))| Item { id, length, patches }).collect()
}

#[test]
fn patches_vary_far_less_than_with_padding_free_at_the_same_fill() {
    let items = mixture(100_000);
    let limits = limits(8192, 0, 0);
    let free = testing::pack_natively::<padding_free::PaddingFree>(json!({}), limits, &items, 256);
    let (fill, mean, free_variance) = figures(&free, &items, 8192);
    println!("padding_free: fill {fill:.4}, patches {mean:.0} ± {:.0}", free_variance.sqrt());
    for (window, most) in [(256, 0.32), (1024, 0.30), (4096, 0.30)] {
        let start = std::time::Instant::now();
        let packing = testing::pack_natively::<Balanced>(json!({ "window": window }), limits, &items, 256);
        let rate = items.len() as f64 / start.elapsed().as_secs_f64();
        let (fill, mean, variance) = figures(&packing, &items, 8192);
        let ratio = variance / free_variance;
        let spread = variance.sqrt();
        println!(
            "window {window}: fill {fill:.4}, patches {mean:.0} ± {spread:.0}, variance × {ratio:.3}, {rate:.0}/s"
        );
        assert!(fill >= 0.98, "window {window}: fill {fill}");
        assert!(ratio <= most, "window {window}: {ratio} of padding_free's variance");
    }
    // A weight of nothing leaves the patches alone.
    let packing = testing::pack_natively::<Balanced>(json!({ "weight": 0.0 }), limits, &items, 256);
    assert!(figures(&packing, &items, 8192).2 > 0.8 * free_variance);
}

#[test]
fn the_last_samples_balance_the_patches() {
    // Two a bin; the oldest is all picture, so its partner is all text although another is as long.
    let config = json!({ "window": 3 });
    let items = items(&[(5, 20), (5, 20), (5, 0), (5, 0)]);
    assert_eq!(pack(&config, limits(10, 0, 0), &items, 1), [[0, 2], [1, 3]]);
    assert_eq!(pack(&json!({ "window": 3, "weight": 0.0 }), limits(10, 0, 0), &items, 1), [[0, 1], [2, 3]]);
}

#[test]
fn max_patches_holds_for_bins_of_several_samples() {
    let config = json!({ "max_patches": 9000, "window": 64 });
    let mut items = mixture(2000);
    items[77].patches = 30_000;
    let bins = pack(&config, limits(8192, 0, 0), &items, 100);
    let patches = |bin: &Vec<u64>| bin.iter().map(|&id| u64::from(items[id as usize].patches)).sum::<u64>();
    for bin in &bins {
        let with_patches = bin.iter().filter(|&&id| items[id as usize].patches > 0).count();
        assert!(patches(bin) <= 9000 || with_patches == 1, "{} patches in {bin:?}", patches(bin));
    }
    assert!(bins.iter().any(|bin| bin.contains(&77)));
    assert!(pack(&json!({ "window": 64 }), limits(8192, 0, 0), &items, 100).iter().any(|bin| patches(bin) > 9000));
}

#[test]
fn saved_bytes_continue_through_the_runner() {
    // The harness of the SDK gives no patches; bytes and refusals do not depend on them.
    let mut packer = testing::packer::<Balanced>(json!({ "window": 50 }), limits(100, 0, 0)).unwrap();
    let rows: Vec<_> = mixture(60).iter().map(|item| (item.id, item.length % 90 + 1)).collect();
    packer.push(&rows[..40]);
    let state = packer.save();
    let mut copy = packer.restored(json!({ "window": 50 }), &state).unwrap();
    assert_eq!(copy.save(), state);
    assert_eq!((packer.push(&rows[40..]), packer.flush()), (copy.push(&rows[40..]), copy.flush()));
    let mut packer = testing::packer::<Balanced>(json!({}), limits(100, 0, 0)).unwrap();
    packer.push(&rows[..40]);
    let error = packer.restored(json!({ "window": 5 }), &packer.save()).err().unwrap();
    assert!(error.message.contains("the window holds 5"), "{}", error.message);
}

#[test]
fn a_damaged_state_is_refused() {
    let mut packer = Checked::new(&json!({}), limits(100, 0, 0)).packer;
    let item = |length| Item { id: 1, length, patches: 0 };
    let seen = Seen { samples: 5, tokens: 50, patches: 9 };
    let mut refused = |open| packer.restore(State { seen, open }).unwrap_err();
    assert!(refused(vec![(3, item(101))]).contains("101 tokens"));
    assert!(refused(vec![(3, item(1)), (2, item(1))]).contains("order"));
    assert!(refused(vec![(5, item(1))]).contains("order"));
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let bad = json!({ "window": 0, "weight": -1.0 });
    let error = testing::packer::<Balanced>(bad, limits(10, 0, 0)).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/window", "/weight"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_and_neither_the_cut_nor_a_restart_shows(
        sizes in proptest::collection::vec((0..120u32, prop_oneof![Just(0u32), 0..500u32]), 0..250),
        capacity in 1..300u32,
        max_items in 0..5u32,
        max_open in prop_oneof![Just(0u32), 1..40u32],
        window in 1..60u32,
        max_patches in prop_oneof![Just(0u64), 1..900u64],
        weight in prop_oneof![Just(0.0), 0.0..4.0f64],
        cut in 1..40usize,
        stop in 0..250usize,
    ) {
        let config = json!({ "window": window, "max_patches": max_patches, "weight": weight });
        let limits = limits(capacity, max_items, max_open);
        let items = items(&sizes);
        let whole = pack(&config, limits, &items, 250);
        let placed: usize = whole.iter().map(Vec::len).sum();
        prop_assert_eq!(placed, items.iter().filter(|item| item.length <= capacity).count());
        prop_assert!(whole.iter().all(|bin| bin.is_sorted()));
        prop_assert_eq!(&pack(&config, limits, &items, cut), &whole);

        let stop = stop.min(items.len());
        let mut packer = Checked::new(&config, limits);
        let mut bins = packer.push(&items[..stop]);
        let mut copy = Checked::new(&config, limits);
        copy.packer.restore(packer.packer.state()).unwrap();
        copy.open = packer.open;
        prop_assert_eq!(copy.packer.state().seen, packer.packer.seen);
        bins.extend(copy.push(&items[stop..]));
        bins.extend(copy.flush());
        prop_assert_eq!(bins, whole);
    }
}
