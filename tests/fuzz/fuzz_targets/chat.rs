//! Any bytes as a record's JSON, on its way to tokens.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::data::chat(data);
});
