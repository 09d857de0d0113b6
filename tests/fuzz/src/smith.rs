//! Valid components with random insides. wasm-smith makes a core module with the exports that a plugin's frame asks for;
//! around it goes the frame. What comes out passes every check of form, so that `describe` runs random code.

use std::path::Path;

use wasm_smith::{Component, Config, Module};
use wasmparser::{Parser, Payload};

use crate::frame;

/// A component out of these bytes, none if they are too few: of two in three the frame of a plugin of some kind around a
/// random module, else a random component.
pub fn component(data: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = data.split_first()?;
    let mut random = wasm_smith_arbitrary(rest);
    if first % 3 == 0 {
        return Component::new(Config::default(), &mut random).ok().map(|component| component.to_bytes());
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let (kind, _) = frame::FROZEN[usize::from(first / 3) % 4];
    let whole = frame::frozen(&fixtures, kind);
    // Of the kinds of things that the engine has on; the limits keep a module small enough to compile in milliseconds.
    let config = Config {
        exports: Some(exports(&whole)),
        max_memory32_bytes: 1 << 24,
        max_instructions: 200,
        max_funcs: 20,
        max_table_elements: 1_000,
        max_imports: 0,
        gc_enabled: false,
        reference_types_enabled: false,
        memory64_enabled: false,
        max_memories: 0,
        relaxed_simd_enabled: false,
        shared_everything_threads_enabled: false,
        threads_enabled: false,
        custom_page_sizes_enabled: false,
        wide_arithmetic_enabled: false,
        exceptions_enabled: false,
        ..Config::default()
    };
    let module = Module::new(config, &mut random).ok()?;
    Some(frame::framed(&whole, &module.to_bytes()))
}

fn wasm_smith_arbitrary(data: &[u8]) -> libfuzzer_sys::arbitrary::Unstructured<'_> {
    libfuzzer_sys::arbitrary::Unstructured::new(data)
}

/// The main core module of a component: its exports are what the frame asks for.
fn exports(whole: &[u8]) -> Vec<u8> {
    let main = Parser::new(0).parse_all(whole).find_map(|payload| match payload.expect("a frozen component parses") {
        Payload::ModuleSection { unchecked_range, .. } => Some(unchecked_range),
        _ => None,
    });
    whole[main.expect("a component has a core module")].to_vec()
}
