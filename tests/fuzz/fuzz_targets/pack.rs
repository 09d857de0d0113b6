//! Any bytes as the JSON of a pack.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::data::pack(data);
});
