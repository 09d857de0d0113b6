//! `counting`: how far the numbers that a model says are from the right ones.
//!
//! ```text
//!  prediction "There are seven." ──► the last number, in digits or words ──► 7 ─┐
//!  record { "count": 6 } ───────────────────────────────────────────────────────┴─► |7 − 6| = 1 ──► column score/counting
//! ```
//!
//! | value | what it is |
//! |---|---|
//! | `exact` | share of answers with the right number |
//! | `error` | mean distance, of answers with a number; lower is better |
//! | `unread` | answers without a number, which are wrong |
//!
//! The state is sums of whole numbers, so that rows may be split and merged in any order without a digit changing.

use ovhost_sdk::prelude::*;

/// What a task file may say under `config`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// The record's field with the right number.
    pub field: String,
    /// The largest distance that counts in `error`: one wild answer does not hide the others.
    pub most: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { field: "count".into(), most: 100 }
    }
}

/// Sums over rows.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct State {
    rows: u64,
    exact: u64,
    /// Rows whose answer has a number.
    read: u64,
    /// Their distances, and the squares of these for the standard error.
    distance: u64,
    squares: u64,
}

/// The metric.
pub struct Counting {
    config: Config,
}

const WORDS: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// The last number of an answer, in digits or as a word up to twelve.
fn number(answer: &str) -> Option<u64> {
    let lowered = answer.to_lowercase();
    let words = lowered.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let value = |word: &str| {
        let written = WORDS.iter().position(|known| *known == word).map(|at| at as u64);
        word.parse().ok().or(written)
    };
    words.rev().find_map(value)
}

impl Plugin for Counting {
    type Config = Config;
    const NAME: &'static str = "counting";
    const SUMMARY: &'static str = "How far the numbers that a model says are from the right ones.";
    const READS: &'static [Need] = &[Need::utf8("prediction"), Need::utf8("record")];
    const WRITES: &'static [Write] = &[Write::f64s("score/counting"), Write::utf8("read/counting")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings
            .require(!config.field.is_empty(), "/field", || "no field is named; which has the right number?".into());
        findings.require((1..=1_000_000).contains(&config.most), "/most", || {
            format!("{} is not allowed; 1 to 1000000 are", config.most)
        });
        findings.finish()?;
        Ok(Self { config })
    }
}

impl Metric for Counting {
    type State = State;

    fn outputs(&self) -> Vec<MetricInfo> {
        let info = |name: &str, higher_is_better, high, unit: &str| MetricInfo {
            name: name.into(),
            higher_is_better,
            low: Some(0.0),
            high,
            unit: unit.into(),
        };
        vec![
            info("exact", true, Some(1.0), "share"),
            info("error", false, Some(self.config.most as f64), "things"),
            info("unread", false, None, "rows"),
        ]
    }

    fn score(&self, ctx: &mut RowCtx, row: &Row, state: &mut State) -> Result<Judge, String> {
        let field = &self.config.field;
        let record = row.json("record")?.ok_or("the row has no record")?;
        let right = record.get(field).and_then(Json::as_u64);
        let right = right.ok_or_else(|| format!("the record's `{field}` is no whole number"))?;
        let said = row.str("prediction").and_then(number);
        state.rows += 1;
        if let Some(said) = said {
            let distance = said.abs_diff(right).min(self.config.most);
            state.read += 1;
            state.distance += distance;
            state.squares += distance * distance;
            ctx.set("read/counting", said.to_string());
        }
        let exact = said == Some(right);
        state.exact += u64::from(exact);
        ctx.set("score/counting", f64::from(u8::from(exact)));
        Ok(Judge::NotNeeded)
    }

    fn merge(&self, state: &mut State, other: State) {
        state.rows += other.rows;
        state.exact += other.exact;
        state.read += other.read;
        state.distance += other.distance;
        state.squares += other.squares;
    }

    fn finalize(&self, state: &State) -> Vec<MetricValue> {
        let unread = MetricValue {
            name: "unread".into(),
            value: if state.rows == 0 { f64::NAN } else { (state.rows - state.read) as f64 },
            count: state.rows,
            stderr: None,
        };
        vec![
            mean("exact", state.exact, state.exact, state.rows),
            mean("error", state.distance, state.squares, state.read),
            unread,
        ]
    }
}

/// A mean with its standard error, s/√n with the sample's s; NaN of no rows. One row alone has no standard error.
fn mean(name: &str, sum: u64, squares: u64, rows: u64) -> MetricValue {
    let n = rows as f64;
    let mean = if rows == 0 { f64::NAN } else { sum as f64 / n };
    let stderr = (rows > 1).then(|| ((squares as f64 / n - mean * mean).max(0.0) / (n - 1.0)).sqrt());
    MetricValue { name: name.into(), value: mean, count: rows, stderr }
}

ovhost_sdk::export_metric!(Counting);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    fn row(prediction: &str, count: u64) -> Json {
        json!({ "prediction": prediction, "record": json!({ "count": count }).to_string() })
    }

    #[test]
    fn the_last_number_counts() {
        for (answer, want) in [
            ("7", Some(7)),
            ("There are Seven.", Some(7)),
            ("3 red and 4 blue, so seven", Some(7)),
            ("a dozen", None),
            ("", None),
            ("nobody knows, perhaps none", None),
        ] {
            assert_eq!(number(answer), want, "{answer}");
        }
    }

    #[test]
    fn distances_are_bounded_and_merging_is_adding() {
        let rows = [row("5", 5), row("4", 5), row("900", 5), row("many", 5)];
        let mut whole = testing::metric::<Counting>(json!({ "most": 10 })).unwrap();
        let outcome = whole.update(json!(rows));
        assert_eq!(outcome.column("score/counting"), [1.0, 0.0, 0.0, 0.0].map(Json::from));
        let values = whole.finalize();
        assert_eq!((values[0].value, values[1].value, values[2].value), (0.25, 11.0 / 3.0, 1.0));
        let mut parts = testing::metric::<Counting>(json!({ "most": 10 })).unwrap();
        parts.update(json!(&rows[2..]));
        let mut first = testing::metric::<Counting>(json!({ "most": 10 })).unwrap();
        first.update(json!(&rows[..2]));
        parts.merge(&first.save()).unwrap();
        assert_eq!(format!("{:?}", parts.finalize()), format!("{values:?}"));
    }

    #[test]
    fn a_record_without_the_number_is_an_error_of_its_row() {
        let mut metric = testing::metric::<Counting>(json!({ "field": "n" })).unwrap();
        assert_eq!(metric.update(json!([row("5", 5)])).errors(), [(0, "the record's `n` is no whole number")]);
        assert!(metric.finalize()[0].value.is_nan());
    }
}
