//! `ovhost plugin run`: a file of rows through one plugin, in the real host, and what became of each row.
//!
//! ```text
//!  rows.jsonl ─► batches ─► stage (filter, packer, prompt, metric) ─► table or JSON lines, --out, --rejects ─► summary
//!  --load-state ─────────────┘                                    └─► --save-state
//! ```
//! Memory holds one batch. Files appear whole at the end, or not at all.

mod output;
mod stages;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use ovhost_files::Place;
use ovhost_plugin::{Kind, Mode, OnTrap, PluginSpec};

use crate::input::{self, PluginArgs};
use crate::rows::RowReader;
use crate::{console, files, places, table};
use output::Output;
use stages::Stage;

/// Arguments of `ovhost plugin run`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin run filters/caption_quality --rows captions.jsonl --config '{\"min_chars\": 20}'
  ovhost plugin run filters/refusal --rows captions.jsonl --out kept.jsonl --rejects rejects.jsonl
  cat captions.jsonl | ovhost plugin run my/filter --format jsonl --limit 100
  ovhost plugin run packers/padding_free --rows lengths.jsonl --capacity 8192
  ovhost plugin run prompts/conversation --rows records.jsonl --mode generate
  ovhost plugin run metrics/exact_match --rows answers.jsonl
Two passes, the first of which only remembers:
  ovhost plugin run filters/concept_balance --entry substring_count --rows all.jsonl \\
      --asset concepts=words.txt --save-state counts.state
  ovhost plugin run filters/concept_balance --entry substring_sample --rows all.jsonl \\
      --asset concepts=words.txt --asset counts=counts.state --out kept.jsonl

A row is one JSON object a line; its keys are columns. A column's type is that of --types, else the
host's own for its name (text, width, ...), else told by the values. id and index are the row's
number where the rows do not say. --out has, for a filter, the rows that it kept with the columns
that it added; else what --format jsonl prints.")]
pub struct Args {
    #[command(flatten)]
    plugin: PluginArgs,
    /// File of rows, one JSON object a line; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    rows: String,
    /// Stop after so many rows
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Number of the first row in its stream, where this goes on from a saved state
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_row: u64,
    /// Column types: u8s, u32s, s64s, f32s, f64s, utf8, bytes, u32-lists, f32-lists
    #[arg(long, value_name = "COLUMN=TYPE")]
    types: Vec<String>,
    /// Rows in a call
    #[arg(long, value_name = "ROWS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Write what is kept (filters) or answered to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the rows that were dropped or failed to this file: number, key, reason
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// What standard output shows
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Rows of the table
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
    /// Where a call fails: stop, or take the guilty rows out and go on
    #[arg(long, value_enum, default_value_t = Trap::Stop)]
    on_trap: Trap,
    /// Keep failures of the plugin in this folder, at most ten, for the command `replay`
    #[arg(long, value_name = "DIR")]
    crashes: Option<PathBuf>,
    /// Write what the plugin remembers at the end (streaming filters, packers, metrics)
    #[arg(long, value_name = "FILE")]
    save_state: Option<PathBuf>,
    /// Begin with what it remembered
    #[arg(long, value_name = "FILE")]
    load_state: Option<PathBuf>,
    /// Prompts: what for
    #[arg(long, value_enum, default_value_t = For::Train)]
    mode: For,
    /// Packers: most tokens in a bin
    #[arg(long, value_name = "TOKENS")]
    capacity: Option<u32>,
    /// Packers: most samples in a bin; 0 is no bound
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_items_per_bin: u32,
    /// Packers: most samples held back; 0 is the packer's choice
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_open_items: u32,
}

/// What standard output shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The first rows as a table, then a summary.
    Table,
    /// Every row as a line of JSON; the summary goes to standard error.
    Jsonl,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Trap {
    Stop,
    Reject,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum For {
    Train,
    Generate,
}

impl Args {
    /// Flags that belong to another kind of plugin are a mistake, not something to pass over.
    fn check(&self, kind: Kind) -> Result<()> {
        let packs = self.capacity.is_some() || self.max_items_per_bin > 0 || self.max_open_items > 0;
        let flags = "--capacity, --max-items-per-bin and --max-open-items";
        ensure!(kind == Kind::Packer || !packs, "{flags} are for packers; this is a {kind} plugin");
        ensure!(
            kind == Kind::Prompt || matches!(self.mode, For::Train),
            "--mode is for prompts; this is a {kind} plugin"
        );
        ensure!(
            kind != Kind::Packer || matches!(self.on_trap, Trap::Stop),
            "--on-trap reject is for filters, prompts and metrics: order is what a packer works with, so it always stops"
        );
        ensure!(
            kind != Kind::Prompt || (self.save_state.is_none() && self.load_state.is_none()),
            "--save-state and --load-state are for filters, packers and metrics; a prompt has no state to save"
        );
        Ok(())
    }

    /// What is written must be no other file of the run: neither another output nor anything that is read. Only the state may
    /// go on in its own file: it is read whole before the first row, and written after the last.
    fn apart(&self, component: &Path, assets: &BTreeMap<String, PathBuf>) -> Result<()> {
        let rows = Path::new(&self.rows);
        let mut others: Vec<(String, &Path)> = vec![("the plugin".into(), component)];
        others.extend((self.rows != "-").then(|| ("--rows".into(), rows)));
        others.extend(self.load_state.as_deref().map(|path| ("--load-state".into(), path)));
        others.extend(assets.iter().map(|(name, path)| (format!("--asset {name}"), path.as_path())));
        let outputs = [("--out", &self.out), ("--rejects", &self.rejects), ("--save-state", &self.save_state)];
        for (flag, path) in outputs.iter().filter_map(|(flag, path)| Some((*flag, path.as_deref()?))) {
            let kept = |other: &str| flag == "--save-state" && other == "--load-state";
            if let Some((other, _)) = others.iter().find(|(other, p)| !kept(other) && same_place(p, path)) {
                bail!("{other} and {flag} are one file, {}; give each its own", path.display());
            }
            others.push((flag.to_owned(), path));
        }
        Ok(())
    }

    fn policy(&self) -> OnTrap {
        match self.on_trap {
            Trap::Stop => OnTrap::Stop,
            Trap::Reject => OnTrap::Reject,
        }
    }

    fn mode(&self) -> Mode {
        match self.mode {
            For::Train => Mode::Train,
            For::Generate => Mode::Generate,
        }
    }
}

/// Whether two files that need not exist yet are one, by whatever names. Devices may be given twice (`/dev/null`).
fn same_place(a: &Path, b: &Path) -> bool {
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
        return !a.file_type().is_char_device() && (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    let real = |path: &Path| {
        let (Ok(Place::File(at)) | Ok(Place::Stream(at))) = ovhost_files::place(path) else { return path.to_owned() };
        let folder = at.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::canonicalize(folder).unwrap_or_default().join(at.file_name().unwrap_or_default())
    };
    a == b || real(a) == real(b)
}

/// Runs the command. The code is 130 after an interrupt.
pub fn run(args: Args) -> Result<ExitCode> {
    let spec = PluginSpec { crashes: args.crashes.clone(), ..args.plugin.spec()? };
    args.apart(&spec.path, &spec.assets)?;
    let plugin = places::load(&spec)?;
    args.check(plugin.kind())?;
    let mut columns = input::columns_of(&plugin, input::types_for(&plugin, &args.types)?);
    ensure!(
        args.rows != "-" || !std::io::stdin().is_terminal(),
        "there are no rows: give --rows FILE, or pipe them to standard input"
    );
    let mut reader = RowReader::open(&args.rows)?;
    let mut stage = Stage::new(&plugin, &args)?;
    if let Some(path) = &args.load_state {
        let state = std::fs::read(path).with_context(|| format!("reading the state {}", path.display()))?;
        stage.load(&state).with_context(|| format!("the state {}", path.display()))?;
    }
    if args.out.is_some() || args.rejects.is_some() || args.save_state.is_some() {
        // Who only looks at the first lines (`| head`) still wants the whole files.
        console::outlive_closed_pipe();
    }
    let mut out = Output::new(args.format, args.show, args.out.as_deref(), args.rejects.as_deref())?;
    let stop =
        console::stop_flag("stopping after this batch; nothing will be written. Once more ends the program at once")?;
    let bar = progress(&reader, args.format);
    let (mut count, mut index) = (0_u64, 0_u64);
    loop {
        let first_row = args.first_row.checked_add(count).context("--first-row is so large that row numbers end")?;
        let left = args.limit.map_or(u64::MAX, |limit| limit.saturating_sub(count));
        let rows = reader.batch(usize::try_from(left.min(u64::from(args.batch))).unwrap_or(usize::MAX))?;
        if rows.is_empty() {
            break;
        }
        let mut batch = columns.batch(&rows, first_row).with_context(|| reader.name().to_owned())?;
        input::ordinals(&plugin, &mut batch, first_row);
        let answer = stage.batch(&args.plugin.ctx(index, first_row), &rows, &batch, &mut out);
        let answer = answer.map_err(|error| input::with_columns(error, &rows));
        answer.with_context(|| match columns.untyped().collect::<Vec<_>>()[..] {
            [] => reader.name().to_owned(),
            ref names => format!(
                "{} (no row so far has a value for {}, so the type is not known; --types can say it)",
                reader.name(),
                names.join(", ")
            ),
        })?;
        count += rows.len() as u64;
        index += 1;
        bar.set_position(if reader.size().is_some() { reader.bytes() } else { count });
        if stop.load(Ordering::SeqCst) {
            bar.finish_and_clear();
            eprintln!("stopped after {}; no file was written", table::count(count, "row"));
            return Ok(console::interrupted());
        }
    }
    bar.finish_and_clear();
    let mut written = Vec::new();
    let state = match &args.save_state {
        Some(path) => Some((path, stage.save().context("--save-state")?)),
        None => {
            stage.end(&mut out)?;
            None
        }
    };
    let mut summary = stage.summary(count);
    written.extend(out.finish()?);
    // Last: a state that is there says that its rows are, too.
    if let Some((path, state)) = state {
        files::write(path, &state)?;
        written.push(format!("{} ({} bytes of state)", path.display(), state.len()));
    }
    if !written.is_empty() {
        summary.push_str(&format!("wrote {}\n", written.join(", ")));
    }
    match args.format {
        Format::Table => output::print(&summary)?,
        Format::Jsonl => eprint!("{summary}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A bar on a terminal, over bytes where their number is known, else over rows.
fn progress(reader: &RowReader, format: Format) -> ProgressBar {
    // Lines of JSON on the same terminal are progress enough, and the bar would cut through them.
    if !std::io::stderr().is_terminal() || (format == Format::Jsonl && std::io::stdout().is_terminal()) {
        return ProgressBar::hidden();
    }
    let (bar, template) = match reader.size() {
        Some(size) => (ProgressBar::new(size), "{bar:30} {bytes} of {total_bytes} · {bytes_per_sec} · {eta}"),
        None => (ProgressBar::no_length(), "{spinner} {pos} rows · {per_sec} · {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
