//! Bounds: a minimum and a maximum with their reasons in, why a value is refused out.

use ovhost_sdk::prelude::*;

/// A minimum and a maximum, both inclusive; 0 is no bound.
#[derive(Clone, Copy)]
pub struct Bound {
    min: f64,
    max: f64,
    /// Reasons below and above.
    reasons: [&'static str; 2],
}

impl Bound {
    /// Whole bounds under the keys `min_<name>` and `max_<name>`; adds to `findings` what is wrong with them.
    pub fn whole(findings: &mut Findings, name: &str, [min, max]: [u32; 2], reasons: [&'static str; 2]) -> Self {
        Self::checked(findings, name, [min.into(), max.into()], reasons)
    }

    /// Bounds that may have fractions, likewise.
    pub fn real(findings: &mut Findings, name: &str, bounds: [f64; 2], reasons: [&'static str; 2]) -> Self {
        for (side, value) in ["min", "max"].into_iter().zip(bounds) {
            findings.require(value >= 0.0 && value.is_finite(), &format!("/{side}_{name}"), || {
                format!("{value} is no bound; use 0 (off) or a positive number")
            });
        }
        Self::checked(findings, name, bounds, reasons)
    }

    fn checked(findings: &mut Findings, name: &str, [min, max]: [f64; 2], reasons: [&'static str; 2]) -> Self {
        findings.require(max <= 0.0 || max >= min, &format!("/max_{name}"), || {
            format!("{max} is below min_{name} = {min}; use 0 (no bound) or at least {min}")
        });
        Self { min, max, reasons }
    }

    /// Whether there is a bound.
    pub fn is_set(&self) -> bool {
        self.min > 0.0 || self.max > 0.0
    }

    /// Why `value` is refused, if it is.
    pub fn broken_by(&self, value: f64) -> Option<&'static str> {
        if value < self.min {
            Some(self.reasons[0])
        } else if self.max > 0.0 && value > self.max {
            Some(self.reasons[1])
        } else {
            None
        }
    }

    /// The verdict on a row whose only measure is `value`.
    pub fn verdict(&self, value: f64) -> Verdict {
        self.broken_by(value).map_or(Verdict::Keep, Verdict::drop)
    }
}
