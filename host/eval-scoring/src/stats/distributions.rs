//! The normal and Student's distribution: values to probabilities and back, to about 13 digits.
//!
//! Probabilities come from the incomplete beta and gamma functions by their continued fractions and series (Abramowitz and
//! Stegun, 6.5 and 26.5), quantiles by bisection of those.

/// Logarithm of the gamma function of a positive number (Lanczos' approximation, g = 7).
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let series: f64 = COEFFICIENTS.iter().enumerate().skip(1).map(|(i, c)| c / (x + i as f64)).sum();
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + (COEFFICIENTS[0] + series).ln()
}

/// Steps after which continued fractions and series end; they need far fewer.
const STEPS: u32 = 10_000;
/// In place of a denominator of zero.
const TINY: f64 = 1e-300;

/// A continued fraction b0 + a1/(b1 + a2/(b2 + …)), by Lentz's method; `term` gives a and b of a step from 1 on.
fn fraction(b0: f64, term: impl Fn(u32) -> (f64, f64)) -> f64 {
    let full = |x: f64| if x.abs() < TINY { TINY } else { x };
    let mut value = full(b0);
    let (mut c, mut d) = (value, 0.0);
    for step in 1..STEPS {
        let (a, b) = term(step);
        d = 1.0 / full(b + a * d);
        c = full(b + a / c);
        value *= c * d;
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// The regularised incomplete beta function.
fn beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp() / a;
    let term = |step: u32| {
        let m = f64::from(step / 2);
        let numerator = match step {
            1 => 1.0,
            _ if step.is_multiple_of(2) => {
                let m = m - 1.0;
                -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
            }
            _ => m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
        };
        (numerator, 1.0)
    };
    front * fraction(0.0, term)
}

/// The probability of a value up to `t` of Student's distribution with `free` degrees of freedom.
pub fn t_cdf(t: f64, free: f64) -> f64 {
    if t.is_nan() || free <= 0.0 {
        return f64::NAN;
    }
    let tail = 0.5 * beta(free / (free + t * t), free / 2.0, 0.5);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The probability of a value above `t`, not negative, which keeps its digits where it is small.
pub fn t_tail(t: f64, free: f64) -> f64 {
    0.5 * beta(free / (free + t * t), free / 2.0, 0.5)
}

/// The value up to which the probability is `p`, 0.5 ≤ p < 1 or by symmetry below.
pub fn t_quantile(p: f64, free: f64) -> f64 {
    quantile(p, |t| t_tail(t, free))
}

/// The complementary error function.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let square = x * x;
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..STEPS {
            term *= 2.0 * square / (2.0 * f64::from(n) + 1.0);
            sum += term;
            if term < 1e-17 * sum {
                break;
            }
        }
        return 1.0 - 2.0 / std::f64::consts::PI.sqrt() * (-square).exp() * sum;
    }
    let tail = fraction(x, |n| (f64::from(n) / 2.0, x));
    (-square).exp() / std::f64::consts::PI.sqrt() / tail
}

/// The probability of a value up to `z` of the standard normal distribution.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / std::f64::consts::SQRT_2)
}

/// The value up to which the probability is `p`.
pub fn normal_quantile(p: f64) -> f64 {
    quantile(p, |z| 0.5 * erfc(z / std::f64::consts::SQRT_2))
}

/// Where a falling tail probability, of a distribution that is symmetric about zero, leaves `p` below.
fn quantile(p: f64, tail: impl Fn(f64) -> f64) -> f64 {
    if !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    if p == 0.5 {
        return 0.0;
    }
    let (wanted, sign) = if p > 0.5 { (1.0 - p, 1.0) } else { (p, -1.0) };
    if wanted == 0.0 {
        return sign * f64::INFINITY;
    }
    let mut high = 1.0;
    while tail(high) > wanted && high < f64::MAX / 4.0 {
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if tail(middle) > wanted {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= f64::EPSILON * high {
            break;
        }
    }
    sign * f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree() {
        // Values of the usual tables, to the digits that they have.
        for (p, z) in [(0.975, 1.959_963_984_540_054), (0.8, 0.841_621_233_572_914_3), (0.025, -1.959_963_984_540_054)]
        {
            assert!((normal_quantile(p) - z).abs() < 1e-13, "{p}");
            assert!((normal_cdf(z) - p).abs() < 1e-14, "{p}");
        }
        for (p, free, t) in [
            (0.975, 1.0, 12.706_204_736_174_698),
            (0.975, 4.0, 2.776_445_105_197_799),
            (0.975, 1000.0, 1.962_339_080_826_408),
        ] {
            assert!((t_quantile(p, free) / t - 1.0).abs() < 1e-12, "{free}: {}", t_quantile(p, free));
            assert!((t_cdf(t, free) - p).abs() < 1e-13, "{free}");
        }
        assert!((t_cdf(1.0, 1.0) - 0.75).abs() < 1e-14 && (t_cdf(0.0, 3.0) - 0.5).abs() < 1e-14);
    }
}
