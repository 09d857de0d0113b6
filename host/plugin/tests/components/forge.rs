//! Components that no compiler would make: the frame of a real one around a core module in WAT, whose answers are bytes
//! that the test lays out.
//!
//! ```text
//!  frozen filter ── its main core module replaced ──► component with the right types and a core that says anything
//! ```
//! What a function answers is laid out as the canonical ABI has it: little-endian, a list or string as (address, length), a
//! record as its fields at their alignment, a variant as its case and then its payload.

use std::path::PathBuf;

use crate::{frame, host, workspace};
use ovhost_plugin::{PluginError, PluginSpec};

/// 64 bytes of 1, for `keep`. The answer of [`KEEP_ALL`] is at 60 KiB.
pub const ONES: u32 = 40 << 10;
/// Where an image of answers begins in the guest's memory.
const BASE: u32 = 128 << 10;
/// `cabi_realloc` gives memory from here on; the memory has 16 MiB, unless the test says otherwise.
const HEAP: u32 = 8 << 20;

/// Body of `process` that keeps every row. Its parameters are (run-seed, shard, batch-index, first-row, rows, columns,
/// their number).
pub const KEEP_ALL: &str = "
    (i32.store (i32.const 61444) (i32.const 40960)) (i32.store (i32.const 61448) (local.get 4))
    (i32.const 61440)";

/// Values in the guest's memory.
pub struct Image {
    bytes: Vec<u8>,
}

impl Image {
    pub fn new() -> Self {
        Image { bytes: Vec::new() }
    }

    /// Puts bytes at the next multiple of 8. Returns their address.
    pub fn put(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = BASE + self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        assert!(self.bytes.len() <= (HEAP - BASE) as usize, "the image runs into the heap");
        at
    }

    pub fn words(&mut self, words: &[u32]) -> u32 {
        self.put(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    /// Address and length.
    pub fn text(&mut self, text: &str) -> [u32; 2] {
        [self.put(text.as_bytes()), text.len() as u32]
    }
}

/// A component in the making.
pub struct Forged {
    kind: &'static str,
    pub image: Image,
    /// Bodies of the functions.
    pub describe: String,
    pub init: String,
    pub process: String,
    pub realloc: String,
    /// After `describe`, `init`, `process`; parameter 0 is the answer.
    pub post: String,
    /// Fields of the module besides these, such as a start function.
    pub fields: String,
    /// The memory's declaration after its export.
    pub memory: String,
}

impl Forged {
    /// A filter "forged" with the entry "it", which reads `text`, may write `added`, and keeps every row.
    pub fn new() -> Self {
        Self::described(|_, _| {})
    }

    /// The same of another kind: it loads, and answers nothing of use.
    pub fn idle(kind: &'static str) -> Self {
        // Packers are streaming.
        let forged = Self::described(|_, entry| entry[12] = u32::from(kind == "packer"));
        Forged { kind, ..forged }
    }

    /// The same with a schema.
    pub fn with_schema(schema: &str) -> Self {
        Self::described(|image, entry| {
            entry[4..6].copy_from_slice(&image.text(schema));
        })
    }

    /// The same with another entry. An entry is the words of name, summary, config-schema, reads, writes, assets (address and
    /// length each), state, prefer-rows.
    pub fn described(spoil: impl FnOnce(&mut Image, &mut [u32; 14])) -> Self {
        let mut image = Image::new();
        let [name, text, added] = ["it", "text", "added"].map(|word| image.text(word));
        let summary = image.text("Forged.");
        let schema = image.text("{}");
        let reads = image.words(&[text[0], text[1], 1]);
        let writes = image.words(&added);
        let mut entry = [0; 14];
        for (i, pair) in [name, summary, schema, [reads, 1], [writes, 1]].into_iter().enumerate() {
            entry[2 * i..2 * i + 2].copy_from_slice(&pair);
        }
        spoil(&mut image, &mut entry);
        let entries = image.words(&entry);
        Self::of(image, [entries, 1])
    }

    /// With these entries (address and number).
    pub fn of(mut image: Image, entries: [u32; 2]) -> Self {
        let [name, version, license] = ["forged", "0.1.0", "MIT"].map(|word| image.text(word));
        let description = image
            .words(&[name[0], name[1], version[0], version[1], license[0], license[1], 0, 0, entries[0], entries[1]]);
        let resolved = image.text("{}");
        let init = image.words(&[0, resolved[0], resolved[1]]);
        Forged {
            kind: "filter",
            image,
            describe: format!("(i32.const {description})"),
            init: format!("(i32.const {init})"),
            process: KEEP_ALL.into(),
            // A bump allocator: (old address, old size, alignment, new size).
            realloc: "(local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16)))
                  (then (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1))))))
                (local.get $at)"
                .into(),
            post: String::new(),
            fields: String::new(),
            memory: "256".into(),
        }
    }

    /// The answer of `process`: these words, the first of which is the case of the result.
    pub fn answers(mut self, words: &[u32]) -> Self {
        self.process = format!("(i32.const {})", self.image.words(words));
        self
    }

    /// The component.
    pub fn build(&self) -> Vec<u8> {
        let escaped: String = self.image.bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let mut functions = String::new();
        let mut function = |name: &str, types: &str, body: &str| {
            functions.push_str(&format!("(func (export \"ovhost:plugin/{name}\") {types} {body})\n"));
            if types.contains("result") {
                let post = &self.post;
                functions.push_str(&format!("(func (export \"cabi_post_ovhost:plugin/{name}\") (param i32) {post})\n"));
            }
        };
        function("lifecycle@0.1.0#describe", "(result i32)", &self.describe);
        function("lifecycle@0.1.0#init", "(param i32 i32 i32 i32 i32 i32) (result i32)", &self.init);
        for (name, parameters, answers) in calls(self.kind) {
            let result = if *answers { "(result i32)" } else { "" };
            // At address 0 are zeros: the first case, and empty lists.
            let body = match *name {
                "process" => &self.process,
                _ if *answers => "(i32.const 0)",
                _ => "",
            };
            function(&format!("{}@0.1.0#{name}", self.kind), &format!("(param {parameters}) {result}"), body);
        }
        let core = format!(
            "(module
              (import \"ovhost:plugin/log@0.1.0\" \"log\" (func $log (param i32 i32 i32 i32 i32)))
              (memory (export \"memory\") {})
              (data (i32.const {BASE}) \"{escaped}\")
              (data (i32.const {ONES}) \"{}\")
              (global $heap (mut i32) (i32.const {HEAP}))
              (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) {})
              {functions} {})",
            self.memory,
            "\\01".repeat(64),
            self.realloc,
            self.fields
        );
        framed(self.kind, &wat::parse_str(&core).unwrap_or_else(|e| panic!("{e}\n{core}")))
    }

    /// Loads it with default settings.
    pub fn load(&self) -> Result<ovhost_plugin::Plugin, PluginError> {
        load_bytes(&self.build())
    }
}

/// The functions of a kind: name, core types of the parameters, whether there is an answer.
fn calls(kind: &str) -> &'static [(&'static str, &'static str, bool)] {
    const BATCH: &str = "i64 i32 i64 i64 i32 i32 i32";
    match kind {
        "filter" => &[("process", BATCH, true)],
        "packer" => &[
            ("start", "i32 i32 i32", true),
            ("push", BATCH, true),
            ("flush", "", true),
            ("save", "", true),
            ("restore", "i32 i32", true),
        ],
        "prompt" => &[
            ("special-tokens", "", true),
            ("stop-strings", "", true),
            ("render", "i64 i32 i64 i64 i32 i32 i32 i32", true),
        ],
        _ => &[
            ("outputs", "", true),
            ("reset", "", false),
            ("update", BATCH, true),
            ("judged", BATCH, true),
            ("save", "", true),
            ("merge", "i32 i32", true),
            ("finalize", "", true),
        ],
    }
}

/// The frozen plugin of a kind with another main core module.
pub fn framed(kind: &str, core: &[u8]) -> Vec<u8> {
    frame::framed(&frame::frozen(&workspace().join("tests/fixtures"), kind), core)
}

/// Writes a component to a file of its own and loads it.
pub fn load_bytes(bytes: &[u8]) -> Result<ovhost_plugin::Plugin, PluginError> {
    let file = file(bytes);
    host().load(&PluginSpec::new(file.1.clone()))
}

/// A file "forged.wasm" in a folder of its own, which goes with the first value.
pub fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forged.wasm");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}
