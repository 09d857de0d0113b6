//! A component of packers that each break one rule of the contract, for the host's tests. Besides the misdeeds that all
//! guests share (`common.rs` of `misbehave`), which happen at a sample longer than 1,000:
//!
//! | entry | what it does |
//! |---|---|
//! | `good` | one sample a bin, at once |
//! | `lose` | forgets every third sample |
//! | `duplicate` | gives each sample twice |
//! | `drops_packed` | gives each sample in a bin and in `dropped` |
//! | `overfull` | puts all samples of a call in one bin |
//! | `unknown` | gives an id that was never pushed |
//! | `hoard` | gives nothing, not even at `flush` |
//! | `empty_bin` | a bin without samples |
//! | `offsets`, `offsets_from`, `offsets_back` | offsets that run past the ids, do not begin at 0, go back |
//! | `many_bins` | ten million empty bins |
//! | `start_refuses` | refuses to start |
//! | `flush_panic`, `flush_loop`, `save_panic`, `restore_panic` | panics or loops there |
//! | `huge_state` | a saved state of 96 MiB |
//! | `bad_state` | refuses its own saved state |
//! | `forgets_state` | takes a saved state and forgets it |

#![cfg(target_arch = "wasm32")]

#[path = "../../misbehave/src/common.rs"]
mod common;

use ovhost_sdk::bindings;
use ovhost_sdk::bindings::exports::ovhost::plugin::lifecycle::StateModel;
use ovhost_sdk::bindings::exports::ovhost::plugin::packer::{self, Limits, Packing};
use ovhost_sdk::bindings::ovhost::plugin::types::{Batch, CallCtx, ColumnData, PluginError};

use common::{About, is, refusal};

const ABOUT: About = About {
    name: "misbehave_packer",
    entries: &[
        "lose",
        "duplicate",
        "drops_packed",
        "overfull",
        "unknown",
        "hoard",
        "empty_bin",
        "offsets",
        "offsets_from",
        "offsets_back",
        "many_bins",
        "start_refuses",
        "flush_panic",
        "flush_loop",
        "save_panic",
        "restore_panic",
        "huge_state",
        "bad_state",
        "forgets_state",
    ],
    reads: &[("id", true), ("length", true)],
    writes: &[],
    state: StateModel::Streaming,
};

struct Misbehave;

common::lifecycle!(
    Misbehave,
    ABOUT,
    |entry| ABOUT.choose(entry),
    ["lib.rs", "../../misbehave/src/common.rs", "../Cargo.toml"]
);

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
        if is("start_refuses") { Err(refusal("not today")) } else { Ok(()) }
    }

    fn push(_ctx: CallCtx, items: Batch) -> Result<Packing, PluginError> {
        let column = |name: &str| items.columns.iter().find(|column| column.name == name).map(|column| &column.data);
        let (Some(ColumnData::S64s(ids)), Some(ColumnData::U32s(lengths))) = (column("id"), column("length")) else {
            panic!("there are no columns `id` of s64s and `length` of u32s");
        };
        if let Some(row) = lengths.iter().position(|&length| length > 1000) {
            common::misdeed(row as u32);
        }
        let ids: Vec<u64> = ids.iter().map(|&id| id as u64).collect();
        let n = ids.len() as u32;
        let singles = |ids: &[u64]| ids.iter().map(|&id| vec![id]).collect::<Vec<_>>();
        Ok(match common::entry().as_str() {
            "lose" => packing(&singles(&ids.iter().copied().filter(|id| id % 3 != 0).collect::<Vec<_>>())),
            "duplicate" => packing(&ids.iter().map(|&id| vec![id, id]).collect::<Vec<_>>()),
            "drops_packed" => Packing { dropped: ids.clone(), ..packing(&singles(&ids)) },
            "overfull" => packing(&[ids]),
            "unknown" => packing(&[vec![u64::MAX / 2]]),
            "hoard" | "forgets_state" => packing(&[]),
            "empty_bin" => packing(&[vec![ids[0]], vec![]]),
            "offsets" => Packing { offsets: vec![0, n + 10], ids, dropped: vec![] },
            "offsets_from" => Packing { offsets: vec![1, n], ids, dropped: vec![] },
            "offsets_back" => Packing { offsets: vec![0, 1, 0, n], ids, dropped: vec![] },
            "many_bins" => Packing { offsets: vec![0; 10_000_000], ids: vec![], dropped: vec![] },
            _ => packing(&singles(&ids)),
        })
    }

    fn flush() -> Result<Packing, PluginError> {
        match common::entry().as_str() {
            "flush_panic" => panic!("nothing to flush"),
            "flush_loop" => common::spin(),
            _ => {}
        }
        Ok(packing(&[]))
    }

    fn save() -> Result<Vec<u8>, PluginError> {
        match common::entry().as_str() {
            "save_panic" => panic!("nothing to save"),
            "huge_state" => Ok(vec![0; 96 << 20]),
            _ => Ok(vec![1, 2, 3]),
        }
    }

    fn restore(_state: Vec<u8>) -> Result<(), PluginError> {
        assert!(!is("restore_panic"), "nothing to restore");
        if is("bad_state") { Err(refusal("this is not my state")) } else { Ok(()) }
    }
}

ovhost_sdk::__export_packer_world!(Misbehave with_types_in bindings);
