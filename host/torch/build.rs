//! Compiles the C++ shim (about 15 s of CPU) against the libtorch that torch-sys found, and links `torch_cpu` and `c10` only:
//! `libtorch_cuda.so` is loaded at run time where it is present.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=cpp");
    let lib = match std::env::var("DEP_TCH_LIBTORCH_LIB") {
        Ok(lib) => PathBuf::from(lib),
        Err(_) => panic!("torch-sys told no libtorch folder: run `cargo xtask setup` and build inside the repository"),
    };
    let include = match lib.parent() {
        Some(torch) => torch.join("include"),
        None => panic!("libtorch's library folder {} has no parent", lib.display()),
    };
    let unit = |name: &str, files: &[&str], level: u32| {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .warnings(false)
            .pic(true)
            .debug(false)
            .opt_level(level)
            .define("NDEBUG", None)
            .define("AT_PER_OPERATOR_HEADERS", None)
            .include("cpp")
            .include(&include)
            .include(include.join("torch/csrc/api/include"))
            .files(files.iter().map(|f| format!("cpp/{f}")))
            .compile(name);
    };
    // Dispatch code does not need an optimiser; the loops do. Users come before what they use.
    unit("ovhost_shim", &["functions.cpp", "ops.cpp"], 1);
    unit("ovhost_kernels", &["kernels.cpp"], 3);
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display()); // this crate's own tests
}
