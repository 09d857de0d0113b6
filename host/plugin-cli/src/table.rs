//! Tables as plain text: cells in, aligned lines out.

/// A table in the making.
pub struct Table {
    head: Vec<String>,
    /// Columns of numbers are aligned at their right end.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    /// Least width of every column.
    least: usize,
    /// Whether the headings were given out.
    headed: bool,
}

/// Widest cell; longer ones are cut.
const MOST: usize = 60;

impl Table {
    /// A table with these headings; a heading that begins with `>` has numbers under it.
    pub fn new<S: AsRef<str>>(head: impl IntoIterator<Item = S>) -> Self {
        let (right, head) = head
            .into_iter()
            .map(|h| match h.as_ref().strip_prefix('>') {
                Some(rest) => (true, rest.to_owned()),
                None => (false, h.as_ref().to_owned()),
            })
            .unzip();
        Table { head, right, rows: Vec::new(), least: 0, headed: false }
    }

    /// Adds a row; control characters and those that turn the direction of text are shown, long cells cut.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|c| cell(c.as_ref())).collect());
    }

    /// With columns of at least that width: rows that are given out one by one stand in line then.
    pub fn wide(mut self, least: usize) -> Self {
        self.least = least;
        self
    }

    /// The rows since the last time, after the headings the first time.
    pub fn ready(&mut self) -> String {
        let text = self.render();
        let rows = self.rows.len();
        self.rows.clear();
        let skip = if std::mem::replace(&mut self.headed, true) { text.lines().count() - rows } else { 0 };
        text.lines().skip(skip).map(|line| format!("{line}\n")).collect()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, each indented by two spaces.
    pub fn render(&self) -> String {
        let all = || std::iter::once(&self.head).chain(&self.rows);
        let width =
            |i: usize| all().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max().unwrap_or(0).max(self.least);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for row in all() {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
                line.push_str("  ");
                if *right {
                    line.push_str(&fill);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&fill);
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `1 row`, `2 rows`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Whether a character of data would do something to a terminal, or to how a line reads, instead of being shown.
fn acts(c: char) -> bool {
    c.is_control() || ovhost_plugin::turns(c)
}

/// Text of data, of as many lines as it has, with what would act on a terminal escaped.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if acts(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

fn cell(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MOST {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push('⏎'),
            c if acts(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A number in at most five characters or so: 950, 12.3 k, 4.56 M.
pub fn short(x: f64) -> String {
    let (scaled, unit) = match x.abs() {
        a if a >= 1e9 => (x / 1e9, " G"),
        a if a >= 1e6 => (x / 1e6, " M"),
        a if a >= 1e3 => (x / 1e3, " k"),
        _ => (x, ""),
    };
    let digits = match scaled.abs() {
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A time given in nanoseconds: 143 ns, 3.22 µs, 1.5 ms.
pub fn time(ns: f64) -> String {
    match ns {
        n if n >= 1e9 => format!("{} s", short(n / 1e9)),
        n if n >= 1e6 => format!("{} ms", short(n / 1e6)),
        n if n >= 1e3 => format!("{} µs", short(n / 1e3)),
        n => format!("{} ns", short(n)),
    }
}

/// Bytes with a binary unit: 640 B, 1.1 MiB.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_and_safe() {
        let mut table = Table::new([">row", "reason", ">n"]);
        table.row(["0", "too\nshort", "7"]);
        table.row(["10", "\u{1b}[31m", "123"]);
        table.row(["11", &"x".repeat(100), ""]);
        let lines: Vec<String> = table.render().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("  row  reason"), "{}", lines[0]);
        assert!(lines[1].starts_with("    0  too⏎short") && lines[1].ends_with("    7"), "{}", lines[1]);
        assert!(lines[2].contains("\\u{1b}[31m"), "{}", lines[2]);
        assert!(lines[3].ends_with('…'), "{}", lines[3]);
        let mut table = Table::new(["text"]);
        table.row(["a\u{202e}b"]);
        assert!(table.render().contains("a\\u{202e}b"), "{}", table.render());
    }

    #[test]
    fn rows_are_given_out_as_they_come() {
        let mut table = Table::new([">batch", ">rate"]).wide(6);
        table.row(["1", "10"]);
        assert_eq!(table.ready(), "   batch    rate\n       1      10\n");
        table.row(["16", "200"]);
        assert_eq!(table.ready(), "      16     200\n");
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (12.34, "12.3"),
            (950.0, "950"),
            (12_345.0, "12.3 k"),
            (4.5e6, "4.5 M"),
            (2e9, "2 G"),
            (100e3, "100 k"),
        ];
        for (x, want) in cases {
            assert_eq!(short(x), want);
        }
        assert_eq!((time(143.2), time(3_220.0), time(1.5e6)), ("143 ns".into(), "3.22 µs".into(), "1.5 ms".into()));
        assert_eq!(
            (count(0, "row"), count(1, "row"), count(2, "row")),
            ("0 rows".into(), "1 row".into(), "2 rows".into())
        );
        assert_eq!((bytes(640), bytes(1_153_434)), ("640 B".into(), "1.1 MiB".into()));
    }
}
