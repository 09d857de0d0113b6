//! Rows to columns and back.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rows_of(value: Value) -> Vec<JsonRow> {
    serde_json::from_value(value).unwrap()
}

fn typed(types: &[(&str, &str)]) -> BTreeMap<String, ColumnType> {
    types.iter().map(|(name, ty)| ((*name).to_owned(), ty.parse().unwrap())).collect()
}

fn make(types: &[(&str, &str)], value: Value) -> Result<Batch, JsonError> {
    batch(&rows_of(value), &typed(types))
}

fn types_of(batch: &Batch) -> Vec<(&str, &str)> {
    batch.columns.iter().map(|c| (c.name.as_str(), c.data.type_name())).collect()
}

#[test]
fn given_types_go_before_standard_ones_and_those_before_inference() {
    let row = json!({"width": 3, "x": 3, "y": 3, "widths": [], "flag": true, "t": "a", "o": {"a": 1}, "l": [1, 2], "m": [0.5], "n": -0.5});
    let batch = make(&[("x", "f32s"), ("widths", "f32-lists")], json!([row])).unwrap();
    let want = [
        ("width", "u32s"),
        ("x", "f32s"),
        ("y", "s64s"),
        ("widths", "f32-lists"),
        ("flag", "u8s"),
        ("t", "utf8"),
        ("o", "utf8"),
        ("l", "u32-lists"),
        ("m", "f32-lists"),
        ("n", "f64s"),
    ];
    assert_eq!(types_of(&batch), want);
    assert_eq!(value(&batch.columns[6], 0), Some(json!("{\"a\":1}")));
}

#[test]
fn inference_looks_at_every_row() {
    let batch = make(&[], json!([{"a": 1, "b": []}, {"a": 0.5, "b": [1]}, {"b": [-1]}])).unwrap();
    assert_eq!(types_of(&batch), [("a", "f64s"), ("b", "f32-lists")]);
    assert_eq!(batch.columns[0].valid, Some(vec![1, 1, 0]));
    assert_eq!(batch.columns[1].valid, None);
}

#[test]
fn missing_and_null_are_rows_without_a_value() {
    let batch = make(&[], json!([{"text": null, "id": 4, "x": null}, {"text": "b"}])).unwrap();
    assert_eq!(types_of(&batch), [("text", "utf8"), ("id", "s64s")], "nothing tells the type of x");
    assert_eq!(batch.columns[0].valid, Some(vec![0, 1]));
    assert_eq!(batch.columns[1].data, ColumnData::S64s(vec![4, 0]));
    assert_eq!(rows(&batch), rows_of(json!([{"id": 4}, {"text": "b"}])));
}

#[test]
fn types_and_columns_last_over_batches() {
    let mut columns = Columns::new(BTreeMap::new(), Some(vec!["n".into(), "u".into()]));
    let first = columns.batch(&rows_of(json!([{"n": 1, "u": null, "deep": [[1]]}])), 0).unwrap();
    assert_eq!(types_of(&first), [("n", "s64s")], "what is not wanted is not looked at");
    assert_eq!(columns.untyped().collect::<Vec<_>>(), ["u"]);
    let second = columns.batch(&rows_of(json!([{"u": "a"}])), 1).unwrap();
    assert_eq!(types_of(&second), [("n", "s64s"), ("u", "utf8")]);
    assert_eq!(second.columns[0].valid, Some(vec![0]));
    let error = columns.batch(&rows_of(json!([{}, {"n": 1.5}])), 2).unwrap_err().to_string();
    assert!(error.contains("row 3, column \"n\": 1.5 does not fit its type s64s"), "{error}");
}

#[test]
fn values_that_do_not_fit_are_named_with_what_is_allowed() {
    let cases = [
        ("u8s", json!(256), "0 to 255"),
        ("u8s", json!("true"), "true, false"),
        ("u32s", json!(-1), "0 to 4294967295"),
        ("u32s", json!(4294967296u64), "0 to 4294967295"),
        ("u32s", json!(1.0), "a whole number"),
        ("s64s", json!(u64::MAX), "9223372036854775807"),
        ("f32s", json!(1e39), "range of 32-bit floats"),
        ("f32s", json!("nan"), "\"NaN\""),
        ("f64s", json!(true), "a number"),
        ("utf8", json!(3), "a text"),
        ("bytes", json!("abc"), "two a byte"),
        ("bytes", json!("zz"), "hexadecimal"),
        ("bytes", json!([1]), "hexadecimal"),
        ("u32-lists", json!([1, -1]), "a list of whole numbers"),
        ("f32-lists", json!(["x"]), "a list of numbers"),
        ("f32-lists", json!(0.5), "a list of numbers"),
    ];
    for (ty, bad, allowed) in cases {
        let error = make(&[("c", ty)], json!([{}, {"c": bad}])).unwrap_err().to_string();
        let value = bad.to_string();
        for part in ["row 1", "column \"c\"", &value, &format!("type {ty};"), allowed, "`types`"] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
    let mixed = make(&[], json!([{"c": 1}, {"c": "a"}])).unwrap_err().to_string();
    assert!(mixed.contains("row 1, column \"c\": \"a\"") && mixed.contains("which are s64s"), "{mixed}");
    let none = make(&[], json!([{"c": ["a"]}])).unwrap_err().to_string();
    assert!(none.contains("no column type holds [\"a\"]") && none.contains("set utf8"), "{none}");
    let long = make(&[("c", "u32s")], json!([{"c": "é".repeat(500)}])).unwrap_err().to_string();
    assert!(long.len() < 400 && long.contains("..."), "{long}");
    let unknown = "u16s".parse::<ColumnType>().unwrap_err();
    assert!(unknown.contains("\"u16s\"") && unknown.contains("u8s, u32s, s64s"), "{unknown}");
    let unknown = serde_json::from_str::<ColumnType>("\"u16s\"").unwrap_err().to_string();
    assert!(unknown.contains("no column type"), "{unknown}");
}

#[test]
fn json_text_bytes_and_special_floats() {
    let types = [("b", "bytes"), ("f", "f32s"), ("d", "f64s")];
    let rows_in = json!([
        {"references": ["red"], "b": "00ff7A", "f": "NaN", "d": "-inf"},
        {"references": "[]", "b": "", "f": 0.1, "d": 0.1},
    ]);
    let batch = make(&types, rows_in).unwrap();
    let back = rows(&batch);
    let want = json!([
        {"references": "[\"red\"]", "b": "00ff7a", "f": "NaN", "d": "-inf"},
        {"references": "[]", "b": "", "f": 0.1, "d": 0.1},
    ]);
    assert_eq!(json!(back), want);
}

/// A column of any type with any values, some of them missing.
fn any_column() -> impl Strategy<Value = (ColumnData, Vec<u8>)> {
    const ROWS: usize = 5;
    fn flat<V: fmt::Debug + Clone>(
        value: impl Strategy<Value = V>,
        wrap: fn(Vec<V>) -> ColumnData,
    ) -> impl Strategy<Value = ColumnData> {
        prop::collection::vec(value, ROWS).prop_map(wrap)
    }
    fn ragged<V: fmt::Debug + Copy>(
        value: impl Strategy<Value = V>,
        wrap: fn(Ragged<V>) -> ColumnData,
    ) -> impl Strategy<Value = ColumnData> {
        prop::collection::vec(prop::collection::vec(value, 0..4), ROWS).prop_map(move |r| wrap(Ragged::from_rows(r)))
    }
    let data = prop_oneof![
        flat(any::<u8>(), ColumnData::U8s),
        flat(any::<u32>(), ColumnData::U32s),
        flat(any::<i64>(), ColumnData::S64s),
        flat(any::<f32>(), ColumnData::F32s),
        flat(any::<f64>(), ColumnData::F64s),
        prop::collection::vec(".{0,6}", ROWS).prop_map(|r| ColumnData::Utf8(Ragged::from_strs(r))),
        ragged(any::<u8>(), ColumnData::Bytes),
        ragged(any::<u32>(), ColumnData::U32Lists),
        ragged(any::<f32>(), ColumnData::F32Lists),
    ];
    (data, prop::collection::vec(0..2u8, ROWS))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written as JSON text and read again is the same, to the bit, in every type.
    #[test]
    fn round_trip((data, valid) in any_column()) {
        let ty: ColumnType = data.type_name().parse().unwrap();
        let column = Column { name: "c".into(), data, valid: Some(valid.clone()) };
        let text = serde_json::to_string(&rows(&Batch { rows: 5, columns: vec![column.clone()] })).unwrap();
        let again: Vec<JsonRow> = serde_json::from_str(&text).unwrap();
        let mut columns = Columns::new(BTreeMap::from([("c".to_owned(), ty)]), None);
        let back = columns.batch(&again, 0).unwrap();
        for i in 0..5 {
            let theirs = back.columns.first().and_then(|c| value(c, i));
            prop_assert_eq!(value(&column, i).map(|v| v.to_string()), theirs.map(|v| v.to_string()));
            if let (ColumnData::F32s(a), Some(ColumnData::F32s(b))) = (&column.data, back.columns.first().map(|c| &c.data))
                && valid[i] == 1 && !a[i].is_nan() {
                prop_assert_eq!(a[i].to_bits(), b[i].to_bits());
            }
        }
    }
}
