//! The binary `ovhost-plugin`: what `ovhost plugin` is, for authors who have no libtorch.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use ovhost_plugin_cli::{Command, console};

/// Make, check, test, run and measure ovhost plugins: sandboxed WebAssembly filters, packers, prompts and metrics.
#[derive(Parser)]
#[command(name = "ovhost-plugin", version, arg_required_else_help = true)]
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

fn main() -> ExitCode {
    let matches = as_this_binary(Cli::command()).get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    console::end_at_closed_pipe();
    console::init_logging(cli.verbose, cli.quiet);
    match ovhost_plugin_cli::run(cli.command) {
        Ok(code) => code,
        Err(error) => console::failed(&error),
    }
}

/// The examples say `ovhost plugin`, which is another binary; here they have to name this one.
fn as_this_binary(command: clap::Command) -> clap::Command {
    let examples = command.get_after_help().map(|text| text.to_string().replace("ovhost plugin ", "ovhost-plugin "));
    let command = match examples {
        Some(text) => command.after_help(text),
        None => command,
    };
    command.mut_subcommands(as_this_binary)
}
