//! Loads the CUDA half of libtorch when the machine has one, so that one binary serves both.

use std::ffi::{CStr, CString, c_int};
use std::path::PathBuf;

use tch::{Device, Tensor};

use crate::{TorchError, ffi};

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

fn number(device: usize) -> Result<c_int, TorchError> {
    c_int::try_from(device).map_err(|_| TorchError::new(format!("there is no CUDA device {device}")))
}

/// Bytes that the tensors on a CUDA device held at most, since the start or [`reset_memory_peak`]; 0 on the CPU, where
/// the system's figure for the process serves.
///
/// # Errors
/// CUDA was not loaded, or there is no such device.
pub fn memory_peak(device: Device) -> Result<u64, TorchError> {
    let Device::Cuda(device) = device else { return Ok(0) };
    // SAFETY: a plain value.
    let bytes = unsafe { ffi::ov_memory_peak(number(device)?) };
    u64::try_from(bytes).map_err(|_| ffi::last_error())
}

/// Lets [`memory_peak`] count anew from what is held now.
///
/// # Errors
/// As [`memory_peak`].
pub fn reset_memory_peak(device: Device) -> Result<(), TorchError> {
    let Device::Cuda(device) = device else { return Ok(()) };
    // SAFETY: a plain value.
    ffi::status(unsafe { ffi::ov_reset_memory_peak(number(device)?) })
}

/// A host tensor's copy on `device`, without waiting for it: through page-locked memory, so that neither the host nor the work
/// that the device still has to do is held up. The tensor itself where it is on the device already.
///
/// # Errors
/// What libtorch throws, out of memory for example.
pub fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TorchError> {
    match (tensor.device(), device) {
        (Device::Cpu, Device::Cuda(_)) => {
            // libtorch keeps the page-locked copy until the device has read it.
            let pinned = tensor.f_pin_memory(device)?;
            Ok(pinned.f_to_device_(device, tensor.kind(), true, false)?)
        }
        _ => Ok(tensor.f_to_device(device)?),
    }
}
