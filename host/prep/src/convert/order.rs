//! Which rows make which sample, in which shard, under which key: settled before the first is written, alike in every process.
//!
//! ```text
//!  indexes ─► renames (keys.rs) ┐
//!          ─► groups, shuffle ──┼─► list of rows (or the input's own order) ─► cut into jobs of about a shard each
//!  sizes ───────────────────────┘
//! ```
//! Memory: 8 bytes a row while keys are compared, which stay only where a key comes twice; 4 bytes a row while jobs are cut (none of
//! parquet files). A list of rows, for grouping and shuffling, is 8 bytes a row, and 24 more while it is made.
//!
//! Shuffling is exact: any order of all samples is as likely as any other. Of parquet files it is by row group instead (row groups
//! in any order, rows in any order within theirs), because a row cannot be read without its row group. `datasets` writes a
//! hundred rows with pictures in one.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::ConvertSettings;
use super::index::Tables;
use super::keys::{NUMBER, Renames, hash, number_key};
use super::source::Source;
use crate::error::PrepError;

/// Marks the first row of a sample in a list of rows.
const FIRST: u64 = 1 << 63;

/// What is settled.
#[derive(Debug)]
pub(super) struct Order {
    /// Number of the first row of each part, and at last the number of rows.
    firsts: Vec<u64>,
    /// Rows of the samples in their order, the first of each marked; none: every row is a sample, in order.
    list: Option<Vec<u64>>,
    /// What each job takes of the list, or of the rows.
    jobs: Vec<Range<u64>>,
    /// Keys that change.
    pub renames: Renames,
}

impl Order {
    /// Settles it. `indexed`: the index tables are there.
    pub fn new(settings: &ConvertSettings, source: &Source, tables: &Tables, indexed: bool) -> Result<Self, PrepError> {
        let mut firsts = vec![0];
        for part in 0..source.parts().len() {
            let rows = match source.rows(part) {
                Some(rows) => rows,
                None => tables.rows(part)?,
            };
            firsts.push(firsts[part] + rows);
        }
        let rows = firsts.last().copied().unwrap_or(0);
        let walk = |on: &mut dyn FnMut(u64, u64, u64)| -> Result<(), PrepError> {
            for (part, first) in firsts.iter().enumerate().take(source.parts().len()) {
                let mut row = *first;
                tables.walk(part, |entry| {
                    let key = if entry.key == NUMBER { hash(&number_key(row)) } else { entry.key };
                    on(row, key, entry.group);
                    row += 1;
                })?;
            }
            Ok(())
        };
        let mut list = None;
        if settings.group_by.is_some() {
            list = Some(grouped(|on| walk(&mut |row, _, group| on(row, group)), settings.shuffle_seed)?);
        } else if let Some(seed) = settings.shuffle_seed {
            list = Some(match source.groups() {
                Some(groups) => by_row_group(groups.iter().map(|g| (g.0, g.1)).collect(), seed),
                None => {
                    let mut all: Vec<u64> = (0..rows).map(|row| row | FIRST).collect();
                    shuffle(&mut all, &mut ChaCha8Rng::seed_from_u64(seed));
                    all
                }
            });
        }
        // A group's key is that of its first row: the others' do not count.
        let is_first: Option<Vec<u64>> = settings.group_by.as_ref().map(|_| {
            let list = list.iter().flatten().filter(|row| **row & FIRST != 0);
            let mut bits = vec![0; rows.div_ceil(64) as usize];
            list.map(|row| row & !FIRST).for_each(|row| bits[(row / 64) as usize] |= 1 << (row % 64));
            bits
        });
        let counts = |row: u64| is_first.as_ref().is_none_or(|bits| bits[(row / 64) as usize] >> (row % 64) & 1 == 1);
        let keys = |on: &mut dyn FnMut(u64, u64)| {
            walk(&mut |row, key, _| {
                if counts(row) {
                    on(row, key);
                }
            })
        };
        let renames = if indexed { Renames::find(keys)? } else { Renames::default() };
        let mut order = Order { firsts, list, jobs: Vec::new(), renames };
        order.cut(settings, source, tables)?;
        Ok(order)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.firsts.last().copied().unwrap_or(0)
    }

    /// Number of jobs.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Part of a row and its number there.
    pub fn locate(&self, row: u64) -> (usize, u64) {
        // Parts without rows begin where the next one does.
        let part = self.firsts.partition_point(|first| *first <= row).saturating_sub(1);
        (part, row - self.firsts[part])
    }

    /// The samples of a job: the rows of each.
    pub fn samples_of(&self, job: usize) -> impl Iterator<Item = Vec<u64>> + '_ {
        let mut at = self.jobs[job].clone();
        std::iter::from_fn(move || {
            let first = at.next()?;
            let Some(list) = &self.list else { return Some(vec![first]) };
            let mut rows = vec![list[first as usize] & !FIRST];
            while let Some(row) = list.get(at.start as usize).filter(|row| at.start < at.end && **row & FIRST == 0) {
                rows.push(*row);
                at.start += 1;
            }
            Some(rows)
        })
    }

    /// Cuts the samples into jobs of at most so many samples and about so many bytes.
    fn cut(&mut self, settings: &ConvertSettings, source: &Source, tables: &Tables) -> Result<(), PrepError> {
        let sizes = Sizes::new(source, tables, self.firsts.len() - 1)?;
        // Estimates of tables with files beside them are rough; a shard that is a little small is better than two.
        let most =
            if source.keeps_members() { settings.max_bytes } else { settings.max_bytes - settings.max_bytes / 8 };
        let length = self.list.as_ref().map_or(self.rows(), |list| list.len() as u64);
        let (mut begin, mut count, mut bytes) = (0, 0, 0);
        let mut jobs = Vec::new();
        let mut group = 0;
        for at in 0..length {
            let (row, is_first) = match &self.list {
                Some(list) => (list[at as usize] & !FIRST, list[at as usize] & FIRST != 0),
                None => (at, true),
            };
            let size = sizes.of(row, &mut group);
            if is_first && at > begin && (count == settings.max_count || bytes + size > most) {
                jobs.push(begin..at);
                (begin, count, bytes) = (at, 0, 0);
            }
            count += u64::from(is_first);
            bytes += size;
        }
        if begin < length {
            jobs.push(begin..length);
        }
        self.jobs = jobs;
        Ok(())
    }
}

/// About how many bytes each row takes.
enum Sizes {
    /// In blocks of 512 bytes.
    Rows(Vec<u32>),
    /// By row group: number of its first row, its rows, bytes of one.
    Groups(Vec<(u64, u64, u64)>),
    Alike(u64),
}

impl Sizes {
    fn new(source: &Source, tables: &Tables, parts: usize) -> Result<Self, PrepError> {
        if let Some(groups) = source.groups() {
            return Ok(Sizes::Groups(groups.into_iter().filter(|g| g.1 > 0).collect()));
        }
        if let Some(bytes) = source.row_bytes() {
            return Ok(Sizes::Alike(bytes));
        }
        let mut sizes = Vec::new();
        for part in 0..parts {
            tables.walk(part, |entry| sizes.push(u32::try_from(entry.bytes.div_ceil(512)).unwrap_or(u32::MAX)))?;
        }
        Ok(Sizes::Rows(sizes))
    }

    /// `near` is where the last one was found.
    fn of(&self, row: u64, near: &mut usize) -> u64 {
        match self {
            Sizes::Alike(bytes) => *bytes,
            Sizes::Rows(sizes) => sizes.get(row as usize).map_or(0, |blocks| u64::from(*blocks) * 512),
            Sizes::Groups(groups) => {
                let holds = |g: &(u64, u64, u64)| row >= g.0 && row - g.0 < g.1;
                if !groups.get(*near).is_some_and(holds) {
                    *near = groups.partition_point(|g| g.0 <= row).saturating_sub(1);
                }
                groups.get(*near).map_or(0, |g| g.2)
            }
        }
    }
}

/// Fisher-Yates with a fixed generator, so that a seed means the same order in every build.
fn shuffle<T>(list: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..list.len()).rev() {
        let pick = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        list.swap(last, pick as usize);
    }
}

/// Row groups in any order, rows in any order within theirs.
fn by_row_group(mut groups: Vec<(u64, u64)>, seed: u64) -> Vec<u64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    shuffle(&mut groups, &mut random);
    let mut out = Vec::new();
    for (first, rows) in groups {
        let begin = out.len();
        out.extend((first..first + rows).map(|row| row | FIRST));
        shuffle(&mut out[begin..], &mut random);
    }
    out
}

/// Rows by group, groups in the order of their first rows or shuffled. Rows of group 0 are alone.
fn grouped<E>(
    walk: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<(), E>,
    shuffle_seed: Option<u64>,
) -> Result<Vec<u64>, E> {
    let mut pairs: Vec<(u64, u64)> = Vec::new();
    walk(&mut |row, group| pairs.push((group, row)))?;
    pairs.sort_unstable();
    // In place of the group its first row: the lowest of each run.
    let mut run: Option<(u64, u64)> = None;
    for pair in &mut pairs {
        let group = pair.0;
        let first = match run {
            Some((of, first)) if of == group && group != 0 => first,
            _ => pair.1,
        };
        run = Some((group, first));
        pair.0 = first;
    }
    pairs.sort_unstable();
    if let Some(seed) = shuffle_seed {
        let mut firsts: Vec<u64> = pairs.iter().filter(|(first, row)| first == row).map(|(first, _)| *first).collect();
        shuffle(&mut firsts, &mut ChaCha8Rng::seed_from_u64(seed));
        let mut out = Vec::with_capacity(pairs.len());
        for first in firsts {
            let begin = pairs.partition_point(|pair| pair.0 < first);
            let members = pairs[begin..].iter().take_while(|pair| pair.0 == first);
            out.extend(members.map(|(_, row)| if *row == first { row | FIRST } else { *row }));
        }
        return Ok(out);
    }
    Ok(pairs.into_iter().map(|(first, row)| if row == first { row | FIRST } else { row }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(list: &[u64]) -> Vec<Vec<u64>> {
        let mut out: Vec<Vec<u64>> = Vec::new();
        for row in list {
            match out.last_mut() {
                Some(rows) if row & FIRST == 0 => rows.push(*row),
                _ => out.push(vec![row & !FIRST]),
            }
        }
        out
    }

    #[test]
    fn groups_come_in_the_order_of_their_first_rows() {
        let groups = [9, 3, 0, 9, 3, 0, 5, 9];
        let walk = |on: &mut dyn FnMut(u64, u64)| {
            groups.iter().enumerate().for_each(|(row, group)| on(row as u64, *group));
            Ok::<(), ()>(())
        };
        let plain = samples(&grouped(walk, None).unwrap());
        assert_eq!(plain, [vec![0, 3, 7], vec![1, 4], vec![2], vec![5], vec![6]]);
        let mut shuffled = samples(&grouped(walk, Some(3)).unwrap());
        assert_ne!(shuffled, plain);
        shuffled.sort();
        assert_eq!(shuffled, plain);
    }

    #[test]
    fn row_groups_stay_together() {
        let list = by_row_group(vec![(0, 5), (5, 3), (8, 4)], 1);
        let rows: Vec<u64> = list.iter().map(|row| row & !FIRST).collect();
        assert_ne!(rows, (0..12).collect::<Vec<_>>());
        let group = |row: &u64| [5, 8, 12].partition_point(|end| end <= row);
        let changes = rows.windows(2).filter(|w| group(&w[0]) != group(&w[1])).count();
        assert_eq!(changes, 2, "{rows:?}");
        let mut sorted = rows;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..12).collect::<Vec<_>>());
    }
}
