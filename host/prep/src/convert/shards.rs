//! WebDataset shards as a source: samples found by their headers, read as they lie in the tar.

use ovhost_data::record::Reject;
use ovhost_data::shards::RawSample;
use serde_json::{Map, Value};

use super::index::Entry;
use super::keys::hash;
use super::sample::Shape;
use super::source::{Part, open_shard};
use crate::error::PrepError;

/// Notes the samples of a shard; a key is that of the tar unless an id column of the JSON part is named.
pub(super) fn index(
    part: &Part,
    shape: &Shape<'_>,
    entry: &mut dyn FnMut(Entry) -> Result<(), PrepError>,
) -> Result<(u64, Option<Reject>), PrepError> {
    let shard = open_shard(&part.path)?;
    if shard.unnamed() > 0 {
        let (path, n) = (part.path.display(), shard.unnamed());
        tracing::warn!(
            "{path}: {n} members belong to no sample (no dot in their name, or a reserved one) and are left out"
        );
    }
    let offsets = shard.offsets();
    for (i, sample) in shard.samples().iter().enumerate() {
        let mut found = Entry { key: hash(&sample.key), ..Entry::default() };
        if shape.settings.id_column.is_some() || shape.settings.group_by.is_some() {
            let json = shard.read_part(i, |part| part.eq_ignore_ascii_case("json"))?;
            let row: Option<Map<String, Value>> = json.and_then(|json| serde_json::from_slice(&json).ok());
            found = row.map_or_else(Entry::default, |mut row| shape.index(&mut row));
        }
        entry(Entry { place: offsets[i], bytes: offsets[i + 1] - offsets[i], ..found })?;
    }
    Ok((offsets.last().copied().unwrap_or(0), shard.damage_reject()))
}

/// The sample that lies in these bytes of a tar.
pub(super) fn sample(bytes: &[u8]) -> Result<RawSample, String> {
    RawSample::from_tar(bytes)
}

/// The fields of a sample's JSON part, and the number of the part.
type Fields = (usize, Map<String, Value>);

/// The fields of a sample's JSON part, where it has one.
pub(super) fn fields(raw: &RawSample) -> Result<Option<Fields>, String> {
    let Some(at) = raw.parts.iter().position(|(part, _)| part.eq_ignore_ascii_case("json")) else { return Ok(None) };
    match serde_json::from_slice(&raw.parts[at].1) {
        Ok(Value::Object(fields)) => Ok(Some((at, fields))),
        Ok(_) => Err("its json part is no object, so it has no columns to map".into()),
        Err(error) => Err(format!("its json part is not valid JSON: {error}")),
    }
}
