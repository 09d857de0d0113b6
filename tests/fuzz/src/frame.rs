//! A component around any core module: the frame of a frozen plugin (its types, its imports, its wiring) with another main
//! core module in the place of its own.

use std::ops::Range;
use std::path::Path;

use wasmparser::{Parser, Payload};

/// The frozen plugins, by kind.
pub const FROZEN: [(&str, &str); 4] = [
    ("filter", "image_geometry.wasm"),
    ("packer", "padding_free.wasm"),
    ("prompt", "conversation.wasm"),
    ("metric", "exact_match.wasm"),
];

/// The frozen plugin of a kind. `fixtures`: the repository's `tests/fixtures`.
pub fn frozen(fixtures: &Path, kind: &str) -> Vec<u8> {
    let (_, file) = FROZEN.iter().find(|(name, _)| *name == kind).expect("one of the four kinds");
    let path = fixtures.join("guests/v0.1.0").join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `component` with another main core module.
pub fn framed(component: &[u8], core: &[u8]) -> Vec<u8> {
    let main =
        Parser::new(0).parse_all(component).find_map(|payload| match payload.expect("a frozen component parses") {
            Payload::ModuleSection { unchecked_range, .. } => Some(unchecked_range),
            _ => None,
        });
    let Range { start, end } = main.expect("a component has a core module");
    // Before the module: its section's number and its length, in LEB128.
    let mut header = Vec::new();
    leb(&mut header, end - start);
    let before = start - header.len();
    assert_eq!(&component[before..start], &header[..], "the length is as short as can be");
    let mut out = component[..before].to_vec();
    leb(&mut out, core.len());
    out.extend_from_slice(core);
    out.extend_from_slice(&component[end..]);
    out
}

fn leb(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
