//! Puts what `new` writes into the binary: the templates, the SDK's sources and pages, the contract, and the lock file that
//! the SDK is tested with. A list of `(name, text)` goes to `$OUT_DIR/embedded.rs`; names are relative to the repository, and those of
//! templates to `templates/`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    if let Err(error) = write_list() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn write_list() -> Result<(), String> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from).ok_or(format!("cargo sets no {name}"));
    let (here, out) = (var("CARGO_MANIFEST_DIR")?, var("OUT_DIR")?);
    let root = here.join("../..");
    let mut files = Vec::new();
    for (folder, name) in [
        (here.join("templates"), "templates"),
        (root.join("sdk/src"), "sdk/src"),
        (root.join("sdk/docs"), "sdk/docs"),
        (root.join("wit"), "wit"),
    ] {
        collect(&folder, name, &mut files)?;
    }
    files.push(("Cargo.lock".to_owned(), root.join("Cargo.lock")));
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    files.sort();
    let mut list = String::from("&[\n");
    for (name, path) in &files {
        let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
        writeln!(list, "    ({name:?}, include_str!({path:?})),").map_err(|e| e.to_string())?;
    }
    list.push(']');
    std::fs::write(out.join("embedded.rs"), list).map_err(|e| e.to_string())
}

fn collect(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), String> {
    // The folder too: a new file in it must be seen.
    println!("cargo::rerun-if-changed={}", folder.display());
    let broken = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(broken)? {
        let path = entry.map_err(broken)?.path();
        let Some(last) = path.file_name().and_then(|last| last.to_str()) else { continue };
        // What running the Python templates' unit tests leaves, and editors' files.
        if last == "__pycache__" || last.starts_with('.') {
            continue;
        }
        let name = format!("{name}/{last}");
        if path.is_dir() {
            collect(&path, &name, files)?;
        } else {
            files.push((name, path));
        }
    }
    Ok(())
}
