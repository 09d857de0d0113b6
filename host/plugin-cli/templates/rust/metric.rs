//! `{{name}}`: right within a tolerance where both are numbers, else right where the texts are the same but for case.
//!
//! Each row gets the column `relaxed-match`, 0 or 1; the value is their mean.

use ovhost_sdk::prelude::*;

/// What a recipe may say under `config`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// How far a number may be off, as a share of the right one; at least 0.
    pub tolerance: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { tolerance: 0.05 }
    }
}

/// Rows, and the right ones: counts add up in any order.
#[derive(Default, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Counts {
    rows: u64,
    right: u64,
}

/// The plugin.
pub struct {{Type}} {
    tolerance: f64,
}

impl Plugin for {{Type}} {
    type Config = Config;
    const NAME: &'static str = "{{name}}";
    const SUMMARY: &'static str = "Share of answers that are right, numbers within a tolerance.";
    const READS: &'static [Need] = &[Need::utf8("prediction"), Need::utf8("references")];
    const WRITES: &'static [Write] = &[Write::u8s("relaxed-match")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.tolerance >= 0.0, "/tolerance", || "must be at least 0".into());
        findings.finish()?;
        Ok(Self { tolerance: config.tolerance })
    }
}

impl {{Type}} {
    fn matches(&self, prediction: &str, reference: &str) -> bool {
        match (number(prediction), number(reference)) {
            (Some(said), Some(want)) => (said - want).abs() <= self.tolerance * want.abs(),
            _ => prediction.trim().to_lowercase() == reference.trim().to_lowercase(),
        }
    }
}

/// The number that a text is (`1,200`, `35%`).
fn number(text: &str) -> Option<f64> {
    let plain = text.trim().replace(',', "");
    let plain = plain.strip_suffix('%').unwrap_or(&plain);
    // Rust reads `inf` and `nan` too.
    let digits = plain.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    plain.parse().ok().filter(|_| digits)
}

impl Metric for {{Type}} {
    type State = Counts;

    fn outputs(&self) -> Vec<MetricInfo> {
        let (low, high) = (Some(0.0), Some(1.0));
        vec![MetricInfo { name: "relaxed-accuracy".into(), higher_is_better: true, low, high, unit: "share".into() }]
    }

    fn score(&self, ctx: &mut RowCtx, row: &Row, state: &mut Counts) -> Result<Judge, String> {
        let references = row.json("references")?.and_then(Json::as_array).filter(|list| !list.is_empty());
        let references = references.ok_or("`references` must be a list of at least one text")?;
        let prediction = row.str("prediction").unwrap_or_default();
        let right = references.iter().any(|reference| match reference.as_str() {
            Some(text) => self.matches(prediction, text),
            None => self.matches(prediction, &reference.to_string()),
        });
        ctx.set("relaxed-match", right);
        state.rows += 1;
        state.right += u64::from(right);
        Ok(Judge::NotNeeded)
    }

    fn merge(&self, state: &mut Counts, other: Counts) {
        state.rows += other.rows;
        state.right += other.right;
    }

    fn finalize(&self, state: &Counts) -> Vec<MetricValue> {
        let name = "relaxed-accuracy".to_owned();
        if state.rows == 0 {
            return vec![MetricValue { name, value: f64::NAN, count: 0, stderr: None }];
        }
        let rows = state.rows as f64;
        let share = state.right as f64 / rows;
        let stderr = Some((share * (1.0 - share) / rows).sqrt());
        vec![MetricValue { name, value: share, count: state.rows, stderr }]
    }
}

ovhost_sdk::export_metric!({{Type}});

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    type Tested = {{Type}};

    #[test]
    fn numbers_have_a_tolerance_and_texts_have_none() {
        let said = [("104", "100"), ("106", "100"), ("1,000", "1000"), ("A Cat ", "a cat"), ("cat", "a cat")];
        let rows: Vec<Json> =
            said.iter().map(|(said, want)| json!({ "prediction": said, "references": json!([want]) })).collect();
        let mut plugin = testing::metric::<Tested>(json!({})).unwrap();
        let scored = plugin.update(json!(rows));
        assert_eq!(scored.column("relaxed-match"), [json!(1), json!(0), json!(1), json!(1), json!(0)]);
        assert_eq!((plugin.finalize()[0].value, plugin.finalize()[0].count), (0.6, 5));
    }

    #[test]
    fn a_row_without_references_counts_nowhere() {
        let mut plugin = testing::metric::<Tested>(json!({})).unwrap();
        let scored = plugin.update(json!([{ "prediction": "x", "references": "[]" }]));
        assert!(scored.errors()[0].1.contains("at least one text"));
        assert_eq!(plugin.finalize()[0].count, 0);
    }
}
