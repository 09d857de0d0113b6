//! A component of prompts that each break one rule of the contract, for the host's tests.
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | the record's text as the user, "yes" as the answer |
//! | `panic` | panics at a row whose record holds "poison" |
//! | `wrong_length` | answers one conversation too few |
//! | `no_such_image` | shows image 99 |
//! | `unknown_role` | a message of role "oracle" |
//! | `unknown_special` | a segment with the special token `<|nonsense|>`, which it declares |
//! | `undeclared_special` | the same without declaring it |
//! | `error_with_content` | names a row in `errors` and renders it all the same |

#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::{
    self, Asset, ColumnNeed, Description, Entry, StateModel,
};
use ovhost_sdk::bindings::exports::ovhost::plugin::prompt::{
    self, Message, Mode, Output, Part, Piece, Rendered, Segment,
};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, CallCtx, ColumnData, Diagnostic, PluginError, RowError};

const ENTRIES: &[&str] = &[
    "good",
    "panic",
    "wrong_length",
    "no_such_image",
    "unknown_role",
    "unknown_special",
    "undeclared_special",
    "error_with_content",
];

thread_local! {
    static ENTRY: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Misbehave;

impl lifecycle::Guest for Misbehave {
    fn describe() -> Description {
        ovhost_sdk::__private::prepare();
        let entry = |name: &&str| Entry {
            name: (*name).into(),
            summary: "Breaks one rule.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            reads: vec![ColumnNeed { name: "record".into(), required: true }],
            writes: vec![],
            assets: vec![],
            state: StateModel::Pure,
            prefer_rows: 0,
        };
        Description {
            name: "misbehave_prompt".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            license: env!("CARGO_PKG_LICENSE").into(),
            homepage: String::new(),
            entries: ENTRIES.iter().map(entry).collect(),
        }
    }

    fn init(entry: String, _config: String, _assets: Vec<Asset>) -> Result<String, Vec<Diagnostic>> {
        ovhost_sdk::__private::prepare();
        ENTRY.set(entry);
        Ok("{}".into())
    }
}

impl prompt::Guest for Misbehave {
    fn special_tokens() -> Vec<String> {
        if ENTRY.with_borrow(|entry| entry == "unknown_special") { vec!["<|nonsense|>".into()] } else { vec![] }
    }

    fn stop_strings() -> Vec<String> {
        vec![]
    }

    fn render(_ctx: CallCtx, mode: Mode, batch: Batch) -> Result<Output, PluginError> {
        let entry = ENTRY.with_borrow(Clone::clone);
        let record = batch.columns.iter().find(|column| column.name == "record").map(|column| &column.data);
        let Some(ColumnData::Utf8(record)) = record else { panic!("there is no column `record` of utf8") };
        let mut out = Output { items: vec![], errors: vec![] };
        for (row, at) in record.offsets.windows(2).enumerate() {
            let text = String::from_utf8_lossy(&record.data[at[0] as usize..at[1] as usize]).into_owned();
            if entry == "panic" && text.contains("poison") {
                panic!("record {row} is poison");
            }
            let role = if entry == "unknown_role" { "oracle" } else { "user" };
            let mut parts = vec![Part::Text(text)];
            if entry == "no_such_image" {
                parts.push(Part::Image(99));
            }
            if entry == "error_with_content" {
                out.errors.push(RowError { row: row as u32, message: "this row is bad".into() });
            }
            if entry.ends_with("_special") {
                let piece = Piece::Special("<|nonsense|>".into());
                out.items.push(Rendered::Segments(vec![Segment { piece, train: true }]));
                continue;
            }
            let mut messages = vec![Message { role: role.into(), parts, train: false }];
            if mode == Mode::Train {
                let parts = vec![Part::Text("yes".into())];
                messages.push(Message { role: "assistant".into(), parts, train: true });
            }
            out.items.push(Rendered::Conversation(messages));
        }
        if entry == "wrong_length" {
            out.items.pop();
        }
        Ok(out)
    }
}

ovhost_sdk::__export_prompt_world!(Misbehave with_types_in bindings);
