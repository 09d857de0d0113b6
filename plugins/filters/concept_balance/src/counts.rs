//! How often each concept was seen: what the first pass saves and the second reads.
//!
//! ```text
//!  bytes  0  "OVCONCPT"
//!         8  u32  version, 1
//!        12  u32  what was counted: 0 entries of a text, 1 nearest embeddings
//!        16  u128 hash of the vocabulary and of how it was matched
//!        32  u64  rows seen
//!        40  u64  rows with at least one concept
//!        48  u64  n, the number of concepts
//!        56  u64  × n, rows per concept
//! ```
//! All little-endian. A file may hold several of these one after the other: they are added up, so the counts of shards are
//! merged by putting their files end to end (`cat shard-*.counts > all.counts`).

const MAGIC: &[u8; 8] = b"OVCONCPT";
const VERSION: u32 = 1;
const HEAD: usize = 56;

/// What counts are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// 0: entries of a text; 1: nearest embeddings.
    pub kind: u32,
    /// Hash of the vocabulary and of how it is matched.
    pub identity: u128,
    /// Number of concepts.
    pub concepts: usize,
}

/// Rows per concept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    subject: Subject,
    /// Rows seen.
    pub rows: u64,
    /// Rows with at least one concept.
    pub matched: u64,
    /// Rows per concept.
    pub each: Vec<u64>,
}

impl Counts {
    /// Nothing seen yet.
    pub fn new(subject: Subject) -> Self {
        Self { subject, rows: 0, matched: 0, each: vec![0; subject.concepts] }
    }

    /// Counts a row with these concepts, each of which comes once.
    pub fn add(&mut self, concepts: &[u32]) {
        self.rows += 1;
        self.matched += u64::from(!concepts.is_empty());
        for &concept in concepts {
            self.each[concept as usize] += 1;
        }
    }

    /// As bytes; see the module.
    pub fn save(&self) -> Vec<u8> {
        let Subject { kind, identity, concepts } = self.subject;
        let mut out = Vec::with_capacity(HEAD + 8 * concepts);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&identity.to_le_bytes());
        for number in [self.rows, self.matched, concepts as u64].iter().chain(&self.each) {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    /// The sum of all counts in `bytes`.
    ///
    /// # Errors
    /// The bytes are no counts, are damaged, or are of something else than `subject`; the message says which.
    pub fn read(bytes: &[u8], subject: Subject) -> Result<Self, String> {
        let mut sum = Self::new(subject);
        let mut rest = sum.read_one(bytes)?;
        while !rest.is_empty() {
            rest = sum.read_one(rest)?;
        }
        Ok(sum)
    }

    /// Adds the first counts in `bytes`; gives what follows them.
    fn read_one<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let damaged = || "they are no counts of concept_balance, or were cut short".to_owned();
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or_else(damaged)?;
        let u32_at = |at: usize| head[at..at + 4].iter().rev().fold(0u32, |n, &byte| n << 8 | u32::from(byte));
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &head[..8] != MAGIC {
            return Err(damaged());
        }
        if u32_at(8) != VERSION {
            return Err(format!("they have version {}, this reads {VERSION}", u32_at(8)));
        }
        let identity = u128::from(u64_at(16)) | u128::from(u64_at(24)) << 64;
        let found =
            Subject { kind: u32_at(12), identity, concepts: usize::try_from(u64_at(48)).map_err(|_| damaged())? };
        if found.kind != self.subject.kind {
            return Err("they were counted by the other of substring_count and embedding_count".into());
        }
        if found != self.subject {
            return Err(format!(
                "they are of other concepts ({} of them, here {}), or were counted with other settings; count again \
                 with the same asset `concepts` and the same settings",
                found.concepts, self.subject.concepts
            ));
        }
        let (body, rest) = rest.split_at_checked(8 * found.concepts).ok_or_else(damaged)?;
        let numbers = body.as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
        let pairs = self.each.iter_mut().zip(numbers);
        let sums = pairs.chain([(&mut self.rows, u64_at(32)), (&mut self.matched, u64_at(40))]);
        for (sum, number) in sums {
            *sum = sum.checked_add(number).ok_or("their sum is above 2^64")?;
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject { kind: 0, identity: 0x0123_4567_89AB_CDEF_0011_2233_4455_6677, concepts: 3 };

    fn counts(rows: &[&[u32]]) -> Counts {
        let mut counts = Counts::new(SUBJECT);
        rows.iter().for_each(|row| counts.add(row));
        counts
    }

    #[test]
    fn the_format_is_as_documented() {
        let bytes = counts(&[&[0, 2], &[], &[2]]).save();
        assert_eq!(&bytes[..16], b"OVCONCPT\x01\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..24], 0x0011_2233_4455_6677_u64.to_le_bytes());
        let numbers: Vec<u64> = bytes[32..].as_chunks::<8>().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
        assert_eq!(numbers, [3, 2, 3, 1, 0, 2]);
    }

    #[test]
    fn shards_add_up() {
        let (a, b) = (counts(&[&[0, 2], &[]]), counts(&[&[1], &[2]]));
        let both = Counts::read(&[a.save(), b.save()].concat(), SUBJECT).unwrap();
        assert_eq!(both, counts(&[&[0, 2], &[], &[1], &[2]]));
        assert_eq!(Counts::read(&a.save(), SUBJECT).unwrap(), a);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bytes = counts(&[&[1]]).save();
        let refuse = |bytes: &[u8], subject: Subject| Counts::read(bytes, subject).unwrap_err();
        for end in 0..bytes.len() {
            assert!(refuse(&bytes[..end], SUBJECT).contains("cut short"), "cut at {end}");
        }
        assert!(refuse(&[&bytes[..], b"x"].concat(), SUBJECT).contains("cut short"));
        assert!(refuse(&bytes, Subject { kind: 1, ..SUBJECT }).contains("the other of"));
        assert!(refuse(&bytes, Subject { identity: 5, ..SUBJECT }).contains("other concepts"));
        assert!(refuse(&bytes, Subject { concepts: 4, ..SUBJECT }).contains("(3 of them, here 4)"));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert!(refuse(&newer, SUBJECT).contains("version 2"));
        let mut huge = bytes.clone();
        huge[48..56].fill(0xFF);
        refuse(&huge, SUBJECT);
        let mut full = counts(&[]);
        full.each[0] = u64::MAX;
        assert!(refuse(&[full.save(), counts(&[&[0]]).save()].concat(), SUBJECT).contains("2^64"));
    }
}
