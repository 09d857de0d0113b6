//! The guests in `tests/fixtures/guests` are built from the sources beside them: each carries the fingerprint of its
//! sources, as `tests/guests/misbehave/src/common.rs` computes it.

use crate::{guest, workspace};

const MARK: &[u8] = b"ovhost guest sources ";

/// FNV-1a, 64 bit.
fn fingerprint(files: &[&str]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in std::fs::read(workspace().join("tests/guests").join(file)).unwrap() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[test]
fn the_checked_in_guests_are_those_of_the_sources() {
    for name in ["misbehave", "misbehave_packer", "misbehave_prompt", "misbehave_metric"] {
        let (library, manifest) = (format!("{name}/src/lib.rs"), format!("{name}/Cargo.toml"));
        let sources = fingerprint(&[&library, "misbehave/src/common.rs", &manifest]);
        let component = std::fs::read(guest(name)).unwrap();
        let at = component.windows(MARK.len()).position(|window| window == MARK).expect("it carries a fingerprint");
        let carried = &component[at + MARK.len()..][..16];
        assert_eq!(
            String::from_utf8_lossy(carried),
            sources,
            "tests/fixtures/guests/{name}.wasm is older than its sources: run `cargo xtask plugins guests/misbehave`"
        );
    }
}
