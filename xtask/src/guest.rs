//! Builds plugins into components: the crates of `plugins/*/*` in, `target/plugins/<kind>s/<name>.wasm` out.
//!
//! ```text
//!  rustup's std for wasm32-unknown-unknown there ──► plain cargo
//!  else Debian's rustc-web with that std         ──► Debian's cargo
//!  else Debian's rustc-web and rust-web-src      ──► Debian's cargo builds std from source (once per target folder)
//! ```
//! In all cases rustup's own `wasm-component-ld` links, so that cargo writes components. One cargo call builds all of
//! them into one target folder, which therefore holds one std and one SDK.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "wasm32-unknown-unknown";
const TEST_GUESTS: &str = "guests";
const KINDS: [&str; 4] = ["filters", "packers", "prompts", "metrics"];
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_STD_SOURCE: &str = "/usr/lib/rustlib/src/rust/library";
/// Asking rustup for the target is worth this long; without a way to its server it would retry for minutes.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(120);

/// Who compiles guests. `linker_dir` holds `wasm-component-ld` and `rust-lld`.
#[derive(Debug)]
enum Compiler {
    Rustup { linker_dir: PathBuf },
    Debian { linker_dir: PathBuf, build_std: bool },
}

/// Builds the plugins whose `kinds/name` contains `filter` (all of them without one) and returns their components.
///
/// A filter that starts with `guests` means the ill-behaved guests of `tests/guests`. They are checked in, in
/// `tests/fixtures/guests`, so that tests need no WebAssembly toolchain; run this after changing one.
///
/// Installs what is missing through [`ensure_wasm_toolchain`].
///
/// # Errors
/// No plugin matches, no toolchain, or the build fails.
pub fn build_plugins(root: &Path, filter: Option<&str>) -> Result<Vec<PathBuf>> {
    let plugins = chosen_plugins(root, filter)?;
    let packages: Vec<&str> = plugins.iter().map(|plugin| plugin.package.as_str()).collect();
    let built = build_packages(root, &packages)?;
    let mut out = Vec::with_capacity(plugins.len());
    for (plugin, component) in plugins.iter().zip(built) {
        let folder = if plugin.kind == TEST_GUESTS { "tests/fixtures" } else { "target/plugins" };
        let target = root.join(folder).join(&plugin.kind).join(format!("{}.wasm", plugin.name));
        publish(&component, &target)?;
        out.push(target);
    }
    Ok(out)
}

/// Writes `sdk/src/bindings.rs` anew out of `wit/`; needed after each change of the contract.
///
/// # Errors
/// The contract does not parse, or the generator does not build.
pub fn regenerate_bindings(root: &Path) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--quiet", "--manifest-path", "sdk/bindgen/Cargo.toml", "--target-dir", "target/bindgen"]);
    let status = cargo.current_dir(root).status().context("cannot run cargo")?;
    ensure!(status.success(), "the generator of the bindings failed ({status}); its message is above");
    Ok(())
}

/// Makes sure that guests can be built: does nothing if they can, else asks rustup for the target, else installs
/// Debian's packages with apt-get (it says so first).
///
/// # Errors
/// Neither way works; the message says what to install.
pub fn ensure_wasm_toolchain() -> Result<()> {
    let root = std::env::current_dir()?;
    if compiler(&root)?.is_some() {
        return Ok(());
    }
    let why = match rustup_target_add(&root) {
        Ok(()) => match compiler(&root)? {
            Some(_) => return Ok(()),
            None => "rustup says that it is installed, but rustc does not find it".to_owned(),
        },
        Err(e) => e.to_string(),
    };
    let packages = DEBIAN_PACKAGES.join(" ");
    let manual = format!("run `rustup target add {TARGET}`, or as root `apt-get install {packages}`, and try again");
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0");
    if !is_root || find_on_path("apt-get").is_none() {
        bail!("no Rust standard library for {TARGET}, which plugins need (rustup: {why}); {manual}");
    }
    eprintln!("rustup cannot give the target {TARGET} ({why})");
    eprintln!("installing Debian's packages instead: apt-get install {packages}");
    let apt = |args: &[&str]| -> Result<()> {
        let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "`apt-get {}` failed ({status}); {manual}", args.join(" "));
        Ok(())
    };
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(DEBIAN_PACKAGES);
    apt(&install)?;
    ensure!(compiler(&root)?.is_some(), "{packages} are installed, but {DEBIAN_STD_SOURCE} is missing; {manual}");
    Ok(())
}

/// The compiler that is there, if any.
fn compiler(root: &Path) -> Result<Option<Compiler>> {
    let sysroot = PathBuf::from(rustc(root, &["--print", "sysroot"])?);
    let version = rustc(root, &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let linker_dir = sysroot.join("lib/rustlib").join(host).join("bin");
    ensure!(
        linker_dir.join("wasm-component-ld").is_file() && linker_dir.join("rust-lld").is_file(),
        "{} has no wasm-component-ld and rust-lld, which link plugins: install Rust with rustup (https://rustup.rs)",
        linker_dir.display()
    );
    if sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(Some(Compiler::Rustup { linker_dir }));
    }
    if !Path::new("/usr/bin/rustc").is_file() || !Path::new("/usr/bin/cargo").is_file() {
        return Ok(None);
    }
    if Path::new("/usr/lib/rustlib").join(TARGET).join("lib").is_dir() {
        return Ok(Some(Compiler::Debian { linker_dir, build_std: false }));
    }
    Ok(Path::new(DEBIAN_STD_SOURCE).is_dir().then_some(Compiler::Debian { linker_dir, build_std: true }))
}

/// Output of rustup's (or whichever comes first) `rustc`, as this workspace sees it.
fn rustc(root: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("rustc").args(args).current_dir(root).output().context("cannot run `rustc`")?;
    ensure!(out.status.success(), "`rustc {}` failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Asks rustup for the target, quietly. `Err` is one line.
fn rustup_target_add(root: &Path) -> Result<()> {
    if find_on_path("rustup").is_none() {
        bail!("rustup is not installed");
    }
    eprintln!("asking rustup for the target {TARGET}");
    let mut child = Command::new("rustup")
        .args(["target", "add", TARGET])
        .current_dir(root)
        .env("RUSTUP_MAX_RETRIES", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // Read beside the wait: a full pipe would stop rustup.
    let mut stderr = child.stderr.take().context("rustup has no standard error")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stderr, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > RUSTUP_PATIENCE => {
                child.kill()?;
                child.wait()?;
                bail!("no answer from its server in {} s", RUSTUP_PATIENCE.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let text = reader.join().unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it failed without an error");
    bail!("{}", line.trim())
}

fn find_on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Builds workspace packages as components with one cargo call; gives their files, in order.
fn build_packages(root: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let compiler = match compiler(root)? {
        Some(compiler) => compiler,
        None => {
            ensure_wasm_toolchain()?;
            compiler(root)?.context("no compiler for plugins")?
        }
    };
    let target_dir = root.join("target/guest");
    let mut cargo = cargo(&compiler, root)?;
    cargo.args(["build", "--quiet", "--profile", "plugin", "--target", TARGET, "--target-dir"]).arg(&target_dir);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().with_context(|| format!("cannot run {cargo:?}"))?;
    ensure!(status.success(), "the plugins do not build ({status}); the compiler's messages are above");
    let mut out = Vec::new();
    for package in packages {
        let path = target_dir.join(TARGET).join("plugin").join(format!("{}.wasm", package.replace('-', "_")));
        let bytes = std::fs::read(&path).with_context(|| {
            format!("{} was not written: does the crate say `crate-type = [\"cdylib\", \"rlib\"]`?", path.display())
        })?;
        ensure!(
            bytes.starts_with(b"\0asm\x0d\0\x01\0"),
            "{} is no component: does the crate call one of ovhost_sdk's export macros?",
            path.display()
        );
        out.push(path);
    }
    Ok(out)
}

/// A cargo command for guests, free of what an outer cargo or the user's shell set for the host.
fn cargo(compiler: &Compiler, root: &Path) -> Result<Command> {
    let (linker_dir, mut command) = match compiler {
        Compiler::Rustup { linker_dir } => (linker_dir, Command::new("cargo")),
        Compiler::Debian { linker_dir, build_std } => {
            let mut command = Command::new("/usr/bin/cargo");
            command.env("RUSTC", "/usr/bin/rustc");
            if *build_std {
                command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
            }
            (linker_dir, command)
        }
    };
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"] {
        command.env_remove(name);
    }
    if matches!(compiler, Compiler::Debian { .. }) {
        // The outer cargo's: they would lead Debian's programs to rustup's libraries.
        for name in ["CARGO", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTDOC"] {
            command.env_remove(name);
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(linker_dir.clone()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(dirs)?);
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-component-ld");
    command.env("CARGO_ENCODED_RUSTFLAGS", remaps(root)?);
    command.current_dir(root);
    Ok(command)
}

/// Flags that keep this machine's folders out of the components: they reach panic messages, and a pinned hash must not
/// depend on where somebody's checkout is. Separated as `CARGO_ENCODED_RUSTFLAGS` wants them.
fn remaps(root: &Path) -> Result<OsString> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut flags = OsString::new();
    let mut remap = |from: &Path, to: &str| {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    };
    remap(&root.canonicalize()?, ".");
    if let Some(home) = home {
        remap(&home.join("registry/src"), "crates");
    }
    remap(Path::new(DEBIAN_STD_SOURCE), "std");
    Ok(flags)
}

struct Plugin {
    kind: String,
    name: String,
    package: String,
}

fn chosen_plugins(root: &Path, filter: Option<&str>) -> Result<Vec<Plugin>> {
    let mut all = Vec::new();
    let (parent, kinds): (_, &[&str]) = match filter {
        Some(filter) if filter.starts_with(TEST_GUESTS) => ("tests", &[TEST_GUESTS]),
        _ => ("plugins", &KINDS),
    };
    for &kind in kinds {
        for folder in crate_folders(&root.join(parent).join(kind))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Plugin { kind: kind.into(), package: package_name(&folder)?, name });
        }
    }
    let label = |plugin: &Plugin| format!("{}/{}", plugin.kind, plugin.name);
    let names: Vec<String> = all.iter().map(label).collect();
    all.retain(|plugin| filter.is_none_or(|part| label(plugin).contains(part)));
    if all.is_empty() {
        let asked = filter.unwrap_or("(all)");
        bail!("no plugin in plugins/ matches `{asked}`; there are: {}", names.join(", "));
    }
    Ok(all)
}

/// Folders in `parent` that hold a crate, sorted. No such parent: none.
fn crate_folders(parent: &Path) -> Result<Vec<PathBuf>> {
    if !parent.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    let mut folders = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    folders.retain(|path| path.join("Cargo.toml").is_file());
    folders.sort();
    Ok(folders)
}

/// The first `name = "…"` of the crate's manifest.
fn package_name(folder: &Path) -> Result<String> {
    let path = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='));
    let name = quoted.map(|rest| rest.trim().trim_matches('"').to_owned()).filter(|name| !name.is_empty());
    name.with_context(|| format!("{} has no `name = \"…\"`", path.display()))
}

/// Copies `from` to `to` whole or not at all. An equal file stays as it is, with its time.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = to.parent().context("a component has a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let part = to.with_extension(format!("wasm.{}.part", std::process::id()));
    std::fs::write(&part, bytes).with_context(|| format!("cannot write {}", part.display()))?;
    std::fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    #[test]
    fn plugins_are_found_by_kind_and_name() {
        assert!(chosen_plugins(&root(), None).unwrap().len() >= 6);
        let chosen = chosen_plugins(&root(), Some("packers/padding")).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!((chosen[0].kind.as_str(), chosen[0].package.as_str()), ("packers", "padding_free"));
        let guests = chosen_plugins(&root(), Some("guests/misbehave")).unwrap();
        assert!(guests.iter().any(|guest| guest.package == "misbehave"));
        let error = chosen_plugins(&root(), Some("nope")).err().unwrap().to_string();
        assert!(error.contains("`nope`") && error.contains("packers/padding_free"), "{error}");
    }

    #[test]
    fn publishing_replaces_whole_files_and_leaves_equal_ones() {
        let dir = std::env::temp_dir().join(format!("ovhost-guest-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("a.wasm"), dir.join("filters/b.wasm"));
        std::fs::write(&from, b"one").unwrap();
        publish(&from, &to).unwrap();
        let time = std::fs::metadata(&to).unwrap().modified().unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(std::fs::metadata(&to).unwrap().modified().unwrap(), time);
        std::fs::write(&from, b"two").unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.join("filters")).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
