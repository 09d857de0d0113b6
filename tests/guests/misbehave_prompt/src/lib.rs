//! A component of prompts that each break one rule of the contract, for the host's tests. Besides the misdeeds that all
//! guests share (`common.rs` of `misbehave`), which happen at a record that holds "poison":
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | the record's text as the user, "yes" as the answer |
//! | `unlearnt` | the same, and learns nothing of a record that holds "quiet": legal, but rare |
//! | `wrong_length`, `too_long` | answers one conversation too few, too many |
//! | `no_such_image`, `no_such_video` | shows image 99, video 4294967295 |
//! | `unknown_role`, `no_role`, `long_role` | messages of role "oracle", "", of 1 MiB |
//! | `no_messages`, `no_segments` | an empty conversation, no segments |
//! | `unknown_special` | a segment with the special token `<|nonsense|>`, which it declares |
//! | `undeclared_special` | the same without declaring it |
//! | `empty_special` | a segment with a special token of no name |
//! | `many_specials`, `long_special` | declares 100,000 special tokens, one of 1 MiB |
//! | `specials_panic` | panics when it is asked for them |
//! | `empty_stop`, `many_stops`, `stops_loop` | "" as a stop string, 100,000 of them, loops when it is asked |
//! | `huge_text` | a message of 96 MiB |
//! | `error_with_content` | names a row in `errors` and renders it all the same |
//! | `error_out_of_range` | an error for a row that does not exist |

#![cfg(target_arch = "wasm32")]

#[path = "../../misbehave/src/common.rs"]
mod common;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::StateModel;
use ovhost_sdk::bindings::exports::ovhost::plugin::prompt::{
    self, Message, Mode, Output, Part, Piece, Rendered, Segment,
};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, CallCtx, PluginError, RowError};

use common::{About, text, values};

const ABOUT: About = About {
    name: "misbehave_prompt",
    entries: &[
        "wrong_length",
        "too_long",
        "no_such_image",
        "no_such_video",
        "unknown_role",
        "no_role",
        "long_role",
        "no_messages",
        "no_segments",
        "unknown_special",
        "undeclared_special",
        "empty_special",
        "many_specials",
        "long_special",
        "specials_panic",
        "empty_stop",
        "many_stops",
        "stops_loop",
        "huge_text",
        "error_with_content",
        "error_out_of_range",
        "unlearnt",
    ],
    reads: &[("record", true)],
    writes: &[],
    state: StateModel::Pure,
};

struct Misbehave;

common::lifecycle!(
    Misbehave,
    ABOUT,
    |entry| ABOUT.choose(entry),
    ["lib.rs", "../../misbehave/src/common.rs", "../Cargo.toml"]
);

/// A row's conversation.
fn conversation(entry: &str, record: String, mode: Mode) -> Rendered {
    let special = |name: &str| Segment { piece: Piece::Special(name.into()), train: true };
    let learnt = entry != "unlearnt" || !record.contains("quiet");
    let mut parts = vec![Part::Text(record)];
    match entry {
        "no_messages" => return Rendered::Conversation(vec![]),
        "no_segments" => return Rendered::Segments(vec![]),
        "unknown_special" | "undeclared_special" => return Rendered::Segments(vec![special("<|nonsense|>")]),
        "empty_special" => return Rendered::Segments(vec![special("")]),
        "no_such_image" => parts.push(Part::Image(99)),
        "no_such_video" => parts.push(Part::Video(u32::MAX)),
        "huge_text" => parts.push(Part::Text("h".repeat(96 << 20))),
        _ => {}
    }
    let role = match entry {
        "unknown_role" => "oracle".into(),
        "no_role" => String::new(),
        "long_role" => "r".repeat(1 << 20),
        _ => "user".into(),
    };
    let mut messages = vec![Message { role, parts, train: false }];
    if mode == Mode::Train {
        let parts = vec![Part::Text("yes".into())];
        messages.push(Message { role: "assistant".into(), parts, train: learnt });
    }
    Rendered::Conversation(messages)
}

impl prompt::Guest for Misbehave {
    fn special_tokens() -> Vec<String> {
        match common::entry().as_str() {
            "unknown_special" => vec!["<|nonsense|>".into()],
            "many_specials" => (0..100_000).map(|i| format!("<|{i}|>")).collect(),
            "long_special" => vec!["s".repeat(1 << 20)],
            "specials_panic" => panic!("no special tokens today"),
            _ => vec![],
        }
    }

    fn stop_strings() -> Vec<String> {
        match common::entry().as_str() {
            "empty_stop" => vec![String::new()],
            "many_stops" => (0..100_000).map(|i| format!("stop {i}")).collect(),
            "stops_loop" => {
                common::spin();
                vec![]
            }
            _ => vec![],
        }
    }

    fn render(_ctx: CallCtx, mode: Mode, batch: Batch) -> Result<Output, PluginError> {
        let entry = common::entry();
        let records = text(&batch, "record");
        if let Some(row) = common::poison(records) {
            common::misdeed(row);
        }
        let words = |record| String::from_utf8_lossy(record).into_owned();
        let mut out = Output { items: vec![], errors: vec![] };
        out.items.extend(values(records).map(|record| conversation(&entry, words(record), mode)));
        let error = |row| RowError { row, message: "this row is bad".into() };
        match entry.as_str() {
            "wrong_length" => _ = out.items.pop(),
            "too_long" => out.items.push(conversation(&entry, String::new(), mode)),
            "error_with_content" => out.errors.extend((0..batch.rows).map(error)),
            "error_out_of_range" => out.errors.push(error(batch.rows)),
            _ => {}
        }
        Ok(out)
    }
}

ovhost_sdk::__export_prompt_world!(Misbehave with_types_in bindings);
