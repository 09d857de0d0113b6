//! A guest built against 0.1.0 loads in every later 0.1.x. The components in `tests/fixtures/guests/v0.1.0` are
//! first-party plugins as they were when the contract was 0.1.0; they are never built again. What they answered then, they
//! must answer now.

use ovhost_plugin::{Batch, Column, ColumnData, Kind, Mode, PackLimits, Part, PluginSpec, Rendered};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{answers, assert_says, ctx, frozen, host, lists, samples};

/// The sha256 of each: one that was built anew is no longer a witness.
const FILES: [(&str, &str); 4] = [
    ("conversation", "dde5ad3ede1a48a93993db693a103cd63d1c0421351cc0cb537d65a325847ddc"),
    ("exact_match", "76a814c2ac7cee5b4ebcbd67ba0bf3c0801071bf6c7ac7454a6d043b578eb6db"),
    ("image_geometry", "597ac2999fae8e4c2d74029db9ad001075003d0f81c660299fac1eb5f8a10e8a"),
    ("padding_free", "993b5377956837e276046619b59f5094f4dae3332e5e80f2b9bb5c24a5f156fe"),
];

fn load(name: &str, config: serde_json::Value) -> ovhost_plugin::Plugin {
    host().load(&PluginSpec { config, ..PluginSpec::new(frozen(name)) }).unwrap()
}

#[test]
fn the_files_are_the_ones_of_old() {
    for (name, sha256) in FILES {
        let bytes = std::fs::read(frozen(name)).unwrap();
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            digest, sha256,
            "{name} was changed: put the old file back; a new contract gets a folder of its own"
        );
        assert_eq!(host().inspect(&frozen(name), None).unwrap().wit_version, "0.1.0");
    }
    let there = std::fs::read_dir(frozen("x").parent().unwrap()).unwrap().count();
    assert_eq!(there, FILES.len());
}

#[test]
fn the_filter_of_old() {
    let plugin = load("image_geometry", json!({"min_side": 64}));
    let info = plugin.info();
    assert_eq!((info.kind, info.state_pure, info.resolved_config["min_side"].as_u64()), (Kind::Filter, true, Some(64)));
    let batch = Batch {
        rows: 4,
        columns: vec![
            lists("widths", &[&[640], &[10], &[], &[640, 5000]]),
            lists("heights", &[&[480], &[480], &[], &[64, 20]]),
        ],
    };
    let out = plugin.filter().unwrap().process(&ctx(), &batch).unwrap();
    assert_eq!(out.keep, [true, false, true, false]);
    let reasons: Vec<Option<&str>> = out.reason.iter().map(Option::as_deref).collect();
    assert_eq!(reasons, [None, Some("side too small"), None, Some("side too small")]);
    assert!(out.add.is_empty() && out.errors.is_empty());
    let refused =
        host().load(&PluginSpec { config: json!({"min_sid": 1}), ..PluginSpec::new(frozen("image_geometry")) });
    assert_says(&refused.unwrap_err(), &["perhaps \"min_side\""]);
}

#[test]
fn the_packer_of_old() {
    let plugin = load("padding_free", serde_json::Value::Null);
    let limits = PackLimits { capacity: 100, max_items_per_bin: 3, max_open_items: 0 };
    let mut packer = plugin.packer().unwrap();
    packer.start(&limits).unwrap();
    let first =
        packer.push(&ctx(), &samples(&[(0, 60), (1, 50), (2, 40), (3, 30), (4, 20), (5, 10), (6, 100)])).unwrap();
    let state = packer.save().unwrap();
    let mut packer = plugin.packer().unwrap();
    packer.start(&limits).unwrap();
    packer.restore(&state).unwrap();
    let mut bins = first.bins.to_vecs();
    bins.extend(packer.push(&ctx(), &samples(&[(7, 5), (8, 5)])).unwrap().bins.to_vecs());
    while let Some(packing) = packer.flush().unwrap() {
        bins.extend(packing.bins.to_vecs());
    }
    assert_eq!(bins, [vec![6], vec![0, 2], vec![1, 3, 4], vec![5, 7, 8]]);
}

#[test]
fn the_prompt_of_old() {
    let mut prompt = load("conversation", serde_json::Value::Null).prompt().unwrap();
    let records = [
        r#"{"question": "What colour?", "answer": "Red."}"#,
        r#"{"conversations": [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "Two."}]}"#,
        "{}",
    ];
    let batch = Batch {
        rows: 3,
        columns: vec![Column::utf8("record", records), Column::new("num-images", ColumnData::U32s(vec![1, 1, 0]))],
    };
    let out = prompt.render(&ctx(), Mode::Train, &batch).unwrap();
    let words = |rendered: &Rendered| match rendered {
        Rendered::Conversation(messages) => {
            let part = |part: &Part| match part {
                Part::Text(text) => text.clone(),
                Part::Image(i) => format!("[image {i}]"),
                Part::Video(i) => format!("[video {i}]"),
            };
            let message = |m: &ovhost_plugin::Message| {
                format!(
                    "{}{}: {}",
                    m.role,
                    if m.train { "*" } else { "" },
                    m.parts.iter().map(part).collect::<String>()
                )
            };
            messages.iter().map(message).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(words(&out.items[0]), ["user: [image 0]What colour?", "assistant*: Red."]);
    assert_eq!(words(&out.items[1]), ["user: [image 0]\nHow many?", "assistant*: Two."]);
    assert_eq!(out.errors.len(), 1);
    assert_eq!(out.errors[0].0, 2);
    let asked = prompt.render(&ctx(), Mode::Generate, &batch.slice(0, 1)).unwrap();
    assert_eq!(words(&asked.items[0]), ["user: [image 0]What colour?"]);
    assert_eq!(prompt.special_tokens().unwrap(), Vec::<String>::new());
}

#[test]
fn the_metric_of_old() {
    let plugin = load("exact_match", serde_json::Value::Null);
    let mut metric = plugin.metric().unwrap();
    let names: Vec<String> = metric.outputs().unwrap().into_iter().map(|o| o.name).collect();
    let scored = metric.update(&ctx(), &answers(&["yes", "no", "Yes", "yes."])).unwrap();
    assert!(scored.errors.is_empty() && scored.needs_judge.is_empty());
    let mut sum = plugin.metric().unwrap();
    sum.merge(&metric.save().unwrap()).unwrap();
    let values = sum.finalize().unwrap();
    let shown: Vec<String> = values.iter().map(|v| format!("{}={} of {}", v.name, v.value, v.count)).collect();
    assert_eq!(names, values.iter().map(|v| v.name.clone()).collect::<Vec<_>>());
    assert_eq!(shown, ["exact_match=0.75 of 4"]);
}
