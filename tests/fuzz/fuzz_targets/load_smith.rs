//! Valid components with random insides to the loader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| -> libfuzzer_sys::Corpus {
    match ovhost_fuzz::smith::component(data) {
        Some(component) => {
            ovhost_fuzz::load_bytes(&component);
            libfuzzer_sys::Corpus::Keep
        }
        None => libfuzzer_sys::Corpus::Reject,
    }
});
