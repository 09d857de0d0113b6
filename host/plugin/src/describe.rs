//! What a plugin says of itself, checked before any of it is used.
//!
//! In: the answer of `describe`. Out: a `Description` whose every string and list is bounded, with parsed schemas; or the rule
//! that it breaks.

use serde::Serialize;
use serde_json::Value;

use crate::bindings::exports::ovhost::plugin::lifecycle as wit;
use crate::error::{plain, turns};
use crate::scan::Kind;

/// What a component holds.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// The package's name.
    pub name: String,
    /// The package's version.
    pub version: String,
    /// SPDX expression of its licence.
    pub license: String,
    /// Where it is from; may be empty.
    pub homepage: String,
    /// Its plugins, at least one.
    pub entries: Vec<Entry>,
}

/// One plugin of a component.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its name, unique in the component.
    pub name: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema (2020-12) of its configuration.
    pub config_schema: Value,
    /// Columns that it reads; true where it cannot do without.
    pub reads: Vec<(String, bool)>,
    /// Columns that it may add.
    pub writes: Vec<String>,
    /// Files that it takes at `init`.
    pub assets: Vec<String>,
    /// Whether rows are independent of each other (for metrics: whether state merges).
    pub state_pure: bool,
    /// Rows per call that suit it; 0 leaves it to the host.
    pub prefer_rows: u32,
}

const ENTRIES: usize = 64;
const COLUMNS: usize = 64;
const ASSETS: usize = 16;
const NAME_BYTES: usize = 64;
const SCHEMA_BYTES: usize = 256 << 10;

/// Applies every bound. The error is the rule and what was seen.
pub(crate) fn check(said: wit::Description) -> Result<Description, String> {
    name("name", &said.name)?;
    text("version", &said.version, 64)?;
    text("license", &said.license, 128)?;
    text("homepage", &said.homepage, 512)?;
    if said.entries.is_empty() {
        return Err("it has no entries; at least one is needed".into());
    }
    count("entries", said.entries.len(), ENTRIES)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(said.entries.len());
    for raw in said.entries {
        if entries.iter().any(|e| e.name == raw.name) {
            return Err(format!("two entries are named \"{}\"", plain(&raw.name, NAME_BYTES)));
        }
        let shown = plain(&raw.name, NAME_BYTES);
        entries.push(entry(raw).map_err(|rule| format!("entry \"{shown}\": {rule}"))?);
    }
    Ok(Description { name: said.name, version: said.version, license: said.license, homepage: said.homepage, entries })
}

/// What a component of filters says of state must agree with what it exports: state that cannot be saved would be lost at
/// the first checkpoint, and an interface for state that nothing has is a mistake. The error is the broken rule.
pub(crate) fn check_state(said: &Description, kind: Kind, filter_state: bool) -> Result<(), String> {
    if kind != Kind::Filter {
        return Ok(());
    }
    match said.entries.iter().find(|entry| !entry.state_pure) {
        Some(entry) if !filter_state => Err(format!(
            "entry \"{}\" is streaming, and the component does not export filter-state, so its state could not be saved; \
             implement StatefulFilter and export it with export_stateful_filter! (in other languages: the world \
             stateful-filter-plugin), or say that it is pure",
            entry.name
        )),
        None if filter_state => Err("it exports filter-state, and none of its entries is streaming; say which is, or \
                                     export it as a filter without state (world filter-plugin)"
            .into()),
        _ => Ok(()),
    }
}

fn entry(raw: wit::Entry) -> Result<Entry, String> {
    name("name", &raw.name)?;
    text("summary", &raw.summary, 1024)?;
    if raw.config_schema.len() > SCHEMA_BYTES {
        return Err(format!("config-schema has {} bytes, at most {SCHEMA_BYTES} are allowed", raw.config_schema.len()));
    }
    let config_schema: Value =
        serde_json::from_str(&raw.config_schema).map_err(|e| format!("config-schema is not JSON: {e}"))?;
    if !config_schema.is_object() {
        return Err("config-schema is not a JSON object".into());
    }
    count("reads", raw.reads.len(), COLUMNS)?;
    count("writes", raw.writes.len(), COLUMNS)?;
    count("assets", raw.assets.len(), ASSETS)?;
    for need in &raw.reads {
        name("a column of reads", &need.name)?;
    }
    unique("reads", raw.reads.iter().map(|n| n.name.as_str()))?;
    for (what, list) in [("writes", &raw.writes), ("assets", &raw.assets)] {
        for item in list {
            name(what, item)?;
        }
        unique(what, list.iter().map(String::as_str))?;
    }
    if raw.prefer_rows > 1 << 20 {
        return Err(format!("prefer-rows is {}, at most {} is allowed", raw.prefer_rows, 1 << 20));
    }
    Ok(Entry {
        name: raw.name,
        summary: raw.summary,
        config_schema,
        reads: raw.reads.into_iter().map(|n| (n.name, n.required)).collect(),
        writes: raw.writes,
        assets: raw.assets,
        state_pure: matches!(raw.state, wit::StateModel::Pure),
        prefer_rows: raw.prefer_rows,
    })
}

fn text(what: &str, value: &str, max: usize) -> Result<(), String> {
    if value.len() > max {
        return Err(format!("{what} has {} bytes, at most {max} are allowed", value.len()));
    }
    match value.chars().find(|c| c.is_control() || turns(*c)) {
        None => Ok(()),
        Some(c) => Err(format!("{what} contains the control character {c:?}")),
    }
}

fn name(what: &str, value: &str) -> Result<(), String> {
    text(what, value, NAME_BYTES)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if value.is_empty() || !value.chars().all(plain) {
        return Err(format!("{what} \"{value}\" is no name: 1 to {NAME_BYTES} of a-z A-Z 0-9 - _ . /"));
    }
    Ok(())
}

fn count(what: &str, n: usize, max: usize) -> Result<(), String> {
    if n > max { Err(format!("{n} {what}, at most {max} are allowed")) } else { Ok(()) }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{what} names \"{name}\" twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> wit::Description {
        wit::Description {
            name: "pack".into(),
            version: "1.0.0".into(),
            license: "Apache-2.0".into(),
            homepage: String::new(),
            entries: vec![wit::Entry {
                name: "a".into(),
                summary: "Does a.".into(),
                config_schema: "{}".into(),
                reads: vec![wit::ColumnNeed { name: "text".into(), required: true }],
                writes: vec!["score/a".into()],
                assets: vec![],
                state: wit::StateModel::Pure,
                prefer_rows: 0,
            }],
        }
    }

    #[test]
    fn a_sound_description_passes() {
        let d = check(good()).unwrap();
        assert_eq!(d.entries[0].reads, vec![("text".to_owned(), true)]);
        assert!(d.entries[0].state_pure);
    }

    #[test]
    fn state_and_its_interface_go_together() {
        let filters = |streaming: &[bool]| {
            let mut d = good();
            let first = d.entries.remove(0);
            for (i, streaming) in streaming.iter().enumerate() {
                let state = if *streaming { wit::StateModel::Streaming } else { wit::StateModel::Pure };
                d.entries.push(wit::Entry { name: format!("e{i}"), state, ..first.clone() });
            }
            check(d).unwrap()
        };
        check_state(&filters(&[false]), Kind::Filter, false).unwrap();
        check_state(&filters(&[true]), Kind::Filter, true).unwrap();
        check_state(&filters(&[false, true]), Kind::Filter, true).unwrap();
        check_state(&filters(&[true]), Kind::Packer, false).unwrap();
        let rule = check_state(&filters(&[false, true]), Kind::Filter, false).unwrap_err();
        assert!(rule.contains("entry \"e1\" is streaming") && rule.contains("export_stateful_filter!"), "{rule}");
        let rule = check_state(&filters(&[false, false]), Kind::Filter, true).unwrap_err();
        assert!(rule.contains("none of its entries is streaming"), "{rule}");
    }

    #[test]
    fn every_bound_holds() {
        type Break = fn(&mut wit::Description);
        let cases: [(Break, &str); 9] = [
            (|d| d.name = String::new(), "is no name"),
            (|d| d.version = "9".repeat(65), "version has 65 bytes"),
            (|d| d.homepage = "a\u{7}".into(), "control character"),
            (|d| d.entries.clear(), "no entries"),
            (|d| d.entries[0].config_schema = "[".into(), "not JSON"),
            (|d| d.entries[0].config_schema = "3".into(), "not a JSON object"),
            (|d| d.entries[0].config_schema = " ".repeat(SCHEMA_BYTES + 1), "at most 262144"),
            (|d| d.entries[0].writes = vec!["x".into(), "x".into()], "writes names \"x\" twice"),
            (|d| d.entries[0].prefer_rows = u32::MAX, "prefer-rows"),
        ];
        for (spoil, expected) in cases {
            let mut d = good();
            spoil(&mut d);
            let rule = check(d).unwrap_err();
            assert!(rule.contains(expected), "{rule} lacks {expected}");
        }
    }
}
