//! `exact_match`: the share of answers that equal one of their references, after normalisation.
//!
//! ```text
//!  prediction "Red. " ──► normalise ──► "red" ─┐
//!  references ["red"] ──► normalise ──► "red" ─┴─ equal? ──► column score/exact_match: 1 or 0
//!                                                      └───► counts (whole, per group) ──► value, standard error
//! ```
//!
//! The state is counts, so that any split of the rows gives the same values. The standard error of a share p of n rows
//! is √(p(1−p)/(n−1)), the sample's; one row alone has none. The share of no rows is NaN (`null` in JSON).
//!
//! ```toml
//! [[plugins.metric]]
//! plugin = "metrics/exact_match.wasm"
//! config = { group_by = "question_type", groups = ["color", "shape", "count"] }
//! ```
//!
//! With groups there is a value `exact_match/<group>` for each, and `exact_match/(other)` for the rows of none.

use std::collections::BTreeMap;

use ovhost_sdk::prelude::*;

/// Configuration of `exact_match`. Normalisation applies to predictions and references alike.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Compares in lower case.
    pub lowercase: bool,
    /// Removes white space at both ends and makes one space of each stretch within.
    pub strip_whitespace: bool,
    /// Removes ASCII punctuation anywhere ("co-op" becomes "coop").
    pub strip_punctuation: bool,
    /// Removes one full stop at the end.
    pub strip_trailing_period: bool,
    /// Also gives a value per group of rows: a field of the record ("question_type"), or a JSON pointer into it
    /// ("/meta/kind"). Empty: no groups.
    pub group_by: String,
    /// The groups, as the field's values are written ("color", "7", "true").
    pub groups: Vec<String>,
}

/// Group of the rows that are in none of the configured ones.
const OTHER: &str = "(other)";

impl Default for Config {
    fn default() -> Self {
        Self {
            lowercase: true,
            strip_whitespace: true,
            strip_punctuation: false,
            strip_trailing_period: true,
            group_by: String::new(),
            groups: Vec::new(),
        }
    }
}

/// Rows and right answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Counts {
    rows: u64,
    right: u64,
}

impl Counts {
    fn add(&mut self, rows: u64, right: u64) {
        self.rows += rows;
        self.right += right;
    }

    /// The share with its standard error; NaN of no rows.
    fn value(self, name: String) -> MetricValue {
        let rows = self.rows as f64;
        let share = if self.rows == 0 { f64::NAN } else { self.right as f64 / rows };
        let stderr = (self.rows > 1).then(|| (share * (1.0 - share) / (rows - 1.0)).sqrt());
        MetricValue { name, value: share, count: self.rows, stderr }
    }
}

/// All rows, and each group's.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct State {
    all: Counts,
    groups: BTreeMap<String, Counts>,
}

/// The metric.
pub struct ExactMatch {
    config: Config,
}

impl Plugin for ExactMatch {
    type Config = Config;
    const NAME: &'static str = "exact_match";
    const SUMMARY: &'static str = "Share of answers that equal one of their references after normalisation.";
    const READS: &'static [Need] =
        &[Need::utf8("prediction"), Need::utf8("references"), Need::utf8("record").optional()];
    const WRITES: &'static [Write] = &[Write::f32s("score/exact_match")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let (by, groups) = (config.group_by.as_str(), &config.groups);
        findings.require(by.is_empty() || !groups.is_empty(), "/groups", || {
            format!("`group_by` is \"{by}\"; name its values here, as in [\"color\", \"shape\"]")
        });
        findings.require(!by.is_empty() || groups.is_empty(), "/group_by", || {
            "`groups` is set; name the record's field that tells them apart".into()
        });
        for (i, group) in groups.iter().enumerate() {
            findings.require(!groups[..i].contains(group) && group != OTHER, &format!("/groups/{i}"), || {
                format!("\"{group}\" is there already; each group comes once, \"{OTHER}\" by itself")
            });
        }
        findings.finish()?;
        Ok(Self { config })
    }
}

impl Metric for ExactMatch {
    type State = State;

    fn outputs(&self) -> Vec<MetricInfo> {
        let info = |name: &str| MetricInfo {
            name: name.into(),
            higher_is_better: true,
            low: Some(0.0),
            high: Some(1.0),
            unit: "share".into(),
        };
        std::iter::once(info("exact_match")).chain(self.groups().map(|group| info(&group_value(group)))).collect()
    }

    fn score(&self, ctx: &mut RowCtx, row: &Row, state: &mut State) -> Result<Judge, String> {
        let prediction = row.str("prediction").ok_or("the row has no prediction")?;
        let references = row.json("references")?.and_then(Json::as_array).filter(|list| !list.is_empty());
        let references = references.ok_or("`references` is no list with at least one text")?;
        let group = self.group(row)?;
        let prediction = self.normalise(prediction);
        let mut right = false;
        for (i, reference) in references.iter().enumerate() {
            let text = reference.as_str().ok_or_else(|| format!("`references[{i}]` is {reference}; want text"))?;
            right |= self.normalise(text) == prediction;
        }
        state.all.add(1, u64::from(right));
        if let Some(group) = group {
            state.groups.entry(group).or_default().add(1, u64::from(right));
        }
        ctx.set("score/exact_match", f32::from(u8::from(right)));
        Ok(Judge::NotNeeded)
    }

    fn merge(&self, state: &mut State, other: State) {
        state.all.add(other.all.rows, other.all.right);
        for (group, counts) in other.groups {
            state.groups.entry(group).or_default().add(counts.rows, counts.right);
        }
    }

    fn finalize(&self, state: &State) -> Vec<MetricValue> {
        let counts = |group: &str| state.groups.get(group).copied().unwrap_or_default();
        let groups = self.groups().map(|group| counts(group).value(group_value(group)));
        std::iter::once(state.all.value("exact_match".into())).chain(groups).collect()
    }
}

/// Name of a group's value.
fn group_value(group: &str) -> String {
    format!("exact_match/{group}")
}

impl ExactMatch {
    /// The configured groups and the one for the rest; none without `group_by`.
    fn groups(&self) -> impl Iterator<Item = &str> {
        let other = (!self.config.group_by.is_empty()).then_some(OTHER);
        self.config.groups.iter().map(String::as_str).chain(other)
    }

    fn normalise(&self, text: &str) -> String {
        let config = &self.config;
        let mut text = if config.lowercase { text.to_lowercase() } else { text.to_owned() };
        if config.strip_trailing_period {
            // White space may follow the full stop; whether it goes too is the other rule's matter.
            let end = text.trim_end().len();
            if text[..end].ends_with('.') {
                text.remove(end - 1);
            }
        }
        if config.strip_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if config.strip_whitespace {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        text
    }

    /// The row's group, if rows are grouped.
    fn group(&self, row: &Row) -> Result<Option<String>, String> {
        let key = self.config.group_by.as_str();
        if key.is_empty() {
            return Ok(None);
        }
        let record = row.json("record")?.ok_or("`group_by` is set and the row has no record")?;
        let found = if key.starts_with('/') { record.pointer(key) } else { record.get(key) };
        let value = match found {
            None | Some(Json::Null) => OTHER.into(),
            Some(Json::String(text)) => text.clone(),
            Some(other @ (Json::Number(_) | Json::Bool(_))) => other.to_string(),
            Some(_) => return Err(format!("the record's `{key}`, which `group_by` names, is a list or an object")),
        };
        Ok(Some(if self.config.groups.contains(&value) { value } else { OTHER.into() }))
    }
}

ovhost_sdk::export_metric!(ExactMatch);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    fn row(prediction: &str, references: Json) -> Json {
        json!({ "prediction": prediction, "references": references.to_string() })
    }

    fn score(config: Json, prediction: &str, references: Json) -> Json {
        let mut metric = testing::metric::<ExactMatch>(config).unwrap();
        metric.update(json!([row(prediction, references)])).column("score/exact_match").remove(0)
    }

    #[test]
    fn normalisation_is_as_configured() {
        let off = json!({ "lowercase": false, "strip_whitespace": false, "strip_trailing_period": false });
        let only = |key: &str| {
            let mut config = off.clone();
            config[key] = json!(true);
            config
        };
        for (prediction, reference, key) in [
            ("Red", "red", "lowercase"),
            (" light  blue\n", "light blue", "strip_whitespace"),
            ("Yes.", "Yes", "strip_trailing_period"),
            ("co-op!", "coop", "strip_punctuation"),
        ] {
            assert_eq!(score(off.clone(), prediction, json!([reference])), 0.0, "{prediction}");
            assert_eq!(score(only(key), prediction, json!([reference])), 1.0, "{prediction}");
        }
        assert_eq!(score(json!({}), " A Red. ", json!(["blue", "a  red"])), 1.0);
        assert_eq!(score(json!({}), "3.5", json!(["35"])), 0.0);
        assert_eq!(score(json!({}), "redd", json!(["red"])), 0.0);
    }

    #[test]
    fn shares_have_sample_standard_errors() {
        let mut metric = testing::metric::<ExactMatch>(json!({})).unwrap();
        let none = metric.finalize().remove(0);
        assert!(none.value.is_nan() && none.count == 0 && none.stderr.is_none(), "{none:?}");
        let rows: Vec<_> = ["a", "a", "a", "b"].iter().map(|p| row(p, json!(["a"]))).collect();
        metric.update(json!(rows));
        let values = metric.finalize();
        assert_eq!((values.len(), values[0].value, values[0].count), (1, 0.75, 4));
        assert!((values[0].stderr.unwrap() - 0.25).abs() < 1e-15);
    }

    #[test]
    fn merged_parts_equal_the_whole() {
        let config = json!({ "group_by": "type", "groups": ["shape", "7", "size"] });
        let rows: Vec<_> = (0..20)
            .map(|i| {
                let mut row = row(["a", "b"][i % 2], json!(["a"]));
                let kind = [json!("shape"), json!(7), Json::Null][i % 3].clone();
                row["record"] = json!({ "type": kind }).to_string().into();
                row
            })
            .collect();
        let mut whole = testing::metric::<ExactMatch>(config.clone()).unwrap();
        whole.update(json!(rows));
        let mut merged = testing::metric::<ExactMatch>(config.clone()).unwrap();
        for part in rows.chunks(7) {
            let mut one = testing::metric::<ExactMatch>(config.clone()).unwrap();
            one.update(json!(part));
            merged.merge(&one.save()).unwrap();
        }
        // As text, in which NaN (no row of that group) equals itself.
        assert_eq!(format!("{:?}", merged.finalize()), format!("{:?}", whole.finalize()));
        let names: Vec<_> = whole.finalize().into_iter().map(|value| (value.name, value.count)).collect();
        let want = [("exact_match", 20), ("exact_match/shape", 7), ("exact_match/7", 7), ("exact_match/size", 0)];
        assert_eq!(names[..4], want.map(|(name, count)| (name.to_owned(), count)));
        assert_eq!(names[4], ("exact_match/(other)".to_owned(), 6));
        assert!(merged.merge(b"no state").is_err());
    }

    #[test]
    fn rows_that_cannot_be_scored_count_nowhere() {
        let mut metric = testing::metric::<ExactMatch>(json!({ "group_by": "/a/b", "groups": ["g"] })).unwrap();
        let record = |value: Json| json!({ "a": { "b": value } }).to_string();
        let outcome = metric.update(json!([
            { "prediction": "x", "references": "[\"x\"]", "record": record(json!("g")) },
            { "prediction": "x", "references": "[]", "record": record(json!("g")) },
            { "prediction": "x", "references": "[1]", "record": record(json!("g")) },
            { "prediction": "x", "references": "nothing", "record": record(json!("g")) },
            { "prediction": null, "references": "[\"x\"]", "record": record(json!("g")) },
            { "prediction": "x", "references": "[\"x\"]", "record": record(json!([])) },
        ]));
        let rows: Vec<_> = outcome.errors().iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [1, 2, 3, 4, 5]);
        assert_eq!(outcome.column("score/exact_match")[0], 1.0);
        assert_eq!(metric.finalize().iter().map(|value| value.count).collect::<Vec<_>>(), [1, 1, 0]);
    }

    #[test]
    fn groups_and_their_field_come_together() {
        for (config, want) in [
            (json!({ "group_by": "type" }), "/groups"),
            (json!({ "groups": ["a"] }), "/group_by"),
            (json!({ "group_by": "type", "groups": ["a", "a"] }), "/groups/1"),
            (json!({ "group_by": "type", "groups": ["(other)"] }), "/groups/0"),
        ] {
            assert_eq!(testing::metric::<ExactMatch>(config).err().unwrap().findings[0].path, want);
        }
    }
}
