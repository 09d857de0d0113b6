//! A folder, its parquet files, and the split that each belongs to: by the configurations in the folder's README.md, else by its
//! name.
//!
//! By its name, the split of a file is what stands before `-00000-of-00012` in its name (`data/train-00000-of-00012.parquet`, with or without
//! a hash at the end), else a word for a split among the words of its name or of its folders (`test.parquet`,
//! `validation/0001.parquet`), else `train`, as `datasets` has it.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::HfError;
use crate::configs::{self, Config, Files};
use crate::file::DataFile;
use crate::rows::Rows;
use crate::schema::Column;

/// Parquet files as one table.
#[derive(Debug, Clone)]
pub struct Dataset {
    files: Vec<DataFile>,
    columns: Vec<Column>,
    rows: u64,
}

/// Whether a path names a parquet file, or is a folder with one in it.
pub fn is_parquet(path: &Path) -> bool {
    has_ending(path) || path.is_dir() && files_in(path).is_ok_and(|files| !files.is_empty())
}

/// The splits of the parquet files at a path, sorted.
///
/// # Errors
/// The folder cannot be listed, or has no parquet file.
pub fn splits(path: &Path) -> Result<Vec<String>, HfError> {
    let names: BTreeSet<String> = files_in(path)?.iter().map(|(_, name)| split_of(name)).collect();
    Ok(names.into_iter().collect())
}

/// The split of a file by its name below the data set's folder.
pub fn split_of(name: &str) -> String {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    let stem = file.strip_suffix(".parquet").unwrap_or(file);
    if let Some(numbered) = before_numbers(stem) {
        return numbered.to_owned();
    }
    let words = |text: &str| text.split(|c: char| !c.is_alphanumeric()).find_map(split_word);
    let found = words(stem).or_else(|| folders.rsplit('/').find_map(words));
    found.unwrap_or("train").to_owned()
}

/// `train` of `train-00000-of-00012` and `train-00000-of-00012-0123abcd`.
fn before_numbers(stem: &str) -> Option<&str> {
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = stem.split('-').collect();
    let at = parts.windows(3).position(|w| digits(w[0]) && w[1] == "of" && digits(w[2]))?;
    let length: usize = parts[..at].iter().map(|part| part.len() + 1).sum();
    (length > 1).then(|| &stem[..length - 1])
}

fn split_word(word: &str) -> Option<&'static str> {
    match word.to_ascii_lowercase().as_str() {
        "train" | "training" => Some("train"),
        "validation" | "valid" | "val" | "dev" => Some("validation"),
        "test" | "testing" | "eval" | "evaluation" => Some("test"),
        _ => None,
    }
}

fn has_ending(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

/// Parquet files at a path with their names below it, sorted; hidden ones (`.cache`) are left out.
fn files_in(path: &Path) -> Result<Vec<(PathBuf, String)>, HfError> {
    let fail = |path: &Path, e: std::io::Error| HfError::Folder {
        path: path.display().to_string(),
        reason: format!("cannot be opened: {e}"),
    };
    if !fs::metadata(path).map_err(|e| fail(path, e))?.is_dir() {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok(vec![(path.to_owned(), name)]);
    }
    let (mut out, mut seen) = (Vec::new(), HashSet::new());
    let mut folders = vec![(path.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        // A link to a folder above would be walked for ever.
        if !seen.insert(fs::canonicalize(&folder).map_err(|e| fail(&folder, e))?) {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(|e| fail(&folder, e))? {
            let path = entry.map_err(|e| fail(&folder, e))?.path();
            let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if file_name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{file_name}");
            if path.is_dir() {
                folders.push((path, name + "/"));
            } else if has_ending(&path) {
                out.push((path, name));
            }
        }
    }
    out.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(out)
}

/// The configuration that is asked for, or that is taken where none is. None: all files.
fn chosen_config(path: &Path, wanted: Option<&str>) -> Result<Option<Config>, HfError> {
    let fail = |reason: String| Err(HfError::Folder { path: path.display().to_string(), reason });
    let mut found = if path.is_dir() { configs::of(path)? } else { Vec::new() };
    let names = || found.iter().map(|config| config.name.as_str()).collect::<Vec<_>>().join(", ");
    let at = match wanted {
        None if found.len() < 2 => found.len().checked_sub(1),
        None => match found.iter().position(|config| config.default) {
            None => return fail(format!("it has the configurations {}; name one of them", names())),
            default => default,
        },
        Some(name) => match found.iter().position(|config| config.name == name) {
            None if path.join(name).is_dir() && !name.is_empty() => {
                return Ok(Some(Config {
                    name: name.to_owned(),
                    default: false,
                    files: Files::Below(name.to_owned()),
                }));
            }
            None if found.is_empty() => {
                return fail(format!(
                    "no README.md in it names a configuration, and there is no folder {name}; without one named all its files are read"
                ));
            }
            None => return fail(format!("it has no configuration {name}; it has {}", names())),
            at => at,
        },
    };
    Ok(at.map(|at| found.swap_remove(at)))
}

/// The split that is asked for, or the only one.
fn chosen_split(known: &[String], wanted: Option<&str>) -> Result<String, String> {
    let has = |name: &str| known.iter().any(|known| known == name);
    match (wanted, known) {
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err("there is no parquet file".into()),
        (None, _) => Err(format!("it has the splits {}; name one of them", known.join(", "))),
        (Some(name), _) if has(name) => Ok(name.to_owned()),
        (Some(name), _) => match split_word(name).filter(|word| has(word)) {
            Some(word) => Ok(word.to_owned()),
            None => Err(format!("it has no split {name}; it has {}", known.join(", "))),
        },
    }
}

impl Dataset {
    /// Opens the parquet files at a path (a file, or a folder with any below it) that belong to a split; all of them where no
    /// split is named and there is but one. Reads the files' footers, nothing else.
    ///
    /// # Errors
    /// As [`Dataset::open_config`].
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self, HfError> {
        Self::open_config(path, None, split)
    }

    /// Opens a split of a configuration: of that name in the `configs` of the folder's README.md, else what is below the folder
    /// of that name. Where none is named: the only one of the README, or its default, or all files if it names none.
    ///
    /// # Errors
    /// No such folder, configuration or split, several and none named, no parquet file, a file that is not whole.
    pub fn open_config(path: &Path, config: Option<&str>, split: Option<&str>) -> Result<Self, HfError> {
        let fail = |reason: String| HfError::Folder { path: path.display().to_string(), reason };
        let files = files_in(path)?;
        if files.is_empty() {
            return Err(fail("there is no .parquet file in it or below it".into()));
        }
        let config = chosen_config(path, config)?;
        let name = config.as_ref().map_or(String::new(), |config| format!(" in its configuration {}", config.name));
        let below = |name: &&(PathBuf, String)| match &config {
            Some(Config { files: Files::Below(folder), .. }) => configs::is_below(&name.1, folder),
            _ => true,
        };
        let known: Vec<String> = match &config {
            Some(Config { files: Files::Splits(splits), .. }) => {
                splits.iter().map(|(split, _)| split.clone()).collect()
            }
            _ => files
                .iter()
                .filter(below)
                .map(|(_, name)| split_of(name))
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        };
        let split = chosen_split(&known, split).map_err(|reason| fail(format!("{reason}{name}")))?;
        let mut opened = Vec::new();
        match &config {
            Some(Config { files: Files::Splits(splits), .. }) => {
                for glob in splits.iter().filter(|(name, _)| *name == split).flat_map(|(_, globs)| globs) {
                    let before = opened.len();
                    opened.extend(files.iter().filter(|(_, name)| glob.matches(name)));
                    if opened.len() == before {
                        return Err(fail(format!("no parquet file matches {}, the split {split}{name}", glob.text)));
                    }
                }
            }
            _ => opened.extend(files.iter().filter(below).filter(|(_, name)| split_of(name) == split)),
        }
        // Patterns may overlap.
        let mut seen = HashSet::new();
        opened.retain(|(_, name)| seen.insert(name));
        let opened: Result<Vec<DataFile>, HfError> =
            opened.into_iter().map(|(path, name)| DataFile::open(path, name.clone())).collect();
        Ok(Self::of(opened?))
    }

    /// A data set of files that are open already, in the order given.
    pub fn of(mut files: Vec<DataFile>) -> Self {
        let mut columns: Vec<Column> = Vec::new();
        let mut shared: Option<Arc<Vec<Column>>> = None;
        for file in &mut files {
            match &shared {
                // Thousands of files have the same columns: kept once.
                Some(known) if *known == file.columns => file.columns = known.clone(),
                _ => shared = Some(file.columns.clone()),
            }
            for column in file.columns.iter() {
                if !columns.iter().any(|known| known.name == column.name) {
                    columns.push(column.clone());
                }
            }
        }
        let rows = files.iter().map(|f| f.rows).sum();
        Dataset { files, columns, rows }
    }

    /// The files, in order.
    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// Number of rows, from the footers.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The columns of all files, in the order of their first appearance.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The rows from number `from` on. A row that cannot be read is an error in its place, and the next ones follow.
    pub fn rows(&self, from: u64) -> impl Iterator<Item = Result<crate::Row, HfError>> + '_ {
        let mut skip = from;
        self.files.iter().flat_map(move |file| {
            let first = skip.min(file.rows);
            skip -= first;
            FileRows { file, left: file.rows - first, rows: file.rows(first) }
        })
    }
}

/// Rows of a file that may be gone by now: then each of its rows is that error.
struct FileRows<'a> {
    file: &'a DataFile,
    left: u64,
    rows: Result<Rows, HfError>,
}

impl Iterator for FileRows<'_> {
    type Item = Result<crate::Row, HfError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match &mut self.rows {
            Err(error) => Some(Err(error.clone())),
            Ok(rows) => Some(rows.next().unwrap_or_else(|| {
                let reason = format!("has fewer rows than the {} that it had when it was opened", self.file.rows);
                Err(HfError::File { path: self.file.path.display().to_string(), reason })
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_by_name() {
        for (name, split) in [
            ("data/train-00000-of-00005.parquet", "train"),
            ("data/train-00000-of-00001-a09b74b3ef9c3b56.parquet", "train"),
            ("Accounting/dev-00000-of-00001.parquet", "dev"),
            ("data/train_sft-00000-of-00002.parquet", "train_sft"),
            ("test.parquet", "test"),
            ("my_val_set.parquet", "validation"),
            ("validation/0001.parquet", "validation"),
            ("imagenet/CN/part00/0001.parquet", "train"),
            ("00000-of-00002.parquet", "train"),
            ("contest.parquet", "train"),
        ] {
            assert_eq!(split_of(name), split, "{name}");
        }
    }
}
