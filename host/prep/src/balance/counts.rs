//! The counts that a counting plugin saves: `OVCONCPT`, as the README of `concept_balance` documents it.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{AFRESH, PrepError, io};

const MAGIC: &[u8; 8] = b"OVCONCPT";
/// Magic, version, kind, identity: what must be the same where counts are added.
const SUBJECT: usize = 32;
const HEAD: usize = 56;

/// Samples of each concept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    subject: [u8; SUBJECT],
    /// Samples seen.
    pub rows: u64,
    /// Samples with a concept.
    pub matched: u64,
    /// Samples of each concept.
    pub each: Vec<u64>,
}

impl Counts {
    /// Of a state that a plugin saved.
    ///
    /// # Errors
    /// It is of another kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let wrong = || "it is no state of concept_balance's counting entries, or is cut short".to_owned();
        let (head, body) = bytes.split_first_chunk::<HEAD>().ok_or_else(wrong)?;
        let (subject, numbers) = head.split_first_chunk::<SUBJECT>().ok_or_else(wrong)?;
        let numbers: Vec<u64> = numbers.as_chunks::<8>().0.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let (each, rest) = body.as_chunks::<8>();
        let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if !head.starts_with(MAGIC) || version != 1 || !rest.is_empty() || numbers[2] != each.len() as u64 {
            return Err(wrong());
        }
        let each = each.iter().map(|n| u64::from_le_bytes(*n)).collect();
        Ok(Counts { subject: *subject, rows: numbers[0], matched: numbers[1], each })
    }

    /// Of a file.
    pub fn read(path: &Path) -> Result<Self, PrepError> {
        let bytes = std::fs::read(path).map_err(io(path, "read"))?;
        Self::parse(&bytes).map_err(|why| PrepError::Record { path: path.display().to_string(), why, next: AFRESH })
    }

    /// The same bytes that the plugin would save.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.subject.to_vec();
        for n in [self.rows, self.matched, self.each.len() as u64].iter().chain(&self.each) {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out
    }

    /// Adds another's.
    ///
    /// # Errors
    /// They are of other concepts, or were counted with other settings.
    pub fn add(&mut self, other: &Counts) -> Result<(), String> {
        if self.subject != other.subject || self.each.len() != other.each.len() {
            return Err("it is of other concepts than the ones before it".into());
        }
        self.rows += other.rows;
        self.matched += other.matched;
        self.each.iter_mut().zip(&other.each).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Totals, and how even the counts are: the number of equally frequent concepts that would be as surprising (the
    /// exponential of the entropy).
    pub fn summary(&self) -> Value {
        let sum: u64 = self.each.iter().sum();
        let share = |n: &u64| *n as f64 / sum.max(1) as f64;
        let entropy: f64 = self.each.iter().filter(|n| **n > 0).map(|n| -share(n) * share(n).ln()).sum();
        json!({
            "rows": self.rows, "with_concept": self.matched, "concepts_seen": self.each.iter().filter(|n| **n > 0).count(),
            "pairs": sum, "largest": self.each.iter().max().copied().unwrap_or(0),
            "effective_concepts": if sum == 0 { 0.0 } else { entropy.exp() },
        })
    }
}

#[cfg(test)]
mod tests {
    use concept_balance::counts as plugin;

    use super::*;

    #[test]
    fn they_are_the_plugins_own() {
        let subject = plugin::Subject { kind: 0, identity: 0x1234_5678_9abc, concepts: 4 };
        let counts = |rows: &[&[u32]]| {
            let mut counts = plugin::Counts::new(subject);
            rows.iter().for_each(|row| counts.add(row));
            counts
        };
        let (a, b) = (counts(&[&[0, 1], &[], &[1]]), counts(&[&[1, 3]]));
        let mut sum = Counts::parse(&a.save()).unwrap();
        assert_eq!((sum.rows, sum.matched, sum.each.as_slice()), (3, 2, &[1, 2, 0, 0][..]));
        assert_eq!(sum.bytes(), a.save());
        sum.add(&Counts::parse(&b.save()).unwrap()).unwrap();
        let both = plugin::Counts::read(&[a.save(), b.save()].concat(), subject).unwrap();
        assert_eq!(sum.bytes(), both.save());
        let other = plugin::Counts::new(plugin::Subject { identity: 1, ..subject });
        assert!(sum.add(&Counts::parse(&other.save()).unwrap()).unwrap_err().contains("other concepts"));
        for end in 0..sum.bytes().len() {
            assert!(Counts::parse(&sum.bytes()[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn even_counts_are_as_many_as_there_are() {
        let counts =
            |each: &[u64]| Counts { subject: [0; SUBJECT], rows: 9, matched: 8, each: each.to_vec() }.summary();
        assert!((counts(&[5, 5, 5, 0])["effective_concepts"].as_f64().unwrap() - 3.0).abs() < 1e-9);
        let uneven = counts(&[100, 1, 1]);
        assert!(uneven["effective_concepts"].as_f64().unwrap() < 1.2);
        assert_eq!(
            (&uneven["largest"], &uneven["pairs"], &uneven["concepts_seen"]),
            (&json!(100), &json!(102), &json!(3))
        );
        assert_eq!(counts(&[0, 0])["effective_concepts"], 0.0);
    }
}
