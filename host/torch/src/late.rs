//! Numbers that are read from the device after it has gone on to other work.

use std::ffi::c_void;

use tch::{Kind, Tensor};

use crate::{TorchError, ffi};

/// The values of a tensor, on their way to page-locked memory of the host. Making it waits for nothing.
#[derive(Debug)]
pub struct LateValues {
    late: *mut c_void,
}

impl LateValues {
    /// Asks for the values that `values` has when the device gets there. What is launched later does not change them.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn new(values: &Tensor) -> Result<Self, TorchError> {
        // SAFETY: a live tensor, borrowed; null means failure.
        let late = unsafe { ffi::ov_late_new(values.as_ptr()) };
        if late.is_null() { Err(ffi::last_error()) } else { Ok(Self { late }) }
    }

    /// The values, in order, when the device has got there: later work is not waited for.
    ///
    /// # Errors
    /// What the device threw in the meantime, too.
    pub fn wait(&self) -> Result<Vec<f64>, TorchError> {
        // SAFETY: made by ov_late_new and not freed before self is dropped.
        let host = ffi::tensor(unsafe { ffi::ov_late_wait(self.late) })?;
        let flat = host.f_to_kind(Kind::Double)?.f_reshape([-1])?;
        Ok(Vec::<f64>::try_from(&flat)?)
    }
}

impl Drop for LateValues {
    fn drop(&mut self) {
        // SAFETY: made by ov_late_new, freed once.
        unsafe { ffi::ov_late_free(self.late) }
    }
}
