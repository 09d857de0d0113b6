//! Where a run's answers go: the table or the lines of standard output, and the files of `--out` and `--rejects`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ovhost_plugin::json::JsonRow;
use serde_json::{Value, json};

use super::Format;
use crate::files::Whole;
use crate::table::{Table, count};

/// The outputs of a run.
pub struct Output {
    format: Format,
    /// Rows of the table that may still come.
    room: usize,
    /// Rows that the table has no room for.
    beyond: u64,
    /// None: nothing to show yet. A table is printed when it is full or complete, as its widths are those of its rows.
    table: Option<Table>,
    out: Option<(PathBuf, Whole, u64)>,
    rejects: Option<(PathBuf, Whole, u64)>,
}

impl Output {
    /// Opens the files. `show`: rows of the table.
    pub fn new(format: Format, show: usize, out: Option<&Path>, rejects: Option<&Path>) -> Result<Self> {
        let open = |path: Option<&Path>| -> Result<_> {
            path.map(|path| Ok((path.to_owned(), Whole::create(path)?, 0))).transpose()
        };
        Ok(Output { format, room: show, beyond: 0, table: None, out: open(out)?, rejects: open(rejects)? })
    }

    /// Shows an answer: as a row of the table whose headings are `head`, or as a line of JSON.
    pub fn show(
        &mut self,
        head: impl FnOnce() -> Vec<String>,
        cells: impl FnOnce() -> Vec<String>,
        line: &Value,
    ) -> Result<()> {
        match self.format {
            Format::Jsonl => print(&format!("{line}\n")),
            Format::Table if self.room > 0 => {
                self.room -= 1;
                self.table.get_or_insert_with(|| Table::new(head())).row(cells());
                if self.room == 0 { self.print_table() } else { Ok(()) }
            }
            Format::Table => {
                self.beyond += 1;
                Ok(())
            }
        }
    }

    /// Shows text in the place of a table's row, or a line of JSON.
    pub fn show_text(&mut self, text: impl FnOnce() -> String, line: &Value) -> Result<()> {
        match self.format {
            Format::Jsonl => print(&format!("{line}\n")),
            Format::Table if self.room > 0 => {
                self.room -= 1;
                print(&text())
            }
            Format::Table => {
                self.beyond += 1;
                Ok(())
            }
        }
    }

    /// Shows the last word of a run, after the table, however full that is.
    pub fn last(&mut self, text: &str, line: &Value) -> Result<()> {
        match self.format {
            Format::Jsonl => print(&format!("{line}\n")),
            Format::Table => {
                self.print_table()?;
                self.more()?;
                print(text)
            }
        }
    }

    /// Adds a line to `--out`.
    pub fn keep(&mut self, line: &impl serde::Serialize) -> Result<()> {
        write(&mut self.out, line)
    }

    /// Adds a line to `--rejects`: the row's number, its `key` if it has one, and `why` ("reason" or "error") with the words.
    pub fn reject(&mut self, row: u64, fields: &JsonRow, why: &str, words: &Value) -> Result<()> {
        if self.rejects.is_none() {
            return Ok(());
        }
        let mut line = json!({ "row": row });
        if let Some(key) = fields.get("key") {
            line["key"] = key.clone();
        }
        line[why] = words.clone();
        write(&mut self.rejects, &line)
    }

    fn print_table(&mut self) -> Result<()> {
        self.table.take().map_or(Ok(()), |table| print(&table.render()))
    }

    /// Says how much the table does not show.
    fn more(&mut self) -> Result<()> {
        match std::mem::take(&mut self.beyond) {
            0 => Ok(()),
            n => print(&format!("  … and {n} more; --show N shows N, --format jsonl all\n")),
        }
    }

    /// Prints what is left of the table and puts the files in their places. Returns words about the files.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.print_table()?;
        self.more()?;
        let mut words = Vec::new();
        for (path, file, lines) in [self.out, self.rejects].into_iter().flatten() {
            file.finish()?;
            words.push(format!("{} ({})", path.display(), count(lines, "line")));
        }
        Ok(words)
    }
}

fn write(file: &mut Option<(PathBuf, Whole, u64)>, line: &impl serde::Serialize) -> Result<()> {
    if let Some((_, file, lines)) = file {
        file.line(line)?;
        *lines += 1;
    }
    Ok(())
}

/// Prints text; a reader that has gone away misses it.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}
