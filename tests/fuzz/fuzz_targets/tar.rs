//! Any bytes as a shard.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::data::tar(data);
});
