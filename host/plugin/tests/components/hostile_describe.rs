//! Components that lie before any data: in `describe`, in their schema, at start, in `init`.

use std::time::{Duration, Instant};

use ovhost_plugin::{Limits, PluginError, PluginSpec};
use serde_json::{Value, json};

use crate::forge::{Forged, Image, file, load_bytes};
use crate::{assert_says, ctx, guest, host, load, spec, texts};

fn refused(forged: &Forged) -> PluginError {
    forged.load().unwrap_err()
}

#[test]
fn the_forge_makes_sound_plugins() {
    let plugin = Forged::new().load().unwrap();
    assert_eq!(plugin.info().reads, [("text".to_owned(), true)]);
    let out = plugin.filter().unwrap().process(&ctx(), &texts(&["a", "b"])).unwrap();
    assert_eq!(out.keep, [true, true]);
}

#[test]
fn describe_that_loops_traps_or_overflows_ends_in_an_error() {
    let describe = |body: &str| {
        let mut forged = Forged::new();
        forged.describe = body.into();
        forged.fields =
            "(func $deeper (param i32) (result i32) (i32.add (call $deeper (local.get 0)) (i32.const 1)))".into();
        refused(&forged)
    };
    assert_says(&describe("(loop (br 0)) (unreachable)"), &["forged", "describe", "stopped after", "loops"]);
    assert_says(&describe("(unreachable)"), &["describe", "aborted"]);
    assert_says(&describe("(call $deeper (i32.const 1))"), &["describe", "recursed past limits.stack_kib = 512"]);
    assert_says(&describe("(i32.load (i32.const -4))"), &["describe", "memory outside its own"]);
    assert_says(
        &describe("(drop (memory.grow (i32.const 60000))) (i32.const 0)"),
        &["describe", "limits.memory_mib is 256"],
    );
}

#[test]
fn a_description_is_bounded() {
    let copies = |n: u32| {
        let mut image = Image::new();
        let (name, schema) = (image.text("it"), image.text("{}"));
        let entry = [name[0], name[1], 0, 0, schema[0], schema[1], 0, 0, 0, 0, 0, 0, 0, 0];
        let at = image.words(&entry.repeat(n as usize));
        Forged::of(image, [at, n])
    };
    assert_says(&refused(&copies(0)), &["forged.wasm describes itself wrongly", "no entries", "defect of the plugin"]);
    assert_says(&refused(&copies(2)), &["two entries are named \"it\""]);
    assert_says(&refused(&copies(1000)), &["1000 entries, at most 64"]);
    assert_says(&refused(&copies(100_000)), &["describes itself wrongly", "more than 4 MiB"]);

    let entry = |spoil: fn(&mut Image, &mut [u32; 14])| refused(&Forged::described(spoil));
    assert_says(&entry(|image, entry| entry[..2].copy_from_slice(&image.text("../x y"))), &["\"../x y\" is no name"]);
    assert_says(
        &entry(|image, entry| entry[..2].copy_from_slice(&image.text("\u{1b}[2J"))),
        &["control character '\\u{1b}'"],
    );
    assert_says(
        &entry(|image, entry| entry[2..4].copy_from_slice(&image.text(&"s".repeat(2000)))),
        &["summary has 2000 bytes"],
    );
    let wide = |image: &mut Image, entry: &mut [u32; 14]| {
        let need = [entry[0], entry[1], 1];
        entry[6..8].copy_from_slice(&[image.words(&need.repeat(100)), 100]);
    };
    assert_says(&entry(wide), &["100 reads, at most 64"]);
    assert_says(&entry(|_, entry| entry[6] = 0xffff_fff0), &["describe", "malformed value", "out of bounds of memory"]);
    assert_says(&entry(|_, entry| entry[13] = u32::MAX), &["prefer-rows is 4294967295"]);
    assert_says(&entry(|_, entry| entry[12] = 1), &["is streaming", "filter-state"]);
    assert_says(&entry(|_, entry| entry[12] = 7), &["describe", "discriminant"]);
}

/// The errors of schemas for a configuration that each of them would have to be applied to.
fn schema_fault(schema: &Value, config: Value) -> PluginError {
    let forged = Forged::with_schema(&schema.to_string()).build();
    let (_folder, path) = file(&forged);
    let start = Instant::now();
    let error = host().load(&PluginSpec { config, ..PluginSpec::new(path) }).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    error
}

#[test]
fn schemas_cannot_exhaust_the_host() {
    let raw = |schema: &str| refused(&Forged::with_schema(schema));
    assert_says(&raw(&" ".repeat(300 << 10)), &["config-schema has 307200 bytes, at most 262144"]);
    assert_says(&raw(&" ".repeat(5 << 20)), &["more than 4 MiB"]);
    let deep = format!("{{\"not\":{}{}}}", "{\"not\":".repeat(20_000), "}".repeat(20_000));
    assert_says(&raw(&deep), &["config-schema is not JSON", "recursion limit"]);
    assert_says(&raw("{\"type\": \"objekt\"}"), &["not a valid JSON Schema"]);

    for schema in [
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        json!({"anyOf": [{"not": {"$ref": "#"}}]}),
    ] {
        assert_says(&schema_fault(&schema, json!({})), &["describes itself wrongly", "leads back to itself"]);
    }
    let mut defs = serde_json::Map::new();
    for i in 0..60 {
        let next = json!({"$ref": format!("#/$defs/a{}", i + 1)});
        defs.insert(format!("a{i}"), json!({"allOf": [next, next]}));
    }
    let laughs = json!({"$defs": defs, "$ref": "#/$defs/a0"});
    assert_says(&schema_fault(&laughs, json!({})), &["config-schema", "steps", "allowed are 1000000"]);
    let outside = json!({"$ref": "https://example.org/schema.json"});
    assert_says(&schema_fault(&outside, json!({})), &["leads out of it", "example.org"]);
}

#[test]
fn regular_expressions_of_a_schema_are_bounded() {
    let key = |pattern: &str| json!({"properties": {"key": {"pattern": pattern}}});
    let words = json!({"key": format!("{}!", "a".repeat(5_000))});
    // Repetition of repetition, which backtracking takes an age for; look-around makes it backtrack.
    assert_says(&schema_fault(&key("^(?=a)(a|a)*$"), words.clone()), &["configuration is refused", "/key"]);
    assert_says(&schema_fault(&key("^(a+)+$"), words), &["configuration is refused", "/key"]);
    // Small to write, large to compile.
    assert_says(&schema_fault(&key("((a{1000}){1000}){1000}"), json!({})), &["not a valid JSON Schema"]);
    let many: Vec<Value> = (0..65).map(|i| json!({"pattern": format!("\\w{{400}}{i}")})).collect();
    assert_says(&schema_fault(&json!({"anyOf": many}), json!({})), &["65 regular expressions, at most 64"]);
}

#[test]
fn what_happens_at_start_is_bounded() {
    let start = |body: &str| {
        let mut forged = Forged::new();
        forged.fields = format!("(func $start {body}) (start $start)");
        refused(&forged)
    };
    assert_says(&start("(loop (br 0))"), &["stopped after"]);
    assert_says(&start("(unreachable)"), &["aborted"]);
    assert_says(&start("(drop (memory.grow (i32.const 8000)))"), &["limits.memory_mib is 256"]);
}

#[test]
fn what_a_component_is_made_of_is_bounded() {
    let with = |memory: &str, fields: &str| {
        let mut forged = Forged::new();
        forged.memory = memory.into();
        forged.fields = fields.into();
        refused(&forged)
    };
    assert_says(&with("65536", ""), &["4096.0 MiB of memory", "limits.memory_mib is 256"]);
    assert_says(&with("256", "(table 150000 funcref)"), &["table"]);
    assert_says(&with("256", &"(memory 0)".repeat(40)), &["memories"]);
    assert_says(&with("256 256 shared", ""), &["not a valid component", "threads must be enabled"]);
    assert_says(&with("i64 256", ""), &["not a valid component", "memory64 must be enabled"]);
    let relaxed = "(func (result v128) (f32x4.relaxed_min (v128.const i64x2 0 0) (v128.const i64x2 0 0)))";
    assert_says(&with("256", relaxed), &["not a valid component", "relaxed SIMD support is not enabled"]);
}

#[test]
fn init_that_misbehaves_ends_in_an_error() {
    let refused = |entry: &str| host().load(&spec(guest("misbehave"), entry)).unwrap_err();
    assert_says(&refused("init_panic"), &["init_panic failed in init", "init has had enough"]);
    assert_says(&refused("init_loop"), &["failed in init", "stopped after", "fuel"]);
    assert_says(&refused("init_memory"), &["failed in init", "limits.memory_mib is 256"]);
    assert_says(&refused("init_overflow"), &["failed in init", "recursion"]);
    assert_says(&refused("init_refuses"), &["/threshold", "between 0 and 1"]);
    assert_says(&refused("init_no_reason"), &["without saying why"]);
    assert_says(&refused("init_not_json"), &["init", "not JSON", "defect of the plugin"]);
    assert_says(&refused("init_array"), &["init", "not a JSON object"]);
    assert_says(&refused("init_deep"), &["init", "not JSON", "recursion limit"]);
    assert_says(&refused("init_huge"), &["init", "the resolved configuration has", "at most 1048576"]);
    let many = refused("init_many_reasons");
    assert_says(&many, &["/threshold: reason 0", "/threshold: reason 99", "and 99900 more findings"]);
    assert!(many.to_string().len() < 10_000);
    // All of them one after the other, and the host still loads what is good.
    assert_eq!(load(guest("misbehave"), "good").info().entry, "good");
}

#[test]
fn answers_of_init_that_are_no_answers() {
    let init = |words: &[u32]| {
        let mut forged = Forged::new();
        forged.init = format!("(i32.const {})", forged.image.words(words));
        refused(&forged)
    };
    assert_says(&init(&[0, 0xffff_0000, 100]), &["init", "malformed value", "out of bounds of memory"]);
    assert_says(&init(&[9, 0, 0]), &["init", "discriminant"]);
    // A million findings in one place of the memory.
    assert_says(&init(&[1, 0, 0x00ff_ffff]), &["init"]);
    let mut forged = Forged::new();
    forged.init = "(i32.const 3)".into();
    assert_says(&refused(&forged), &["init", "not aligned"]);
}

#[test]
fn imports_beyond_the_contract_are_listed() {
    let refused = |wat: &str| load_bytes(&wat::parse_str(wat).unwrap()).unwrap_err();
    let names = [
        "wasi:cli/environment@0.2.0",
        "wasi:clocks/monotonic-clock@0.2.3",
        "wasi:filesystem/preopens@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:random/random@0.2.0",
        "wasi:sockets/tcp@0.2.0",
        "my:own/thing",
        "ovhost:plugin/filter@0.1.0",
        "ovhost:plugin/log",
    ];
    let imports: String = names.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
    let error = refused(&format!("(component (import \"ovhost:plugin/log@0.1.0\" (instance)) {imports})"));
    let listed: Vec<String> = names.iter().map(|name| format!("\n  {name}\n")).collect();
    assert_says(&error, &listed.iter().map(|name| name.trim_end()).collect::<Vec<_>>());
    assert_says(&error, &["may import only ovhost:plugin/log", "wasm32-unknown-unknown", "--stub-wasi"]);
    assert!(!error.to_string().contains("log@0.1.0"), "{error}");
    assert_says(&refused("(component (import \"run\" (func)))"), &["\n  run\n"]);
    assert_says(&refused("(component (import \"c\" (core module)))"), &["\n  c\n"]);
    assert_says(
        &refused("(component (import \"ovhost:plugin/log@0.2.0\" (instance)))"),
        &["ovhost:plugin/log@0.2.0 (this host offers 0.1.x, 0.1.0)"],
    );
    // The right name with another type.
    let other = "(component (import \"ovhost:plugin/log@0.1.0\" (instance (export \"log\" (func (param \"level\" u64)))))
        (component $c) (instance $e (instantiate $c))
        (export \"ovhost:plugin/lifecycle@0.1.0\" (instance $e)) (export \"ovhost:plugin/filter@0.1.0\" (instance $e)))";
    assert_says(&refused(other), &["types differ from those of ovhost:plugin 0.1", "log"]);
}

#[test]
fn limits_apply_from_the_first_instruction() {
    let spec = |limits| PluginSpec { limits, ..spec(guest("misbehave"), "good") };
    let refused = |limits| host().load(&spec(limits)).unwrap_err();
    assert_says(&refused(Limits { memory_mib: 1, ..Limits::default() }), &["limits.memory_mib is 1"]);
    assert_says(&refused(Limits { fuel_base: 99_999, ..Limits::default() }), &["limits.fuel_base = 99999"]);
    host().load(&spec(Limits { memory_mib: 2, ..Limits::default() })).unwrap();
}
