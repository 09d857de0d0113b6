//! Which rows go, and that saving, cutting and counting do not show.

use super::*;
use ovhost_sdk::testing;
use proptest::prelude::*;

/// Hexadecimal digits, as the tests' rows have bytes.
fn hex(hashes: &[u64]) -> String {
    hashes.iter().map(|hash| format!("{hash:016x}")).collect()
}

fn rows(pictures: &[Vec<u64>]) -> Json {
    pictures.iter().map(|hashes| json!({ "phash": hex(hashes) })).collect()
}

fn kept(config: Json, pictures: &[Vec<u64>]) -> Vec<bool> {
    testing::stateful_filter::<PhashDup>(config).unwrap().run(rows(pictures)).kept()
}

const A: u64 = 0xF0F0_1234_5678_9ABC;
const B: u64 = 0x0F0F_FFFF_0000_1111;

#[test]
fn the_distance_is_inclusive() {
    let pictures = [vec![A], vec![A ^ 0b1111], vec![A ^ 0b1_1111], vec![B]];
    assert_eq!(kept(json!({}), &pictures), [true, false, true, true]);
    assert_eq!(kept(json!({ "distance": 0 }), &[vec![A], vec![A ^ 1], vec![A]]), [true, true, false]);
    assert_eq!(kept(json!({ "distance": 3 }), &pictures), [true, true, false, true]);
    // What was dropped is not remembered: the third is near the second only.
    assert_eq!(kept(json!({ "distance": 2 }), &[vec![A], vec![A ^ 0b11], vec![A ^ 0b1111]]), [true, false, true]);
}

#[test]
fn rows_of_several_pictures_go_by_the_rule() {
    let pictures = [vec![A], vec![A, B], vec![B, A ^ 1], vec![B ^ 0xFF00], vec![A, A]];
    assert_eq!(kept(json!({}), &pictures), [true, true, false, true, false]);
    assert_eq!(kept(json!({ "rule": "any" }), &pictures), [true, false, false, true, false]);
    // A row is no duplicate of itself.
    assert_eq!(kept(json!({ "rule": "any" }), &[vec![A, A]]), [true]);
}

#[test]
fn rows_without_pictures_stay_and_broken_ones_are_errors() {
    let mut plugin = testing::stateful_filter::<PhashDup>(json!({})).unwrap();
    let outcome = plugin.run(json!([{ "phash": "" }, { "phash": null }, { "phash": "" }, { "phash": "00112233" }]));
    assert_eq!(outcome.kept(), [true, true, true, false]);
    assert_eq!(outcome.errors(), [(3, "column `phash` has 4 bytes; it must have 8 for each picture")]);
}

#[test]
fn a_full_memory_is_an_error_for_new_rows_only() {
    let mut plugin = testing::stateful_filter::<PhashDup>(json!({ "max_pictures": 2 })).unwrap();
    let outcome = plugin.run(rows(&[vec![A], vec![B, !A], vec![B], vec![!B], vec![A ^ 1]]));
    assert_eq!(outcome.kept(), [true, false, true, false, false]);
    assert_eq!(outcome.reasons()[4], Some("near duplicate picture"));
    let (row, message) = outcome.errors()[0];
    assert!(row == 1 && message.contains("max_pictures is 2") && message.contains("memory_mib"), "{message}");
}

#[test]
fn pictures_that_are_known_or_come_twice_take_no_room() {
    let mut plugin = testing::stateful_filter::<PhashDup>(json!({ "max_pictures": 3 })).unwrap();
    let outcome = plugin.run(rows(&[vec![A], vec![A, B], vec![!A, !A, B], vec![!B, A]]));
    assert_eq!(outcome.kept(), [true, true, true, false]);
    assert!(outcome.errors()[0].1.starts_with("3 pictures are remembered"));
}

#[test]
fn state_goes_on_at_any_distance() {
    let mut plugin = testing::stateful_filter::<PhashDup>(json!({})).unwrap();
    plugin.run(rows(&[vec![A], vec![B]]));
    let state = plugin.save();
    for (distance, near) in [(4, false), (1, true)] {
        let config = json!({ "distance": distance });
        let mut copy = testing::stateful_filter::<PhashDup>(config).unwrap().restored(&state).unwrap();
        assert_eq!(copy.run(rows(&[vec![A ^ 0b110]])).kept(), [near]);
    }
    assert!(plugin.restored(&state[..20]).is_err());
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let error = testing::stateful_filter::<PhashDup>(json!({ "distance": 13, "max_pictures": 0 })).err().unwrap();
    let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["/distance", "/max_pictures"]);
    let error = testing::stateful_filter::<PhashDup>(json!({ "rule": "some" })).err().unwrap();
    assert_eq!(error.findings[0].path, "/rule");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The whole filter against its definition, in one call and in several.
    #[test]
    fn it_does_what_a_scan_would(
        pictures in proptest::collection::vec(proptest::collection::vec((0..4u64, 0..64u32, 0..64u32), 0..4), 0..40),
        distance in 0..8u32,
        any: bool,
        cut in 1..9usize,
    ) {
        // Few different pictures, each two bits or fewer off one of four.
        let hash = |&(base, a, b): &(u64, u32, u32)| (base * 0x1111_2222_3333_4444) ^ (1 << a) ^ (1 << b);
        let pictures: Vec<Vec<u64>> = pictures.iter().map(|row| row.iter().map(hash).collect()).collect();
        let mut seen: Vec<u64> = Vec::new();
        let want: Vec<bool> = pictures.iter().map(|row| {
            let near = |hash: &u64| seen.iter().any(|other| (hash ^ other).count_ones() <= distance);
            let goes = !row.is_empty() && if any { row.iter().any(near) } else { row.iter().all(near) };
            if !goes {
                seen.extend(row);
            }
            !goes
        }).collect();
        let config = json!({ "distance": distance, "rule": if any { "any" } else { "all" } });
        prop_assert_eq!(&kept(config.clone(), &pictures), &want);
        let mut plugin = testing::stateful_filter::<PhashDup>(config).unwrap();
        let parts: Vec<bool> = pictures.chunks(cut).flat_map(|chunk| plugin.run(rows(chunk)).kept()).collect();
        prop_assert_eq!(parts, want);
    }
}
