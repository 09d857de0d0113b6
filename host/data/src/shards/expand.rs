//! Shard patterns → paths. `{000000..000007}` counts (zeros kept), `{a,b}` lists, braces nest and repeat.
//!
//! Of an object store a folder is listed once, whatever number of its shards is named. A web server has no listing: a name is
//! taken as it is, and a folder stands for the shards that its `.nv-meta` lists.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use ovhost_store::{Place, Scheme, Stores, is_remote, local_path};

use super::places::is_shard_name;
use super::{ShardError, places};

/// More names than this from one pattern is taken for a typing error.
const MOST_NAMES: usize = 1_000_000;

/// Expands the braces of one pattern, in order, without looking at the disk.
pub fn expand_braces(pattern: &str) -> Result<Vec<String>, ShardError> {
    expand_text(pattern).map_err(|reason| ShardError::Pattern { pattern: pattern.to_owned(), reason })
}

fn expand_text(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return if pattern.contains('}') { Err("it has a } without a {".into()) } else { Ok(vec![pattern.to_owned()]) };
    };
    if pattern[..open].contains('}') {
        return Err("it has a } without a {".into());
    }
    let mut depth = 0usize;
    let mut commas = vec![];
    let mut close = None;
    for (at, c) in pattern[open..].char_indices().map(|(at, c)| (at + open, c)) {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    close = Some(at);
                    break;
                }
            }
            ',' if depth == 1 => commas.push(at),
            _ => {}
        }
    }
    let close = close.ok_or("it has a { without a }")?;
    let (head, inner) = (&pattern[..open], &pattern[open + 1..close]);
    let choices: Vec<String> = if commas.is_empty() {
        range(inner)?
    } else {
        let mut choices = vec![];
        let mut from = open + 1;
        for to in commas.into_iter().chain([close]) {
            choices.extend(expand_text(&pattern[from..to])?);
            from = to + 1;
        }
        choices
    };
    let tails = expand_text(&pattern[close + 1..])?;
    if choices.len().saturating_mul(tails.len()) > MOST_NAMES {
        return Err(format!("it expands to more than {MOST_NAMES} names"));
    }
    Ok(choices.iter().flat_map(|choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}"))).collect())
}

fn range(inner: &str) -> Result<Vec<String>, String> {
    let advice = "braces hold a range such as {000000..000007} or a list such as {a,b}";
    let (from, to) = inner.split_once("..").ok_or_else(|| format!("{{{inner}}} is neither; {advice}"))?;
    let number = |text: &str| -> Result<u64, String> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{{{inner}}}: \"{text}\" is not a whole number; {advice}"));
        }
        text.parse().map_err(|e| format!("{{{inner}}}: {e}"))
    };
    let (first, last) = (number(from)?, number(to)?);
    if first > last {
        return Err(format!("{{{inner}}} counts down; write {{{to}..{from}}}"));
    }
    if last - first >= MOST_NAMES as u64 {
        return Err(format!("{{{inner}}} expands to more than {MOST_NAMES} names"));
    }
    // As in a shell: a leading zero on either end fixes the width.
    let padded = |t: &str| t.len() > 1 && t.starts_with('0');
    let width = if padded(from) || padded(to) { from.len().max(to.len()) } else { 0 };
    Ok((first..=last).map(|n| format!("{n:0width$}")).collect())
}

/// Expands patterns relative to `base` into existing files, in the order given. A pattern that names a folder stands
/// for its shards by name. Places such as `s3://bucket/folder` become paths with that text. Empty results, files named twice
/// and missing shards are errors; only of a web server a missing shard shows when it is opened.
pub fn expand(patterns: &[String], base: &Path) -> Result<Vec<PathBuf>, ShardError> {
    let mut paths = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut listed = HashMap::new();
    let mut add = |path: PathBuf, pattern: &str| -> Result<(), ShardError> {
        if !seen.insert(path.clone()) {
            return Err(ShardError::Pattern {
                pattern: pattern.to_owned(),
                reason: format!("{} is named twice; its samples would be read twice", path.display()),
            });
        }
        paths.push(path);
        Ok(())
    };
    for pattern in patterns {
        for name in expand_braces(pattern)? {
            let Some(path) = local_path(&name) else {
                for place in remote(&Place::parse(&name)?, pattern, &mut listed)? {
                    add(PathBuf::from(place.to_string()), pattern)?;
                }
                continue;
            };
            let path = base.join(path);
            if path.is_dir() {
                let tars = tars_in(&path);
                if tars.is_empty() {
                    return Err(no_shards(pattern, &path.display().to_string()));
                }
                for tar in tars {
                    add(path.join(tar), pattern)?;
                }
            } else if path.is_file() {
                add(path, pattern)?;
            } else {
                return Err(ShardError::Missing {
                    path: path.display().to_string(),
                    beside: beside(&path),
                    pattern: pattern.clone(),
                });
            }
        }
    }
    if paths.is_empty() {
        return Err(ShardError::Pattern {
            pattern: String::new(),
            reason: "no shard is named; give at least one".into(),
        });
    }
    Ok(paths)
}

fn no_shards(pattern: &str, folder: &str) -> ShardError {
    let reason = format!("folder {folder} holds no .tar file");
    ShardError::Pattern { pattern: pattern.to_owned(), reason }
}

/// The shards that a place stands for. `listed`: the folders that were listed already.
fn remote(
    place: &Place,
    pattern: &str,
    listed: &mut HashMap<String, BTreeSet<String>>,
) -> Result<Vec<Place>, ShardError> {
    if is_shard_name(&place.key) && place.scheme == Scheme::Http {
        return Ok(vec![place.clone()]);
    }
    let (folder, wanted) = if is_shard_name(&place.key) {
        let (folder, name) = place.split();
        (folder, Some(name))
    } else {
        (place.clone(), None)
    };
    let at = folder.to_string();
    if !listed.contains_key(&at) {
        let names = match folder.scheme {
            Scheme::Http => described(&folder, pattern)?,
            _ => Stores::shared().list(&folder)?.into_iter().map(|f| f.name).filter(|n| is_shard_name(n)).collect(),
        };
        listed.insert(at.clone(), names);
    }
    let names = &listed[&at];
    match wanted {
        None if names.is_empty() => Err(no_shards(pattern, &at)),
        None => Ok(names.iter().map(|name| folder.join(name)).collect()),
        Some(name) if names.contains(name) => Ok(vec![place.clone()]),
        Some(name) => Err(ShardError::Missing {
            path: place.to_string(),
            beside: nearest(names.iter().cloned().collect(), name, &at),
            pattern: pattern.to_owned(),
        }),
    }
}

/// Largest description of a data set.
const META_BYTES: u64 = 256 << 20;

/// The shards that Energon's description of a folder names.
fn described(folder: &Place, pattern: &str) -> Result<BTreeSet<String>, ShardError> {
    #[derive(serde::Deserialize)]
    struct Info {
        shard_counts: HashMap<String, serde_json::Value>,
    }
    let place = folder.join(".nv-meta").join(".info.json");
    let refuse = |reason: String| ShardError::Pattern { pattern: pattern.to_owned(), reason };
    let bytes = match places::object(&place)?.read_all(META_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.is_missing() => {
            return Err(refuse(format!(
                "{folder} names no shard (.tar, .tar.gz, .tgz, .tar.zst); a web server has no listing, and {place} is not there: \
                 name the shards, with braces as in {folder}/train-{{000000..000099}}.tar"
            )));
        }
        Err(e) => return Err(e.into()),
    };
    let info: Info = serde_json::from_slice(&bytes).map_err(|e| {
        refuse(format!("{place} does not list shards as Energon's description does ({e}); name the shards"))
    })?;
    let names: BTreeSet<String> = info.shard_counts.into_keys().filter(|name| is_shard_name(name)).collect();
    match names.iter().find(|n| is_remote(n) || n.contains(['?', '#']) || n.split('/').any(|part| part == "..")) {
        Some(name) => {
            Err(refuse(format!("{place} lists {name:?}, which is not a file of that folder; name the shards")))
        }
        None => Ok(names),
    }
}

fn tars_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_shard_name(name))
        .collect();
    names.sort();
    names
}

/// Says what lies where the missing file was expected, nearest name first.
fn beside(path: &Path) -> String {
    let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) else {
        return "its path has no folder".into();
    };
    if !folder.is_dir() {
        return format!("its folder {} does not exist either", folder.display());
    }
    let wanted = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    nearest(tars_in(folder), &wanted, &folder.display().to_string())
}

fn nearest(mut names: Vec<String>, wanted: &str, folder: &str) -> String {
    if names.is_empty() {
        return format!("{folder} holds no .tar file");
    }
    let common = |name: &str| name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
    names.sort_by_key(|name| std::cmp::Reverse(common(name)));
    let shown = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        1..=3 => format!("beside it: {shown}"),
        n => format!("beside it: {shown} and {} more", n - 3),
    }
}
