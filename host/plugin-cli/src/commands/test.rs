//! `ovhost plugin test`: golden cases through the real host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::commands::program;
use crate::golden::{self, Cases, Difference, Outcome, Verdict};
use crate::places;

/// Arguments of `ovhost plugin test`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost plugin test                       the project of this folder: dist/*.wasm with cases.jsonl
  ovhost plugin test dist/mine.wasm --cases more.jsonl
  ovhost plugin test --filter refus        only cases whose name contains it
  ovhost plugin test --bless               write what it answers as what is expected; then review it

A case is one JSON object a line:
  {\"name\": \"short texts go\", \"rows\": [{\"text\": \"a\"}], \"expect\": [{\"drop\": \"too short\"}]}
Keys: name, entry, config, assets (paths relative to the file), types, seed, rows, limits (packers:
capacity, max_items_per_bin, max_open_items), mode (prompts: train or generate), resources (as a
recipe's limits), expect.

expect, by kind:
  filter   one object a row: {\"keep\": true}, {\"drop\": reason} or {\"error\": text}, each with
           \"set\": {column: value} where columns were added
  packer   {\"bins\": [[ids]], \"dropped\": [ids]}; ids are numbers of rows unless the rows have id
  prompt   one object a row: {\"conversation\": [..]}, {\"segments\": [..]}, {\"error\": text}
  metric   {\"rows\": [{column: value}], \"values\": {name: {\"value\": x, \"count\": n, \"stderr\": x}}}
  any      {\"refused\": [{\"path\": .., \"message\": ..}]} for a configuration, {\"fails\": {..}} for a call

Every case is asked again in batches of 1 and of 3 rows, of an instance that did it before, and of
new instances for each row and each batch of 3 (state saved and restored, metrics merged). Another
answer is a failure.")]
pub struct Args {
    /// A component, or a project folder with a component in dist/; this folder if absent
    #[arg(default_value = ".")]
    path: String,
    /// File of cases; else cases.jsonl beside the component or in the project's folder
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Write the answers into the file of cases as what is expected
    #[arg(long)]
    bless: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command. The code is 1 if a case fails.
pub fn run(args: Args) -> Result<ExitCode> {
    let located = places::located(&args.path)?;
    let component = &located.path;
    let given = Path::new(&args.path);
    let found = args.cases.or_else(|| places::cases(given)).or_else(|| places::cases(component));
    let path = found.with_context(|| {
        format!(
            "{} has no golden cases: write {} beside it (see {} test --help), or give --cases FILE",
            component.display(),
            places::CASES,
            program()
        )
    })?;
    let cases = Cases::read(&path)?;
    if !args.json {
        println!("{} with {}", component.display(), path.display());
    }
    let outcomes = golden::test(&places::host()?, &located, &cases, args.filter.as_deref())?;
    let changed = if args.bless { golden::bless(&cases, &outcomes)? } else { 0 };
    let good = |o: &Outcome| o.passed() || (args.bless && matches!(o.verdict, Verdict::Differs(_) | Verdict::Open));
    let failed = outcomes.iter().filter(|o| !good(o)).count();
    let left = cases.cases.len() - outcomes.len();
    if args.json {
        let one = |outcome: &Outcome| outcome_json(outcome, good(outcome));
        let report = json!({
            "path": component, "cases": path, "passed": outcomes.iter().filter(|o| o.passed()).count(), "failed": failed,
            "blessed": changed, "not_asked": left, "outcomes": outcomes.iter().map(one).collect::<Vec<_>>(),
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    print!("{}", report(&outcomes, args.bless));
    let also = |n: usize, what: &str| if n > 0 { format!(", {n} {what}") } else { String::new() };
    println!(
        "{} passed{}{}{}",
        outcomes.iter().filter(|o| o.passed()).count(),
        also(failed, "failed"),
        also(changed, "blessed: review the change before you keep it"),
        also(left, "not asked for")
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of a case, for other programs: `verdict` is pass, differs, open, unstable, dependent or error.
fn outcome_json(outcome: &Outcome, good: bool) -> Value {
    let mut out = json!({ "name": outcome.name, "line": outcome.line + 1, "good": good });
    let one = |d: &Difference| json!({ "path": d.path, "expected": d.expected, "seen": d.seen });
    let list = |all: &[Difference]| Value::Array(all.iter().map(one).collect());
    out["verdict"] = match &outcome.verdict {
        Verdict::Pass => "pass",
        Verdict::Open => "open",
        Verdict::Differs(all) => {
            out["differences"] = list(all);
            "differs"
        }
        Verdict::Unstable { how, differences } => {
            out["how"] = (*how).into();
            out["differences"] = list(differences);
            "unstable"
        }
        Verdict::Dependent(words) => {
            out["words"] = words.as_str().into();
            "dependent"
        }
        Verdict::Error(words) => {
            out["words"] = words.as_str().into();
            "error"
        }
    }
    .into();
    out
}

/// One line a case, and under it what is wrong.
fn report(outcomes: &[Outcome], bless: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for outcome in outcomes {
        let name = &outcome.name;
        match &outcome.verdict {
            Verdict::Pass => line(format!("ok      {name}")),
            Verdict::Differs(differences) if bless => {
                line(format!("blessed {name}"));
                list(differences, &mut line);
            }
            Verdict::Open if bless => line(format!("blessed {name}")),
            Verdict::Differs(differences) => {
                line(format!("FAILED  {name}"));
                list(differences, &mut line);
            }
            Verdict::Open => {
                line(format!("FAILED  {name}"));
                line("        it has no expect; --bless writes what the plugin answers".to_owned());
            }
            Verdict::Unstable { how, differences } => {
                line(format!("FAILED  {name}"));
                line(format!(
                    "        asked in another way ({how}) it answers otherwise than to all rows in one batch:"
                ));
                list(differences, &mut line);
            }
            Verdict::Dependent(words) => {
                line(format!("FAILED  {name}"));
                line(format!("        {}", words.replace('\n', "\n        ")));
            }
            Verdict::Error(error) => {
                line(format!("FAILED  {name}"));
                line(format!("        {}", error.replace('\n', "\n        ")));
            }
        }
    }
    out
}

fn list(differences: &[Difference], line: &mut impl FnMut(String)) {
    const MOST: usize = 12;
    for difference in differences.iter().take(MOST) {
        line(format!("        {difference}"));
    }
    if differences.len() > MOST {
        line(format!("        and {} more differences", differences.len() - MOST));
    }
}
