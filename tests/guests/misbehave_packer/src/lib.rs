//! A component of packers that each break one rule of the contract, for the host's tests.
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | one sample a bin, at once |
//! | `lose` | forgets every third sample |
//! | `duplicate` | gives each sample twice |
//! | `overfull` | puts all samples of a call in one bin |
//! | `unknown` | gives an id that was never pushed |
//! | `hoard` | gives nothing, not even at `flush` |
//! | `offsets` | offsets that run past the ids |
//! | `panic` | panics at a sample longer than 1,000 |
//! | `bad_state` | refuses its own saved state |

#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::{
    self, Asset, ColumnNeed, Description, Entry, StateModel,
};
use ovhost_sdk::bindings::exports::ovhost::plugin::packer::{self, Limits, Packing};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, CallCtx, ColumnData, Diagnostic, ErrorKind, PluginError};

const ENTRIES: &[&str] =
    &["good", "lose", "duplicate", "overfull", "unknown", "hoard", "offsets", "panic", "bad_state"];

thread_local! {
    static ENTRY: RefCell<String> = const { RefCell::new(String::new()) };
}

struct Misbehave;

impl lifecycle::Guest for Misbehave {
    fn describe() -> Description {
        ovhost_sdk::__private::prepare();
        let need = |name: &str| ColumnNeed { name: name.into(), required: true };
        let entry = |name: &&str| Entry {
            name: (*name).into(),
            summary: "Breaks one rule.".into(),
            config_schema: r#"{"type":"object"}"#.into(),
            reads: vec![need("id"), need("length")],
            writes: vec![],
            assets: vec![],
            state: StateModel::Streaming,
            prefer_rows: 0,
        };
        Description {
            name: "misbehave_packer".into(),
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

/// Each list is a bin.
fn packing(bins: &[Vec<u64>]) -> Packing {
    let mut out = Packing { offsets: vec![0], ids: vec![], dropped: vec![] };
    for bin in bins {
        out.ids.extend(bin);
        out.offsets.push(out.ids.len() as u32);
    }
    out
}

impl packer::Guest for Misbehave {
    fn start(_limits: Limits) -> Result<(), PluginError> {
        Ok(())
    }

    fn push(_ctx: CallCtx, items: Batch) -> Result<Packing, PluginError> {
        let column = |name: &str| items.columns.iter().find(|column| column.name == name).map(|column| &column.data);
        let ids: Vec<u64> = match column("id") {
            Some(ColumnData::S64s(ids)) => ids.iter().map(|&id| id as u64).collect(),
            _ => panic!("there is no column `id` of s64s"),
        };
        let singles = |ids: &[u64]| ids.iter().map(|&id| vec![id]).collect::<Vec<_>>();
        let entry = ENTRY.with_borrow(Clone::clone);
        Ok(match entry.as_str() {
            "lose" => packing(&singles(&ids.iter().copied().filter(|id| id % 3 != 0).collect::<Vec<_>>())),
            "duplicate" => packing(&ids.iter().map(|&id| vec![id, id]).collect::<Vec<_>>()),
            "overfull" => packing(&[ids]),
            "unknown" => packing(&[vec![u64::MAX / 2]]),
            "hoard" => packing(&[]),
            "offsets" => Packing { offsets: vec![0, ids.len() as u32 + 10], ids, dropped: vec![] },
            "panic" => {
                if let Some(ColumnData::U32s(lengths)) = column("length")
                    && let Some(length) = lengths.iter().find(|&&length| length > 1000)
                {
                    panic!("a sample of {length} tokens is too long for me");
                }
                packing(&singles(&ids))
            }
            _ => packing(&singles(&ids)),
        })
    }

    fn flush() -> Result<Packing, PluginError> {
        Ok(packing(&[]))
    }

    fn save() -> Result<Vec<u8>, PluginError> {
        Ok(vec![1, 2, 3])
    }

    fn restore(_state: Vec<u8>) -> Result<(), PluginError> {
        if ENTRY.with_borrow(|entry| entry == "bad_state") {
            let message = "this is not my state".into();
            return Err(PluginError { kind: ErrorKind::BadInput, message, detail: None });
        }
        Ok(())
    }
}

ovhost_sdk::__export_packer_world!(Misbehave with_types_in bindings);
