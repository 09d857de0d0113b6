//! `ovhost plugin doctor`: what plugins take, what of it is here, and how to get the rest.
//!
//! ```text
//!  language(s) ─► tools found against wanted ─┐
//!  project     ─► its copy of SDK and contract ┴► one line each, its cure under it ─► exit code 0 or 1
//! ```

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use ovhost_toolchain::doctor::{Check, checks};
use ovhost_toolchain::files::write_whole;
use ovhost_toolchain::tools::Tool;
use ovhost_toolchain::{Lang, Project, rust};

use super::new::{lang, langs};
use crate::scaffold::{self, SDK_VERSION};

/// Arguments of `ovhost plugin doctor`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin doctor                          this machine and, in a project's folder, the project
  ovhost plugin doctor --lang python --install  gets the pinned tools that Python plugins take
  ovhost plugin doctor --update-sdk my_filter   brings a project's copy of SDK, helpers and contract up to this version

Languages that were not asked for are shown and do not count. The code is 1 where something that counts is missing.")]
pub struct Args {
    /// A project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Languages that count; else the project's, else rust
    #[arg(long, value_delimiter = ',', value_parser = langs())]
    lang: Vec<String>,
    /// Install what is missing for the languages that count
    #[arg(long)]
    install: bool,
    /// Write the project's copy of SDK, helpers and contract anew
    #[arg(long)]
    update_sdk: bool,
    /// Remove the compiled components from the cache folder; the host compiles what it needs again
    #[arg(long)]
    clean: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. The code is 1 if something that counts is missing.
pub fn run(args: Args) -> Result<ExitCode> {
    let project = match Project::open(&args.path) {
        Ok(project) => Some(project),
        // Asked for a project, there must be one; in any other folder the machine alone is looked at.
        Err(error)
            if args.update_sdk || args.path != Path::new(".") || args.path.join("ovhost-plugin.toml").exists() =>
        {
            return Err(error);
        }
        Err(_) => None,
    };
    let asked = args.lang.iter().map(|name| lang(name)).collect::<Result<Vec<Lang>>>()?;
    let counted = match (&asked[..], &project) {
        ([], Some(project)) => vec![project.lang],
        ([], None) => vec![Lang::Rust],
        _ => asked,
    };
    if args.install {
        for &lang in &counted {
            match lang {
                Lang::Rust => drop(rust::ensure_compiler(&args.path)?),
                Lang::Python => drop(Tool::ComponentizePy.install()?),
                Lang::Js => drop(Tool::ComponentizeQjs.install()?),
            }
        }
    }
    if let Some(project) = project.as_ref().filter(|_| args.update_sdk) {
        update_sdk(project)?;
    }
    if args.clean {
        let (files, bytes) = ovhost_toolchain::doctor::clean()?;
        eprintln!("removed {files} compiled components of {} MB", bytes.div_ceil(1_000_000));
    }
    let mut all = checks(&args.path, &Lang::ALL);
    all.extend(project.as_ref().map(project_check).transpose()?);
    let counts = |check: &Check| check.lang.is_none_or(|lang| counted.contains(&lang));
    let bad = all.iter().filter(|check| counts(check) && !check.good).count();
    if args.json {
        let one = |check: &Check| {
            serde_json::json!({
                "name": check.name, "lang": check.lang, "found": check.found, "wanted": check.wanted, "good": check.good,
                "counts": counts(check), "cure": (!check.good).then_some(&check.cure),
            })
        };
        println!(
            "{:#}",
            serde_json::json!({ "sdk": SDK_VERSION, "contract": ovhost_plugin::WIT_VERSION, "checks": all.iter().map(one).collect::<Vec<_>>() })
        );
    } else {
        print!("{}", report(&all, counts));
        println!(
            "\nthis program brings SDK {SDK_VERSION}, contract {}; {}",
            ovhost_plugin::WIT_VERSION,
            match bad {
                0 => "nothing is missing".to_owned(),
                1 => "1 thing is missing".to_owned(),
                n => format!("{n} things are missing"),
            }
        );
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One line a check; what to do under those that are not good.
fn report(all: &[Check], counts: impl Fn(&Check) -> bool) -> String {
    let mut out = String::new();
    for check in all {
        let mark = match (check.good, counts(check)) {
            (true, _) => "ok",
            (false, true) => "BAD",
            (false, false) => "-",
        };
        let lang = check.lang.map_or("", Lang::name);
        let found = check.found.as_deref().unwrap_or("not found");
        out += &format!("{mark:<4}{lang:<8}{:<24} {found}\n", check.name);
        if !check.good {
            out += &format!("{:12}wanted: {}\n{:12}do: {}\n", "", check.wanted, "", check.cure);
        }
    }
    out
}

/// Whether a project's copy of what is ovhost's own is that of this program.
fn project_check(project: &Project) -> Result<Check> {
    let owned = scaffold::owned(project.lang)?;
    let there = |path: &String| project.root.join(path).is_file();
    let differs: Vec<&String> = owned
        .iter()
        .filter(|(path, text)| std::fs::read(project.root.join(path)).ok().as_deref() != Some(text.as_bytes()))
        .map(|(path, _)| path)
        .collect();
    // A crate with an SDK elsewhere has no copy; that is a choice.
    let copied = owned.keys().any(there);
    let good = differs.is_empty() || (project.lang == Lang::Rust && !copied);
    let found = match (&differs[..], copied) {
        ([], _) => format!("SDK {SDK_VERSION}, contract {}", ovhost_plugin::WIT_VERSION),
        (_, false) if project.lang == Lang::Rust => "an SDK outside of the project".to_owned(),
        ([one], _) => format!("{one} differs from this program's"),
        ([one, rest @ ..], _) => format!("{one} and {} more differ from this program's", rest.len()),
    };
    Ok(Check {
        name: format!("project {}", project.name),
        lang: None,
        found: Some(found),
        wanted: format!("the SDK, helpers and contract of {SDK_VERSION}"),
        good,
        cure: format!("{} doctor --update-sdk {}", super::program(), project.root.display()),
    })
}

/// Writes what is ovhost's own in a project anew; nothing else is touched.
fn update_sdk(project: &Project) -> Result<()> {
    let mut written = 0;
    for (path, text) in scaffold::owned(project.lang)? {
        let to = project.root.join(&path);
        if std::fs::read(&to).ok().as_deref() != Some(text.as_bytes()) {
            write_whole(&to, text.as_bytes())?;
            eprintln!("wrote {}", to.display());
            written += 1;
        }
    }
    if written == 0 {
        eprintln!("{} has the SDK of {SDK_VERSION} already", project.root.display());
    }
    Ok(())
}
