//! Any bytes as the index of a good shard.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ovhost_fuzz::data::index(data);
});
