//! Shard patterns → paths. `{000000..000007}` counts (zeros kept), `{a,b}` lists, braces nest and repeat.

use std::path::{Path, PathBuf};

use super::ShardError;

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
/// for its `*.tar` files by name. Empty results, files named twice and missing shards are errors.
pub fn expand(patterns: &[String], base: &Path) -> Result<Vec<PathBuf>, ShardError> {
    let mut paths = Vec::new();
    let mut seen = std::collections::HashSet::new();
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
            let path = base.join(&name);
            if path.is_dir() {
                let tars = tars_in(&path);
                if tars.is_empty() {
                    return Err(ShardError::Pattern {
                        pattern: pattern.clone(),
                        reason: format!("folder {} holds no .tar file", path.display()),
                    });
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

fn tars_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".tar"))
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
    let mut names = tars_in(folder);
    if names.is_empty() {
        return format!("{} holds no .tar file", folder.display());
    }
    let wanted = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let common = |name: &str| name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
    names.sort_by_key(|name| std::cmp::Reverse(common(name)));
    let shown = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        1..=3 => format!("beside it: {shown}"),
        n => format!("beside it: {shown} and {} more", n - 3),
    }
}
