//! One module per subcommand: its arguments and what it does.

use std::process::ExitCode;

use anyhow::Result;

pub mod bench;
pub mod build;
pub mod check;
pub mod doctor;
pub mod inspect;
pub mod keygen;
pub mod lock;
pub mod new;
pub mod pull;
pub mod push;
pub mod replay;
pub mod run;
pub mod sign;
pub mod test;
pub mod verify;

/// Subcommands of `ovhost plugin` and of `ovhost-plugin`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make a new plugin's project: rust, python or js; filter, packer, prompt or metric
    New(new::Args),
    /// Build a project into a component
    Build(build::Args),
    /// Look at everything that the host asks of a component before it gets any data
    Check(check::Args),
    /// Run a plugin's golden cases
    Test(test::Args),
    /// Run rows of a file through a plugin and show what becomes of them
    Run(Box<run::Args>),
    /// Measure what a plugin costs a row, by size of a call and number of workers
    Bench(Box<bench::Args>),
    /// Show what a component is: kind, hash, imports, entries, columns, configuration
    Inspect(inspect::Args),
    /// Write the sha256 of every plugin and asset into a recipe, or check them
    Lock(lock::Args),
    /// Make a plugin fail once more as a run has recorded it
    Replay(replay::Args),
    /// Make a pair of keys to sign plugins with
    Keygen(keygen::Args),
    /// Sign components
    Sign(sign::Args),
    /// Check a component's signature
    Verify(verify::Args),
    /// Fetch a plugin from a registry, for runs to use
    Pull(pull::Args),
    /// Send a plugin to a registry
    Push(push::Args),
    /// Say what plugins take to be built, what of it is here, and how to get the rest
    Doctor(doctor::Args),
}

/// Runs a command. The code is 0 for success, 1 where something was found wrong, 130 after an interrupt.
pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::New(args) => new::run(args),
        Command::Build(args) => build::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Check(args) => check::run(args),
        Command::Test(args) => test::run(args),
        Command::Run(args) => run::run(*args),
        Command::Bench(args) => bench::run(*args),
        Command::Inspect(args) => inspect::run(args),
        Command::Lock(args) => lock::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Keygen(args) => keygen::run(args),
        Command::Sign(args) => sign::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Push(args) => push::run(args),
    }
}

/// What the user calls this program, for next steps: the big binary's subcommand, or the small binary.
pub fn program() -> &'static str {
    let exe = std::env::current_exe().unwrap_or_default();
    if exe.file_stem().is_some_and(|name| name == "ovhost") { "ovhost plugin" } else { "ovhost-plugin" }
}
