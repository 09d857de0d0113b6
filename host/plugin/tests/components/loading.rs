//! What is found before any data: pins, kinds, entries, configurations, limits.

use std::collections::BTreeMap;

use ovhost_plugin::{Host, HostOptions, Kind, Limits, PluginError, PluginSpec};
use serde_json::json;

use crate::{assert_says, ctx, first_party, guest, host, load, texts};

fn refused(spec: &PluginSpec) -> PluginError {
    host().load(spec).unwrap_err()
}

#[test]
fn kinds_come_from_the_components() {
    let all = [
        ("filters/image_geometry", Kind::Filter),
        ("filters/caption_quality", Kind::Filter),
        ("packers/padding_free", Kind::Packer),
        ("packers/sequential", Kind::Packer),
        ("prompts/conversation", Kind::Prompt),
        ("metrics/exact_match", Kind::Metric),
    ];
    for (name, kind) in all {
        let plugin = host().load(&PluginSpec::new(first_party(name))).unwrap();
        assert_eq!(plugin.kind(), kind);
        let info = serde_json::to_value(plugin.info()).unwrap();
        assert_eq!(info["kind"], kind.name());
        assert_eq!(info["sha256"].as_str().unwrap().len(), 64);
        assert!(info["resolved_config"].is_object());
        let wrong = if kind == Kind::Packer { plugin.filter().err() } else { plugin.packer().err() };
        assert_says(&wrong.unwrap(), &[&format!("is a {kind} and cannot be used as a")]);
    }
}

#[test]
fn the_resolved_configuration_has_the_defaults() {
    let mut spec = PluginSpec::new(first_party("filters/image_geometry"));
    spec.config = json!({"min_side": 64});
    let plugin = host().load(&spec).unwrap();
    assert_eq!(plugin.info().resolved_config["min_side"], 64);
    assert_eq!(plugin.info().resolved_config["max_aspect"], 200.0);
}

#[test]
fn configurations_are_checked_by_schema() {
    let mut spec = PluginSpec::new(first_party("filters/image_geometry"));
    spec.config = json!({"min_sid": 64});
    assert_says(&refused(&spec), &["image_geometry", "\"min_sid\" is not known, perhaps \"min_side\"", "max_aspect"]);
    spec.config = json!({"min_side": "big"});
    assert_says(&refused(&spec), &["/min_side", "\"big\"", "integer"]);
    spec.config = json!({"max_aspect": 0.5});
    assert_says(&refused(&spec), &["/max_aspect", "0.5"]);
    spec.config = json!([1]);
    assert_says(&refused(&spec), &["must be a table"]);
}

#[test]
fn pins_hold() {
    let path = first_party("filters/image_geometry");
    let actual = host().inspect(&path, None).unwrap().sha256;
    let mut spec = PluginSpec::new(path);
    for good in [actual.clone(), actual.to_uppercase(), format!("sha256:{actual}")] {
        spec.sha256 = Some(good);
        host().load(&spec).unwrap();
    }
    let other = "0".repeat(64);
    spec.sha256 = Some(other.clone());
    assert_says(&refused(&spec), &[&other, &actual, "write its sha256 into the recipe"]);
    spec.sha256 = Some("abc".into());
    assert_says(&refused(&spec), &["\"abc\" of plugin", "64 hexadecimal digits", "ovhost plugin inspect"]);
}

#[test]
fn entries_assets_and_limits_are_checked() {
    let mut spec = PluginSpec::new(guest("misbehave"));
    assert_says(&refused(&spec), &["several entries", "good, panic, abort"]);
    spec.entry = Some("goood".into());
    assert_says(&refused(&spec), &["no entry \"goood\"", "good, panic, abort"]);
    spec.entry = Some("good".into());
    spec.assets = BTreeMap::from([("words".to_owned(), "x.txt".into())]);
    assert_says(&refused(&spec), &["no asset \"words\"", "takes none"]);
    spec.assets.clear();
    spec.limits = Limits { memory_mib: 0, ..Limits::default() };
    assert_says(&refused(&spec), &["limits.memory_mib = 0", "1 to 4096"]);
    spec.limits = Limits { memory_mib: 1, ..Limits::default() };
    assert_says(&refused(&spec), &["limits.memory_mib is 1"]);
    spec.limits = Limits { stack_kib: 256, ..Limits::default() };
    let mut filter = host().load(&spec).unwrap().filter().unwrap();
    assert_eq!(filter.process(&ctx(), &texts(&["a"])).unwrap().keep, [true]);
}

#[test]
fn a_missing_column_is_named_before_any_call() {
    let plugin = load(guest("misbehave"), "good");
    assert_says(&plugin.check_columns(&["width", "height"]).unwrap_err(), &["\"text\"", "width, height"]);
    plugin.check_columns(&["text"]).unwrap();
    let mut filter = plugin.filter().unwrap();
    let mut batch = texts(&["a"]);
    batch.columns.remove(0);
    assert_says(&filter.process(&ctx(), &batch).unwrap_err(), &["\"text\"", "offered: key"]);
    assert_eq!(filter.counters().calls, 0);
    let mut batch = texts(&["a", "b"]);
    batch.rows = 3;
    assert_says(&filter.process(&ctx(), &batch).unwrap_err(), &["\"text\"", "3 rows"]);
}

#[test]
fn files_that_are_no_plugins_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        refused(&PluginSpec::new(path))
    };
    assert_says(&file("a.cwasm", b"\x7fELF\x02\x01"), &["a.cwasm", "never loaded"]);
    assert_says(&file("b.wasm", b"\0asm\x01\0\0\0"), &["core module", "wasm-component-ld"]);
    let wasi = wat::parse_str(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#).unwrap();
    assert_says(&file("c.wasm", &wasi), &["wasi:clocks/wall-clock@0.2.0", "--stub-wasi"]);
    let whole = std::fs::read(first_party("filters/image_geometry")).unwrap();
    assert_says(&file("d.wasm", &whole[..whole.len() / 2]), &["not a valid component"]);
    let types = wat::parse_str(
        r#"(component (component $c) (instance $e (instantiate $c))
            (export "ovhost:plugin/lifecycle@0.1.0" (instance $e)) (export "ovhost:plugin/filter@0.1.0" (instance $e)))"#,
    );
    assert_says(&file("e.wasm", &types.unwrap()), &["types differ", "describe"]);
    assert_says(&refused(&PluginSpec::new(folder.path().join("none.wasm"))), &["cannot read", "none.wasm"]);
}

#[test]
fn compiled_code_is_cached_and_damage_is_a_miss() {
    let cache = tempfile::tempdir().unwrap();
    let options = HostOptions { cache_dir: Some(cache.path().join("wasm")) };
    let spec = PluginSpec::new(first_party("filters/image_geometry"));
    let run = || Host::new(options.clone()).unwrap().load(&spec).unwrap().info().clone();
    let first = run();
    let folder = std::fs::read_dir(cache.path().join("wasm")).unwrap().next().unwrap().unwrap().path();
    let file = folder.join(format!("{}.cwasm", first.sha256));
    let good = std::fs::read(&file).unwrap();
    // Use changes the file's time; compiling again would put another file in its place.
    let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&file).unwrap());
    let written = inode();
    run();
    assert_eq!(inode(), written, "the second start compiles nothing");
    std::fs::write(&file, &good[..good.len() - 7]).unwrap();
    run();
    assert_eq!(std::fs::read(&file).unwrap().len(), good.len(), "the damaged file was made again");
}
