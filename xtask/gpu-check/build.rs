//! Writes where the binary looks for libtorch: beside itself first, then where it was built. `LD_LIBRARY_PATH` wins over both.

fn main() {
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/libtorch/torch/lib");
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
