//! What the host holds every packer to, sandboxed or native: each sample comes back once, no bin is over the limits.

use super::ledger::Ledger;
use super::{Bins, PackLimits, Packing};
use crate::{Batch, ColumnData};

/// Samples that are struck off the ledger at once.
const AT_ONCE: usize = 1024;

/// The samples that are in a packer, and the check of what it gives back.
#[derive(Debug, Default)]
pub struct PackContract {
    /// Length of every sample that is in the packer.
    pub(super) open: Ledger,
    /// Of the samples that are struck off just now; kept for its memory.
    lengths: Vec<u32>,
}

impl PackContract {
    /// Number of samples that are in the packer.
    pub fn open_items(&self) -> usize {
        self.open.len()
    }

    /// Puts samples on the ledger (columns `id`, s64s, and `length`, u32s); all of them or, where one is wrong, none. The error
    /// says what is.
    pub fn enter(&mut self, items: &Batch, limits: &PackLimits) -> Result<(), String> {
        let (Some(ColumnData::S64s(ids)), Some(ColumnData::U32s(lengths))) =
            (items.column("id").map(|c| &c.data), items.column("length").map(|c| &c.data))
        else {
            return Err("column id must be s64s and column length u32s".into());
        };
        // The common case first: ids in a row, all lengths good. What follows finds out what is wrong, if anything is.
        // Folds look at many at once; a search would stop at the first, and so look at one after the other.
        let in_a_row = ids.windows(2).fold(true, |all, pair| all & (pair[1] == pair[0].wrapping_add(1)));
        let good = lengths.iter().fold(ids.len() == lengths.len(), |all, length| all & (*length <= limits.capacity));
        if let Some(first) = ids.first().and_then(|id| u64::try_from(*id).ok())
            && in_a_row
            && good
            && self.open.insert_run(first, lengths)
        {
            return Ok(());
        }
        let mut problem = None;
        let mut entered = 0;
        for (id, length) in ids.iter().zip(lengths) {
            let Ok(key) = u64::try_from(*id) else {
                problem = Some(format!("id {id} is negative"));
                break;
            };
            if *length > limits.capacity {
                problem = Some(format!("sample {id} has {length} tokens and a bin holds {}", limits.capacity));
                break;
            }
            if !self.open.insert(key, *length) {
                problem = Some(format!("id {id} is in the packer already"));
                break;
            }
            entered += 1;
        }
        let Some(why) = problem else { return Ok(()) };
        for id in &ids[..entered] {
            self.open.remove(id.cast_unsigned());
        }
        Err(why)
    }

    /// Checks an answer (bin i is `ids[offsets[i]..offsets[i + 1]]`) and strikes it off the ledger. The error is the broken rule.
    pub fn strike(
        &mut self,
        limits: &PackLimits,
        offsets: Vec<u32>,
        ids: Vec<u64>,
        dropped: Vec<u64>,
    ) -> Result<Packing, String> {
        let ends_at = offsets.last().copied().unwrap_or(0) as usize;
        if offsets.first().is_some_and(|first| *first != 0) || ends_at != ids.len() {
            return Err(format!(
                "offsets run from {} to {ends_at} over {} ids, they must run from 0 to their number",
                offsets.first().copied().unwrap_or(0),
                ids.len()
            ));
        }
        let most = if limits.max_items_per_bin > 0 { limits.max_items_per_bin as usize } else { usize::MAX };
        let unknown =
            |id: u64| format!("it returned id {id}, which is not in the packer (never pushed, or returned before)");
        for (i, ends) in offsets.windows(2).enumerate() {
            let samples = ends[1].checked_sub(ends[0]).filter(|_| ends[1] as usize <= ends_at);
            match samples.ok_or_else(|| format!("offsets of bin {i} are {} and {}", ends[0], ends[1]))? as usize {
                0 => return Err(format!("bin {i} is empty")),
                samples if samples > most => {
                    return Err(format!("bin {i} has {samples} samples, max-items-per-bin is {most}"));
                }
                _ => {}
            }
        }
        let mut first = 0;
        while let Some((&begin, rest)) = offsets[first..].split_first()
            && !rest.is_empty()
        {
            // As many bins as have so many samples, and at least one; none is empty.
            let rest = &rest[..rest.len().min(AT_ONCE)];
            let bins = rest.partition_point(|end| (end - begin) as usize <= AT_ONCE).max(1);
            let ends = &rest[..bins];
            self.open.remove_all(&ids[begin as usize..ends[bins - 1] as usize], &mut self.lengths).map_err(unknown)?;
            let mut from = 0;
            for (i, end) in (first..).zip(ends) {
                let to = (end - begin) as usize;
                let tokens: u64 = self.lengths[from..to].iter().copied().map(u64::from).sum();
                if tokens > u64::from(limits.capacity) {
                    return Err(format!("bin {i} has {tokens} tokens, the capacity is {}", limits.capacity));
                }
                from = to;
            }
            first += bins;
        }
        for id in &dropped {
            self.open.remove(*id).ok_or_else(|| unknown(*id))?;
        }
        Ok(Packing { bins: Bins::new(offsets, ids), dropped })
    }
}
