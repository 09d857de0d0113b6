//! Any bytes to the loader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::load_bytes(data);
});
