//! Numbers of a run → TensorBoard's event files.
//!
//! ```text
//!  file    record*                          record  u64 length, its CRC, an Event, its CRC (CRC-32C, masked; little endian)
//!  Event   wall time, step, Summary         Summary  one tag and one float each
//! ```
//! A file per process: TensorBoard reads all of a folder, and takes what a resumed run wrote again from the newer one.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use crc::Crc;
use prost::Message;

/// `tensorflow.Event`, as far as numbers need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// An event file that is being written.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Castagnoli's polynomial, as iSCSI uses it.
const CRC32C: Crc<u32> = Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// TensorFlow's guard against checksums of checksums: turned right by 15 bits, and a constant added.
fn masked(bytes: &[u8]) -> u32 {
    CRC32C.checksum(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn record(event: &Event) -> Vec<u8> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(&data);
    out.extend(masked(&data).to_le_bytes());
    out
}

impl EventFile {
    /// Starts a file in `folder`, named after the present time.
    ///
    /// # Errors
    /// The folder or file cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let now = seconds();
        let name = format!(
            "events.out.tfevents.{:010}.{:06}.{}.ovhost",
            now as u64,
            (now.fract() * 1e6) as u32,
            std::process::id()
        );
        let path = folder.join(name);
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("making {}", path.display()))?;
        let mut events = Self { path, file };
        let first = Event { wall_time: now, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        events.write(&first)?;
        Ok(events)
    }

    /// Adds the numbers of a step.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let value = |(tag, value): &(&str, f64)| Value { tag: (*tag).into(), simple_value: Some(*value as f32) };
        let summary = Summary { value: values.iter().map(value).collect() };
        self.write(&Event { wall_time: seconds(), step: step as i64, file_version: None, summary: Some(summary) })
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        // One call: a reader that follows the file sees a record whole or waits for its end.
        self.file.write_all(&record(event)).with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_is_what_tensorflow_writes() {
        // The bytes of the version record that TensorFlow and TensorBoard's own writer begin a file with at time 0.
        let first = Event { wall_time: 0.0, step: 0, file_version: Some("brain.Event:2".into()), summary: None };
        let bytes = record(&first);
        assert_eq!(bytes[..8], 15u64.to_le_bytes());
        assert_eq!(&bytes[12..27], b"\x1a\x0dbrain.Event:2");
        // CRC-32C of "123456789" is the algorithm's published check value.
        assert_eq!(CRC32C.checksum(b"123456789"), 0xE306_9283);
        assert_eq!(masked(b"123456789"), 0xE306_9283_u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    #[test]
    fn numbers_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path()).unwrap();
        events.scalars(7, &[("train/loss", 1.5), ("train/lr", 1e-4)]).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data).to_le_bytes());
            found.push(Event::decode(data).unwrap());
            rest = &rest[16 + length..];
        }
        assert_eq!((found.len(), found[1].step), (2, 7));
        let values = &found[1].summary.as_ref().unwrap().value;
        let read: Vec<_> = values.iter().map(|v| (v.tag.as_str(), v.simple_value.unwrap())).collect();
        assert_eq!(read, [("train/loss", 1.5), ("train/lr", 1e-4)]);
    }
}
