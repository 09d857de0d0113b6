//! The exact place of a loader, as a checkpoint keeps it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::order::{Place, Position, Rebase};
use crate::DataError;
use crate::rejects::Counters;

/// A sample that was read and not delivered yet. Resuming makes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Ordinal in the stream.
    pub id: u64,
    /// Shard by number.
    pub shard: u32,
    /// Sample of the shard.
    pub index: u64,
    /// Its tokens, to notice data that changed.
    pub tokens: u32,
}

impl Held {
    /// Where it lies.
    pub fn place(&self) -> Place {
        Place { shard: self.shard, index: self.index }
    }
}

/// Where the loader stands after a batch. Opaque to callers; serialise it as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Layout of this structure.
    pub version: u32,
    /// What the place depends on: a change of any makes it useless.
    pub depends: BTreeMap<String, String>,
    /// Next chunk of the stream.
    pub position: Position,
    /// Where the number of ranks last changed, as long as that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebase: Option<Arc<Rebase>>,
    /// Samples of the present epoch that reached the packer, to notice an epoch without any.
    pub epoch_kept: u64,
    /// The packer's own state, hexadecimal; none once the stream was flushed.
    pub packer: Option<String>,
    /// Samples in the packer, by id.
    pub open: Vec<Held>,
    /// Packs formed and not delivered, in order.
    pub bins: Vec<Vec<Held>>,
    /// Counts so far.
    pub counters: Counters,
}

/// The version written.
pub const VERSION: u32 = 1;

impl LoaderState {
    /// Fails if the state belongs to other data or another recipe. `but`: a key that may differ.
    pub fn check(&self, depends: &BTreeMap<String, String>, but: Option<&str>) -> Result<(), DataError> {
        if self.version != VERSION {
            return Err(DataError::Resume(format!(
                "the saved data position has version {}, this program reads version {VERSION}; finish the run with the program \
                 that began it",
                self.version
            )));
        }
        for (key, now) in depends.iter().filter(|(key, _)| Some(key.as_str()) != but) {
            let then = self.depends.get(key);
            if then != Some(now) {
                let then = then.map_or("(absent)".into(), |t| clip(t));
                return Err(DataError::Resume(format!(
                    "{key} was {then} when the checkpoint was written and is {} now; the order of samples would differ. Restore \
                     it, or start a new run from the checkpoint's model folder",
                    clip(now)
                )));
            }
        }
        Ok(())
    }

    /// Samples read and not delivered.
    pub fn held(&self) -> u64 {
        (self.open.len() + self.bins.iter().map(Vec::len).sum::<usize>()) as u64
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// Bytes as hexadecimal.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// The reverse of [`to_hex`].
pub fn from_hex(text: &str) -> Result<Vec<u8>, DataError> {
    let bad = || DataError::Resume("the packer's saved state is not hexadecimal; the checkpoint is damaged".into());
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(bad());
    }
    // Not `from_str_radix`, which takes a sign.
    let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(bad);
    let byte = |pair: &[u8]| -> Result<u8, DataError> { Ok(((digit(pair[0])? << 4) | digit(pair[1])?) as u8) };
    text.as_bytes().chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_both_ways() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = to_hex(&bytes);
        assert!(text.starts_with("000102") && text.ends_with("feff"), "{text}");
        assert_eq!(from_hex(&text).unwrap(), bytes);
        for bad in ["0", "0g", "+1", "é"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }
}
