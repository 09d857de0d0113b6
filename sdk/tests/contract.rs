//! The checked-in bindings are those of the contract.

#[test]
fn bindings_match_the_wit() {
    let wit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/plugin.wit")).unwrap();
    assert!(
        ovhost_sdk::bindings::WIT == wit,
        "wit/plugin.wit has changed since sdk/src/bindings.rs was generated; run\n  \
         cargo run --manifest-path sdk/bindgen/Cargo.toml --target-dir target/bindgen"
    );
}
