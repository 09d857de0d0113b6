//! `phash_dup`: keeps the first of rows whose pictures look nearly the same.
//!
//! ```text
//!  column `phash`: 8 bytes a picture ─► within `distance` bits of one that was seen? ─ all (or any) ─► drop
//!                                                                                   └─ else ──────► remember, keep
//! ```
//!
//! The host computes the hashes (64 bits out of the picture's low frequencies), so a picture that was scaled, compressed
//! again or slightly recoloured differs in few bits. The search is exact: it finds every hash within the distance, as a
//! scan over all of them would (see `index`). A row without pictures, or with one that cannot be decoded, is kept. Only kept
//! rows are remembered. The state is the hashes in ascending order.

use ovhost_sdk::picture::phashes;
use ovhost_sdk::prelude::*;
use ovhost_sdk::seen::{restore_ascending, save_ascending};

mod index;
use index::Index;

/// Beyond this the search reads most of the set, and unlike pictures come so near by chance.
const MAX_DISTANCE: u32 = 12;

/// When a row of several pictures goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub enum Rule {
    /// When all of its pictures were seen.
    #[default]
    All,
    /// When one of its pictures was seen.
    Any,
}

/// Configuration of `phash_dup`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Most bits in which the hashes of near duplicates differ, 0 to 12. 0: equal hashes only.
    pub distance: u32,
    /// Which rows of several pictures go: those with `all` seen, or with `any`.
    pub rule: Rule,
    /// Most pictures that are remembered, 8 bytes each for every two bits of distance and 8 more; a row beyond is an error.
    pub max_pictures: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { distance: 4, rule: Rule::All, max_pictures: 2_000_000 }
    }
}

/// The filter.
pub struct PhashDup {
    config: Config,
    seen: Index,
}

impl Plugin for PhashDup {
    type Config = Config;
    const NAME: &'static str = "phash_dup";
    const SUMMARY: &'static str = "Drops rows whose pictures look nearly the same as earlier ones.";
    const READS: &'static [Need] = &[Need::bytes("phash")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.distance <= MAX_DISTANCE, "/distance", || {
            format!("{} bits of 64 are too far apart; use 0 to {MAX_DISTANCE}", config.distance)
        });
        findings.require(config.max_pictures > 0, "/max_pictures", || "must be at least 1".into());
        findings.finish()?;
        Ok(Self { seen: Index::new(config.distance), config })
    }
}

impl Filter for PhashDup {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row<'_>) -> Verdict {
        let hashes = match phashes(row) {
            // No pictures, or one that cannot be decoded, which is like no other.
            Ok(None | Some([])) => return Verdict::Keep,
            Ok(Some(hashes)) => hashes,
            Err(message) => return Verdict::Error(message),
        };
        let hashes = hashes.iter().map(|&bytes| u64::from_be_bytes(bytes));
        let seen = match self.config.rule {
            Rule::All => hashes.clone().all(|hash| self.seen.has_near(hash)),
            Rule::Any => hashes.clone().any(|hash| self.seen.has_near(hash)),
        };
        if seen {
            return Verdict::drop("near duplicate picture");
        }
        let most = self.config.max_pictures as usize;
        let mut fresh: Vec<u64> = hashes.filter(|&hash| !self.seen.contains(hash)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        if self.seen.len() + fresh.len() > most {
            return Verdict::Error(format!(
                "{} pictures are remembered and max_pictures is {most}: raise it, and with it limits.memory_mib ({} a \
                 million pictures) and limits.output_mib (7)",
                self.seen.len(),
                self.seen.bytes_per_hash() * 3 / 2 + 20
            ));
        }
        fresh.into_iter().for_each(|hash| self.seen.insert(hash));
        Verdict::Keep
    }
}

/// What a saved state is of. The distance is no part of it: hashes are hashes.
const RULES: &str = "phash_dup (64-bit hashes of pictures)";

impl StatefulFilter for PhashDup {
    fn save(&self) -> Vec<u8> {
        save_ascending(RULES, self.seen.len(), self.seen.sorted().into_iter().map(u128::from))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
        let mut seen = Index::new(self.config.distance);
        restore_ascending(RULES, 64, state, |hash| seen.insert(hash as u64))?;
        self.seen = seen;
        Ok(())
    }
}

ovhost_sdk::export_stateful_filter!(PhashDup);

#[cfg(test)]
mod tests;
