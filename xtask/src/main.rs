//! `cargo xtask`: everything around the build. Set-up, plugins, the demo, the tests, the benchmarks.
//!
//! ```text
//!  setup ─► libtorch (.deps/), wasm target      plugins ─► target/plugins/KINDs/NAME.wasm
//!  demo  ─► setup, build, plugins, data, tokenizer, model, train, eval, infer
//!  test  ─► setup, build, plugins, every test   bench ─► setup, then ratios against native or the slow path
//!  gpu-check ─► CUDA against the CPU, and its speed: here, or from a folder that was carried to the GPU
//! ```

mod bench;
mod demo;
mod gpu;
mod guest;
mod setup;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, build, demonstrate, test and measure ovhost"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Provide libtorch 2.11.0 and the WebAssembly target, then build the `ovhost` binary
    Setup,
    /// Build every plugin in plugins/ into target/plugins/KINDs/NAME.wasm
    Plugins {
        /// Only the plugin of this name
        name: Option<String>,
        /// Regenerate the SDK's checked-in bindings from wit/ first (after a change of the contract)
        #[arg(long)]
        bindings: bool,
    },
    /// Set everything up, then train, evaluate and infer on real images
    Demo(demo::DemoArgs),
    /// Set everything up, then run every test
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure; each prints a ratio against its peer (no name: all of them)
    Bench {
        /// packing | filter | boundary | peer | pipeline | images | data | memory | train | pytorch
        names: Vec<String>,
    },
    /// Compare CUDA with the CPU and time training of the 4B architecture on this machine's GPU
    ///
    /// Figures belong into BENCHMARKS.md, with the date and the hardware. For a GPU machine without a compiler:
    ///
    ///   cargo xtask gpu-check --bundle target/gpu-check
    ///
    /// then copy that folder there and run `gpu-check/xtask gpu-check`, which takes the libtorch of its Python's torch 2.11.0
    /// (or of LIBTORCH).
    #[command(verbatim_doc_comment)]
    GpuCheck(gpu::GpuCheckArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let root = root();
    match task {
        Task::Setup => setup_all(&root),
        Task::Plugins { name, bindings } => {
            guest::ensure_wasm_toolchain()?;
            if bindings {
                guest::regenerate_bindings(&root)?;
            }
            for path in guest::build_plugins(&root, name.as_deref())? {
                println!("{}", path.strip_prefix(&root).unwrap_or(&path).display());
            }
            Ok(())
        }
        Task::Demo(args) => demo::demo(&root, &args),
        Task::Test { filter } => test(&root, filter.as_deref()),
        Task::Bench { names } => bench::bench(&root, &names),
        Task::GpuCheck(args) => gpu::gpu_check(&root, &args),
    }
}

/// Everything a build needs; quick when it is already there.
pub fn provision(root: &Path) -> Result<()> {
    setup::check_prerequisites()?;
    setup::ensure_libtorch(root)?;
    guest::ensure_wasm_toolchain()
}

/// Provision, build the binary and the plugins, and say what it cost.
pub fn setup_all(root: &Path) -> Result<()> {
    let meter = setup::Meter::start();
    provision(root)?;
    cargo(root, &["build", "--release", "--workspace"])?;
    let plugins = guest::build_plugins(root, None)?;
    println!("plugins: {} components in target/plugins", plugins.len());
    println!("{}", meter.report("set-up and build", &[root.join("target"), root.join(".deps")]));
    Ok(())
}

fn test(root: &Path, filter: Option<&str>) -> Result<()> {
    setup_all(root)?;
    let mut args = vec!["test", "--release", "--workspace"];
    args.extend(filter);
    cargo(root, &args)?;
    if filter.is_none() {
        // The ill-behaved guests that the tests use are checked in. The same tests with what their sources make now:
        let guests = guest::build_test_guests(root)?;
        let args = ["test", "--release", "--workspace", "--test", "components", "misbehave"];
        cargo_with(root, &args, &[("OVHOST_TEST_GUESTS", guests.as_os_str())])?;
    }
    Ok(())
}

/// The workspace root: where this crate's manifest was when it was compiled, one up.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Runs cargo in the workspace and fails with the command line when it does.
pub fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    cargo_with(root, args, &[])
}

/// The same with environment variables.
fn cargo_with(root: &Path, args: &[&str], env: &[(&str, &OsStr)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // cargo sets these for the process that it runs. A nested cargo would take them for its own configuration, and build
    // scripts that look at them (ring's) would run anew, with all that stands on them, whenever cargo is called another way.
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        command.env_remove(name);
    }
    let status = command
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root)
        .status()
        .context("cargo could not be started")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", args.join(" "));
    Ok(())
}

/// The built `ovhost` binary.
pub fn ovhost(root: &Path) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("release/ovhost")
}
