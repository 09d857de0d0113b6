//! Gives any bytes to what reads data: shards, pictures, packs, records on their way to tokens.
//!
//! The fuzz targets `tar`, `index`, `meta`, `picture`, `pack` and `chat`, and the bounded test in `host/data/tests/corrupt`, both call these. They
//! must neither panic nor hang nor end the process, whatever the bytes are; and what they read twice must be the same twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ovhost_data::columns::{self, Compute, RowView};
use ovhost_data::image::{check, decode_rgb, header};
use ovhost_data::packed::{check_depth, layout_of, parse};
use ovhost_data::record::{Record, RecordOptions};
use ovhost_data::shards::energon::{FieldMap, metadataset, read_part};
use ovhost_data::shards::{IndexedShard, RawSample, Shard, ShardFile, index_path};
use ovhost_data::tokenizer_train::train_bpe;
use ovhost_data::{ChatTokenizer, Reject};
use ovhost_plugin::{Message, Part, Rendered};
use ovhost_sdk::testing;
use serde_json::json;

/// How far the bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// Refused with a reason.
    Refused,
    /// A part of them was read, the rest refused with a reason.
    Partly,
    /// All of them were read.
    Works,
}

/// Pictures over so many pixels are not decoded: a fuzzer should not spend its time on large ones.
const MAX_PIXELS: u64 = 1 << 20;

fn options() -> RecordOptions {
    RecordOptions { max_pixels: MAX_PIXELS }
}

/// Bytes as a shard: its index, every sample by the index and by its bytes alone, and what kind of shard it is.
pub fn tar(data: &[u8]) -> Reached {
    let path = temporary("tar");
    std::fs::write(&path, data).expect("room for a temporary file");
    let shard = Shard::open_damaged(&path).expect("a file that was just written opens");
    std::fs::remove_file(&path).expect("the file that was just written");
    let (offsets, mut good) = (shard.offsets(), 0);
    assert!(offsets.len() == shard.len() + 1 && offsets.is_sorted(), "{offsets:?}");
    assert!(offsets.last().is_some_and(|end| *end <= data.len() as u64), "{offsets:?}");
    for i in 0..shard.len() {
        let raw = shard.read_raw(&offsets, i).expect("what the index found is there");
        match (shard.read(i), RawSample::from_tar(&raw)) {
            (Ok(one), Ok(other)) => assert_eq!(one, other, "sample {i}"),
            (Err(_), Err(_)) => {}
            (one, other) => panic!("sample {i} is {one:?} by the index and {other:?} by its bytes"),
        }
        match shard.record(i, &options()) {
            Ok(record) => {
                good += 1;
                let _ = check_depth(&record.fields);
            }
            Err(reject) => explained(&reject),
        }
    }
    let _ = layout_of(&shard);
    match shard.damage_reject() {
        Some(reject) => explained(&reject),
        None if good == shard.len() && good > 0 => return Reached::Works,
        None => {}
    }
    if good > 0 { Reached::Partly } else { Reached::Refused }
}

/// Bytes as the `.tar.idx` of a good shard of three samples.
pub fn index(data: &[u8]) -> Reached {
    let path = temporary("tar");
    let index = index_path(&path);
    std::fs::write(&path, &small().0).expect("room for a temporary file");
    std::fs::write(&index, data).expect("room for a temporary file");
    let shard = IndexedShard::open(&path).expect("the shard is good, whatever its index says");
    std::fs::remove_file(&path).and_then(|()| std::fs::remove_file(&index)).expect("the files that were just written");
    let mut keys = BTreeSet::new();
    for i in 0..shard.len() {
        match shard.read(i) {
            Ok(raw) => drop(keys.insert(raw.key)),
            // An index that is wrong in the middle is noticed here.
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return Reached::Refused;
            }
        }
    }
    // An index by which all can be read hides no sample. Where it was none, all headers were read.
    assert_eq!(keys, ["a", "b", "dir/c"].map(String::from).into());
    if data == small().1 { Reached::Works } else { Reached::Partly }
}

/// A shard of three samples, and its index.
pub fn small() -> &'static (Vec<u8>, Vec<u8>) {
    static SMALL: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    SMALL.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("small.tar");
        let mut file = ShardFile::create(path.clone()).expect("room for a shard");
        for key in ["a", "b", "dir/c"] {
            file.write(key, &[("json", b"{\"caption\": \"c\"}"), ("png", dot())]).expect("a good sample");
        }
        file.publish().expect("room for a shard");
        let read = |path: &Path| std::fs::read(path).expect("the shard that was just made");
        (read(&path), read(&index_path(&path)))
    })
}

/// Bytes as one of the metadata files of a folder of shards (which one, the first byte says), among good ones.
pub fn meta(data: &[u8]) -> Reached {
    let Some((which, text)) = data.split_first() else { return Reached::Refused };
    let folder = temporary("meta");
    let files: [(&str, &[u8]); 4] = [
        (".nv-meta/.info.json", br#"{"shard_counts": {"a.tar": 3, "b.tar": 2}}"#),
        (".nv-meta/split.yaml", b"split_parts:\n  train: [a.tar, b.tar]\n  val: []\nexclude: [a.tar/k]\n"),
        (".nv-meta/dataset.yaml", b"__module__: megatron.energon\n__class__: CrudeWebdataset\n"),
        ("mix.yaml", b"__class__: MetadatasetV2\nsplits:\n  train: {blend: [{path: ., weight: 2}]}\n"),
    ];
    std::fs::create_dir_all(folder.join(".nv-meta")).expect("room for a temporary folder");
    let chosen = usize::from(which % 5);
    for (i, (name, good)) in files.into_iter().enumerate() {
        // Version 5 writes YAML, and version 7 JSON, which is looked for first.
        let name = if i == 0 && chosen == 4 { ".nv-meta/.info.yaml" } else { name };
        let content = if i == chosen % 4 { text } else { good };
        std::fs::write(folder.join(name), content).expect("room for a temporary file");
    }
    let part = read_part(&folder, "train", None, None);
    let leaves = metadataset(&folder.join("mix.yaml"), "train");
    std::fs::remove_dir_all(&folder).expect("the folder that was just made");
    let apply = |fields: &FieldMap| {
        let parts = vec![("json".to_owned(), br#"{"a": {"b": "c"}}"#.to_vec()), ("png".to_owned(), dot().to_vec())];
        let _ = fields.apply(RawSample { key: "k".into(), parts });
    };
    match (&part, &leaves) {
        (Ok(part), Ok(leaves)) => {
            assert!(!part.shards.is_empty() && !leaves.is_empty());
            part.fields.iter().for_each(apply);
            leaves.iter().for_each(|leaf| drop(leaf.subset.range(10)));
            Reached::Works
        }
        (Err(error), _) => {
            assert!(!error.to_string().is_empty());
            Reached::Refused
        }
        (Ok(_), Err(error)) => {
            assert!(!error.to_string().is_empty());
            Reached::Partly
        }
    }
}

/// Bytes as a picture: its header, its pixels, and whether it would have any.
pub fn picture(data: &[u8]) -> Reached {
    let size = header(data, MAX_PIXELS);
    let decoded = decode_rgb(data, MAX_PIXELS);
    assert_eq!(check(data, MAX_PIXELS).is_ok(), decoded.is_ok(), "the check says what decoding says");
    match (size, decoded) {
        (_, Ok(picture)) => {
            assert_eq!(picture.data.len() as u64, u64::from(picture.width) * u64::from(picture.height) * 3);
            assert!(u64::from(picture.width) * u64::from(picture.height) <= MAX_PIXELS);
            Reached::Works
        }
        (Ok((width, height)), Err(_)) => {
            assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS && width > 0 && height > 0);
            Reached::Partly
        }
        (Err(_), Err(_)) => Reached::Refused,
    }
}

/// The JSON of a pack, of ours or of the reference's, with a few pictures beside it.
pub fn pack(data: &[u8]) -> Reached {
    let mut best = Reached::Refused;
    for key in ["00000000", "ps_00000000"] {
        let names = ["img0_0.png", "img1_0.png", "img0.jpg", "img001.jpg"];
        let pictures = names.map(|name| (name.to_owned(), dot().to_vec()));
        let parts = pictures.into_iter().chain([("json".to_owned(), data.to_vec())]).collect();
        match parse(RawSample { key: key.into(), parts }, "packed.tar", &options()) {
            Ok(pack) => {
                for sample in pack.samples {
                    best = best.max(Reached::Partly);
                    match sample.record {
                        Ok(record) => best = best.max(tokens(&record)),
                        Err(reject) => explained(&reject),
                    }
                }
            }
            Err(reject) => explained(&reject),
        }
    }
    best
}

/// A record's JSON, with as many pictures as the first byte says: its columns, the prompt `conversation`, token ids.
pub fn chat(data: &[u8]) -> Reached {
    let Some((first, json)) = data.split_first() else { return Reached::Refused };
    let pictures = (0..first % 5).map(|i| (format!("{i}.png"), dot().to_vec()));
    let parts = pictures.chain([("json".to_owned(), json.to_vec())]).collect();
    match Record::build(RawSample { key: "k".into(), parts }, "s.tar", 0, &options()) {
        Ok(record) => tokens(&record).max(Reached::Partly),
        Err(reject) => {
            explained(&reject);
            Reached::Refused
        }
    }
}

/// A record through every column and the first-party prompt, to token ids.
fn tokens(record: &Record) -> Reached {
    let chat = tokenizer();
    let compute = Compute { chat: Some(chat), max_pixels: MAX_PIXELS };
    let names = columns::STANDARD.map(String::from);
    let batch = columns::build(&[RowView { ordinal: 0, record, added: &[] }], &names, compute);
    assert_eq!(batch.columns.len(), names.len());
    let _ = (columns::references(&record.fields), columns::answers(&record.fields));
    let mut reached = Reached::Partly;
    let row = json!([{ "record": columns::record_json(record), "num-images": record.media.len() }]);
    for mode in [ovhost_sdk::Mode::Train, ovhost_sdk::Mode::Generate] {
        let mut prompt = testing::prompt::<conversation::Conversation>(json!({})).expect("no configuration is one");
        let Ok(rendered) = prompt.run(mode, row.clone()).remove(0) else { continue };
        let counts = vec![1; record.media.len()];
        let rendered = in_the_hosts_words(rendered);
        let encoded = match mode {
            ovhost_sdk::Mode::Train => chat.encode_train(&rendered, &counts),
            ovhost_sdk::Mode::Generate => chat.encode_prompt(&rendered, &counts),
        };
        if let Ok(encoded) = encoded {
            assert_eq!(encoded.input_ids.len(), encoded.labels.len());
            assert_eq!(encoded.image_order.len(), record.media.len());
            reached = Reached::Works;
        }
    }
    reached
}

fn in_the_hosts_words(rendered: ovhost_sdk::Rendered) -> Rendered {
    let ovhost_sdk::Rendered::Conversation(messages) = rendered else { panic!("the prompt renders conversations") };
    let part = |part| match part {
        ovhost_sdk::Part::Text(text) => Part::Text(text),
        ovhost_sdk::Part::Image(i) => Part::Image(i),
        ovhost_sdk::Part::Video(i) => Part::Video(i),
    };
    let message = |m: ovhost_sdk::Message| Message {
        role: m.role,
        parts: m.parts.into_iter().map(part).collect(),
        train: m.train,
    };
    Rendered::Conversation(messages.into_iter().map(message).collect())
}

/// Who reads `rejects.jsonl` learns why and where.
fn explained(reject: &Reject) {
    assert!(!reject.reason.is_empty() && !reject.shard.is_empty(), "{reject:?}");
}

/// A picture of one pixel.
fn dot() -> &'static [u8] {
    static DOT: OnceLock<Vec<u8>> = OnceLock::new();
    DOT.get_or_init(|| {
        let mut out = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(1, 1)
            .write_to(&mut out, image::ImageFormat::Png)
            .expect("a picture of one pixel is written");
        out.into_inner()
    })
}

fn tokenizer() -> &'static ChatTokenizer {
    static CHAT: OnceLock<ChatTokenizer> = OnceLock::new();
    CHAT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let texts = ["What colour is the square?", "a red square", "0 1 2 3 4 5 6 7 8 9"];
        train_bpe(texts.iter().cycle().take(30).map(|s| (*s).to_owned()), 300, folder.path()).expect("a tokenizer");
        ChatTokenizer::from_folder(folder.path()).expect("the tokenizer that was just made")
    })
}

/// A name that no other thread or process uses.
fn temporary(suffix: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ovhost-fuzz-{}-{number}.{suffix}", std::process::id()))
}
