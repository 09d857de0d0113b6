//! Entry `length_turns`: a record in, keep or drop by the number of its answers out.

use ovhost_sdk::prelude::*;

use crate::bound::Bound;
use crate::measure;

/// Configuration of `length_turns`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Fewest answers of the model in the record. 0 turns the bound off.
    pub min_turns: u32,
    /// Most answers of the model in the record. 0 turns the bound off.
    pub max_turns: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_turns: 1, max_turns: 0 }
    }
}

/// The filter.
pub struct LengthTurns {
    turns: Bound,
}

impl Plugin for LengthTurns {
    type Config = Config;
    const NAME: &'static str = "length_turns";
    const SUMMARY: &'static str = "Drops records with too few or too many answers of the model.";
    const READS: &'static [Need] = &[Need::utf8("record")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let bounds = [config.min_turns, config.max_turns];
        let turns = Bound::whole(&mut findings, "turns", bounds, ["too few turns", "too many turns"]);
        findings.finish()?;
        Ok(Self { turns })
    }
}

impl Filter for LengthTurns {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        match row.json("record") {
            Ok(Some(record)) => self.turns.verdict(measure::turns(record) as f64),
            Ok(None) => Verdict::Error("this row has no `record`, in which its turns are counted".into()),
            Err(message) => Verdict::Error(message),
        }
    }
}
