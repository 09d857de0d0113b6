//! Tests of filters that remember rows: every call runs twice, and saving must not show.

use serde_json::Value as Json;

use super::{FilterOutcome, Stream, batch, make};
use crate::bindings::ovhost::plugin::types::Batch;
use crate::config::ConfigError;
use crate::{PluginError, StatefulFilter};

/// A configured filter with state. Before each call its state moves into a second instance; both run the call, and must
/// decide the same and hold the same afterwards.
pub struct StatefulFilterUnderTest<F> {
    config: Json,
    assets: Vec<(String, Vec<u8>)>,
    filter: F,
    stream: Stream,
}

/// Configures the filter `F`.
///
/// # Errors
/// What it finds wrong with `config`.
pub fn stateful_filter<F: StatefulFilter>(config: Json) -> Result<StatefulFilterUnderTest<F>, ConfigError> {
    stateful_filter_with_assets(config, &[])
}

/// Configures the filter `F` with assets (name, bytes).
///
/// # Errors
/// What it finds wrong with `config` or the assets.
pub fn stateful_filter_with_assets<F: StatefulFilter>(
    config: Json,
    assets: &[(&str, &[u8])],
) -> Result<StatefulFilterUnderTest<F>, ConfigError> {
    let filter = make::<F>(&config, assets)?.0;
    let assets = assets.iter().map(|(name, data)| ((*name).to_owned(), data.to_vec())).collect();
    Ok(StatefulFilterUnderTest { config, assets, filter, stream: Stream::new() })
}

impl<F: StatefulFilter> StatefulFilterUnderTest<F> {
    /// Judges rows.
    ///
    /// # Panics
    /// The whole call fails, or a restored instance does not go on as this one does.
    pub fn run(&mut self, rows: Json) -> FilterOutcome {
        self.try_run(rows).unwrap_or_else(|e| panic!("the call failed: {}", e.message))
    }

    /// Judges rows.
    ///
    /// # Errors
    /// The whole call fails.
    ///
    /// # Panics
    /// A restored instance does not go on as this one does.
    pub fn try_run(&mut self, rows: Json) -> Result<FilterOutcome, PluginError> {
        self.process(&batch(F::READS, &rows))
    }

    /// Judges a prepared batch.
    ///
    /// # Errors
    /// The whole call fails.
    ///
    /// # Panics
    /// A restored instance does not go on as this one does.
    pub fn process(&mut self, batch: &Batch) -> Result<FilterOutcome, PluginError> {
        let before = self.filter.save();
        let mut twin = self.restored(&before).unwrap_or_else(|e| panic!("its own state is refused: {}", e.message));
        assert!(twin.filter.save() == before, "a restored instance saves other bytes than it was given");
        let call = self.stream.next(batch.rows);
        let outcome = crate::filter::process(&mut self.filter, &call, batch);
        let again = crate::filter::process(&mut twin.filter, &call, batch);
        assert_eq!(outcome, again, "a restored instance decides otherwise than the one that was saved");
        assert!(self.filter.save() == twin.filter.save(), "a restored instance ends in another state");
        outcome.map(FilterOutcome)
    }

    /// The saved state.
    pub fn save(&self) -> Vec<u8> {
        self.filter.save()
    }

    /// A fresh instance that continues from `state` at this one's place in the stream.
    ///
    /// # Errors
    /// The filter refuses the state.
    ///
    /// # Panics
    /// It now refuses the configuration that it took before.
    pub fn restored(&self, state: &[u8]) -> Result<Self, PluginError> {
        let assets: Vec<(&str, &[u8])> = self.assets.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
        let mut filter = make::<F>(&self.config, &assets).expect("the same configuration is good again").0;
        filter.restore(state)?;
        let stream = Stream { call: self.stream.call };
        Ok(Self { config: self.config.clone(), assets: self.assets.clone(), filter, stream })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use crate::prelude::*;
    use crate::testing;

    /// Keeps the first of equal texts.
    struct Unique {
        seen: BTreeSet<String>,
    }

    impl Plugin for Unique {
        type Config = ();
        const NAME: &'static str = "unique";
        const SUMMARY: &'static str = "For tests.";
        const READS: &'static [Need] = &[Need::utf8("text")];

        fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
            Ok(Self { seen: BTreeSet::new() })
        }
    }

    impl Filter for Unique {
        fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
            let text = row.str("text").unwrap_or_default();
            if self.seen.insert(text.to_owned()) { Verdict::Keep } else { Verdict::drop("seen") }
        }
    }

    impl StatefulFilter for Unique {
        fn save(&self) -> Vec<u8> {
            state::encode(Self::NAME, &self.seen)
        }
        fn restore(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
            self.seen = state::decode(Self::NAME, bytes)?;
            Ok(())
        }
    }

    crate::export_stateful_filter!(Unique);

    #[test]
    fn state_is_carried_saved_and_restored() {
        let mut plugin = testing::stateful_filter::<Unique>(json!(null)).unwrap();
        assert_eq!(plugin.run(json!([{"text": "a"}, {"text": "a"}])).kept(), [true, false]);
        let state = plugin.save();
        let mut other = plugin.restored(&state).unwrap();
        assert_eq!(other.run(json!([{"text": "b"}, {"text": "a"}])).kept(), [true, false]);
        assert_eq!(plugin.run(json!([{"text": "b"}])).kept(), [true], "the copy is a copy");
        assert!(plugin.restored(b"?").err().unwrap().message.contains("unreadable"));
        assert_eq!(crate::plugin::entry::<Unique>(true).name, "unique");
    }

    /// Forgets half of its state when saved.
    struct Forgetful {
        seen: HashSet<String>,
        rows: u32,
    }

    impl Plugin for Forgetful {
        type Config = ();
        const NAME: &'static str = "forgetful";
        const SUMMARY: &'static str = "For tests.";
        const READS: &'static [Need] = &[Need::utf8("text")];

        fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
            Ok(Self { seen: HashSet::new(), rows: 0 })
        }
    }

    impl Filter for Forgetful {
        fn row(&mut self, _: &mut RowCtx, row: &Row) -> Verdict {
            self.rows += 1;
            let new = self.seen.insert(row.str("text").unwrap_or_default().to_owned());
            if new { Verdict::Keep } else { Verdict::drop("seen") }
        }
    }

    impl StatefulFilter for Forgetful {
        fn save(&self) -> Vec<u8> {
            state::encode(Self::NAME, &self.rows)
        }
        fn restore(&mut self, bytes: &[u8]) -> Result<(), PluginError> {
            self.rows = state::decode(Self::NAME, bytes)?;
            Ok(())
        }
    }

    #[test]
    #[should_panic(expected = "decides otherwise")]
    fn a_state_that_forgets_is_found() {
        let mut plugin = testing::stateful_filter::<Forgetful>(json!(null)).unwrap();
        plugin.run(json!([{"text": "a"}]));
        plugin.run(json!([{"text": "a"}]));
    }
}
