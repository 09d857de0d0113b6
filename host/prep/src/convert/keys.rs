//! Keys: safe as tar member names, unique in the whole set.
//!
//! The second, third … row with a key gets `-2`, `-3` … appended, counted in the order of the input; where that is a key of its
//! own, the row's number as well. What is compared are 8-byte hashes: two keys of one hash (one chance in 5,000 among 85 million)
//! cost one of them its plain name, nothing else.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Longest key in bytes: a tar name holds 100, and the number and the part need their share.
const LONGEST_KEY: usize = 72;

/// In place of a key's hash: the row cannot be used.
pub(super) const NO_KEY: u64 = 0;

/// In place of a key's hash: the row's number in the whole input is its key, which the first pass does not know.
pub(super) const NUMBER: u64 = 1;

/// The hash that keys and groups are compared by; none of the constants above.
pub(super) fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(head).max(2)
}

/// The key of a row that names none.
pub(super) fn number_key(number: u64) -> String {
    format!("{number:08}")
}

/// A key that survives as a tar member name: folders and dots become `_`, numbers get eight digits.
pub(super) fn key_of(id: &Value) -> Option<String> {
    let text = match id {
        Value::Number(n) => {
            return Some(n.as_u64().map_or_else(|| n.to_string().replace('.', "_"), number_key));
        }
        Value::String(text) => text,
        _ => return None,
    };
    let safe: String = text
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_' | '+' | '=' | '@' | '~') { c } else { '_' })
        .collect();
    if safe.is_empty() {
        return None;
    }
    // `__x__` is reserved by every reader.
    let safe = if safe.starts_with("__") { format!("k{safe}") } else { safe };
    if safe.len() <= LONGEST_KEY {
        return Some(safe);
    }
    let digest = Sha256::digest(text.as_bytes());
    let tail: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    let mut end = LONGEST_KEY - tail.len() - 1;
    while !safe.is_char_boundary(end) {
        end -= 1;
    }
    Some(format!("{}-{tail}", &safe[..end]))
}

/// Which rows cannot keep their key.
#[derive(Debug, Default)]
pub(super) struct Renames {
    /// Row and how many with its key came up to it, for the second and later ones; by row.
    rows: Vec<(u64, u32)>,
    /// Hashes of all keys, sorted; empty where no row is renamed.
    taken: Vec<u64>,
}

impl Renames {
    /// Finds them: `keys` walks over (row, hash of its key) in the order of the rows, twice. Holds 8 bytes a row, and 16 more for
    /// each that is renamed.
    pub fn find<E>(mut keys: impl FnMut(&mut dyn FnMut(u64, u64)) -> Result<(), E>) -> Result<Self, E> {
        let mut taken = Vec::new();
        keys(&mut |_, hash| {
            if hash != NO_KEY {
                taken.push(hash);
            }
        })?;
        taken.sort_unstable();
        let mut twice: Vec<(u64, u32)> = taken.windows(2).filter(|w| w[0] == w[1]).map(|w| (w[0], 0)).collect();
        twice.dedup();
        if twice.is_empty() {
            return Ok(Self::default());
        }
        let mut rows = Vec::new();
        keys(&mut |row, hash| {
            if let Ok(at) = twice.binary_search_by_key(&hash, |(hash, _)| *hash) {
                let count = &mut twice[at].1;
                *count = count.saturating_add(1);
                if *count > 1 {
                    rows.push((row, *count));
                }
            }
        })?;
        taken.dedup();
        Ok(Renames { rows, taken })
    }

    /// How many rows are renamed.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The key of a row, or why it cannot have one.
    pub fn key(&self, row: u64, key: &str) -> Result<String, String> {
        let Ok(at) = self.rows.binary_search_by_key(&row, |(row, _)| *row) else { return Ok(key.to_owned()) };
        let number = self.rows[at].1;
        let names = [format!("{key}-{number}"), format!("{key}-{number}-{}", number_key(row))];
        let free = names.iter().find(|name| self.taken.binary_search(&hash(name)).is_err());
        free.cloned().ok_or_else(|| {
            format!(
                "its key {key} is that of an earlier sample, and {} and {} are others'; give it another",
                names[0], names[1]
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_have_one_key() {
        let keys = ["a", "a-2", "a", "a", "b", "a-2", "a-3", "a-2-00000002", "c"];
        let walk = |on: &mut dyn FnMut(u64, u64)| {
            for (row, key) in keys.iter().enumerate() {
                on(row as u64, hash(key));
            }
            Ok::<(), ()>(())
        };
        let renames = Renames::find(walk).unwrap();
        let named: Vec<Result<String, String>> =
            keys.iter().enumerate().map(|(row, key)| renames.key(row as u64, key)).collect();
        assert!(named[2].as_ref().unwrap_err().contains("a-2-00000002"), "{named:?}");
        let mut names: Vec<&String> = named.iter().flatten().collect();
        let expected = ["a", "a-2", "a-3-00000003", "b", "a-2-2", "a-3", "a-2-00000002", "c"];
        assert_eq!(names, expected.iter().collect::<Vec<_>>());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 8);
        assert_eq!(renames.len(), 3);

        let none = Renames::find(|on: &mut dyn FnMut(u64, u64)| {
            (0..100).for_each(|row| on(row, hash(&row.to_string())));
            Ok::<(), ()>(())
        });
        assert_eq!(none.unwrap().len(), 0);
    }

    #[test]
    fn keys_are_safe_names() {
        let key = |text: &str| key_of(&Value::from(text)).unwrap();
        assert_eq!((key("a/b.c"), key("__x__"), key("图 1")), ("a_b_c".into(), "k__x__".into(), "图_1".into()));
        assert_eq!(key_of(&Value::from(7)).unwrap(), "00000007");
        let (long, other) = (key(&"é".repeat(200)), key(&"é".repeat(201)));
        assert!(long.len() <= LONGEST_KEY && long != other, "{long}");
        assert_eq!(key_of(&Value::from("")), None);
    }
}
