//! Both passes end to end, and the arithmetic of what is kept, by fixed seeds.

use std::collections::BTreeMap;

use super::*;
use ovhost_sdk::{Rng, testing};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

const WORDS: &[u8] = b"dog\nred dog\ncat\n";

fn texts(texts: &[&str]) -> Json {
    texts.iter().map(|text| json!({ "text": text })).collect()
}

/// The counts of a word list, as if so many rows had had each entry.
fn word_counts(concepts: &[u8], each: &[u64]) -> Vec<u8> {
    let counter = testing::stateful_filter_with_assets::<SubstringCount>(json!({}), &[("concepts", concepts)]).unwrap();
    with_counts(&counter.save(), each)
}

/// The same counts' file with other numbers in it.
fn with_counts(state: &[u8], each: &[u64]) -> Vec<u8> {
    let mut state = state[..56].to_vec();
    each.iter().for_each(|count| state.extend_from_slice(&count.to_le_bytes()));
    state
}

fn words_sampler(config: Json, concepts: &[u8], counts: &[u8]) -> testing::FilterUnderTest<SubstringSample> {
    testing::filter_with_assets(config, &[("concepts", concepts), ("counts", counts)]).unwrap()
}

/// Whether `kept` of `tries` is what a probability of `chance` gives, within four standard deviations.
fn plausible(kept: usize, tries: usize, chance: f64) -> bool {
    let sigma = (chance * (1.0 - chance) * tries as f64).sqrt();
    (kept as f64 - chance * tries as f64).abs() <= 4.0 * sigma + 1e-9
}

#[test]
fn every_text_counts_once_for_each_of_its_entries() {
    let config = json!({ "add_concepts": true });
    let mut counter = testing::stateful_filter_with_assets::<SubstringCount>(config, &[("concepts", WORDS)]).unwrap();
    let outcome = counter.run(texts(&["a red dog, a dog", "cat", "bird", "dog cat"]));
    assert_eq!(outcome.kept(), [true; 4]);
    assert_eq!(outcome.column("concepts"), [json!([0, 1]), json!([2]), json!([]), json!([0, 2])]);
    counter.run(json!([{ "text": null }, { "text": "dog" }]));
    let state = counter.save();
    let numbers: Vec<u64> = state[32..].as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect();
    assert_eq!(numbers, [6, 4, 3, 3, 1, 2]);
    let plain = testing::stateful_filter_with_assets::<SubstringCount>(json!({}), &[("concepts", WORDS)]).unwrap();
    assert_eq!(plain.restored(&state).unwrap().run(texts(&["dog"])).column("concepts"), [json!(null)]);
    let folded = json!({ "ignore_case": true });
    let folded = testing::stateful_filter_with_assets::<SubstringCount>(folded, &[("concepts", WORDS)]).unwrap();
    assert!(folded.restored(&state).err().unwrap().message.contains("other settings"));
}

#[test]
fn rare_entries_keep_everything_and_unmatched_rows_go() {
    let counts = word_counts(WORDS, &[20_000, 3, 2_000_000_000]);
    let mut sampler = words_sampler(json!({}), WORDS, &counts);
    let outcome = sampler.run(texts(&["dog", "a cat", "bird", "a red dog and a cat"]));
    assert_eq!(outcome.kept(), [true, false, false, true]);
    assert_eq!(outcome.reasons(), [None, Some("frequent concepts"), Some("no concept"), None]);
    let mut sampler = words_sampler(json!({ "keep_unmatched": true }), WORDS, &counts);
    assert_eq!(sampler.run(texts(&["bird", "dog"])).kept(), [true, true]);
    let outcome = sampler.run(json!([{ "text": null }]));
    assert_eq!(outcome.kept(), [true]);
}

#[test]
fn entries_pass_with_t_by_count_independently_of_one_another() {
    let tries = 40_000;
    let counts = word_counts(WORDS, &[100_000, 50_000, 40_000]);
    for (text, chances) in [
        ("dog", vec![0.2]),
        ("cat", vec![0.5]),
        ("cat dog", vec![0.2, 0.5]),
        ("a red dog", vec![0.2, 0.4]),
        ("a red dog, a cat", vec![0.2, 0.4, 0.5]),
    ] {
        let chance = 1.0 - chances.iter().map(|p| 1.0 - p).product::<f64>();
        let mut sampler = words_sampler(json!({}), WORDS, &counts);
        let kept = sampler.run(texts(&vec![text; tries])).kept().iter().filter(|kept| **kept).count();
        println!("{text}: {chance:.3}, kept {:.4}", kept as f64 / tries as f64);
        assert!(plausible(kept, tries, chance), "{text}: {kept} of {tries} for {chance}");
    }
    let mut sampler = words_sampler(json!({ "t": 1000 }), WORDS, &counts);
    let kept = sampler.run(texts(&vec!["dog"; tries])).kept().iter().filter(|kept| **kept).count();
    assert!(plausible(kept, tries, 0.01), "{kept}");
}

#[test]
fn the_throw_follows_the_row_not_the_batch() {
    let counts = word_counts(WORDS, &[100_000, 50_000, 40_000]);
    let rows: Vec<_> = (0..300).map(|i| ["dog", "cat dog", "a red dog"][i % 3]).collect();
    let whole = words_sampler(json!({}), WORDS, &counts).run(texts(&rows)).kept();
    let mut sampler = words_sampler(json!({}), WORDS, &counts);
    let parts: Vec<bool> = rows.chunks(7).flat_map(|chunk| sampler.run(texts(chunk)).kept()).collect();
    assert_eq!(parts, whole);
    // Rows of one text do not share their throws.
    let dogs: Vec<bool> = whole.iter().step_by(3).copied().collect();
    assert!(dogs.contains(&true) && dogs.contains(&false));
}

#[test]
fn two_passes_flatten_a_long_tail() {
    // Entry i is in about 12000 / (i + 1) texts.
    let concepts: Vec<String> = (0..50).map(|i| format!("thing{i}")).collect();
    let concepts = concepts.join("\n");
    let mut rng = Rng::new(9);
    let weights: Vec<f64> = (1..=50).map(|i| 1.0 / f64::from(i)).collect();
    let total: f64 = weights.iter().sum();
    let draw = |rng: &mut Rng| {
        let mut left = rng.unit() * total;
        weights
            .iter()
            .position(|weight| {
                left -= weight;
                left < 0.0
            })
            .unwrap_or(49)
    };
    let drawn: Vec<usize> = (0..54_000).map(|_| draw(&mut rng)).collect();
    let rows: Json = drawn.iter().map(|i| json!({ "text": format!("a thing{i} on a table") })).collect();
    let assets = [("concepts", concepts.as_bytes())];
    let mut counter = testing::stateful_filter_with_assets::<SubstringCount>(json!({}), &assets).unwrap();
    counter.run(rows.clone());
    let counts = counter.save();
    let kept = words_sampler(json!({ "t": 500 }), concepts.as_bytes(), &counts).run(rows).kept();
    let tally = |kept: &dyn Fn(usize) -> bool| {
        let mut tally = BTreeMap::<usize, usize>::new();
        (0..drawn.len()).filter(|&row| kept(row)).for_each(|row| *tally.entry(drawn[row]).or_default() += 1);
        tally
    };
    let (before, after) = (tally(&|_| true), tally(&|row| kept[row]));
    for (thing, &count) in &before {
        let chance = (500.0 / count as f64).min(1.0);
        assert!(plausible(after[thing], count, chance), "thing{thing}: {} of {count}", after[thing]);
    }
    assert!(before[&0] > 40 * before[&49] && after[&0] < 4 * after[&49], "{before:?} {after:?}");
}

#[test]
fn assets_that_do_not_fit_are_refused() {
    let refuse = |config: Json, assets: &[(&str, &[u8])]| {
        testing::filter_with_assets::<SubstringSample>(config, assets).err().unwrap().to_string()
    };
    let counts = word_counts(WORDS, &[1, 2, 3]);
    assert!(refuse(json!({}), &[("concepts", WORDS)]).contains("`counts` is missing"));
    assert!(refuse(json!({}), &[("counts", &counts)]).contains("`concepts` is missing"));
    assert!(refuse(json!({}), &[("concepts", b"dog\ncat\nred dog"), ("counts", &counts)]).contains("other concepts"));
    assert!(refuse(json!({ "match": "anywhere" }), &[("concepts", WORDS), ("counts", &counts)]).contains("settings"));
    assert!(refuse(json!({}), &[("concepts", WORDS), ("counts", &counts[..60])]).contains("cut short"));
    assert!(refuse(json!({ "t": 0 }), &[("concepts", WORDS), ("counts", &counts)]).contains("/t"));
    assert!(refuse(json!({ "match": "some" }), &[]).contains("/match"));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_entry() {
    let counts = word_counts(WORDS, &[1, 2, 3]);
    let marked = [b"\xEF\xBB\xBF", WORDS].concat();
    // Other entries would be refused for the counts.
    let assets: [(&str, &[u8]); 2] = [("concepts", &marked), ("counts", &counts)];
    assert!(testing::filter_with_assets::<SubstringSample>(json!({}), &assets).is_ok());
}

/// A table of `concepts` unit vectors along the axes.
fn axes(concepts: usize) -> Vec<u8> {
    let values = (0..concepts * concepts).map(|i| if i / concepts == i % concepts { 1.0f32 } else { 0.0 });
    let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    safetensors::serialize([("concepts", TensorView::new(Dtype::F32, vec![concepts, concepts], &data).unwrap())], None)
        .unwrap()
}

/// An embedding near the axes in `concepts`, the first nearest.
fn embedding(width: usize, concepts: &[usize]) -> Json {
    let mut vector = vec![0.0; width];
    concepts.iter().enumerate().for_each(|(i, &concept)| vector[concept] = 1.0 - 0.1 * i as f64);
    json!({ "embedding": vector })
}

fn vector_counts(table: &[u8], top_k: u32, each: &[u64]) -> Vec<u8> {
    let config = json!({ "top_k": top_k });
    let counter = testing::stateful_filter_with_assets::<EmbeddingCount>(config, &[("concepts", table)]).unwrap();
    with_counts(&counter.save(), each)
}

#[test]
fn nearest_concepts_are_counted() {
    let table = axes(4);
    let config = json!({ "top_k": 2 });
    let mut counter = testing::stateful_filter_with_assets::<EmbeddingCount>(config, &[("concepts", &table)]).unwrap();
    let rows = json!([
        embedding(4, &[0, 1]), embedding(4, &[1, 0, 3]), embedding(4, &[3, 2]), { "embedding": null },
        { "embedding": [1.0] }, { "embedding": [0, 0, 0, 0] },
    ]);
    let outcome = counter.run(rows);
    assert_eq!(outcome.kept(), [true, true, true, true, false, false]);
    assert_eq!(outcome.errors().len(), 2);
    let state = counter.save();
    let numbers: Vec<u64> = state[32..].as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect();
    assert_eq!(numbers, [4, 3, 4, 2, 2, 1, 1]);
    let other = json!({ "top_k": 3 });
    let other = testing::stateful_filter_with_assets::<EmbeddingCount>(other, &[("concepts", &table)]).unwrap();
    assert!(other.restored(&state).err().unwrap().message.contains("other settings"));
}

fn kept_share(config: Json, table: &[u8], counts: &[u8], row: &Json, tries: usize) -> usize {
    let assets = [("concepts", table), ("counts", counts)];
    let mut sampler = testing::filter_with_assets::<EmbeddingSample>(config, &assets).unwrap();
    sampler.run(vec![row.clone(); tries].into()).kept().iter().filter(|kept| **kept).count()
}

#[test]
fn weights_are_the_mean_sum_or_largest_of_inverse_counts() {
    let (table, tries) = (axes(4), 20_000);
    let counts = vector_counts(&table, 2, &[1000, 250, 4000, 1]);
    for (combine, concepts, chance) in [
        ("mean", [0, 1], (0.001 + 0.004) / 2.0 * 100.0),
        ("sum", [0, 1], 0.5),
        ("max", [0, 1], 0.4),
        ("mean", [0, 2], 0.0625),
        ("max", [2, 0], 0.1),
        ("mean", [3, 0], 1.0),
    ] {
        let config = json!({ "top_k": 2, "combine": combine, "scale": 100.0 });
        let kept = kept_share(config, &table, &counts, &embedding(4, &concepts), tries);
        assert!(plausible(kept, tries, chance), "{combine} of {concepts:?}: {kept} of {tries} for {chance}");
    }
}

#[test]
fn the_wanted_number_of_rows_comes_out() {
    // Each concept has count rows of its own; the most frequent ones are thinned out to the same number.
    let (table, each) = (axes(4), [6000u64, 3000, 500, 100]);
    let counts = vector_counts(&table, 1, &each);
    let rows: Vec<Json> = each.iter().enumerate().flat_map(|(i, &n)| vec![embedding(4, &[i]); n as usize]).collect();
    for combine in ["mean", "sum", "max"] {
        let config = json!({ "top_k": 1, "combine": combine, "target_rows": 3600 });
        let assets = [("concepts", &table[..]), ("counts", &counts[..])];
        let mut sampler = testing::filter_with_assets::<EmbeddingSample>(config, &assets).unwrap();
        let kept = sampler.run(rows.clone().into()).kept();
        let mut start = 0;
        for (&count, chance) in each.iter().zip([0.25, 0.5, 1.0, 1.0]) {
            let of = kept[start..start + count as usize].iter().filter(|kept| **kept).count();
            assert!(plausible(of, count as usize, chance), "{combine}: {of} of {count} for {chance}");
            start += count as usize;
        }
    }
    // More than there are: all of them.
    let all = kept_share(json!({ "top_k": 1, "target_rows": 99_999 }), &table, &counts, &embedding(4, &[0]), 500);
    assert_eq!(all, 500);
}

#[test]
fn the_wanted_number_comes_out_with_several_concepts_a_row_too() {
    let (concepts, total) = (12, 30_000);
    let table = axes(concepts);
    let mut rng = Rng::new(11);
    let mut draw = || {
        // Squared, so that low numbers are frequent.
        let one = |rng: &mut Rng| (rng.unit() * rng.unit() * concepts as f64) as usize;
        let first = one(&mut rng);
        let second = (0..).map(|_| one(&mut rng)).find(|&second| second != first).unwrap();
        embedding(concepts, &[first, second])
    };
    let rows: Json = (0..total).map(|_| draw()).collect();
    let config = json!({ "top_k": 2 });
    let mut counter = testing::filter_with_assets::<EmbeddingCount>(config, &[("concepts", &table)]).unwrap();
    counter.run(rows.clone());
    let mut counter =
        testing::stateful_filter_with_assets::<EmbeddingCount>(json!({ "top_k": 2 }), &[("concepts", &table)]).unwrap();
    counter.run(rows.clone());
    let counts = counter.save();
    for (target, combine) in [(5000, "mean"), (5000, "sum"), (15_000, "mean")] {
        let config = json!({ "top_k": 2, "combine": combine, "target_rows": target });
        let assets = [("concepts", &table[..]), ("counts", &counts[..])];
        let mut sampler = testing::filter_with_assets::<EmbeddingSample>(config, &assets).unwrap();
        let kept = sampler.run(rows.clone()).kept().iter().filter(|kept| **kept).count();
        println!("{combine}: wanted {target}, kept {kept}");
        // Rows whose concepts differ in frequency make it an estimate.
        assert!((kept as f64 / f64::from(target) - 1.0).abs() < 0.12, "{combine}: wanted {target}, kept {kept}");
    }
}

#[test]
fn sampling_by_embeddings_refuses_what_cannot_work() {
    let table = axes(3);
    let counts = vector_counts(&table, 5, &[1, 2, 3]);
    let refuse = |config: Json, assets: &[(&str, &[u8])]| {
        testing::filter_with_assets::<EmbeddingSample>(config, assets).err().unwrap().to_string()
    };
    let both: [(&str, &[u8]); 2] = [("concepts", &table), ("counts", &counts)];
    assert!(refuse(json!({}), &both).contains("/target_rows"));
    assert!(refuse(json!({ "scale": 1.0, "target_rows": 5 }), &both).contains("give one of the two"));
    assert!(refuse(json!({ "scale": -1.0, "top_k": 0 }), &both).contains("/top_k"));
    assert!(refuse(json!({ "scale": 1.0, "top_k": 2 }), &both).contains("other settings"));
    assert!(refuse(json!({ "scale": 1.0 }), &both[..1]).contains("`counts` is missing"));
    assert!(refuse(json!({ "scale": 1.0 }), &both[1..]).contains("`concepts` is missing"));
    let words = word_counts(WORDS, &[1, 2, 3]);
    assert!(refuse(json!({ "scale": 1.0 }), &[("concepts", &table), ("counts", &words)]).contains("substring_count"));
    let mut sampler = testing::filter_with_assets::<EmbeddingSample>(json!({ "scale": 9.0 }), &both).unwrap();
    let outcome = sampler.run(json!([{ "embedding": null }, { "embedding": [1, 0] }, embedding(3, &[0])]));
    assert_eq!(outcome.reasons(), [Some("no embedding"), None, None]);
    assert_eq!((outcome.kept(), outcome.errors().len()), (vec![false, false, true], 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Counting shards apart and putting the files end to end is counting the whole.
    #[test]
    fn counts_of_shards_add_up(rows in proptest::collection::vec("(dog|red|cat| ){0,5}", 0..30), cut in 0..30usize) {
        let count = |rows: &[String]| {
            let mut counter = testing::stateful_filter_with_assets::<SubstringCount>(json!({}), &[("concepts", WORDS)]).unwrap();
            counter.run(rows.iter().map(|text| json!({ "text": text })).collect());
            counter.save()
        };
        let cut = cut.min(rows.len());
        let parts = [count(&rows[..cut]), count(&rows[cut..])].concat();
        let whole = testing::stateful_filter_with_assets::<SubstringCount>(json!({}), &[("concepts", WORDS)]).unwrap();
        prop_assert_eq!(whole.restored(&parts).unwrap().save(), count(&rows));
    }

    /// The level solves its equation.
    #[test]
    fn levels_give_the_goal(each in proptest::collection::vec(0..1000u64, 1..20), rows in 1..9000u64, per_row in 1..4usize) {
        let reached = |level: f64| each.iter().map(|&count| level.min(count as f64)).sum::<f64>();
        let goal = rows as f64 * per_row as f64;
        match embedding::level(&each, rows, per_row) {
            Some(level) => prop_assert!((reached(level) - goal).abs() < 1e-6 * goal.max(1.0)),
            None => prop_assert!(reached(f64::INFINITY) < goal),
        }
    }
}

/// The binary files of the golden cases are what the passes write.
#[test]
fn files_of_the_golden_cases_are_current() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let table = axes(4);
    let files = [
        ("words.counts", word_counts(&std::fs::read(folder.join("words.txt")).unwrap(), &[80_000, 60_000, 40_000])),
        ("axes.counts", vector_counts(&table, 1, &[1000, 250, 4000, 1])),
        ("axes.safetensors", table),
    ];
    for (name, bytes) in files {
        if std::env::var_os("WRITE_CASES").is_some() {
            std::fs::write(folder.join(name), &bytes).unwrap();
        }
        assert!(std::fs::read(folder.join(name)).unwrap() == bytes, "{name}: set WRITE_CASES=1 to write it again");
    }
}
