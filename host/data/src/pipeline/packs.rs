//! A pack of a packed shard → the outcomes of its samples, each as if it had come alone.
//!
//! Filters and prompt see every sample under the seed and the id under which it was measured, so that what they draw by
//! chance is the same and the lengths hold. A sample that is left out leaves the others of its pack where they are.

use super::{Item, Outcome, Row, RowPipeline, Stream};
use crate::DataError;
use crate::packed::{MARK, Pack};
use crate::record::Record;

/// Samples of a pack of the reference's layout have ids of their own: this many are kept free for each pack.
const ROWS_PER_PACK: u64 = 1 << 20;

impl RowPipeline {
    /// The outcomes of a pack's samples, in order; of a pack that cannot be read the one reject.
    pub(super) fn run_pack(&mut self, item: Item) -> Result<Vec<Outcome>, DataError> {
        let Pack { head, place, samples } = match self.shared.source.pack(item.shard, item.index) {
            Ok(pack) => pack,
            Err(reject) => return Ok(vec![Outcome::Reject(reject)]),
        };
        let shared = self.shared.clone();
        let mut stream = shared.stream();
        if let Some(head) = &head {
            head.check(&format!("pack {place}"), &self.made_for, self.capacity)?;
            // The rank is that of the one stream in which lengths were measured.
            stream = Stream { seed: head.seed, rank: 0, ..stream };
        }
        let mut outcomes: Vec<Option<Outcome>> = samples.iter().map(|_| None).collect();
        let mut rows = Vec::with_capacity(samples.len());
        for (at, sample) in samples.into_iter().enumerate() {
            let ordinal = sample.row.unwrap_or(item.ordinal * ROWS_PER_PACK + at as u64);
            match sample.record {
                Ok(record) => rows.push(Row { at, ordinal, record, added: Vec::new() }),
                Err(reject) => outcomes[at] = Some(Outcome::Reject(reject)),
            }
        }
        self.rows(rows, &stream, |_| item, &mut outcomes)?;
        let missing = || DataError::Worker("a prompt gave fewer items than rows".into());
        let mut outcomes = outcomes.into_iter().map(|o| o.ok_or_else(missing)).collect::<Result<Vec<_>, _>>()?;
        let mut tokens = 0;
        for outcome in &mut outcomes {
            // The sample bears its old name; a reader of messages needs to know where it lies now.
            let shard = match outcome {
                Outcome::Sample(sample) => {
                    tokens += sample.input_ids.len() as u64;
                    &mut sample.source
                }
                Outcome::Filtered(reject) | Outcome::Reject(reject) => &mut reject.shard,
            };
            *shard = format!("{shard} (pack {place})");
        }
        if tokens > u64::from(self.capacity) {
            let seed = head.map(|h| {
                format!(
                    " It was packed with seed {}; a prompt that draws by chance has the same lengths only with run.seed = {0}",
                    h.seed
                )
            });
            return Err(DataError::Config(format!(
                "pack {place} has {tokens} tokens here and data.capacity is {}; raise data.capacity, or pack the data again.{}",
                self.capacity,
                seed.unwrap_or_default()
            )));
        }
        Ok(outcomes)
    }
}

/// A pack where single samples are read.
pub(super) fn among_samples(record: &Record) -> DataError {
    let Record { key, shard, .. } = record;
    DataError::Config(format!(
        "sample {key} of {shard} is a pack ({MARK} is in its json) among single samples; a run, a filter and an evaluation read \
         one or the other: keep packed shards apart"
    ))
}
