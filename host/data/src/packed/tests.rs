//! Packs as they are written and read: heads that fit or do not, and samples that fail alone.

use serde_json::json;

use super::*;
use crate::record::{Record, RecordOptions};
use crate::shards::{RawSample, ShardWriter, WriterOptions};

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(vec![]);
    image::RgbImage::new(width, height).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn made_for() -> MadeFor {
    MadeFor {
        tokenizer: "t".into(),
        image_processor: json!({"min_pixels": 4, "max_pixels": 4096}),
        prompt: json!({"plugin": "p", "sha256": "s", "config": {"a": 1, "b": 2}}),
    }
}

fn head() -> Head {
    Head {
        version: VERSION,
        fingerprint: made_for().fingerprint(),
        made_for: made_for(),
        seed: 7,
        capacity: 100,
        tokens: 90,
        patches: 8,
    }
}

#[test]
fn a_head_fits_or_says_what_differs() {
    let fits = |head: &Head, now: &MadeFor, capacity| head.check("s.tar", now, capacity).map_err(|e| e.to_string());
    fits(&head(), &made_for(), 100).unwrap();
    // Keys in another order are the same settings.
    let other_order =
        MadeFor { prompt: json!({"config": {"b": 2, "a": 1}, "sha256": "s", "plugin": "p"}), ..made_for() };
    fits(&head(), &other_order, 200).unwrap();
    let refused = |head: Head, now: MadeFor, capacity, parts: &[&str]| {
        let error = fits(&head, &now, capacity).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let tokenizer = MadeFor { tokenizer: "u".into(), ..made_for() };
    refused(head(), tokenizer, 100, &["s.tar", "tokenizer was \"t\" and is \"u\""]);
    let pixels = MadeFor { image_processor: json!({"min_pixels": 4, "max_pixels": 1024}), ..made_for() };
    refused(head(), pixels, 100, &["image_processor.max_pixels was 4096 and is 1024"]);
    let config = MadeFor { prompt: json!({"plugin": "p", "sha256": "s", "config": {"a": 1}}), ..made_for() };
    refused(head(), config, 100, &["prompt.config.b was 2 and is null"]);
    // A changed plugin shows by its hash, whatever else changed with it.
    let plugin = MadeFor { prompt: json!({"plugin": "q", "sha256": "x", "config": {}}), ..made_for() };
    refused(head(), plugin, 100, &["prompt.sha256 was \"s\" and is \"x\""]);
    refused(head(), made_for(), 99, &["90 tokens", "packed for 100", "data.capacity is 99"]);
    refused(Head { version: 2, ..head() }, made_for(), 100, &["version 2", "reads version 1"]);
    refused(Head { fingerprint: "0".into(), ..head() }, made_for(), 100, &["the fingerprint is 0"]);
}

fn sample(key: &str, images: &[&str]) -> Sample {
    Sample {
        key: key.into(),
        source: "a.tar".into(),
        index: 5,
        row: 1 << 33,
        tokens: 9,
        patches: 4,
        images: images.iter().map(|i| i.to_string()).collect(),
        record: json!({"question": "q", "score": 0.1 + 0.2}).as_object().unwrap().clone(),
    }
}

fn raw(samples: Vec<Sample>, pictures: &[(&str, Vec<u8>)]) -> RawSample {
    let json = serde_json::to_vec(&PackJson { head: head(), samples }).unwrap();
    let mut parts: Vec<_> = pictures.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
    parts.push(("json".into(), json));
    RawSample { key: "00000003".into(), parts }
}

fn read(raw: RawSample) -> Pack {
    parse(raw, "packed-000000.tar", &RecordOptions::default()).unwrap()
}

#[test]
fn what_is_wrong_with_a_sample_is_its_own() {
    let names = [image_name(0, 0, "png"), image_name(0, 1, "a.b.JPG"), image_name(12, 3, "jpg")];
    assert_eq!(names, ["img0_0.png", "img0_1.JPG", "img12_3.jpg"]);
    let samples = vec![
        sample("good", &["img0_1.png", "img0_0.png"]),
        sample("absent", &["img1_0.png"]),
        sample("broken", &["img2_0.png"]),
        sample("text", &[]),
    ];
    let pictures = [("img0_0.png", png(4, 6)), ("img0_1.png", png(8, 2)), ("img2_0.png", vec![1, 2, 3])];
    let pack = read(raw(samples, &pictures));
    assert_eq!((pack.head, pack.place.as_str()), (Some(head()), "00000003 of packed-000000.tar"));
    let [good, absent, broken, text] = &pack.samples[..] else { panic!("{:?}", pack.samples) };
    let record = good.record.as_ref().unwrap();
    assert_eq!(
        (record.key.as_str(), record.shard.as_str(), record.index, good.row),
        ("good", "a.tar", 5, Some(1 << 33))
    );
    // The order is that of the list, which was the record's.
    assert_eq!(record.media.iter().map(|m| (m.width, m.height)).collect::<Vec<_>>(), [(8, 2), (4, 6)]);
    assert_eq!(record.fields["score"].as_f64(), Some(0.1 + 0.2));
    let reason = |s: &SubSample| s.record.as_ref().unwrap_err().reason.clone();
    assert!(reason(absent).contains("img1_0.png is not in the pack"), "{}", reason(absent));
    assert!(reason(broken).contains("part img2_0.png"), "{}", reason(broken));
    assert!(text.record.as_ref().unwrap().media.is_empty());
    let failed = |parts: Vec<(String, Vec<u8>)>| {
        let raw = RawSample { key: "k".into(), parts };
        parse(raw, "s.tar", &RecordOptions::default()).unwrap_err().reason
    };
    assert!(failed(vec![]).contains("no part json"));
    assert!(failed(vec![("json".into(), b"{".to_vec())]).contains("not valid JSON"));
    assert!(failed(vec![("json".into(), b"{}".to_vec())]).contains("no pack"));
    assert!(failed(vec![("json".into(), br#"{"ovhost_pack": 3}"#.to_vec())]).contains("version 3"));
}

#[test]
fn the_reference_layout_is_read_and_made() {
    let json =
        json!({"prompts": ["<image>what?", "", 3], "captions": ["a cat", "a dog", "x"], "images": ["1", "2", "3"]});
    let parts = [("img0.jpg", png(4, 4)), ("img001.jpg", png(8, 8)), ("img2.jpg", png(2, 2))];
    let mut parts: Vec<_> = parts.iter().map(|(n, b)| (n.to_string(), b.clone())).collect();
    parts.push(("json".into(), json.to_string().into_bytes()));
    let pack = read(RawSample { key: "ps_00000001".into(), parts });
    assert!(pack.head.is_none() && pack.samples.len() == 3);
    let record = pack.samples[1].record.as_ref().unwrap();
    assert_eq!(
        (record.key.as_str(), &record.fields["question"], &record.fields["answer"]),
        ("ps_00000001-1", &json!(""), &json!("a dog"))
    );
    assert_eq!((record.media.len(), record.media[0].width), (1, 8));
    assert!(pack.samples[2].record.as_ref().unwrap_err().reason.contains("prompts[2] is a number"));

    let picture = pack.samples[0].record.as_ref().unwrap().media.clone();
    let turn = |fields: Value, pictures: usize| {
        let fields = fields.as_object().unwrap().clone();
        let media = picture.iter().cycle().take(pictures).cloned().collect();
        reference::turn(Record { key: "k".into(), fields, media, ..Record::default() })
    };
    for (fields, question, answer) in [
        (json!({"question": "what?", "answer": "a cat"}), "<image>what?", "a cat"),
        (json!({"question": "see <image>: what?", "answers": ["a", "b", "b"]}), "see <image>: what?", "b"),
        (json!({"qa": [{"question": "q", "answer": "a"}]}), "<image>q", "a"),
        (json!({"caption": "a cat"}), "<image>", "a cat"),
        (
            json!({"conversations": [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]}),
            "<image>\nq",
            "a",
        ),
    ] {
        let record = turn(fields, 1).unwrap();
        assert_eq!((&record.fields["question"], &record.fields["answer"]), (&json!(question), &json!(answer)));
    }
    for (fields, pictures, why) in [
        (json!({"caption": "c"}), 0, "0 pictures"),
        (json!({"caption": "c"}), 2, "2 pictures"),
        (json!({"question": "q"}), 1, "no answer"),
        (json!({"score": 1}), 1, "no conversation"),
        (json!({"qa": [{"question": "q", "answer": "a"}, {"question": "q", "answer": "a"}]}), 1, "qa has 2 pairs"),
        (
            json!({"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}),
            1,
            "not a user's",
        ),
        (json!({"messages": [{"role": "user", "content": "q"}]}), 1, "messages has 1 turns"),
        (json!({"question": "<image> or <image>", "answer": "a"}), 1, "2 times"),
    ] {
        let error = turn(fields, pictures).unwrap_err();
        assert!(error.contains(why) && error.contains("the reference's layout"), "{error}");
    }
}

#[test]
fn shards_say_how_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, samples: &[(&str, Value)]| {
        let mut writer = ShardWriter::create(dir.path().join(name), "s-%d.tar", WriterOptions::default()).unwrap();
        for (key, json) in samples {
            writer.write(key, &[("json", json.to_string().as_bytes())]).unwrap();
        }
        layout_of(&Shard::open(&writer.finish().unwrap()[0].path).unwrap())
    };
    use crate::shards::Shard;
    let pack = serde_json::to_value(PackJson { head: head(), samples: vec![] }).unwrap();
    let reference = json!({"prompts": ["p"], "captions": ["c"], "images": ["i"]});
    assert_eq!(of("a", &[("k", json!({"caption": "c"}))]).unwrap(), (Layout::Plain, None));
    assert_eq!(of("b", &[("00000000", pack)]).unwrap(), (Layout::Packed, Some(head())));
    assert_eq!(of("c", &[("ps_00000000", reference.clone())]).unwrap(), (Layout::Reference, None));
    assert_eq!(of("d", &[("mine", reference)]).unwrap(), (Layout::Plain, None), "only under its own keys");
    let error = of("e", &[("x", json!({"ovhost_pack": 9}))]).unwrap_err().to_string();
    assert!(error.contains("version 9") && error.contains("pack the data again"), "{error}");
}

#[test]
fn fields_may_not_be_nested_without_end() {
    let nested = |levels: usize| {
        let value =
            (0..levels).fold(json!(1), |inner, i| if i % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) });
        Map::from_iter([("x".to_owned(), value)])
    };
    check_depth(&nested(MAX_DEPTH)).unwrap();
    // What is allowed reads back from where it is put.
    let deep = Sample { record: nested(MAX_DEPTH), ..sample("k", &[]) };
    assert!(read(raw(vec![deep], &[])).samples[0].record.is_ok());
    assert!(check_depth(&nested(MAX_DEPTH + 1)).unwrap_err().contains("nested"));
}
