//! `ovhost plugin replay`: a failure that a run has kept, once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use ovhost_plugin::{Bundle, Failure, PluginError, Replay, Verdict};

use crate::{console, places};

/// Arguments of `ovhost plugin replay`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin replay runs/a/crashes/filter.caption.0123456789ab.json
  ovhost plugin replay CRASH --plugin dist/caption.wasm          does the new build still fail?

`ovhost train`, `ovhost eval`, `ovhost data filter` and `ovhost data pack` keep the first ten failures of each plugin in the
folder crashes/ of what they make; the command run keeps them with --crashes DIR. The exit code is 1 if the plugin
fails again, 0 if it does not, 2 if that cannot be told (a file is missing or differs, state was not kept).
The rows in the file are written as those of golden cases: copy them into cases.jsonl to keep the defect away.")]
pub struct Args {
    /// The file that the run left
    bundle: PathBuf,
    /// Call this component (or that of this project folder) instead of the recorded one, whatever its hash
    #[arg(long, value_name = "FILE")]
    plugin: Option<String>,
    /// Take an asset from here; it must have the recorded hash (repeatable)
    #[arg(long = "asset", value_name = "NAME=FILE", value_parser = name_and_file)]
    assets: Vec<(String, PathBuf)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn name_and_file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("expected NAME=FILE")?;
    Ok((name.to_owned(), file.into()))
}

/// Exit code of a replay that says nothing.
const UNTOLD: u8 = 2;

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let assets: BTreeMap<String, PathBuf> = args.assets.into_iter().collect();
    let plugin = args.plugin.as_deref().map(places::component).transpose()?;
    let (replay, bundle) = match again(&args.bundle, plugin.as_deref(), &assets) {
        Ok(both) => both,
        Err(error) => {
            eprintln!("error: {} cannot be replayed: {}", args.bundle.display(), console::words(&error));
            return Ok(ExitCode::from(UNTOLD));
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&replay)?);
    } else {
        print!("{}", report(&bundle, &replay));
    }
    Ok(match replay.verdict {
        Verdict::Reproduced | Verdict::FailedOtherwise => ExitCode::from(1),
        Verdict::Passed => ExitCode::SUCCESS,
        Verdict::Unclear => ExitCode::from(UNTOLD),
    })
}

fn again(file: &Path, plugin: Option<&Path>, assets: &BTreeMap<String, PathBuf>) -> Result<(Replay, Bundle)> {
    let bundle = Bundle::read(file)?;
    for name in assets.keys().filter(|name| !bundle.assets.iter().any(|a| a.name == **name)) {
        tracing::warn!("--asset {name}: the recorded call had no asset of that name");
    }
    match bundle.replay(&places::host()?, plugin, assets) {
        Ok(replay) => Ok((replay, bundle)),
        Err(error) => Err(next_step(&bundle, plugin, error)),
    }
}

/// A component that is not what it was needs the flag that says which one to call instead.
fn next_step(bundle: &Bundle, plugin: Option<&Path>, error: PluginError) -> anyhow::Error {
    let recorded = &bundle.component;
    let path = recorded.path.display();
    match &error {
        _ if plugin.is_some() => error.into(),
        PluginError::HashMismatch { path: at, actual, .. } if *at == recorded.path => anyhow!(
            "{path} is another build ({actual:.12}) than the one that failed ({:.12}). Call it all the same with --plugin {path}, \
             or give the one that failed with --plugin FILE",
            recorded.sha256
        ),
        PluginError::Io { path: at, .. } if *at == recorded.path => {
            let file = recorded.path.file_name().unwrap_or_default().display();
            anyhow!("{error}\nIt is the component that failed; give another build of it with --plugin dist/{file}")
        }
        _ => error.into(),
    }
}

fn report(bundle: &Bundle, replay: &Replay) -> String {
    let component = &bundle.component;
    let mut out = format!(
        "{} {} ({} {} {:.12}), {}\n",
        bundle.kind, bundle.name, component.plugin, component.version, replay.sha256, bundle.call.function
    );
    if replay.sha256 != component.sha256 {
        out += &format!("  the failure was that of {:.12}\n", component.sha256);
    }
    out += &shown("then", &replay.recorded);
    match (&replay.now, &replay.error) {
        (Some(now), _) => out += &shown("now", now),
        (None, Some(error)) => out += &format!("now   {error}\n"),
        (None, None) => out += "now   it answers\n",
    }
    out += &match replay.verdict {
        Verdict::Reproduced => "reproduced: it fails in the same way\n".to_owned(),
        Verdict::FailedOtherwise => "it fails, but otherwise than before\n".to_owned(),
        Verdict::Passed => "passed: it no longer fails\n".to_owned(),
        Verdict::Unclear => {
            let missing = bundle.missing.as_deref().unwrap_or_default();
            format!("not told: it does not fail here, but the file lacks {missing}\n")
        }
    };
    out
}

fn shown(when: &str, failure: &Failure) -> String {
    let row = match (&failure.row, &failure.key) {
        (Some(row), Some(key)) => format!(" on row {row} (key {key:?})"),
        (Some(row), None) => format!(" on row {row}"),
        (None, _) => String::new(),
    };
    let mut out = format!("{when:<5} {}{row}: {}\n", failure.class, failure.text);
    for (i, name) in failure.backtrace.iter().enumerate() {
        out += &format!("        {i}: {name}\n");
    }
    out
}
