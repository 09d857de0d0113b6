//! Paired differences of two runs: their mean, its error and interval, and whether chance explains them.
//!
//! Rows of one cluster (questions about one picture) are not independent: with clusters, the error is Miller's (2024,
//! equation 4, [`clustered_stderr`]) and the degrees of freedom are the clusters less one.

use std::collections::BTreeSet;

use super::distributions::{t_quantile, t_tail};
use super::{clustered_stderr, mean, mean_stderr};

/// A mean difference and how sure it is. What is not known is NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The mean; NaN of no differences.
    pub mean: f64,
    /// Its standard error; NaN of fewer than two independent differences.
    pub stderr: f64,
    /// Lower end of the confidence interval (Student's t).
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Two-sided, of Student's test that the mean is zero.
    pub p_value: f64,
    /// Degrees of freedom.
    pub free: f64,
}

impl Difference {
    /// Of a mean with its error: interval and test of Student's t with `free` degrees of freedom. `level` is the share of
    /// intervals that hold the truth, say 0.95.
    pub fn of(mean: f64, stderr: f64, free: f64, level: f64) -> Self {
        // Also where either is NaN: nothing is known.
        if !(stderr >= 0.0 && free > 0.0) {
            let nan = f64::NAN;
            return Self { mean, stderr: nan, low: nan, high: nan, p_value: nan, free: nan };
        }
        let reach = if stderr == 0.0 { 0.0 } else { t_quantile(f64::midpoint(1.0, level), free) * stderr };
        let p_value = match (stderr == 0.0, mean == 0.0) {
            (true, true) => 1.0,
            (true, false) => 0.0,
            _ => 2.0 * t_tail((mean / stderr).abs(), free),
        };
        Self { mean, stderr, low: mean - reach, high: mean + reach, p_value, free }
    }

    /// Of paired differences. `clusters`, where given, names the cluster of each.
    pub fn paired<C: Ord>(differences: &[f64], clusters: Option<&[C]>, level: f64) -> Self {
        let Some(clusters) = clusters else {
            return Self::of(mean(differences), mean_stderr(differences), differences.len() as f64 - 1.0, level);
        };
        let groups = clusters.iter().collect::<BTreeSet<_>>().len();
        Self::of(mean(differences), clustered_stderr(differences, clusters), groups as f64 - 1.0, level)
    }

    /// The unweighted mean of independent differences; degrees of freedom by Welch and Satterthwaite.
    pub fn overall(parts: &[Self], level: f64) -> Self {
        let count = parts.len() as f64;
        let of_mean = parts.iter().map(|part| part.mean).sum::<f64>() / count;
        let squares: f64 = parts.iter().map(|part| part.stderr * part.stderr).sum();
        let fourths: f64 = parts.iter().map(|part| part.stderr.powi(4) / part.free).sum();
        // Without any spread every number of degrees gives the same interval.
        let free = if fourths == 0.0 { 1.0 } else { squares * squares / fourths };
        Self::of(of_mean, squares.sqrt() / count, free, level)
    }
}

/// McNemar's exact test, two-sided: how likely a split at least this uneven is if a pair that differs is a gain or a loss
/// alike. For independent pairs of scores 0 or 1.
pub fn mcnemar(gains: u64, losses: u64) -> f64 {
    let (n, fewer) = (gains + losses, gains.min(losses));
    // Logarithms, as 2^-n is nothing for large n.
    let (mut term, mut logs) = (-(n as f64) * std::f64::consts::LN_2, Vec::new());
    for k in 0..=fewer {
        logs.push(term);
        term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    // From the largest, the last, down to what no longer counts.
    let tail: f64 = logs.iter().rev().map(|log| log.exp()).take_while(|share| *share > 0.0).sum();
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_CLUSTERS: Option<&[u32]> = None;

    /// The differences 1, 0, 1, -1, 1: mean 0.4, deviations .6 -.4 .6 -1.4 .6, squares .36 .16 .36 1.96 .36 = 3.2, variance
    /// 3.2 / 4 = 0.8, error sqrt(0.8 / 5) = 0.4; t = 1 with 4 degrees: p = 0.37390 (tables), t(0.975, 4) = 2.776445.
    #[test]
    fn independent_pairs_by_hand() {
        let of = Difference::paired(&[1.0, 0.0, 1.0, -1.0, 1.0], NO_CLUSTERS, 0.95);
        assert!((of.mean - 0.4).abs() < 1e-15 && (of.stderr - 0.4).abs() < 1e-15 && of.free == 4.0);
        assert!((of.high - (0.4 + 0.4 * 2.776_445_105_197_799)).abs() < 1e-12);
        assert!((of.low - (0.4 - 0.4 * 2.776_445_105_197_799)).abs() < 1e-12);
        // Of 4 degrees: P(|T| > t) = 1 - x (3 - x^2) / 2 with x = t / sqrt(4 + t^2).
        let x = 1.0 / 5.0_f64.sqrt();
        assert!((of.p_value - (1.0 - x * (3.0 - x * x) / 2.0)).abs() < 1e-13, "{}", of.p_value);
        let wider = Difference::paired(&[1.0, 0.0, 1.0, -1.0, 1.0], NO_CLUSTERS, 0.99);
        assert!(wider.high > of.high && wider.p_value == of.p_value);
        let old = crate::stats::paired(&[1.0, 1.0, 1.0, 0.0, 1.0], &[0.0, 1.0, 0.0, 1.0, 0.0]);
        assert!((old.p_value - of.p_value).abs() < 1e-12 && (old.ci_lower - of.low).abs() < 1e-12);
    }

    /// Differences 1 1 | 0 0 | -1 1 in three clusters: mean 1/3; deviations 2/3 2/3 | -1/3 -1/3 | -4/3 2/3. Squares sum to
    /// (4 + 4 + 1 + 1 + 16 + 4) / 9 = 30/9, variance 2/3, over n = 1/9. Products within clusters, doubled: 8/9 + 2/9 - 16/9 =
    /// -6/9, over n squared = -1/54. Error sqrt(1/9 - 1/54) = sqrt(5/54).
    #[test]
    fn clustered_pairs_by_hand() {
        let of = Difference::paired(&[1.0, 1.0, 0.0, 0.0, -1.0, 1.0], Some(&["a", "a", "b", "b", "c", "c"]), 0.95);
        assert!((of.stderr - (5.0_f64 / 54.0).sqrt()).abs() < 1e-15 && of.free == 2.0, "{of:?}");
        // The quantile of 2 degrees: (2p - 1) sqrt(2 / (4 p (1 - p))).
        let quantile = 0.95 * (2.0_f64 / 0.0975).sqrt();
        assert!((of.high - of.mean - quantile * of.stderr).abs() < 1e-12);
        let alone = Difference::paired(&[1.0, 1.0, 0.0], Some(&[1, 2, 3]), 0.95);
        let plain = Difference::paired(&[1.0, 1.0, 0.0], NO_CLUSTERS, 0.95);
        assert!((alone.stderr - plain.stderr).abs() < 1e-15 && alone.free == plain.free, "a cluster each is none");
    }

    #[test]
    fn what_is_not_known_is_nan() {
        let none = Difference::paired(&[], NO_CLUSTERS, 0.95);
        assert!(none.mean.is_nan() && none.stderr.is_nan());
        let one = Difference::paired(&[1.0], NO_CLUSTERS, 0.95);
        assert!(one.mean == 1.0 && one.stderr.is_nan() && one.low.is_nan() && one.p_value.is_nan());
        assert!(Difference::paired(&[1.0, 0.0], Some(&["a", "a"]), 0.95).stderr.is_nan(), "one cluster");
        let same = Difference::paired(&[0.0, 0.0], NO_CLUSTERS, 0.95);
        assert_eq!((same.mean, same.stderr, same.low, same.high, same.p_value), (0.0, 0.0, 0.0, 0.0, 1.0));
        assert_eq!(Difference::paired(&[1.0, 1.0], NO_CLUSTERS, 0.95).p_value, 0.0);
    }

    /// Two parts with errors 0.3 and 0.4: 0.5 / 2; degrees (0.09 + 0.16)^2 / (0.0081 / 9 + 0.0256 / 4) = 0.0625 / 0.0073.
    #[test]
    fn an_overall_mean_by_hand() {
        let part = |mean, stderr, free| Difference::of(mean, stderr, free, 0.95);
        let all = Difference::overall(&[part(0.1, 0.3, 9.0), part(0.2, 0.4, 4.0)], 0.95);
        assert!((all.mean - 0.15).abs() < 1e-15 && (all.stderr - 0.25).abs() < 1e-15, "{all:?}");
        assert!((all.free - 0.0625 / 0.0073).abs() < 1e-12);
        let still = Difference::overall(&[part(0.0, 0.0, 9.0), part(0.0, 0.0, 4.0)], 0.95);
        assert_eq!((still.mean, still.low, still.high, still.p_value), (0.0, 0.0, 0.0, 1.0));
        assert!(Difference::overall(&[part(0.1, f64::NAN, 0.0), part(0.0, 0.1, 4.0)], 0.95).low.is_nan());
        assert!(Difference::overall(&[], 0.95).mean.is_nan());
    }

    #[test]
    fn mcnemar_is_the_binomials() {
        assert!((mcnemar(10, 2) - 2.0 * (1.0 + 12.0 + 66.0) / 4096.0).abs() < 1e-14);
        assert!((mcnemar(0, 5) - 2.0 / 32.0).abs() < 1e-15);
        assert_eq!((mcnemar(0, 0), mcnemar(3, 3)), (1.0, 1.0));
        assert_eq!(mcnemar(7, 20), mcnemar(20, 7));
        // Far in the tails of many pairs the normal distribution says nearly the same.
        let (z, exact) = (-(200.0 - 1.0) / 10_000.0_f64.sqrt(), mcnemar(5100, 4900));
        assert!((exact / (2.0 * crate::stats::distributions::normal_cdf(z)) - 1.0).abs() < 1e-3, "{exact}");
        assert!(mcnemar(5000, 0) < 1e-300);
    }
}
