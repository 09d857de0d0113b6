//! Packers: samples of known length in, bins that fit the model's context out.
//!
#![doc = include_str!("../docs/packer.md")]

use serde::{Deserialize, Serialize};

use crate::bindings::exports::ovhost::plugin::packer as wit;
use crate::bindings::ovhost::plugin::types::Batch;
use crate::columns::Need;
use crate::plugin::{ErrorKind, Plugin, PluginError, error};
use crate::rows::Rows;
use crate::state::{decode, try_encode};

pub use wit::Limits;

/// The columns that the host always gives, of which a packer need not say anything.
const ALWAYS: &[Need] =
    &[Need::new("id", crate::ColumnType::S64), Need::u32s("length"), Need::u32s("patches").optional()];

impl Limits {
    /// Most samples of a bin, for comparisons: a limit of 0 is none, `usize::MAX`.
    ///
    /// ```
    /// use ovhost_sdk::Limits;
    ///
    /// let limits = Limits { capacity: 8192, max_items_per_bin: 0, max_open_items: 512 };
    /// assert_eq!((limits.most_items(), limits.most_open()), (usize::MAX, 512));
    /// ```
    pub fn most_items(&self) -> usize {
        unless_zero(self.max_items_per_bin)
    }

    /// Most samples that may be held back, likewise.
    pub fn most_open(&self) -> usize {
        unless_zero(self.max_open_items)
    }
}

fn unless_zero(limit: u32) -> usize {
    if limit == 0 { usize::MAX } else { limit as usize }
}

/// For [`Packer::restore`]: whether saved open samples are at most `most_open`, and none is longer than `capacity`.
///
/// # Errors
/// They do not fit; the message says what was found, what is allowed, and what to do.
pub fn check_restored(
    open: impl ExactSizeIterator<Item = Item>,
    capacity: u32,
    most_open: usize,
) -> Result<(), String> {
    if open.len() > most_open {
        let saved = open.len();
        return Err(format!(
            "{saved} samples are open in the saved state, the window holds {most_open}; resume with the same"
        ));
    }
    match open.map(|item| item.length).find(|&length| length > capacity) {
        Some(length) => {
            Err(format!("a saved sample has {length} tokens, the capacity is {capacity}; resume with the same"))
        }
        None => Ok(()),
    }
}

/// For [`Packer::restore`]: whether the numbers of saved samples ascend, and stay below that of the `next` sample.
///
/// # Errors
/// They do not: no packer saved this.
pub fn check_numbers(numbers: impl Iterator<Item = u64>, next: u64) -> Result<(), String> {
    if numbers.chain([next]).is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err("the saved samples are not in the order of their numbers: the state is damaged".into())
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Unique in the stream.
    pub id: u64,
    /// Tokens; never above the capacity.
    pub length: u32,
    /// Vision patches; 0 unless `READS` names `patches`.
    pub patches: u32,
}

/// Finished bins and given-up samples of one call.
///
/// ```
/// use ovhost_sdk::prelude::*;
///
/// let mut out = Packing::default();
/// out.bin([3, 1]);
/// out.bin([]);
/// out.give_up(2);
/// assert_eq!(out.bins().collect::<Vec<_>>(), [[3, 1]]);
/// assert_eq!(out.dropped(), [2]);
/// ```
#[derive(Debug, Default)]
pub struct Packing {
    offsets: Vec<u32>,
    /// Of the bins, up to `end`; what is after it is room.
    ids: Vec<u64>,
    end: usize,
    dropped: Vec<u64>,
    failure: Option<String>,
}

/// Ids that there is room made for at once, where bins are written into it.
const ROOM: usize = 512;

impl Packing {
    /// Adds a finished bin. An empty one is ignored.
    pub fn bin(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.ids.truncate(self.end);
        self.ids.extend(ids);
        self.close(self.ids.len());
    }

    /// Adds a finished bin of so many samples, whose ids `write` puts into the slice, in any order. An empty one is ignored.
    #[inline]
    pub fn bin_with(&mut self, samples: usize, write: impl FnOnce(&mut [u64])) {
        let end = self.end + samples;
        if self.ids.len() < end {
            self.ids.resize(end.max(self.end + ROOM), 0);
        }
        write(&mut self.ids[self.end..end]);
        self.close(end);
    }

    /// Ends a bin there.
    #[inline]
    fn close(&mut self, end: usize) {
        if end > self.end {
            if self.offsets.is_empty() {
                self.offsets.push(0);
            }
            self.offsets.push(end as u32);
            self.end = end;
        }
    }

    /// Gives a sample up; the host counts it as a reject.
    pub fn give_up(&mut self, id: u64) {
        self.dropped.push(id);
    }

    /// Fails the call, and with it the run: the configuration cannot work with what came. The first message counts; it says
    /// what to change.
    pub fn fail(&mut self, message: impl Into<String>) {
        self.failure.get_or_insert_with(|| message.into());
    }

    /// What [`fail`](Self::fail) said.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Adds bins whose samples are listed in one go: `list` appends their ids, bin after bin, and `ends` says where in what it
    /// appends each bin ends. None is empty, and the last ends with the list.
    pub fn listed(&mut self, ends: impl IntoIterator<Item = u32>, list: impl FnOnce(&mut Vec<u64>)) {
        self.ids.truncate(self.end);
        let before = self.end as u32;
        list(&mut self.ids);
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.offsets.extend(ends.into_iter().map(|end| before + end));
        self.end = self.ids.len();
    }

    /// The bins so far.
    pub fn bins(&self) -> impl Iterator<Item = &[u64]> {
        self.offsets.windows(2).map(|pair| &self.ids[pair[0] as usize..pair[1] as usize])
    }

    /// For the answer to so many samples: in the long run as many come out as go in.
    pub fn with_room(samples: usize) -> Self {
        Self { ids: Vec::with_capacity(samples), ..Self::default() }
    }

    /// Samples that it has, in bins and given up.
    pub(crate) fn samples(&self) -> usize {
        self.end + self.dropped.len()
    }

    /// The given-up samples so far.
    pub fn dropped(&self) -> &[u64] {
        &self.dropped
    }

    /// Bins and given-up samples as they leave: bin `i` is `ids[offsets[i]..offsets[i + 1]]`; then what was given up.
    pub fn into_parts(mut self) -> (Vec<u32>, Vec<u64>, Vec<u64>) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.truncate(self.end);
        (self.offsets, self.ids, self.dropped)
    }

    pub(crate) fn finish(mut self, plugin: &str) -> Result<wit::Packing, PluginError> {
        if let Some(message) = self.failure.take() {
            return Err(error(ErrorKind::BadConfig, format!("{plugin}: {message}")));
        }
        let (offsets, ids, dropped) = self.into_parts();
        Ok(wit::Packing { offsets, ids, dropped })
    }
}

/// Groups samples into bins. Every sample pushed must come back exactly once: in a bin or given up.
pub trait Packer: Plugin {
    /// The open samples and whatever else continues a stream exactly. Saved with checkpoints.
    type State: Serialize + for<'de> Deserialize<'de>;

    /// Begins a stream and forgets any earlier one.
    ///
    /// # Errors
    /// The limits cannot work with the configuration; the message says which.
    fn start(&mut self, limits: Limits) -> Result<(), String>;

    /// Takes samples, in order, and gives the bins that are finished.
    fn push(&mut self, items: &[Item], out: &mut Packing);

    /// The stream ends: gives the open samples, all of them or, where they are many, some with each call. It is called again
    /// until none is open, with no other call between; a call that gives none while some are open fails the stream.
    fn flush(&mut self, out: &mut Packing);

    /// The open state, of a stream that has not ended.
    fn state(&self) -> Self::State;

    /// Continues from `state`, in a started packer.
    ///
    /// # Errors
    /// The state does not fit the limits or the configuration.
    fn restore(&mut self, state: Self::State) -> Result<(), String>;
}

/// A packer with what the contract needs around it: nothing is pushed before `start`, saved bytes name their plugin.
pub(crate) struct Runner<P: Packer> {
    packer: P,
    started: bool,
    /// The samples of a call; kept for its memory.
    items: Vec<Item>,
}

impl<P: Packer> Runner<P> {
    pub(crate) fn new(packer: P) -> Self {
        Self { packer, started: false, items: Vec::new() }
    }

    pub(crate) fn start(&mut self, limits: Limits) -> Result<(), PluginError> {
        if limits.capacity == 0 {
            return Err(error(ErrorKind::BadConfig, format!("{}: a capacity of 0 holds no sample", P::NAME)));
        }
        self.packer.start(limits).map_err(|e| error(ErrorKind::BadConfig, format!("{}: {e}", P::NAME)))?;
        self.started = true;
        Ok(())
    }

    fn ready(&self, call: &str) -> Result<(), PluginError> {
        if self.started {
            return Ok(());
        }
        Err(error(ErrorKind::BadInput, format!("{}: `{call}` before `start`", P::NAME)))
    }

    pub(crate) fn push(&mut self, batch: &Batch) -> Result<wit::Packing, PluginError> {
        self.ready("push")?;
        let bad = |e: String| error(ErrorKind::BadInput, format!("{}: {e}", P::NAME));
        let rows = Rows::new(batch, ALWAYS).map_err(bad)?;
        let ids = rows.s64_column("id").unwrap_or_default();
        let lengths = rows.u32_column("length").unwrap_or_default();
        let patches = rows.u32_column("patches");
        let samples = ids.iter().zip(lengths).map(|(&id, &length)| Item { id: id as u64, length, patches: 0 });
        self.items.clear();
        self.items.extend(samples);
        if let Some(patches) = patches {
            self.items.iter_mut().zip(patches).for_each(|(item, &patches)| item.patches = patches);
        }
        let mut out = Packing::with_room(self.items.len());
        self.packer.push(&self.items, &mut out);
        out.finish(P::NAME)
    }

    pub(crate) fn flush(&mut self) -> Result<wit::Packing, PluginError> {
        self.ready("flush")?;
        let mut out = Packing::default();
        self.packer.flush(&mut out);
        out.finish(P::NAME)
    }

    pub(crate) fn save(&self) -> Result<Vec<u8>, PluginError> {
        self.ready("save")?;
        try_encode(P::NAME, &self.packer.state())
    }

    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
        self.ready("restore")?;
        let state = decode(P::NAME, bytes)?;
        self.packer.restore(state).map_err(|e| error(ErrorKind::BadInput, format!("{}: {e}", P::NAME)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_samples_must_fit() {
        let item = |length| Item { id: 1, length, patches: 0 };
        let check = |lengths: &[u32]| check_restored(lengths.iter().map(|&length| item(length)), 10, 2);
        assert_eq!((check(&[]), check(&[10, 0])), (Ok(()), Ok(())));
        assert!(
            check(&[1, 1, 1]).unwrap_err().starts_with("3 samples are open in the saved state, the window holds 2")
        );
        assert!(check(&[1, 11]).unwrap_err().contains("11 tokens, the capacity is 10"));
        assert_eq!((check_numbers([].into_iter(), 0), check_numbers([3, 7].into_iter(), 8)), (Ok(()), Ok(())));
        for (numbers, next) in [([3, 3], 9), ([4, 3], 9), ([3, 9], 9)] {
            assert!(check_numbers(numbers.into_iter(), next).unwrap_err().contains("order of their numbers"));
        }
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let limits = Limits { capacity: 1, max_items_per_bin: 0, max_open_items: 7 };
        assert_eq!((limits.most_items(), limits.most_open()), (usize::MAX, 7));
    }

    #[test]
    fn bins_follow_each_other_however_they_are_added() {
        let mut out = Packing::default();
        out.listed([], |_| ());
        out.listed([2, 3], |ids| ids.extend([5, 4, 9]));
        out.bin([1, 2]);
        out.bin_with(3, |ids| ids.copy_from_slice(&[8, 6, 3]));
        out.bin([]);
        out.bin_with(0, |ids| assert!(ids.is_empty()));
        out.listed([1], |ids| ids.push(7));
        out.bin_with(1, |ids| ids[0] = 0);
        assert_eq!(out.bins().collect::<Vec<_>>(), [&[5, 4][..], &[9], &[1, 2], &[8, 6, 3], &[7], &[0]]);
        assert_eq!(out.samples(), 10);
        let out = out.finish("p").unwrap();
        assert_eq!((out.offsets, out.ids), (vec![0, 2, 3, 5, 8, 9, 10], vec![5, 4, 9, 1, 2, 8, 6, 3, 7, 0]));
    }

    #[test]
    fn the_first_failure_fails_the_call() {
        let mut out = Packing::default();
        out.bin([1, 2]);
        assert_eq!(out.failure(), None);
        out.fail("too many");
        out.fail("later");
        let error = out.finish("p").unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::BadConfig, "p: too many"));
    }
}
