//! What happens to a batch in which a plugin failed.
//!
//! ```text
//!  run(0..n) ok ───────────────────────────────► one piece
//!           failed, Stop   ─► halve, keep the failing half ─► the guilty row, named in the error
//!           failed, Reject ─► halve, run both ─► pieces that worked, and single rows that did not
//! ```
//! Each failed run costs a new instance (tens of microseconds), a guilty row about log2(n) of them.

use crate::error::PluginError;
use crate::instance::CallError;

/// What to do when a plugin fails on a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTrap {
    /// The call is an error that names the guilty row.
    #[default]
    Stop,
    /// Guilty rows come back as row errors, the others as if those had not been there.
    Reject,
}

/// Rows `lo..hi` and their answer, or the failure of the single row `lo`.
#[derive(Debug)]
pub(crate) struct Piece<R> {
    pub lo: u32,
    pub hi: u32,
    pub answer: Result<R, CallError>,
}

/// A batch failed as a whole: with the row to blame, where one was found.
#[derive(Debug)]
pub(crate) struct Failed {
    pub error: Box<CallError>,
    pub row: Option<u32>,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Failed { error: error.into(), row: None }
    }
}

impl From<PluginError> for Failed {
    fn from(error: PluginError) -> Self {
        CallError::Fatal(error).into()
    }
}

/// Runs rows `0..rows` by `run(lo, hi)`, by the policy.
pub(crate) fn contain<R>(
    policy: OnTrap,
    rows: u32,
    mut run: impl FnMut(u32, u32) -> Result<R, CallError>,
) -> Result<Vec<Piece<R>>, Failed> {
    match run(0, rows) {
        Ok(answer) => Ok(vec![Piece { lo: 0, hi: rows, answer: Ok(answer) }]),
        Err(error @ CallError::Fatal(_)) => Err(error.into()),
        Err(error) if policy == OnTrap::Stop => Err(blame(rows, error, run)),
        Err(error) => {
            let mut pieces = Vec::new();
            split(0, rows, error, &mut run, &mut pieces)?;
            Ok(pieces)
        }
    }
}

/// Finds the first guilty row of a batch that trapped. None where no part of the batch traps alone.
fn blame<R>(rows: u32, first: CallError, mut run: impl FnMut(u32, u32) -> Result<R, CallError>) -> Failed {
    if !matches!(first, CallError::Trap(..)) {
        // A malformed answer already says what is wrong with it.
        return first.into();
    }
    let (mut lo, mut hi) = (0, rows);
    let mut cause = first;
    while hi - lo > 1 {
        let middle = lo + (hi - lo) / 2;
        match run(lo, middle) {
            Err(error @ CallError::Trap(..)) => (hi, cause) = (middle, error),
            _ => match run(middle, hi) {
                Err(error @ CallError::Trap(..)) => (lo, cause) = (middle, error),
                _ => return cause.into(),
            },
        }
    }
    Failed { error: cause.into(), row: Some(lo) }
}

/// Halves `lo..hi`, which has just failed, until what fails is single rows.
fn split<R>(
    lo: u32,
    hi: u32,
    failure: CallError,
    run: &mut impl FnMut(u32, u32) -> Result<R, CallError>,
    pieces: &mut Vec<Piece<R>>,
) -> Result<(), Failed> {
    if hi - lo <= 1 {
        if matches!(failure, CallError::Fatal(_)) {
            return Err(Failed { error: failure.into(), row: Some(lo) });
        }
        pieces.push(Piece { lo, hi, answer: Err(failure) });
        return Ok(());
    }
    let middle = lo + (hi - lo) / 2;
    for (lo, hi) in [(lo, middle), (middle, hi)] {
        match run(lo, hi) {
            Ok(answer) => pieces.push(Piece { lo, hi, answer: Ok(answer) }),
            Err(error @ CallError::Fatal(_)) => return Err(Failed { error: error.into(), row: None }),
            Err(error) => split(lo, hi, error, run, pieces)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TrapCause;

    fn runner(guilty: Vec<u32>, calls: &mut u32) -> impl FnMut(u32, u32) -> Result<Vec<u32>, CallError> + '_ {
        move |lo, hi| {
            *calls += 1;
            match guilty.iter().find(|g| (lo..hi).contains(g)) {
                Some(_) => Err(CallError::Trap("process", TrapCause::OutOfBounds.into())),
                None => Ok((lo..hi).collect()),
            }
        }
    }

    #[test]
    fn stop_names_the_first_guilty_row_in_few_calls() {
        for guilty in [0, 1, 511, 700, 1023] {
            let mut calls = 0;
            let failed = contain(OnTrap::Stop, 1024, runner(vec![guilty], &mut calls)).unwrap_err();
            assert_eq!(failed.row, Some(guilty));
            assert!(calls <= 21, "{calls} calls");
        }
        let failed = contain(OnTrap::Stop, 64, runner(vec![40, 9], &mut 0)).unwrap_err();
        assert_eq!(failed.row, Some(9));
    }

    #[test]
    fn reject_keeps_every_other_row_in_order() {
        for guilty in [vec![0], vec![99], vec![3, 4, 50], (0..100).collect()] {
            let pieces = contain(OnTrap::Reject, 100, runner(guilty.clone(), &mut 0)).unwrap();
            let (mut kept, mut lost, mut next) = (vec![], vec![], 0);
            for piece in pieces {
                assert_eq!(piece.lo, next);
                next = piece.hi;
                match piece.answer {
                    Ok(rows) => kept.extend(rows),
                    Err(_) => lost.push(piece.lo),
                }
            }
            assert_eq!(next, 100);
            assert_eq!(lost, guilty);
            assert_eq!(kept, (0..100).filter(|r| !guilty.contains(r)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_failure_that_does_not_recur_blames_nobody() {
        let mut first = true;
        let failed = contain(OnTrap::Stop, 8, |_, _| {
            if std::mem::take(&mut first) {
                Err(CallError::Trap("process", TrapCause::OutOfBounds.into()))
            } else {
                Ok(())
            }
        })
        .unwrap_err();
        assert_eq!(failed.row, None);
    }
}
