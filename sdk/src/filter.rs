//! Filters: a row in, keep or drop (and perhaps added values) out.
//!
#![doc = include_str!("../docs/filter.md")]

use std::borrow::Cow;

use crate::bindings::exports::ovhost::plugin::filter::Decisions;
use crate::bindings::ovhost::plugin::types::{Batch, CallCtx, RowError};
use crate::columns::Growing;
use crate::ctx::RowCtx;
use crate::plugin::{ErrorKind, Plugin, PluginError, error};
use crate::rows::{Row, Rows};

/// Most reasons in an answer, and bytes of one: the contract's.
const MAX_REASONS: usize = 256;
const MAX_REASON_BYTES: usize = 128;

/// What becomes of a row.
///
/// ```
/// use ovhost_sdk::prelude::*;
///
/// fn judge(words: Result<usize, String>) -> Verdict {
///     match words {
///         Ok(0) => Verdict::drop("no words"),
///         Ok(_) => Verdict::Keep,
///         Err(why) => Verdict::Error(why),
///     }
/// }
/// assert_eq!(judge(Ok(0)), Verdict::Drop("no words".into()));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The row goes on.
    Keep,
    /// The row is dropped. Drops are counted by reason, so put no value of the row into it.
    Drop(Cow<'static, str>),
    /// The row could not be judged.
    Error(String),
}

impl Verdict {
    /// `Drop` with a fixed reason.
    pub fn drop(reason: &'static str) -> Self {
        Self::Drop(Cow::Borrowed(reason))
    }
}

/// Keeps or drops rows.
pub trait Filter: Plugin {
    /// Judges one row. Values for added columns go through [`RowCtx::set`].
    fn row(&mut self, ctx: &mut RowCtx, row: &Row<'_>) -> Verdict;
}

/// A filter that remembers rows: duplicates, counts. Exported by [`export_stateful_filter!`](crate::export_stateful_filter).
///
/// The host gives it the rows of one stream in order, in one instance, so `row` may change what it holds. Its verdicts
/// must not depend on how the rows were cut into batches, and a restored instance must go on exactly as the saved one
/// would have. A call that panics loses the state, so answer bad rows with [`Verdict::Error`].
pub trait StatefulFilter: Filter {
    /// What it holds as bytes: equal bytes for equal state (no order of a `HashMap`). [`state::encode`](crate::state::encode)
    /// writes any serde type so that [`state::decode`](crate::state::decode) knows it again, in `restore` or, as an asset,
    /// in the plugin's second pass.
    fn save(&self) -> Vec<u8>;

    /// Continues from what `save` gave, in an instance that has seen no row.
    ///
    /// # Errors
    /// The bytes are not such a state, or do not fit the configuration.
    fn restore(&mut self, state: &[u8]) -> Result<(), PluginError>;
}

/// Runs a filter over a batch; the whole of what `process` does.
pub(crate) fn process<F: Filter>(filter: &mut F, call: &CallCtx, batch: &Batch) -> Result<Decisions, PluginError> {
    let rows = Rows::new(batch, F::READS).map_err(|e| error(ErrorKind::BadInput, format!("{}: {e}", F::NAME)))?;
    let count = batch.rows as usize;
    let mut columns: Vec<Growing> = F::WRITES.iter().map(|write| Growing::new(write, count)).collect();
    let mut reasons = Reasons::default();
    let mut keep = Vec::with_capacity(count);
    // Empty until a row is dropped; then one for each row.
    let mut reason: Vec<u16> = Vec::new();
    let mut errors = Vec::new();
    let internal = |e: String| error(ErrorKind::Internal, format!("{}: {e}", F::NAME));
    let mut ctx = RowCtx::new(call, 0, F::WRITES);
    for row in rows.iter() {
        let (kept, why) = match filter.row(&mut ctx, &row) {
            Verdict::Keep => (1, 0),
            Verdict::Drop(text) => (0, reasons.index(&text).map_err(internal)?),
            Verdict::Error(message) => {
                errors.push(RowError { row: row.index(), message });
                (0, 0)
            }
        };
        if kept == 0 || !reason.is_empty() {
            reason.resize(keep.len(), 0);
            reason.push(why);
        }
        keep.push(kept);
        ctx.finish(&mut columns).map_err(internal)?;
    }
    if let Some(fault) = rows.fault() {
        return Err(internal(fault));
    }
    if reasons.0.is_empty() {
        reason.clear();
    }
    let add = columns.into_iter().map(Growing::finish).collect();
    Ok(Decisions { keep, reason, reasons: reasons.0, add, errors })
}

/// The distinct reasons, in order of first use.
#[derive(Default)]
struct Reasons(Vec<String>);

impl Reasons {
    /// Place of `reason`, cut to the contract's length and with spaces for control characters, which it forbids. `Err`: it
    /// would be one too many. A place that takes all further ones would let the answer depend on how rows are cut into calls.
    fn index(&mut self, reason: &str) -> Result<u16, String> {
        let plain: Cow<'_, str> = if reason.contains(char::is_control) {
            reason.replace(char::is_control, " ").into()
        } else {
            reason.into()
        };
        let reason = &plain[..plain.floor_char_boundary(MAX_REASON_BYTES)];
        if let Some(at) = self.0.iter().position(|known| known == reason) {
            return Ok(at as u16);
        }
        if self.0.len() == MAX_REASONS {
            return Err(format!(
                "more than {MAX_REASONS} different reasons in one call, the last \"{reason}\"; reasons are counted, so put no \
                 value of a row into them"
            ));
        }
        self.0.push(reason.to_owned());
        Ok(self.0.len() as u16 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;
    use crate::testing;

    struct Probe;

    impl Plugin for Probe {
        type Config = ();
        const NAME: &'static str = "probe";
        const SUMMARY: &'static str = "For tests.";
        const READS: &'static [Need] = &[Need::utf8("text")];
        const WRITES: &'static [Write] = &[Write::u32s("words"), Write::utf8("first"), Write::u32_lists("sizes")];

        fn new((): (), _: &Assets) -> Result<Self, ConfigError> {
            Ok(Self)
        }
    }

    impl Filter for Probe {
        fn row(&mut self, ctx: &mut RowCtx, row: &Row) -> Verdict {
            let text = row.str("text").unwrap_or_default();
            match text {
                "undeclared" => ctx.set("nope", 1u32),
                "wrong type" => ctx.set("words", "two"),
                "read" => _ = row.str("key"),
                "bad" => return Verdict::Error("cannot say".into()),
                _ => {}
            }
            if text.is_empty() {
                return Verdict::drop("empty");
            }
            if let Some(reason) = text.strip_prefix("because ") {
                return Verdict::Drop(reason.to_owned().into());
            }
            if text != "wrong type" {
                ctx.set("words", text.split(' ').count() as u32);
            }
            ctx.set("first", &text[..1]);
            ctx.set("sizes", text.split(' ').map(|word| word.len() as u32).collect::<Vec<_>>());
            Verdict::Keep
        }
    }

    #[test]
    fn rows_become_decisions() {
        let mut plugin = testing::filter::<Probe>(json!(null)).unwrap();
        let outcome = plugin.run(json!([{"text": "a b"}, {"text": ""}, {"text": "bad"}, {"text": "c"}]));
        assert_eq!(outcome.kept(), [true, false, false, true]);
        assert_eq!(outcome.reasons(), [None, Some("empty"), None, None]);
        assert_eq!(outcome.errors(), [(2, "cannot say")]);
        assert_eq!(outcome.column("words"), [json!(2), json!(null), json!(null), json!(1)]);
        assert_eq!(outcome.column("first"), [json!("a"), json!(null), json!(null), json!("c")]);
        assert_eq!(outcome.column("sizes"), [json!([1, 1]), json!(null), json!(null), json!([1])]);
    }

    #[test]
    fn defects_fail_the_call_and_say_what() {
        let mut plugin = testing::filter::<Probe>(json!(null)).unwrap();
        for (text, want) in [("undeclared", "`nope` was set"), ("wrong type", "`words`"), ("read", "`key` was read")] {
            let error = plugin.try_run(json!([{ "text": text }])).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Internal);
            assert!(error.message.contains(want), "{text}: {}", error.message);
        }
    }

    #[test]
    fn reasons_are_bounded() {
        let mut plugin = testing::filter::<Probe>(json!(null)).unwrap();
        let rows = |count: usize| -> Json {
            (0..count).map(|i| json!({ "text": format!("because {i} {}", "é".repeat(100)) })).collect()
        };
        let outcome = plugin.run(rows(MAX_REASONS));
        let reasons = outcome.reasons();
        assert!(reasons[0].unwrap().len() <= MAX_REASON_BYTES && reasons[0].unwrap().starts_with("0 éé"));
        let different: std::collections::HashSet<_> = reasons.iter().flatten().collect();
        assert_eq!(different.len(), MAX_REASONS);
        let error = plugin.try_run(rows(MAX_REASONS + 1)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
        assert!(error.message.contains("more than 256 different reasons") && error.message.contains("\"256 éé"));
    }

    #[test]
    fn reasons_have_no_control_characters() {
        let mut plugin = testing::filter::<Probe>(json!(null)).unwrap();
        let outcome = plugin.run(json!([{ "text": "because a\nb\u{85}c" }, { "text": "because a b c" }]));
        assert_eq!(outcome.reasons(), [Some("a b c"), Some("a b c")]);
    }
}
