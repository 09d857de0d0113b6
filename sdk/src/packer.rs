//! Packers: samples of known length in, bins that fit the model's context out.

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
#[derive(Debug, Default)]
pub struct Packing {
    offsets: Vec<u32>,
    ids: Vec<u64>,
    dropped: Vec<u64>,
}

impl Packing {
    /// Adds a finished bin. An empty one is ignored.
    pub fn bin(&mut self, ids: impl IntoIterator<Item = u64>) {
        let before = self.ids.len();
        self.ids.extend(ids);
        if self.ids.len() > before {
            if self.offsets.is_empty() {
                self.offsets.push(0);
            }
            self.offsets.push(self.ids.len() as u32);
        }
    }

    /// Gives a sample up; the host counts it as a reject.
    pub fn give_up(&mut self, id: u64) {
        self.dropped.push(id);
    }

    /// The bins so far.
    pub fn bins(&self) -> impl Iterator<Item = &[u64]> {
        self.offsets.windows(2).map(|pair| &self.ids[pair[0] as usize..pair[1] as usize])
    }

    /// The given-up samples so far.
    pub fn dropped(&self) -> &[u64] {
        &self.dropped
    }

    pub(crate) fn finish(mut self) -> wit::Packing {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        wit::Packing { offsets: self.offsets, ids: self.ids, dropped: self.dropped }
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

    /// The stream ends: gives every open sample.
    fn flush(&mut self, out: &mut Packing);

    /// The open state.
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
}

impl<P: Packer> Runner<P> {
    pub(crate) fn new(packer: P) -> Self {
        Self { packer, started: false }
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
        let items: Vec<Item> = ids
            .iter()
            .zip(lengths)
            .enumerate()
            .map(|(i, (&id, &length))| Item { id: id as u64, length, patches: patches.map_or(0, |p| p[i]) })
            .collect();
        let mut out = Packing::default();
        self.packer.push(&items, &mut out);
        Ok(out.finish())
    }

    pub(crate) fn flush(&mut self) -> Result<wit::Packing, PluginError> {
        self.ready("flush")?;
        let mut out = Packing::default();
        self.packer.flush(&mut out);
        Ok(out.finish())
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
