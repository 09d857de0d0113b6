//! Statistics of scores: standard errors, comparison of two runs, sample sizes.
//!
//! The formulas are those of Miller, "Adding Error Bars to Evals" (2024), as the reference has them, edge cases included.

use std::collections::BTreeMap;

pub mod difference;
pub mod distributions;

use distributions::{normal_cdf, normal_quantile, t_cdf, t_quantile};

use crate::python::number::round;

/// The mean; NaN of nothing.
pub fn mean(scores: &[f64]) -> f64 {
    scores.iter().sum::<f64>() / scores.len() as f64
}

/// Sum of squared deviations over n − 1.
fn variance(scores: &[f64]) -> f64 {
    let mean = mean(scores);
    scores.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>() / (scores.len() as f64 - 1.0)
}

/// The standard error of the mean; NaN of fewer than two scores.
pub fn mean_stderr(scores: &[f64]) -> f64 {
    if scores.len() < 2 { f64::NAN } else { variance(scores).sqrt() / (scores.len() as f64).sqrt() }
}

/// The standard error of the mean where scores of one cluster (an image, a document) are not independent; NaN of fewer than
/// two scores or another number of clusters than of scores.
pub fn clustered_stderr<C: Ord>(scores: &[f64], clusters: &[C]) -> f64 {
    if scores.len() < 2 || scores.len() != clusters.len() {
        return f64::NAN;
    }
    let (n, mean) = (scores.len() as f64, mean(scores));
    let mut sums: BTreeMap<&C, (f64, f64)> = BTreeMap::new();
    for (cluster, score) in clusters.iter().zip(scores) {
        let (sum, squares) = sums.entry(cluster).or_default();
        *sum += score - mean;
        *squares += (score - mean) * (score - mean);
    }
    let across: f64 = sums.values().map(|(sum, squares)| sum * sum - squares).sum();
    // Rounding can leave a little less than nothing.
    (variance(scores) / n + across / (n * n)).max(0.0).sqrt()
}

/// Two runs over the same samples, compared by the differences of their scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Paired {
    /// Mean of current minus baseline.
    pub mean_diff: f64,
    /// Its standard error.
    pub se_diff: f64,
    /// Lower end of the 95 % confidence interval.
    pub ci_lower: f64,
    /// Upper end.
    pub ci_upper: f64,
    /// The t statistic, of n − 1 degrees of freedom.
    pub t_stat: f64,
    /// Two-sided.
    pub p_value: f64,
    /// Samples.
    pub n: usize,
}

/// Student's paired test; all NaN of fewer than two samples. Scores past the shorter list are left out.
pub fn paired(current: &[f64], baseline: &[f64]) -> Paired {
    let differences: Vec<f64> = current.iter().zip(baseline).map(|(a, b)| a - b).collect();
    let n = differences.len();
    if n < 2 {
        let nan = f64::NAN;
        return Paired { mean_diff: nan, se_diff: nan, ci_lower: nan, ci_upper: nan, t_stat: nan, p_value: nan, n };
    }
    let (mean_diff, free) = (mean(&differences), n as f64 - 1.0);
    let se_diff = (variance(&differences) / n as f64).sqrt();
    let (t_stat, p_value) = if se_diff == 0.0 {
        let sure = mean_diff != 0.0;
        (if sure { f64::INFINITY.copysign(mean_diff) } else { 0.0 }, if sure { 0.0 } else { 1.0 })
    } else {
        let t = mean_diff / se_diff;
        (t, 2.0 * (1.0 - t_cdf(t.abs(), free)))
    };
    let reach = t_quantile(0.975, free) * se_diff;
    Paired { mean_diff, se_diff, ci_lower: mean_diff - reach, ci_upper: mean_diff + reach, t_stat, p_value, n }
}

/// What is assumed of two runs before they are made.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    /// The smallest difference that should be seen.
    pub effect_size: f64,
    /// Standard deviation of one run's scores; 0.5 for right or wrong, or the other's where only that is known.
    pub std_a: Option<f64>,
    /// Standard deviation of the other's.
    pub std_b: Option<f64>,
    /// Share of false alarms.
    pub alpha: f64,
    /// Share of differences of that size that are seen.
    pub power: f64,
    /// Correlation between the two scores of a sample.
    pub correlation: f64,
}

impl Default for Power {
    fn default() -> Self {
        Self { effect_size: 0.03, std_a: None, std_b: None, alpha: 0.05, power: 0.8, correlation: 0.5 }
    }
}

impl Power {
    /// Both standard deviations, defaults filled in.
    pub fn deviations(&self) -> (f64, f64) {
        let a = self.std_a.or(self.std_b).unwrap_or(0.5);
        (a, self.std_b.unwrap_or(a))
    }

    fn deviation(&self) -> f64 {
        let (a, b) = self.deviations();
        (a * a + b * b - 2.0 * self.correlation * a * b).sqrt()
    }

    fn quantiles(&self) -> (f64, f64) {
        (normal_quantile(1.0 - self.alpha / 2.0), normal_quantile(self.power))
    }

    /// Fewest samples.
    pub fn samples(&self) -> f64 {
        let (alpha, power) = self.quantiles();
        let root = (alpha + power) / (self.effect_size / self.deviation());
        (root * root).ceil()
    }

    /// Of a set of `n` samples: the power it has, and the smallest difference that it sees with the wanted power, to four
    /// places.
    pub fn of(&self, n: f64) -> (f64, f64) {
        let (alpha, power) = self.quantiles();
        let achieved = normal_cdf(self.effect_size / self.deviation() * n.sqrt() - alpha);
        (round(achieved, 4), round((alpha + power) * self.deviation() / n.sqrt(), 4))
    }
}

/// The mean of subtasks' scores, by their sizes or not; NaN of none.
pub fn aggregate(scores: &[f64], sizes: &[f64], weigh: bool) -> f64 {
    let weight = |i: usize| if weigh { sizes.get(i).copied().unwrap_or(0.0) } else { 1.0 };
    let sum: f64 = scores.iter().enumerate().map(|(i, score)| score * weight(i)).sum();
    sum / (0..scores.len()).map(weight).sum::<f64>()
}

/// The standard error of all subtasks' samples together, of theirs and their sizes (pooled variance).
pub fn pooled_stderr(stderrs: &[f64], sizes: &[f64]) -> f64 {
    let all: f64 = sizes.iter().sum();
    let sum: f64 = stderrs.iter().zip(sizes).map(|(stderr, size)| (size - 1.0) * (stderr * stderr) * size).sum();
    (sum / (all - sizes.len() as f64) / all).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_means() {
        assert!((mean_stderr(&[1.0, 1.0, 1.0, 0.0]) - 0.25).abs() < 1e-15 && mean_stderr(&[1.0]).is_nan());
        let scores = [1.0, 1.0, 0.0, 0.0];
        assert!((clustered_stderr(&scores, &["a", "a", "b", "b"]) - 0.381_881_307_912_986_63).abs() < 1e-15);
        let alone = clustered_stderr(&scores, &[1, 2, 3, 4]);
        assert!((alone - mean_stderr(&scores)).abs() < 1e-15);
        assert!(pooled_stderr(&[0.1, 0.1], &[10.0, 10.0]) < 0.1);
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let same = paired(&[1.0, 0.0], &[1.0, 0.0]);
        assert_eq!((same.t_stat, same.p_value, same.mean_diff), (0.0, 1.0, 0.0));
        let better = paired(&[1.0, 1.0], &[0.0, 0.0]);
        assert_eq!((better.t_stat, better.p_value, better.ci_lower), (f64::INFINITY, 0.0, 1.0));
        assert!(paired(&[1.0], &[0.0]).p_value.is_nan());
    }

    #[test]
    fn sample_sizes_are_millers() {
        assert_eq!(Power::default().samples(), 2181.0);
        assert_eq!(Power::default().of(900.0), (0.4365, 0.0467));
        assert_eq!(Power { std_b: Some(0.3), ..Power::default() }.deviations(), (0.3, 0.3));
    }
}
