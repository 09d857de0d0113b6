//! Writes where the binary looks for libtorch: beside itself first, then where it was built. `LD_LIBRARY_PATH` wins over both.
//! And the list of the task files that the program brings, with their texts.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/libtorch/torch/lib");
    if let Ok(lib) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=tasks");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("tasks");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    paths.sort();
    let entry = |path: &PathBuf| format!("({:?}, include_str!({path:?})),\n", path.file_stem().unwrap_or_default());
    let list: String = paths.iter().map(entry).collect();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("tasks.rs");
    fs::write(&out, format!("&[\n{list}]")).unwrap_or_else(|e| panic!("writing {}: {e}", out.display()));
}
