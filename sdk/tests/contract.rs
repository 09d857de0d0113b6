//! The contract: the checked-in bindings are those of its text, and every item of it is explained.

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit/plugin.wit");

#[test]
fn bindings_match_the_wit() {
    let wit = std::fs::read_to_string(PATH).unwrap();
    assert!(
        ovhost_sdk::bindings::WIT == wit,
        "wit/plugin.wit has changed since sdk/src/bindings.rs was generated; run\n  \
         cargo run --manifest-path sdk/bindgen/Cargo.toml --target-dir target/bindgen"
    );
}

/// Items of a WIT text (interfaces, worlds, types, fields, cases, functions) without a `///` line before them, and lines with
/// several items, which leave no room for one: each as `line: text`.
fn unexplained(wit: &str) -> Vec<String> {
    let (mut out, mut explained, mut in_world) = (Vec::new(), false, false);
    for (at, line) in wit.lines().map(str::trim).enumerate() {
        if line.starts_with("///") {
            // An empty one explains nothing.
            explained |= line.len() > 3;
            continue;
        }
        let first = line.split([' ', ':', '(', ',', ';']).next().unwrap_or_default();
        in_world = first == "world" || in_world && first != "interface";
        let plain = matches!(first, "" | "}" | "package" | "use") || in_world && matches!(first, "import" | "export");
        // A world's imports and exports are explained where the interfaces are.
        let several = !in_world && !plain && line.split_once('{').is_some_and(|(_, rest)| !rest.is_empty());
        if !plain && (!explained || several) {
            out.push(format!("{}: {line}", at + 1));
        }
        explained = false;
    }
    out
}

#[test]
fn every_item_of_the_contract_is_explained() {
    let wit = std::fs::read_to_string(PATH).unwrap();
    let missing = unexplained(&wit);
    assert!(missing.is_empty(), "wit/plugin.wit needs a /// line before each of\n{}", missing.join("\n"));
}

#[test]
fn what_is_not_explained_is_seen() {
    let wit = "package a:b@0.1.0;\n/// I.\ninterface i {\n  use t.{x};\n  record r {\n    a: u8,\n    /// B.\n    b: u8,\n  }\n  \
               /// E.\n  enum e { x, y }\n  f: func();\n\n  /// G.\n  g: func();\n}\nworld w { import i; }\n";
    assert_eq!(
        unexplained(wit),
        ["5: record r {", "6: a: u8,", "11: enum e { x, y }", "12: f: func();", "17: world w { import i; }"]
    );
}
