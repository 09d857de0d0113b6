//! What counts as nearly the same, how often a pair is found, and that nothing but the rows matters.

use super::*;
use ovhost_sdk::{Rng, testing};
use proptest::prelude::*;

const LONG: &str = "A small red boat with a white sail lies on a calm lake in front of green hills, and two people in \
    yellow jackets wave from the wooden pier while a brown dog jumps into the clear water next to them on a sunny day.";

fn kept(config: Json, texts: &[&str]) -> Vec<bool> {
    let mut plugin = testing::stateful_filter::<NearDup>(config).unwrap();
    // One row a call: what is remembered must not depend on the cut.
    texts.iter().map(|text| plugin.run(json!([{ "text": text }])).kept()[0]).collect()
}

#[test]
fn the_same_with_little_changes_goes_and_the_rest_stays() {
    let shouted = LONG.to_uppercase().replace(' ', "  ");
    let last = LONG.replace("sunny day", "sunny morning");
    let half = format!("{} and nobody else was there to see what they had brought home that night.", &LONG[..90]);
    let other = "Three grey cats sleep on a blue sofa beside a window with heavy curtains and a view of the old town.";
    assert_eq!(kept(json!({}), &[LONG, &shouted, &last, &half, other, other]), [true, false, false, true, true, false]);
    let strict = json!({ "threshold": 1.0 });
    assert_eq!(kept(strict, &[LONG, &shouted, &last, LONG]), [true, false, true, false]);
    assert_eq!(kept(json!({ "ignore_case": false }), &[LONG, &LONG.to_uppercase(), LONG]), [true, true, false]);
}

#[test]
fn chinese_is_cut_by_characters() {
    let text = "一只棕色的小狗在阳光明媚的公园里追逐着红色的球，旁边坐着两位老人，他们正在长椅上愉快地聊天喝茶并看着孩子们玩耍。";
    let close = text.replace("玩耍", "游戏");
    let other =
        "三只灰色的猫睡在窗边的蓝色沙发上，窗外是老城的屋顶和远处的高山，天空中飘着几朵白云，街上没有一个行人。";
    assert_eq!(kept(json!({}), &[text, &close, other]), [true, false, true]);
}

#[test]
fn thai_is_cut_by_letters() {
    let text = "สุนัขสีน้ำตาลตัวเล็กวิ่งไล่ลูกบอลสีแดงในสวนสาธารณะที่มีแดดจ้า ข้างๆ มีผู้สูงอายุสองคนนั่งดื่มชาบนม้านั่ง";
    let other = "แมวสีเทาสามตัวนอนหลับบนโซฟาสีฟ้าริมหน้าต่าง นอกหน้าต่างเป็นหลังคาเมืองเก่าและภูเขาสูงที่อยู่ไกลออกไป";
    assert_eq!(kept(json!({}), &[text, &format!("{text}ครับ"), other]), [true, false, true]);
}

#[test]
fn short_texts_are_one_shingle_and_empty_ones_stay() {
    assert_eq!(
        kept(json!({}), &["a dog", "A dog!", "a cat", "dog a", "", "?!", ""]),
        [true, false, true, true, true, true, true]
    );
    let mut plugin = testing::stateful_filter::<NearDup>(json!({})).unwrap();
    let outcome = plugin.run(json!([{ "text": null }, { "text": "a dog" }, { "text": "a dog" }]));
    assert_eq!(outcome.reasons(), [None, None, Some("near duplicate")]);
}

/// Two texts of `size` words with `common` of them in common, all words different: similarity common / (2 size − common).
fn pair(rng: &mut Rng, size: usize, common: usize) -> (String, String) {
    let word = |rng: &mut Rng| format!("w{}", rng.next_u64());
    let shared: Vec<_> = (0..common).map(|_| word(rng)).collect();
    let text = |rng: &mut Rng| {
        let own = (common..size).map(|_| word(rng));
        shared.iter().cloned().chain(own.collect::<Vec<_>>()).collect::<Vec<_>>().join(" ")
    };
    (text(rng), text(rng))
}

#[test]
fn pairs_are_found_as_often_as_the_formula_says() {
    let config = json!({ "ngram": 1 });
    let shape = Shape { bands: 14, rows: 8 };
    let mut rng = Rng::new(7);
    for (size, common) in [(90, 40), (90, 60), (90, 70), (90, 75), (90, 80), (90, 87)] {
        let similarity = common as f64 / (2 * size - common) as f64;
        let (chance, tries) = (shape.chance(similarity), 600);
        let mut plugin = testing::filter::<NearDup>(config.clone()).unwrap();
        let rows: Vec<_> = (0..tries).flat_map(|_| <[String; 2]>::from(pair(&mut rng, size, common))).collect();
        let outcome = plugin.run(rows.iter().map(|text| json!({ "text": text })).collect());
        let found = outcome.kept().chunks(2).filter(|pair| pair[0] && !pair[1]).count() as f64 / f64::from(tries);
        let sigma = (chance * (1.0 - chance) / f64::from(tries)).sqrt();
        println!("similarity {similarity:.3}: formula {chance:.4}, found {found:.4} (sigma {sigma:.4})");
        assert!((found - chance).abs() < 4.0 * sigma + 0.005, "similarity {similarity}: {found} for {chance}");
        assert_eq!(outcome.kept().iter().step_by(2).filter(|kept| !**kept).count(), 0, "unrelated texts were dropped");
    }
}

#[test]
fn a_full_memory_is_an_error_for_new_rows_only() {
    let mut plugin = testing::stateful_filter::<NearDup>(json!({ "max_rows": 2 })).unwrap();
    let outcome =
        plugin.run(json!([{ "text": "a" }, { "text": "b" }, { "text": "c" }, { "text": "A" }, { "text": "" }]));
    assert_eq!(outcome.kept(), [true, true, false, false, true]);
    assert_eq!(outcome.reasons()[3], Some("near duplicate"));
    assert!(outcome.errors()[0].1.contains("raise max_rows"), "{:?}", outcome.errors());
}

#[test]
fn state_goes_on_under_the_same_rules_only() {
    let mut plugin = testing::stateful_filter::<NearDup>(json!({})).unwrap();
    plugin.run(json!([{ "text": LONG }]));
    let state = plugin.save();
    assert!(state.len() < 250, "{} bytes for one row", state.len());
    assert_eq!(plugin.restored(&state).unwrap().run(json!([{ "text": LONG }, { "text": "b" }])).kept(), [false, true]);
    let other = testing::stateful_filter::<NearDup>(json!({ "ngram": 4 })).unwrap();
    let message = other.restored(&state).err().unwrap().message;
    assert!(message.contains("14 bands of 8, 5 words") && message.contains("4 words"), "{message}");
    assert!(
        testing::stateful_filter::<NearDup>(json!({ "max_rows": 9, "bands": 14, "rows": 8 }))
            .unwrap()
            .restored(&state)
            .is_ok()
    );
}

#[test]
fn senseless_configurations_are_refused_with_their_place() {
    let paths = |config: Json| -> Vec<String> {
        let error = testing::stateful_filter::<NearDup>(config).err().unwrap();
        error.findings.iter().map(|finding| finding.path.clone()).collect()
    };
    assert_eq!(
        paths(json!({ "threshold": 0.0, "recall": 1.0, "permutations": 0, "ngram": 0, "max_rows": 0 })),
        ["/threshold", "/recall", "/permutations", "/ngram", "/max_rows"]
    );
    assert_eq!(paths(json!({ "bands": 3 })), ["/bands"]);
    let both = json!({ "bands": 1, "rows": 1, "threshold": 0.99, "recall": 0.5, "permutations": 8 });
    assert_eq!(paths(both), ["/threshold", "/recall", "/permutations"]);
    assert_eq!(paths(json!({ "bands": 200, "rows": 200 })), ["/bands"]);
    assert_eq!(paths(json!({ "threshold": 0.1, "permutations": 4 })), ["/permutations"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However close texts are, equal ones always agree in every band, and the cut does not show.
    #[test]
    fn equal_texts_are_always_found(
        texts in proptest::collection::vec("[abc ]{0,12}", 1..30),
        cut in 1..9usize,
        ngram in 1..4u32,
    ) {
        let config = json!({ "ngram": ngram, "permutations": 16, "threshold": 0.9 });
        let rows = |texts: &[String]| texts.iter().map(|text| json!({ "text": text })).collect::<Json>();
        let mut plugin = testing::stateful_filter::<NearDup>(config.clone()).unwrap();
        let whole = plugin.run(rows(&texts)).kept();
        let mut plugin = testing::stateful_filter::<NearDup>(config).unwrap();
        let parts: Vec<bool> = texts.chunks(cut).flat_map(|chunk| plugin.run(rows(chunk)).kept()).collect();
        prop_assert_eq!(&parts, &whole);
        prop_assert_eq!(plugin.run(rows(&texts)).kept(), texts.iter().map(|text| text.trim().is_empty()).collect::<Vec<_>>());
    }
}
