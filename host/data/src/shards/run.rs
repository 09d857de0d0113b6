//! Neighbouring samples of a shard, read at once: where samples are small, a read for each member costs more than the bytes.
//!
//! ```text
//!  Shard, samples i..k ─ one read ─► Run ─► records, by headers or whole; the bytes of a sample as they lie in the file
//! ```

use std::io::Cursor;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::Shard;
use super::read::Member;
use crate::image::{decode::is_picture_name, header_of};
use crate::record::{Content, Record, RecordOptions, Reject};

/// Most bytes of a sample, as a mean, up to which reading all of it is cheaper than reading the beginning of its pictures.
const SMALL: u64 = 16 << 10;

/// The bytes of neighbouring samples.
#[derive(Debug, Default)]
pub struct Run {
    /// Where they lie in the file.
    start: u64,
    bytes: Vec<u8>,
}

impl Run {
    /// The room that it took, for another one.
    pub fn into_room(self) -> Vec<u8> {
        self.bytes
    }

    fn get(&self, from: u64, to: u64) -> Option<&[u8]> {
        let at = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        self.bytes.get(at(from)?..at(to)?)
    }

    /// What [`Shard::read_raw`] reads, of a sample in the run.
    pub fn raw(&self, offsets: &[u64], index: usize) -> Option<&[u8]> {
        self.get(*offsets.get(index)?, *offsets.get(index + 1)?)
    }
}

impl Shard {
    /// Reads samples into `room`. None where they are not small, or cannot be read: then each has to be read by itself, which also
    /// says what is wrong with it. `offsets` are [`Self::offsets`].
    pub fn read_run(&self, offsets: &[u64], samples: Range<usize>, mut room: Vec<u8>) -> Option<Run> {
        let (start, end) = (*offsets.get(samples.start)?, *offsets.get(samples.end)?);
        let length = end.checked_sub(start).filter(|length| *length <= SMALL * samples.len() as u64)?;
        room.resize(length as usize, 0);
        self.file.read_exact_at(&mut room, start).ok()?;
        Some(Run { start, bytes: room })
    }

    /// [`Self::record`] (`whole`) or [`Self::record_by_headers`] of a sample in the run.
    pub fn record_in(&self, run: &Run, index: usize, whole: bool, options: &RecordOptions) -> Result<Record, Reject> {
        let read = |member: &Member| {
            let bytes = run.get(member.offset, member.offset + member.size);
            let bytes = bytes.ok_or_else(|| std::io::Error::other("it does not lie where its neighbours do"))?;
            Ok(if whole || Content::is_text(&member.part) {
                Content::Whole(bytes.to_vec())
            } else if is_picture_name(&member.part) {
                Content::Header(member.size, header_of(&mut Cursor::new(bytes), options.max_pixels))
            } else {
                Content::Unread
            })
        };
        match self.read_with(index, read) {
            Ok((key, parts)) => Record::of_parts(key, parts, self.name(), index as u64, options),
            Err(error) => Err(self.reject(index, error)),
        }
    }
}
