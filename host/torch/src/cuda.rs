//! Loads the CUDA half of libtorch when the machine has one, so that one binary serves both.

use std::ffi::{CStr, CString, c_int};
use std::path::PathBuf;

fn open(path: &CStr, flags: c_int) -> Result<(), String> {
    // SAFETY: a valid C string; the handle is kept for the life of the process on purpose.
    unsafe {
        if !libc::dlopen(path.as_ptr(), flags).is_null() {
            return Ok(());
        }
        let text = libc::dlerror();
        let text = if text.is_null() { c"unknown error" } else { CStr::from_ptr(text) };
        Err(text.to_string_lossy().into_owned())
    }
}

/// The folder of the `libtorch_cpu.so` that this process runs with.
pub fn torch_lib_dir() -> Option<PathBuf> {
    // SAFETY: dlsym and dladdr only read the loader's tables; Dl_info is plain data, valid when zeroed.
    unsafe {
        let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"_ZN2at13globalContextEv".as_ptr());
        let mut info: libc::Dl_info = std::mem::zeroed();
        if symbol.is_null() || libc::dladdr(symbol, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let file = PathBuf::from(CStr::from_ptr(info.dli_fname).to_str().ok()?);
        file.parent().map(Into::into)
    }
}

/// Registers the CUDA kernels: to be called first in `main`, because libtorch looks for them once, at the first call that asks.
///
/// # Errors
/// Says why this process stays on the CPU: no NVIDIA driver, a CPU-only libtorch, or a missing CUDA library. All is well
/// for CPU work after an error.
pub fn load_cuda() -> Result<(), String> {
    open(c"libcuda.so.1", libc::RTLD_LAZY).map_err(|e| format!("no NVIDIA driver ({e})"))?;
    let dir = torch_lib_dir().ok_or("libtorch_cpu.so is not in this process")?;
    // It must come from the same folder: its own lazy loads search there.
    let file = dir.join("libtorch_cuda.so");
    if !file.exists() {
        return Err(format!("{} holds no libtorch_cuda.so: this libtorch is the CPU one", dir.display()));
    }
    let path = CString::new(file.as_os_str().as_encoded_bytes())
        .map_err(|_| format!("{} has a zero byte in its name", file.display()))?;
    open(&path, libc::RTLD_NOW | libc::RTLD_GLOBAL)
}
