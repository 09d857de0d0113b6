//! Any bytes as a file of a data set's metadata.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::data::meta(data);
});
