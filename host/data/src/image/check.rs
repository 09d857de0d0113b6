//! Whether a picture decodes, for a fraction of what decoding it costs.
//!
//! ```text
//!  bytes ─► of the usual form, and every bit of its data accounted for (jpeg.rs, png.rs) ─► yes
//!        └► anything else: decoded (decode.rs), whose word counts
//! ```
//! The two walkers say yes or nothing. Where they say yes, decoding succeeds: tests over damaged files hold them to it. So a picture is
//! refused exactly when decoding refuses it, in the same words.

mod jpeg;
mod png;

use super::ImageError;
use super::decode::decode_rgb;

/// Whether [`decode_rgb`] would succeed, and what it would say.
///
/// # Errors
/// Those of decoding it.
pub fn check(bytes: &[u8], max_pixels: u64) -> Result<(), ImageError> {
    if is_sound(bytes, max_pixels) {
        return Ok(());
    }
    decode_rgb(bytes, max_pixels).map(|_| ())
}

/// Whether a walker vouches for it.
fn is_sound(bytes: &[u8], max_pixels: u64) -> bool {
    jpeg::is_sound(bytes, max_pixels) || png::is_sound(bytes, max_pixels)
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
