//! Packers: samples in, bins out, nothing lost.
//!
//! ```text
//!  push(ids, lengths) ─► open ids (host's own ledger) ─► guest ─► bins, dropped ─► struck off the ledger, one by one
//! ```
//! The ledger is what makes the host sure: an id that is not open cannot come back, at the end none may be open. It is part of
//! the saved state. Order is data here, so a failure is never worked around.

mod bins;
mod contract;
mod ledger;

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime::Store;
use wasmtime::component::Instance;

use crate::bindings::exports::ovhost::plugin::packer as wit;
use crate::bindings::ovhost::plugin::types;
use crate::bundle::{Journal, Occasion};
use crate::error::PluginError;
use crate::instance::{CallError, Core, Counters, Guest, select};
use crate::load::{KindIndices, Loaded, Plugin};
use crate::log::StoreData;
use crate::scan::Kind;
use crate::{Batch, CallCtx};

pub use bins::Bins;
pub use contract::PackContract;
use ledger::Ledger;

impl Guest for wit::Guest {
    fn load(loaded: &Loaded, store: &mut Store<StoreData>, instance: &Instance) -> wasmtime::Result<Self> {
        match &loaded.functions {
            KindIndices::Packer(indices) => indices.load(store, instance),
            _ => Err(wasmtime::Error::msg("not a packer")),
        }
    }
}

/// Bounds of a stream of bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackLimits {
    /// Most tokens in a bin.
    pub capacity: u32,
    /// Most samples in a bin; 0: no bound.
    pub max_items_per_bin: u32,
    /// Most samples held back after a call; 0: the plugin's choice.
    pub max_open_items: u32,
}

impl fmt::Display for PackLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bins of {} token{}", self.capacity, if self.capacity == 1 { "" } else { "s" })?;
        match self.max_items_per_bin {
            0 => {}
            1 => write!(f, " and 1 sample")?,
            n => write!(f, " and {n} samples")?,
        }
        match self.max_open_items {
            0 => Ok(()),
            1 => write!(f, ", 1 sample open at most"),
            n => write!(f, ", {n} samples open at most"),
        }
    }
}

/// Bins that are ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    /// Ids of each bin, in order.
    pub bins: Bins,
    /// Ids that the packer gives up.
    pub dropped: Vec<u64>,
}

/// An instance of a packer: one stream.
pub struct PackerInstance {
    core: Core<wit::Guest>,
    limits: Option<PackLimits>,
    contract: PackContract,
    lost: Option<String>,
    /// Whether `flush` was called and has not said that it is through.
    ending: bool,
    /// What it saw since its last saved state.
    journal: Journal,
}

/// Before the version of a saved state. 1: what follows is the state. 2: the state's sha256, then the state.
const STATE_MAGIC: &[u8; 7] = b"OVPACK\0";
const STATE_VERSION: u8 = 2;
/// Bytes of a sha256.
const HASH: usize = 32;

impl Plugin {
    /// An instance of this packer. Errors: it is another kind, or cannot be instantiated.
    pub fn packer(&self) -> Result<PackerInstance, PluginError> {
        match &self.loaded().functions {
            KindIndices::Packer(_) => Ok(PackerInstance {
                core: Core::new(self.clone())?,
                limits: None,
                contract: PackContract::default(),
                lost: None,
                ending: false,
                journal: Journal::new(self.loaded()),
            }),
            _ => Err(self.wrong_kind(Kind::Packer)),
        }
    }
}

impl PackerInstance {
    /// What this instance did so far.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// The plugin.
    pub fn plugin(&self) -> &Plugin {
        &self.core.plugin
    }

    /// Number of samples that are in the packer.
    pub fn open_items(&self) -> usize {
        self.contract.open.len()
    }

    /// The samples that are in the packer, with their lengths in tokens, by id.
    pub fn open_lengths(&self) -> Vec<(u64, u32)> {
        self.contract.open.sorted()
    }

    /// Begins a stream; forgets an earlier one, and an earlier failure.
    pub fn start(&mut self, limits: &PackLimits) -> Result<(), PluginError> {
        if self.lost.take().is_some() {
            self.core.disarm();
        }
        self.contract.open.clear();
        (self.limits, self.ending) = (None, false);
        let raw = wit::Limits {
            capacity: limits.capacity,
            max_items_per_bin: limits.max_items_per_bin,
            max_open_items: limits.max_open_items,
        };
        self.journal.started(Some(*limits));
        let answer = self.core.call("start", 0, 0, |guest, store| guest.call_start(store, raw));
        self.settle("start", answer, Occasion::default())?;
        self.limits = Some(*limits);
        Ok(())
    }

    /// Adds samples: columns `id` (s64s, not negative, not open) and `length` (u32s, at most the capacity), others by the
    /// plugin's `reads`. Returns the bins that became full.
    pub fn push(&mut self, ctx: &CallCtx, items: &Batch) -> Result<Packing, PluginError> {
        let limits = self.ready()?;
        if items.rows == 0 {
            return Ok(Packing::default());
        }
        let (columns, bytes) = select(&self.core.plugin, items, &["id", "length"])?;
        let refused = |why| PluginError::BadBatch { plugin: self.core.name().to_owned(), why };
        self.contract.enter(items, &limits).map_err(refused)?;
        self.core.counters.rows_in += u64::from(items.rows);
        let wit_ctx = self.core.ctx(ctx, 0);
        let wit_batch = types::Batch { rows: items.rows, columns: &columns };
        let answer =
            self.core.call("push", items.rows.into(), bytes, |guest, store| guest.call_push(store, wit_ctx, wit_batch));
        let at = Occasion::rows(ctx, items, None);
        let packing = self.settle("push", answer, at)?;
        let packing = self.strike(&limits, packing).and_then(|packing| {
            let (open, most) = (self.contract.open.len(), limits.max_open_items as usize);
            if most > 0 && open > most {
                return Err(format!("it holds {open} samples back, max-open-items is {most}"));
            }
            Ok(packing)
        });
        let packing = self.keep_rule("push", packing, at)?;
        self.journal.took(self.core.plugin.loaded(), ctx, items);
        Ok(packing)
    }

    /// Ends the stream: open samples come back, all at once or, from a packer that holds many, some with each call; `None`
    /// when all of them have. To be called until then: nothing else may be asked of a stream that is ending.
    pub fn flush(&mut self) -> Result<Option<Packing>, PluginError> {
        let limits = self.sound()?;
        let rows = self.contract.open.len() as u64;
        if self.ending && rows == 0 {
            self.ending = false;
            return Ok(None);
        }
        self.ending = true;
        let answer = self.core.call("flush", rows, 0, |guest, store| guest.call_flush(store));
        let packing = self.settle("flush", answer, Occasion::default())?;
        let packing = self.strike(&limits, packing).and_then(|packing| {
            if self.contract.open.is_empty() || (self.contract.open.len() as u64) < rows {
                return Ok(packing);
            }
            let lost: Vec<u64> = self.contract.open.sorted().into_iter().take(5).map(|(id, _)| id).collect();
            Err(format!("{} samples never came back, among them ids {lost:?}", self.contract.open.len()))
        });
        self.keep_rule("flush", packing, Occasion::default()).map(Some)
    }

    /// The stream's state: the plugin's and the host's ledger.
    pub fn save(&mut self) -> Result<Vec<u8>, PluginError> {
        let limits = self.ready()?;
        let rows = self.contract.open.len() as u64;
        let answer = self.core.call("save", rows, 0, |guest, store| guest.call_save(store));
        let guest = self.settle("save", answer, Occasion::default())?;
        let open = self.contract.open.sorted();
        let begin = STATE_MAGIC.len() + 1 + HASH;
        let mut state = Vec::with_capacity(begin + 20 + 12 * open.len() + guest.len());
        state.extend_from_slice(STATE_MAGIC);
        state.push(STATE_VERSION);
        // The hash's place.
        state.resize(begin, 0);
        for n in [limits.capacity, limits.max_items_per_bin, limits.max_open_items] {
            state.extend_from_slice(&n.to_le_bytes());
        }
        state.extend_from_slice(&(open.len() as u64).to_le_bytes());
        for (id, length) in open {
            state.extend_from_slice(&id.to_le_bytes());
            state.extend_from_slice(&length.to_le_bytes());
        }
        state.extend_from_slice(&guest);
        let hash = Sha256::digest(&state[begin..]);
        state[begin - HASH..begin].copy_from_slice(&hash);
        self.journal.at(&state);
        Ok(state)
    }

    /// Continues from what `save` gave, in a stream started with the same limits.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        let limits = self.ready()?;
        let bad = |why: String| PluginError::State { plugin: self.core.name().to_owned(), why };
        let saved = checked(state).and_then(|body| parse_state(body).ok_or_else(|| CUT.to_owned())).map_err(bad)?;
        if saved.limits != limits {
            return Err(bad(format!("it was saved for {}, and this stream has {limits}", saved.limits)));
        }
        let fuel_bytes = saved.guest.len() as u64;
        let rows = saved.open.len() as u64;
        let answer = self.core.call("restore", rows, fuel_bytes, |guest, store| guest.call_restore(store, saved.guest));
        self.settle("restore", answer, Occasion { argument: Some(state), ..Occasion::default() })?;
        self.journal.at(state);
        self.contract.open = saved.open;
        Ok(())
    }

    /// The limits, if a stream is running and sound, and not about to end.
    fn ready(&self) -> Result<PackLimits, PluginError> {
        let limits = self.sound()?;
        if self.ending {
            let plugin = self.core.name().to_owned();
            let why = format!("the stream is ending and {} samples are to be flushed yet", self.contract.open.len());
            return Err(PluginError::BadBatch { plugin, why });
        }
        Ok(limits)
    }

    /// The limits, if a stream is running and sound.
    fn sound(&self) -> Result<PackLimits, PluginError> {
        let plugin = || self.core.name().to_owned();
        if let Some(earlier) = &self.lost {
            let next = "begin the stream again, or restore a saved one after start()";
            return Err(PluginError::Poisoned { plugin: plugin(), earlier: earlier.clone(), next });
        }
        self.limits.ok_or_else(|| PluginError::BadBatch { plugin: plugin(), why: "no stream was started".into() })
    }

    /// Turns a failed or refused call into the error that ends this stream.
    fn settle<R>(
        &mut self,
        call: &'static str,
        answer: Result<Result<R, types::PluginError>, CallError>,
        at: Occasion<'_>,
    ) -> Result<R, PluginError> {
        let answer = answer.and_then(|inner| inner.map_err(|e| self.core.refused(call, e)));
        answer.map_err(|e| self.end(e, at))
    }

    /// Checks an answer. The error is the broken rule.
    fn strike(&mut self, limits: &PackLimits, raw: wit::Packing) -> Result<Packing, String> {
        self.contract.strike(limits, raw.offsets, raw.ids, raw.dropped)
    }

    fn keep_rule(
        &mut self,
        call: &'static str,
        packing: Result<Packing, String>,
        at: Occasion<'_>,
    ) -> Result<Packing, PluginError> {
        let packing = packing.map_err(|rule| self.end(CallError::Output(call, rule), at))?;
        let counters = &mut self.core.counters;
        counters.rows_kept += packing.bins.ids().len() as u64;
        counters.rows_dropped += packing.dropped.len() as u64;
        Ok(packing)
    }

    fn end(&mut self, error: CallError, at: Occasion<'_>) -> PluginError {
        self.core.plugin.loaded().keep(&error, &Occasion { journal: Some(&self.journal), ..at });
        let error = error.into_error(self.core.name(), None, None);
        self.lost = Some(error.to_string());
        self.core.disarm();
        error
    }
}

struct Saved<'a> {
    limits: PackLimits,
    open: Ledger,
    guest: &'a [u8],
}

const CUT: &str = "it is cut short or was not saved by a packer";

/// What a saved state holds behind its version and hash. The error is the version, or that it is damaged.
fn checked(state: &[u8]) -> Result<&[u8], String> {
    let (version, rest) =
        state.strip_prefix(STATE_MAGIC).and_then(|rest| rest.split_first()).ok_or_else(|| CUT.to_owned())?;
    match *version {
        1 => Ok(rest),
        STATE_VERSION => {
            let (hash, body) = rest.split_at_checked(HASH).ok_or_else(|| CUT.to_owned())?;
            if *hash != Sha256::digest(body)[..] {
                return Err(
                    "it is damaged: its sha256 is not the one that it was saved with. Take an earlier one".into()
                );
            }
            Ok(body)
        }
        other => Err(format!(
            "its format is version {other}, and this host reads 1 and {STATE_VERSION}: it is of a newer host, or damaged"
        )),
    }
}

fn parse_state(state: &[u8]) -> Option<Saved<'_>> {
    fn word<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
        let (head, tail) = rest.split_at_checked(n)?;
        *rest = tail;
        Some(head)
    }
    fn four(rest: &mut &[u8]) -> Option<u32> {
        Some(u32::from_le_bytes(word(rest, 4)?.try_into().ok()?))
    }
    fn eight(rest: &mut &[u8]) -> Option<u64> {
        Some(u64::from_le_bytes(word(rest, 8)?.try_into().ok()?))
    }
    let mut rest = state;
    let limits = PackLimits {
        capacity: four(&mut rest)?,
        max_items_per_bin: four(&mut rest)?,
        max_open_items: four(&mut rest)?,
    };
    let n = usize::try_from(eight(&mut rest)?).ok()?;
    let mut table = word(&mut rest, n.checked_mul(12)?)?;
    let mut open = Ledger::default();
    for _ in 0..n {
        if !open.insert(eight(&mut table)?, four(&mut table)?) {
            return None;
        }
    }
    Some(Saved { limits, open, guest: rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_state_is_refused() {
        let mut body = Vec::new();
        for n in [10_u32, 0, 0] {
            body.extend(n.to_le_bytes());
        }
        body.extend(1_u64.to_le_bytes());
        body.extend(7_u64.to_le_bytes());
        body.extend(3_u32.to_le_bytes());
        body.extend(b"guest");
        let saved = parse_state(&body).unwrap();
        assert_eq!((saved.limits.capacity, saved.open.sorted(), saved.guest), (10, vec![(7, 3)], &b"guest"[..]));
        assert!(parse_state(&body[..31]).is_none());

        let old = [&STATE_MAGIC[..], &[1], &body].concat();
        assert_eq!(checked(&old).unwrap(), body, "states of before there was a hash");
        let hash = Sha256::digest(&body);
        let state = [&STATE_MAGIC[..], &[2], &hash, &body].concat();
        assert_eq!(checked(&state).unwrap(), body);
        // One bit, wherever: of the hash, of the host's ledger, of the plugin's own bytes.
        for at in 8..state.len() {
            let mut flipped = state.clone();
            flipped[at] ^= 4;
            assert!(checked(&flipped).unwrap_err().contains("its sha256 is not the one"), "{at}");
        }
        let mut newer = state.clone();
        newer[7] = 7;
        assert!(checked(&newer).unwrap_err().contains("version 7, and this host reads 1 and 2"));
        for cut in [&state[..20], b"OVPACK", b""] {
            assert_eq!(checked(cut).unwrap_err(), CUT);
        }
        body[12] = 0xff;
        assert!(parse_state(&body).is_none(), "a count that the bytes cannot hold");
    }
}
