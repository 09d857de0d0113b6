//! The binary `ovhost`: arguments, wiring, progress, errors. Everything else is in the crates that it puts together.
//!
//! ```text
//!  arguments ─► commands/* ─► wiring (recipe + --plugins ─► loaded components, device) ─► train | eval | infer | data | model
//! ```

mod commands;
mod dry_run;
mod live_eval;
mod training;
mod wiring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ovhost_plugin_cli::console;

/// Train, run and evaluate LLaVA-OneVision-1.5, with data filters, packers, prompts and metrics as sandboxed plugins.
#[derive(Parser)]
#[command(name = "ovhost", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// More detail on stderr (-v debug, -vv trace); RUST_LOG gives finer control
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Only warnings and errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

const EXAMPLES: &str = "Examples:
  ovhost train                                        train by the recipe.toml of this folder
  ovhost train --plugins packers/sequential.wasm      the same with another packer
  ovhost train --resume                               go on where a run was stopped
  ovhost eval --recipe recipe.toml --model runs/x/model
  ovhost infer --model runs/x/model --image cat.jpg --prompt \"What is this?\"";

#[derive(Subcommand)]
enum Command {
    /// Train a model by a recipe
    Train(commands::train::Args),
    /// Answer a question about pictures
    Infer(commands::infer::Args),
    /// Answer a data set's questions and score the answers
    Eval(Box<commands::eval::Args>),
    /// Draw the curves of runs on one page
    Report(commands::report::Args),
    /// Make and look at training data
    #[command(subcommand)]
    Data(commands::data::Command),
    /// Train a tokenizer
    #[command(subcommand)]
    Tokenizer(commands::tokenizer::Command),
    /// Make, check and compare model folders
    #[command(subcommand)]
    Model(commands::model::Command),
    /// Make, check, test, run and measure plugins
    #[command(subcommand)]
    Plugin(ovhost_plugin_cli::Command),
    /// Look at recipes: their keys, their schema
    #[command(subcommand)]
    Recipe(commands::recipe::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A reader that has seen enough (`| head`) ends a printing command quietly; a run must outlive its terminal.
    if !matches!(cli.command, Command::Train(_) | Command::Eval(_)) {
        console::end_at_closed_pipe();
    }
    console::init_logging(cli.verbose, cli.quiet);
    let result = match cli.command {
        Command::Train(args) => commands::train::run(args),
        Command::Infer(args) => commands::infer::run(args),
        Command::Eval(args) => commands::eval::run(*args),
        Command::Report(args) => commands::report::run(args),
        Command::Data(command) => commands::data::run(command),
        Command::Tokenizer(command) => commands::tokenizer::run(command),
        Command::Model(command) => commands::model::run(command),
        Command::Plugin(command) => ovhost_plugin_cli::run(command),
        Command::Recipe(command) => commands::recipe::run(command),
    };
    match result {
        Ok(code) => code,
        Err(error) => console::failed(&error),
    }
}
