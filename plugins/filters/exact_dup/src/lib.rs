//! `exact_dup`: keeps the first of equal rows.
//!
//! ```text
//!  row ─► what is compared, in normal form ─► 128-bit hash ─► seen? ─ yes ─► drop "duplicate"
//!                                                               └─ no ──► remember, keep
//! ```
//!
//! | entry | rows are equal when |
//! |---|---|
//! | `exact_text` | their texts are (in Unicode's NFC), whatever the case, white space and punctuation (each can be turned off) |
//! | `exact_picture` | their pictures are, by the host's 64-bit perceptual hashes, in order |
//! | `exact_pair` | both of the above |
//! | `exact_record` | their JSON is, whatever the order of fields: all fields, or the ones that are named |
//!
//! A row without what is compared (no text, no picture, a text of punctuation alone) is kept and not remembered; so is one
//! with a picture that cannot be decoded, where pictures are compared. Of n rows two different ones share a hash with a
//! probability of about n² / 2^129. The state is the hashes in ascending order.

use std::marker::PhantomData;

use ovhost_sdk::prelude::*;
use ovhost_sdk::seen::Seen;
use twox_hash::XxHash3_128;

pub mod content;
pub mod normal;
use content::{Content, Options, Pair, Picture, Record, Text};

/// The filter that compares `C`.
pub struct ExactDup<C: Content> {
    config: C::Config,
    seen: Seen<u128>,
    /// Reused for every row.
    key: Vec<u8>,
    content: PhantomData<C>,
}

impl<C: Content> Plugin for ExactDup<C> {
    type Config = C::Config;
    const NAME: &'static str = C::NAME;
    const SUMMARY: &'static str = C::SUMMARY;
    const READS: &'static [Need] = C::READS;

    fn new(config: C::Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.max_rows() > 0, "/max_rows", || "must be at least 1".into());
        config.check(&mut findings);
        findings.finish()?;
        Ok(Self { config, seen: Seen::new(), key: Vec::new(), content: PhantomData })
    }
}

impl<C: Content> Filter for ExactDup<C> {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        self.key.clear();
        match C::key(&self.config, row, &mut self.key) {
            Ok(true) => {}
            Ok(false) => return Verdict::Keep,
            Err(message) => return Verdict::Error(message),
        }
        let hash = XxHash3_128::oneshot(&self.key);
        if self.seen.contains(hash) {
            return Verdict::drop("duplicate");
        }
        let most = self.config.max_rows();
        if self.seen.len() >= most as usize {
            return Verdict::Error(format!(
                "{most} different rows are remembered, as many as max_rows allows: raise max_rows, and with it \
                 limits.memory_mib (50 a million rows) and limits.output_mib (16)"
            ));
        }
        self.seen.insert(hash);
        Verdict::Keep
    }
}

impl<C: Content> ExactDup<C> {
    fn rules(&self) -> String {
        format!("{} ({})", C::NAME, self.config.rules())
    }
}

impl<C: Content> StatefulFilter for ExactDup<C> {
    fn save(&self) -> Vec<u8> {
        self.seen.save(&self.rules())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        self.seen = Seen::restore(&self.rules(), state)?;
        Ok(())
    }
}

/// Equal texts.
pub type ExactText = ExactDup<Text>;
/// Equal pictures.
pub type ExactPicture = ExactDup<Picture>;
/// Equal texts with equal pictures.
pub type ExactPair = ExactDup<Pair>;
/// Equal records.
pub type ExactRecord = ExactDup<Record>;

ovhost_sdk::export_stateful_filter!(ExactText, ExactPicture, ExactPair, ExactRecord);

#[cfg(test)]
mod tests;
