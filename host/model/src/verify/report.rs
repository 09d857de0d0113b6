//! Rows of a comparison, and their table.

use std::fmt;

use serde::Serialize;
use tch::{Kind, Tensor};

use crate::error::Result;

/// One compared tensor or number.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyRow {
    /// The expected entry's name.
    pub name: String,
    /// Largest absolute difference; for lists that must be equal, the number of entries that differ.
    pub max_abs_error: f64,
    /// Largest absolute value that was expected.
    pub scale: f64,
    /// Their quotient, which the tolerance bounds.
    pub relative_error: f64,
    /// Whether it is close enough.
    pub passed: bool,
    /// What was wrong, or which other rule applies.
    pub note: String,
}

/// The result of a verification; `Display` prints the table.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Bound of the relative error.
    pub tolerance: f64,
    /// One row per expected entry, in the order of the run.
    pub rows: Vec<VerifyRow>,
}

impl VerifyReport {
    pub(super) fn new(tolerance: f64) -> Self {
        VerifyReport { tolerance, rows: Vec::new() }
    }

    /// Whether every row passed.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|r| r.passed)
    }

    /// Rows that failed.
    pub fn failures(&self) -> usize {
        self.rows.iter().filter(|r| !r.passed).count()
    }

    fn push(&mut self, name: &str, error: f64, scale: f64, note: String) {
        let relative = if error == 0.0 { 0.0 } else { error / scale.max(f64::MIN_POSITIVE) };
        self.rows.push(VerifyRow {
            name: name.to_owned(),
            max_abs_error: error,
            scale,
            relative_error: relative,
            // A NaN is not close to anything.
            passed: relative <= self.tolerance,
            note,
        });
    }

    pub(super) fn tensor(&mut self, name: &str, got: &Tensor, want: &Tensor) -> Result<()> {
        if got.size() != want.size() {
            self.push(name, f64::INFINITY, 1.0, format!("shape {:?}, expected {:?}", got.size(), want.size()));
            return Ok(());
        }
        let (error, scale) = distance(got, want)?;
        self.push(name, error, scale, String::new());
        Ok(())
    }

    /// Pixels may be one 8-bit level off here and there: resamplers round differently.
    pub(super) fn pixels(&mut self, name: &str, got: &Tensor, want: &Tensor, level: f64, share: f64) -> Result<()> {
        self.tensor(name, got, want)?;
        let Some(row) = self.rows.last_mut().filter(|r| !r.passed && r.max_abs_error.is_finite()) else {
            return Ok(());
        };
        let off =
            got.f_sub(want)?.f_abs()?.f_gt(1e-5)?.f_to_kind(Kind::Double)?.f_mean(Kind::Double)?.f_double_value(&[])?;
        row.passed = row.max_abs_error <= level && off <= share;
        row.note =
            format!("{:.4} % of values off, by one 8-bit level at most: allowed are {} %", off * 100.0, share * 100.0);
        Ok(())
    }

    pub(super) fn number(&mut self, name: &str, got: f64, want: f64) {
        self.push(name, (got - want).abs(), want.abs(), format!("{got:.6}, expected {want:.6}"));
    }

    pub(super) fn exact(&mut self, name: &str, got: &[i64], want: &[i64]) {
        let first = (0..got.len().max(want.len())).find(|&i| got.get(i) != want.get(i));
        let note = match first {
            None => format!("{} equal", want.len()),
            Some(i) => {
                let show = |v: Option<&i64>| v.map_or("nothing".to_owned(), i64::to_string);
                format!("entry {i}: {}, expected {}", show(got.get(i)), show(want.get(i)))
            }
        };
        let wrong = (0..got.len().max(want.len())).filter(|&i| got.get(i) != want.get(i)).count();
        self.push(name, wrong as f64, want.len().max(1) as f64, note);
        if let Some(row) = self.rows.last_mut() {
            row.passed = wrong == 0;
        }
    }
}

/// (largest absolute difference, largest absolute expected value)
fn distance(got: &Tensor, want: &Tensor) -> Result<(f64, f64)> {
    if want.numel() == 0 {
        return Ok((0.0, 0.0));
    }
    let here = |t: &Tensor| t.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double);
    let (got, want) = (here(got)?, here(want)?);
    Ok((got.f_sub(&want)?.f_abs()?.f_max()?.f_double_value(&[])?, want.f_abs()?.f_max()?.f_double_value(&[])?))
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(4).max(4);
        writeln!(f, "{:width$}  {:>10}  {:>10}  {:>10}  result", "name", "max error", "scale", "relative")?;
        for r in &self.rows {
            let result = if r.passed { "pass" } else { "FAIL" };
            let note = if r.note.is_empty() { String::new() } else { format!("  {}", r.note) };
            writeln!(
                f,
                "{:width$}  {:>10.2e}  {:>10.2e}  {:>10.2e}  {result}{note}",
                r.name, r.max_abs_error, r.scale, r.relative_error
            )?;
        }
        let worst = self.rows.iter().map(|r| r.relative_error).fold(0.0, f64::max);
        match self.failures() {
            0 => write!(f, "all {} agree within {:.0e} (worst {worst:.2e})", self.rows.len(), self.tolerance),
            n => write!(f, "{n} of {} differ by more than {:.0e}", self.rows.len(), self.tolerance),
        }
    }
}
