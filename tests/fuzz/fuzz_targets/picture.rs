//! Any bytes as a picture.
#![no_main]

use std::sync::Once;

static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A panic inside a decoder is caught and costs that picture; libFuzzer's hook would end the process before that. One that
    // is not caught still does.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    ovhost_fuzz::data::picture(data);
});
