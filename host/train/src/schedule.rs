//! Learning rate by step: linear warm-up, then cosine, linear or constant, times each module's own rate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Half a cosine from `lr` to `min_lr` at the last step.
    Cosine,
    /// A straight line from `lr` to `min_lr` at the last step.
    Linear,
    /// `lr` throughout.
    Constant,
}

/// Factor of the peak rate at `step` (0-based). The first update already learns: warm-up counts from 1, so step 0 has
/// `1 / warmup` of the peak rate and not zero.
///
/// `floor` is `min_lr / lr`.
pub fn factor(step: u64, warmup: u64, total: u64, floor: f64, decay: Decay) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let span = total.saturating_sub(warmup).max(1) as f64;
    let progress = ((step + 1).saturating_sub(warmup) as f64 / span).min(1.0);
    match decay {
        Decay::Constant => 1.0,
        Decay::Linear => 1.0 - (1.0 - floor) * progress,
        Decay::Cosine => floor + 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()) * (1.0 - floor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_from_a_real_step_to_the_peak() {
        assert_eq!(factor(0, 10, 100, 0.1, Decay::Cosine), 0.1);
        assert_eq!(factor(9, 10, 100, 0.1, Decay::Cosine), 1.0);
    }

    #[test]
    fn ends_at_the_floor_and_falls_all_the_way() {
        for decay in [Decay::Cosine, Decay::Linear] {
            assert!((factor(99, 10, 100, 0.1, decay) - 0.1).abs() < 1e-12);
            assert!((10..99).all(|s| factor(s + 1, 10, 100, 0.1, decay) < factor(s, 10, 100, 0.1, decay)));
        }
        assert_eq!(factor(99, 10, 100, 0.1, Decay::Constant), 1.0);
    }

    #[test]
    fn half_way_is_the_mean_of_peak_and_floor() {
        assert!((factor(54, 10, 100, 0.2, Decay::Cosine) - 0.6).abs() < 1e-12);
    }

    #[test]
    fn no_warmup_and_one_step_are_legal() {
        assert!(factor(0, 0, 1, 0.0, Decay::Cosine).abs() < 1e-12);
        assert_eq!(factor(0, 0, 0, 0.5, Decay::Constant), 1.0);
    }
}
