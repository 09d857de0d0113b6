//! `cargo xtask gpu-check`: runs `gpu-check` (its own crate) on this machine's GPU, or makes a folder that does so elsewhere.
//!
//! ```text
//!  here      build ─► gpu-check with the CUDA libtorch of the active Python
//!  carried   --bundle DIR ─► DIR/{xtask, gpu-check, fixtures/} ─► there: DIR/xtask gpu-check, no build
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::setup::{TORCH_VERSION, torch_site};
use crate::{ovhost, setup_all};

/// The program's name beside `ovhost`, and in a carried folder.
const PROGRAM: &str = "gpu-check";
const BUILT: &str = "ovhost-gpu-check";
const FIXTURES: &str = "tests/fixtures/tiny-llava-ov-1.5";

/// Arguments of `cargo xtask gpu-check`.
#[derive(Debug, Args)]
pub struct GpuCheckArgs {
    /// Make a folder to carry to a machine with a GPU instead of running here
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Passed on: `--only compare|time`, `--size 4b`, `--tokens 8192`, `--steps 8`, `--out FILE.json`, `--device cuda:0`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the check, or bundles it.
pub fn gpu_check(root: &Path, args: &GpuCheckArgs) -> Result<()> {
    // In a carried folder the program lies beside this one, and there is nothing to build.
    let me = std::env::current_exe()?;
    let (program, fixtures) = match (me.with_file_name(PROGRAM), me.with_file_name("fixtures")) {
        (program, fixtures) if program.is_file() && fixtures.is_dir() => {
            ensure!(args.bundle.is_none(), "this folder is a bundle already; make another where the sources are");
            (program, fixtures)
        }
        _ => {
            setup_all(root)?;
            (ovhost(root).with_file_name(BUILT), root.join(FIXTURES))
        }
    };
    if let Some(folder) = &args.bundle {
        return bundle(folder, &me, &program, &fixtures);
    }
    let mut command = Command::new(&program);
    command.arg("--fixtures").arg(&fixtures).args(&args.rest);
    match cuda_libraries() {
        // Before the run path: the tree that the build uses has no CUDA.
        Some(lib) => {
            println!("libtorch: {}", lib.display());
            command.env("LD_LIBRARY_PATH", lib);
        }
        None => println!(
            "no CUDA libtorch was found: neither LIBTORCH nor `python3` has torch {TORCH_VERSION} with lib/libtorch_cuda.so \
             (pip install torch=={TORCH_VERSION})"
        ),
    }
    let status = command.status().with_context(|| format!("{} could not be started", program.display()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("the GPU's values differ from the CPU's: see the rows marked FAIL"),
        _ => bail!("the check ended early ({status})"),
    }
}

/// The library folder of a libtorch with CUDA: of `$LIBTORCH`, else of the active Python.
fn cuda_libraries() -> Option<PathBuf> {
    let given = std::env::var_os("LIBTORCH").map(PathBuf::from);
    let python = torch_site().map(|site| site.join("torch"));
    given.into_iter().chain(python).map(|torch| torch.join("lib")).find(|lib| lib.join("libtorch_cuda.so").is_file())
}

fn bundle(folder: &Path, me: &Path, program: &Path, fixtures: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("fixtures")).with_context(|| format!("{} cannot be made", folder.display()))?;
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to).with_context(|| format!("{} cannot be copied to {}", from.display(), to.display()))
    };
    let mut bytes = copy(me, folder.join("xtask"))? + copy(program, folder.join(PROGRAM))?;
    for entry in fs::read_dir(fixtures).with_context(|| format!("{} cannot be read", fixtures.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            bytes += copy(&entry.path(), folder.join("fixtures").join(entry.file_name()))?;
        }
    }
    println!(
        "{} ({:.1} MB); on the GPU machine: {}/xtask gpu-check",
        folder.display(),
        bytes as f64 / 1e6,
        folder.display()
    );
    Ok(())
}
