//! What is kept of each scored row, and the means of them.

use std::borrow::Cow;

use ovhost_eval_scoring::python::random::Random;
use ovhost_eval_scoring::stats;
use ovhost_sdk::prelude::*;

/// A letter that the reference draws where it cannot read one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Draw {
    /// How many letters there are.
    pub letters: u32,
    /// The letters that are right.
    pub gold: String,
}

/// A scored row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct Row {
    /// Its place in the run's stream, which the order of drawing and of summing follows.
    pub ordinal: u64,
    /// The score, mostly 0 or 1; that of a row with `draw` comes at the end.
    pub score: f64,
    /// Whether nothing could be read.
    pub unread: bool,
    /// The finer group: subject, category, subset.
    pub category: String,
    /// The coarser group: domain, metric.
    pub group: String,
    /// What several rows belong to: an image, a question with its copies.
    pub item: String,
    /// The reference's draw.
    pub draw: Option<Draw>,
}

/// Every row, so that sums do not depend on how rows were split.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(crate = "ovhost_sdk::serde")]
pub struct State {
    /// In any order.
    pub rows: Vec<Row>,
}

impl State {
    /// The rows in the run's order, with the letters that Python draws after `random.seed(0)`.
    pub fn settled<'a>(&'a self) -> Vec<Cow<'a, Row>> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        fn key(row: &Row) -> (u64, &str, &str, u64) {
            (row.ordinal, &row.item, &row.category, row.score.to_bits())
        }
        rows.sort_by(|a, b| key(a).cmp(&key(b)));
        let mut random = Random::new(0);
        let settle = |row: &'a Row| {
            let Row { draw: Some(draw), .. } = row else { return Cow::Borrowed(row) };
            let letter = char::from_u32('A' as u32 + random.below(draw.letters)).unwrap_or('A');
            Cow::Owned(Row { score: f64::from(draw.gold.contains(letter)), ..row.clone() })
        };
        rows.into_iter().map(settle).collect()
    }
}

/// Which rows a value covers.
#[derive(Clone, Debug, PartialEq)]
pub enum Pick {
    /// All.
    All,
    /// Those of a category.
    Category(String),
    /// Those of a group.
    Group(String),
}

/// A value that a task reports.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// What a row that is right is worth.
    pub scale: f64,
    /// The least that it can be, on the scale.
    pub low: f64,
    /// Which rows.
    pub pick: Pick,
}

impl Spec {
    /// All rows, 0 to `scale`.
    pub fn all(name: &str, scale: f64) -> Self {
        Self { name: name.into(), scale, low: 0.0, pick: Pick::All }
    }

    /// This value of one category: `name/category`.
    #[must_use]
    pub fn category(&self, category: &str) -> Self {
        let name = format!("{}/{category}", self.name);
        Self { name, pick: Pick::Category(category.into()), ..self.clone() }
    }

    /// This value of one group.
    #[must_use]
    pub fn group(&self, group: &str) -> Self {
        Self { name: format!("{}/{group}", self.name), pick: Pick::Group(group.into()), ..self.clone() }
    }

    /// Whether the row counts.
    pub fn covers(&self, row: &Row) -> bool {
        match &self.pick {
            Pick::All => true,
            Pick::Category(category) => row.category == *category,
            Pick::Group(group) => row.group == *group,
        }
    }

    /// For the host.
    pub fn info(&self) -> MetricInfo {
        let unit = if self.scale == 1.0 { "share" } else { "points" };
        let (low, high) = (Some(self.low), Some(self.scale));
        MetricInfo { name: self.name.clone(), higher_is_better: true, low, high, unit: unit.into() }
    }
}

/// The mean on the scale, with its standard error: clustered where several rows belong to one item.
pub fn mean(rows: &[&Row], scale: f64) -> (f64, Option<f64>) {
    let scores: Vec<f64> = rows.iter().map(|row| row.score).collect();
    let items: Vec<&str> = rows.iter().map(|row| row.item.as_str()).collect();
    let alone = items.iter().all(|item| item.is_empty());
    let error = if alone { stats::mean_stderr(&scores) } else { stats::clustered_stderr(&scores, &items) };
    (stats::mean(&scores) * scale, Some(error * scale).filter(|error| error.is_finite()))
}
