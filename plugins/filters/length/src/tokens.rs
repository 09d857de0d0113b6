//! Entry `length_tokens`: the host's count of tokens in, keep or drop out.

use ovhost_sdk::prelude::*;

use crate::bound::Bound;

/// Configuration of `length_tokens`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Fewest tokens of the text. 0 turns the bound off.
    pub min_tokens: u32,
    /// Most tokens of the text. 0 turns the bound off.
    pub max_tokens: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_tokens: 1, max_tokens: 0 }
    }
}

/// The filter.
pub struct LengthTokens {
    tokens: Bound,
}

impl Plugin for LengthTokens {
    type Config = Config;
    const NAME: &'static str = "length_tokens";
    const SUMMARY: &'static str = "Drops texts of too few or too many tokens.";
    const READS: &'static [Need] = &[Need::u32s("text-tokens")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        let bounds = [config.min_tokens, config.max_tokens];
        let tokens = Bound::whole(&mut findings, "tokens", bounds, ["too few tokens", "too many tokens"]);
        findings.finish()?;
        Ok(Self { tokens })
    }
}

impl Filter for LengthTokens {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        match row.u32("text-tokens") {
            Some(tokens) => self.tokens.verdict(f64::from(tokens)),
            None => Verdict::Error(
                "this row has no `text-tokens`; the host counts them with a tokenizer: give --tokenizer FOLDER, or the column \
                 in rows of your own"
                    .into(),
            ),
        }
    }
}
