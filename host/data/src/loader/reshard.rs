//! States of all ranks of a run → the state of one rank of a run with another number of ranks.
//!
//! ```text
//!  rank 0 ──────────■■■──┐ position, samples in the packer, packs formed and not delivered
//!  rank 1 ───────■■──────┤
//!                        ├─► backlog: what lies before the furthest position and was not delivered; then all behind it
//!  lowest ··· furthest ──┘
//! ```
//! Nothing is lost and nothing is seen twice within an epoch: every coordinate before the furthest position was delivered,
//! filtered or rejected by its rank, or is in the backlog once. The backlog comes first, dealt out among the new ranks.
//! Packers begin anew, so the packs are others than those that the old ranks would have made.

use std::sync::Arc;

use super::order::{Order, OrderSpec, Position, Rebase};
use super::state::{LoaderState, VERSION};
use crate::DataError;
use crate::pipeline::CHUNK;
use crate::rejects::Counters;

/// The key of [`LoaderState::depends`] that tells whose state it is.
pub(super) const RANK: &str = "rank";

/// What [`RANK`] says of rank `rank` of `world`.
pub(super) fn rank_words(rank: u32, world: u32) -> String {
    format!("{rank} of {world}")
}

/// States by rank.
///
/// # Errors
/// They are not those of all ranks of one run.
pub(super) fn by_rank(states: &[LoaderState]) -> Result<Vec<&LoaderState>, DataError> {
    let world = states.len();
    let mut sorted = vec![None; world];
    for state in states {
        let words = state.depends.get(RANK).map_or("", String::as_str);
        let parsed =
            words.split_once(" of ").and_then(|(r, w)| Some((r.parse::<usize>().ok()?, w.parse::<usize>().ok()?)));
        match parsed {
            Some((rank, w)) if w == world && rank < world && sorted[rank].is_none() => sorted[rank] = Some(state),
            _ => {
                return Err(DataError::Resume(format!(
                    "{world} data states were given, and one is of rank {words}; give the state of every rank of one checkpoint, each once"
                )));
            }
        }
    }
    Ok(sorted.into_iter().flatten().collect())
}

/// The state of one rank of as many as `spec.world` says. `states` are those of the old ranks in order; their `depends`
/// were checked.
///
/// # Errors
/// States of different moments.
pub(super) fn reshard(spec: &OrderSpec, states: &[&LoaderState]) -> Result<LoaderState, DataError> {
    let apart =
        || DataError::Resume("the data states of the ranks are of different checkpoints; give those of one".into());
    let rebase = states.iter().find_map(|s| s.rebase.clone());
    if states.iter().any(|s| s.rebase.is_some() && s.rebase != rebase) {
        return Err(apart());
    }
    let place = |p: &Position| (p.epoch, p.emitted, p.backlog);
    let at: Vec<_> = states.iter().map(|s| place(&s.position)).collect();
    let (Some(lowest), Some(mut furthest)) =
        (states.iter().map(|s| &s.position).min_by_key(|p| place(p)), at.iter().max().copied())
    else {
        return Err(DataError::Resume("no data state was given".into()));
    };
    // What is left of an older backlog lies before every coordinate, also where no rank has come to its end.
    furthest.2 = rebase.as_ref().map_or(0, |r| r.backlog.len() as u64);
    // A rank that has left the epoch of the change behind may have forgotten it; the order of the others needs it.
    let old = OrderSpec { rank: 0, world: states.len() as u64, rebase, epochs: None, ..spec.clone() };
    let mut backlog: Vec<_> = Vec::new();
    for state in states {
        let mut held: Vec<_> = state.open.iter().chain(state.bins.iter().flatten()).collect();
        held.sort_unstable_by_key(|h| h.id);
        backlog.extend(held.into_iter().map(|h| h.place()));
    }
    let mut order = Order::new(old, lowest.clone());
    while place(order.position()) < furthest {
        let here = place(order.position());
        match order.draw() {
            Some((sample, owner)) => {
                let theirs = at.get(owner as usize).ok_or_else(apart)?;
                if here >= *theirs {
                    backlog.push(sample);
                }
            }
            None => order.next_epoch(),
        }
    }
    let mut counters = Counters::default();
    // One rank tells of all that was before; those in the backlog will be read again.
    if spec.rank == 0 {
        states.iter().for_each(|s| counters.add(&s.counters));
        let held: u64 = states.iter().map(|s| s.held()).sum();
        counters.read = counters.read.saturating_sub(held);
    }
    let ordinal = states.iter().map(|s| s.position.ordinal).max().unwrap_or(0).next_multiple_of(CHUNK);
    let (epoch, emitted) = (furthest.0, furthest.1);
    Ok(LoaderState {
        version: VERSION,
        depends: Default::default(),
        position: Position { epoch, emitted, ordinal, backlog: 0, drawn: order.drawn() },
        rebase: Some(Arc::new(Rebase { epoch, emitted, backlog })),
        epoch_kept: states.iter().map(|s| s.epoch_kept).sum(),
        packer: None,
        open: Vec::new(),
        bins: Vec::new(),
        counters,
    })
}
