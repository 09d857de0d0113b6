use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ovhost_data::record::{Record, RecordOptions};
use ovhost_data::rejects::RejectBudget;
use ovhost_data::shards::Shard;
use serde_json::json;

use super::*;
use crate::jobs::{Part, WORDS};

fn picture(path: &Path, shade: u8) -> Vec<u8> {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(5, 4, image::Rgb([shade, 1, 2])).save(path).unwrap();
    fs::read(path).unwrap()
}

/// A folder with `rows` as its table and three pictures.
fn table(name: &str, rows: &str) -> (tempfile::TempDir, ConvertSettings) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), rows).unwrap();
    for shade in 0..3 {
        picture(&dir.path().join(format!("images/{shade}.png")), shade);
    }
    let mut settings = ConvertSettings::new(Input::Rows(vec![dir.path().join(name)]));
    settings.image_dir = Some(dir.path().join("images"));
    (dir, settings)
}

/// What a conversion came to.
struct Out {
    rows: u64,
    samples: u64,
    images: u64,
    rejects: u64,
    renamed: u64,
    dir: PathBuf,
}

fn to(settings: &ConvertSettings, out: &Path, rate: f64, workers: usize) -> Result<Out, PrepError> {
    let stop = AtomicBool::new(false);
    let options = RunOptions {
        out: out.to_owned(),
        workers,
        part: Part::default(),
        budget: RejectBudget { max_rate: rate, max_count: None, words: WORDS },
        stop: &stop,
        progress: &|_| (),
    };
    match convert(settings, &options, &|_| ())? {
        Converted::Waiting(_) => panic!("there is but one part"),
        Converted::Written { summary, rows, renamed } => {
            assert!(summary.finished);
            let c = &summary.counts;
            let (samples, images, rejects) = (c.samples, c.images, c.rejected_total());
            Ok(Out { rows, samples, images, rejects, renamed, dir: out.to_owned() })
        }
    }
}

fn tars(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "tar"));
    all.sort();
    all
}

fn records(folder: &Path) -> Vec<Record> {
    let mut all = vec![];
    for path in tars(folder) {
        let shard = Shard::open(&path).unwrap();
        all.extend((0..shard.len()).map(|i| shard.record(i, &RecordOptions::default()).unwrap()));
    }
    all
}

fn keys(folder: &Path) -> Vec<String> {
    records(folder).into_iter().map(|r| r.key).collect()
}

#[test]
fn llava_rows_of_every_shape() {
    let rows = json!([
        {"id": "a/b.c", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nhi"}]},
        {"id": 7, "image": ["1.png", "2.png"], "conversations": []},
        {"messages": [{"role": "user", "content": "words only ],[ \" \\"}]},
        [{"role": "user", "content": "a bare message list"}],
        {"id": 7, "question": "q", "answer": "a", "image": "./2.png"},
    ]);
    for text in [rows.to_string(), serde_json::to_string_pretty(&rows).unwrap(), format!("\u{feff}\n {rows}\n")] {
        let (dir, mut settings) = table("rows.json", &text);
        settings.max_count = 3;
        let out = to(&settings, &dir.path().join("out"), 0.0, 2).unwrap();
        assert_eq!((out.rows, out.samples, out.images, out.rejects, out.renamed), (5, 5, 4, 0, 1));
        assert_eq!(tars(&out.dir).len(), 2);
        let records = records(&out.dir);
        let keys: Vec<_> = records.iter().map(|r| r.key.as_str()).collect();
        assert_eq!(keys, ["a_b_c", "00000007", "00000002", "00000003", "00000007-2"]);
        assert_eq!(records[0].fields["conversations"][0]["value"], "<image>\nhi");
        assert_eq!(records[1].media.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["0.png", "1.png"]);
        let original = fs::read(dir.path().join("images/2.png")).unwrap();
        assert_eq!(*records[1].media[1].bytes, original[..], "copied as they are");
        assert_eq!(records[3].fields["messages"][0]["content"], "a bare message list");
        assert!(out.dir.join(".nv-meta/split.yaml").is_file());
    }
}

#[test]
fn list_rows_grouped_by_picture() {
    let rows = r#"[["q1","a1",2],["q2","a2",0],["q3","a3",2]]"#;
    let (dir, mut settings) = table("questions.json", rows);
    settings.fields = Some(["question", "answer", "image"].map(String::from).to_vec());
    settings.image_pattern = Some("{image}.png".into());
    settings.group_by = Some("image".into());
    let out = to(&settings, &dir.path().join("out"), 0.0, 1).unwrap();
    assert_eq!((out.rows, out.samples), (3, 2));
    let records = records(&out.dir);
    assert_eq!(keys(&out.dir), ["00000002", "00000000"]);
    let qa = json!([{"question": "q1", "answer": "a1"}, {"question": "q3", "answer": "a3"}]);
    assert_eq!(serde_json::Value::Object(records[0].fields.clone()), json!({"image": "2.png", "qa": qa}));
}

#[test]
fn rows_that_do_not_fit_their_group_are_listed() {
    let rows = r#"{"g":1,"image":"0.png","q":"a"}
{"g":1,"image":"1.png","q":"b"}
{"g":2,"image":"2.png","q":"c"}
{"image":"2.png","q":"d"}
{"g":1,"image":"0.png","q":"e"}
{"g":3,"image":"0.png"}"#;
    let (dir, mut settings) = table("rows.jsonl", rows);
    settings.group_by = Some("g".into());
    let out = to(&settings, &dir.path().join("out"), 1.0, 1).unwrap();
    assert_eq!((out.rows, out.samples, out.rejects), (6, 2, 3));
    assert_eq!(records(&out.dir)[0].fields["qa"], json!([{"q": "a"}, {"q": "e"}]));
    let lines = fs::read_to_string(out.dir.join("rejects.jsonl")).unwrap();
    for reason in [
        "image \\\"1.png\\\" differs from that of the first row of its group (row 1 of",
        "the row has no field \\\"g\\\"; it has image, q (row 3 of",
        "the row has nothing but \\\"g\\\" to put",
    ] {
        assert!(lines.contains(reason), "{lines} lacks {reason}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let rows: String = (0..40).map(|i| format!("{{\"caption\":\"c{i}\",\"image\":\"{}.png\"}}\n", i % 3)).collect();
    let (dir, mut settings) = table("rows.jsonl", &rows);
    settings.max_count = 15;
    let mut number = 0;
    let mut read = |settings: &ConvertSettings, workers| {
        number += 1;
        let out = to(settings, &dir.path().join(format!("out{number}")), 0.0, workers).unwrap();
        let tars = tars(&out.dir);
        assert_eq!(tars.len(), 3);
        (tars.iter().map(|s| fs::read(s).unwrap()).collect::<Vec<_>>(), keys(&out.dir))
    };
    let plain = read(&settings, 1);
    assert_eq!(plain, read(&settings, 3));
    settings.shuffle_seed = Some(1);
    let shuffled = read(&settings, 2);
    assert_eq!(shuffled, read(&settings, 1));
    assert_ne!(plain.1, shuffled.1);
    settings.shuffle_seed = Some(2);
    let other = read(&settings, 1);
    assert_ne!(shuffled.1, other.1);
    let mut sorted = other.1;
    sorted.sort();
    assert_eq!(sorted, plain.1, "shuffling loses and invents nothing");
}

#[test]
fn bad_rows_are_counted_listed_and_bounded() {
    let rows = [
        r#"{"id":"good","image":"0.png","caption":"c"}"#,
        r#"{"id":"gone","image":"nine.png"}"#,
        r#"{"id":"broken","image":"broken.png"}"#,
        r#"{"id":"escape","image":"../../secret.png"}"#,
        r#"{"id":"film","video":"a.mp4"}"#,
        r#"{"id":"number","image":3}"#,
        "not json",
        "17",
        "",
        r#"{"id":"net","image":"https://a.b/c.png"}"#,
    ]
    .join("\n");
    let (dir, mut settings) = table("rows.jsonl", &rows);
    let whole = fs::read(dir.path().join("images/0.png")).unwrap();
    fs::write(dir.path().join("images/broken.png"), &whole[..whole.len() - 20]).unwrap();
    let out = dir.path().join("out");
    let message = to(&settings, &out, 0.01, 1).err().unwrap().to_string();
    assert!(message.contains("88.9 % of the samples were rejected and --max-reject-rate is 0.01"), "{message}");
    assert!(!out.join("manifest.json").exists() && !out.join(".nv-meta").exists(), "it is not finished");

    let made = to(&settings, &out, 0.9, 1).unwrap();
    assert_eq!((made.rows, made.samples, made.rejects), (9, 1, 8));
    let lines = fs::read_to_string(out.join("rejects.jsonl")).unwrap();
    for (line, (key, reason)) in lines.lines().zip([
        ("gone", "cannot be read"),
        ("broken", "corrupt PNG picture"),
        ("escape", "does not lie in the image folder"),
        ("film", "videos are not supported"),
        ("number", "holds a number; it must be a file name"),
        ("00000006", "is not valid JSON"),
        ("00000007", "the row is a number"),
        ("net", "is not fetched"),
    ]) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["key"], key, "{line}");
        assert!(value["reason"].as_str().unwrap().contains(reason), "{line}");
        assert_eq!((&value["stage"], &value["shard"]), (&json!("convert"), &json!("rows.jsonl")));
    }
    assert_eq!(lines.lines().count(), 8);

    // Another split in the same folder keeps them, under names of its own.
    fs::write(dir.path().join("rows2.jsonl"), "{\"caption\":\"c\",\"image\":\"1.png\"}\n").unwrap();
    let mut second = settings.clone();
    (second.input, second.split) = (Input::Rows(vec![dir.path().join("rows2.jsonl")]), "test".into());
    let message = to(&second, &out, 0.0, 1).err().unwrap().to_string();
    assert!(message.contains("shard-000000.tar of the split train; give another --pattern"), "{message}");
    second.pattern = "test-%06d.tar".into();
    to(&second, &out, 0.0, 1).unwrap();
    assert_eq!(fs::read_to_string(out.join("rejects.jsonl")).unwrap(), lines);
    let manifest: Value = serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["counts"]["samples"], manifest["jobs"].as_array().unwrap().len()), (&json!(2), 2));
    let split = fs::read_to_string(out.join(".nv-meta/split.yaml")).unwrap();
    assert!(split.contains("shard-000000.tar") && split.contains("test-000000.tar"), "{split}");
    settings.input = Input::Rows(vec![dir.path().join("rows2.jsonl")]);
    let message = to(&settings, &out, 0.9, 1).err().unwrap().to_string();
    assert!(message.contains("was begun with other settings"), "{message}");
}

#[test]
fn inputs_and_options_that_cannot_work_are_errors() {
    let fails = |name: &str, rows: &str, change: &dyn Fn(&mut ConvertSettings), why: &str| {
        let (dir, mut settings) = table(name, rows);
        change(&mut settings);
        let out = dir.path().join("out");
        let first = to(&settings, &out, 0.01, 1).err().unwrap().to_string();
        let listed = || fs::read_to_string(out.join(".ovhost/convert-train/jobs/shard-000000.rejects.jsonl"));
        let message = first + &listed().unwrap_or_default();
        assert!(message.contains(why), "{message:?} lacks {why:?}");
    };
    let rows = r#"[["q","a",1]]"#;
    fails("r.json", "", &|_| (), "r.json: it is empty");
    fails("r.json", "[]", &|_| (), "it holds no rows");
    fails("r.json", "[{\"caption\":\"c\"},\n{]", &|_| (), "not a valid JSON list: the file ends before the list does");
    fails("r.json", "[{\"caption\":\"c\"},\n{}}]", &|_| (), "not a valid JSON list: row 1 at byte 17: ");
    fails("r.json", "[{\"caption\":\"c\"},]", &|_| (), "not a valid JSON list: row 1 at byte 17: EOF");
    fails("r.json", "[{\"caption\":\"c\"}] []", &|_| (), "something follows its end");
    fails("r.json", rows, &|_| (), "name its positions with --fields");
    fails("r.json", rows, &|o| o.input = Input::Rows(vec!["no/such.json".into()]), "no/such.json: cannot open");
    fails("r.json", rows, &|o| o.fields = Some(vec!["q".into()]), "3 values but 1 field names");
    fails("r.json", rows, &|o| o.fields = Some(vec!["q".into(), "q".into()]), "\"q\" is named twice");
    fails("r.json", rows, &|o| o.image_pattern = Some("x.png".into()), "names no field");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.group_by = Some("b".into()), "the row has no field \\\"b\\\"; it has a");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.split = "dev".into(), "train, val or test");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.pattern = "dev.tar".into(), "train-%06d.tar");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.text_column = Some("b".into()), "the row has no field \\\"b\\\"; it has a");
    let pic = |o: &mut ConvertSettings| o.image_columns = Some(vec!["pic".into()]);
    fails("r.json", r#"[{"caption":"c"}]"#, &pic, "no sample has a picture in pic; check --image-column");
    let both = r#"[{"a":1,"caption":2}]"#;
    fails("r.json", both, &|o| o.text_column = Some("a".into()), "has a field \\\"caption\\\" beside");
}

#[test]
fn json_lines_whose_rows_are_lists() {
    let (dir, mut settings) = table("rows.jsonl", "[\"q\",\"a\",1]\n[\"q2\",\"a2\",2]\n");
    settings.fields = Some(["question", "answer", "image"].map(String::from).to_vec());
    settings.image_pattern = Some("{image}.png".into());
    let out = to(&settings, &dir.path().join("out"), 0.0, 1).unwrap();
    assert_eq!(records(&out.dir)[1].fields["question"], "q2");
}

#[test]
fn messages_with_parts_and_files_of_several_tables() {
    let png = picture(&tempfile::tempdir().unwrap().path().join("x.png"), 9);
    let uri = format!("data:image/png;base64,{}", {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&png)
    });
    let user =
        |parts: Value| json!({"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]});
    let rows = [
        user(
            json!([{"type": "image", "image": "1.png"}, {"type": "text", "text": "and"}, {"type": "image_url", "image_url": {"url": uri}}]),
        ),
        user(json!([{"type": "image_url", "image_url": "2.png"}])),
        json!({"images": ["0.png", null], "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        user(json!("no picture")),
        user(json!([{"type": "image", "image": "data:image/png,abc"}])),
    ];
    let lines = |rows: &[Value]| rows.iter().map(|r| format!("{r}\n")).collect::<String>();
    let (dir, mut settings) = table("a.jsonl", &lines(&rows[..2]));
    fs::write(dir.path().join("b.jsonl"), lines(&rows[2..])).unwrap();
    settings.input = Input::Rows(vec![dir.path().join("a.jsonl"), dir.path().join("b.jsonl")]);
    let out = to(&settings, &dir.path().join("out"), 0.5, 2).unwrap();
    assert_eq!((out.rows, out.samples, out.images, out.rejects), (5, 4, 4, 1));
    assert_eq!(keys(&out.dir), ["00000000", "00000001", "00000002", "00000003"], "rows are numbered through");
    let records = records(&out.dir);
    assert_eq!(records[0].media[1].bytes[..], png[..]);
    let content = &records[0].fields["messages"][0]["content"];
    assert_eq!(content[0]["image"], "1.png");
    assert_eq!(content[2]["image_url"]["url"], "00000000.1.png", "the bytes are a member, not text");
    let lines = fs::read_to_string(out.dir.join("rejects.jsonl")).unwrap();
    assert!(lines.contains("only base64 is possible (row 2 of"), "{lines}");
}

#[test]
fn shards_again_in_other_sizes() {
    let rows: String =
        (0..10).map(|i| format!("{{\"id\":\"k{i}\",\"alt\":\"c{i}\",\"image\":\"{}.png\"}}\n", i % 3)).collect();
    let (dir, mut settings) = table("rows.jsonl", &rows);
    settings.max_count = 4;
    let first = to(&settings, &dir.path().join("first"), 0.0, 1).unwrap();
    let mut again = ConvertSettings::new(Input::Shards(tars(&first.dir)));
    again.max_count = 7;
    let second = to(&again, &dir.path().join("second"), 0.0, 2).unwrap();
    assert_eq!((second.samples, second.images, tars(&second.dir).len()), (10, 10, 2));
    let plain = |folder: &Path| -> Vec<_> { records(folder).into_iter().map(|r| (r.key, r.fields, r.media)).collect() };
    assert_eq!(plain(&first.dir), plain(&second.dir));
    // A bound on bytes: an exact one, because the sizes of samples are known.
    again.max_bytes = 5 * 2048;
    let third = to(&again, &dir.path().join("third"), 0.0, 2).unwrap();
    assert!(tars(&third.dir).iter().all(|tar| fs::metadata(tar).unwrap().len() <= 5 * 2048 + 1024));
    assert!(!tars(&third.dir).iter().any(|tar| tar.to_string_lossy().contains('_')), "{:?}", tars(&third.dir));
    assert_eq!(plain(&third.dir), plain(&first.dir));
    // Columns mapped, keys from a column, the same shards twice.
    again.text_column = Some("alt".into());
    again.id_column = Some("alt".into());
    let twice: Vec<PathBuf> = tars(&first.dir).into_iter().chain(tars(&second.dir)).collect();
    again.input = Input::Shards(twice);
    let fourth = to(&again, &dir.path().join("fourth"), 0.0, 1).unwrap();
    assert_eq!((fourth.samples, fourth.renamed), (20, 10));
    let records = records(&fourth.dir);
    assert_eq!((records[0].key.as_str(), records[10].key.as_str()), ("c0", "c0-2"));
    assert_eq!((&records[3].fields["caption"], records[3].fields.get("alt")), (&json!("c3"), None));
    // Damage is a reject, and what comes before it is kept.
    let tar = &tars(&first.dir)[0];
    let bytes = fs::read(tar).unwrap();
    fs::write(tar, &bytes[..bytes.len() - 1024 - 700]).unwrap();
    let mut cut = ConvertSettings::new(Input::Shards(vec![tar.clone()]));
    let fifth = to(&cut, &dir.path().join("fifth"), 0.5, 1).unwrap();
    assert_eq!((fifth.samples, fifth.rejects), (3, 1));
    cut.group_by = Some("image".into());
    let message = to(&cut, &dir.path().join("x"), 0.5, 1).err().unwrap().to_string();
    assert!(message.contains("--group-by is for tables"), "{message}");
    let message = to(&ConvertSettings::new(Input::Shards(tars(&first.dir))), &first.dir, 0.0, 1).err().unwrap();
    assert!(message.to_string().contains("is the folder of the input"), "{message}");
}

#[test]
fn a_job_that_is_larger_than_thought_goes_on_in_a_second_shard() {
    let rows: String =
        (0..8).map(|i| format!("{{\"id\":{i},\"caption\":\"c\",\"image\":\"{}.png\"}}\n", u8::from(i > 0))).collect();
    let (dir, mut settings) = table("rows.jsonl", &rows);
    // The sampled picture is tiny, the others are not.
    let noise: Vec<u8> = (0..64 * 64 * 3_u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
    image::RgbImage::from_raw(64, 64, noise).unwrap().save(dir.path().join("images/1.png")).unwrap();
    settings.max_bytes = 40_000;
    let out = to(&settings, &dir.path().join("out"), 0.0, 1).unwrap();
    let names: Vec<String> = tars(&out.dir).iter().map(|t| t.file_name().unwrap().to_string_lossy().into()).collect();
    assert_eq!(names, ["shard-000000.tar", "shard-000000_1.tar", "shard-000000_2.tar", "shard-000000_3.tar"]);
    assert!(tars(&out.dir).iter().all(|tar| fs::metadata(tar).unwrap().len() <= 41_024));
    assert_eq!(records(&out.dir).len(), 8);
}

#[test]
fn idx_pairs_become_captioned_pngs() {
    let dir = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..3 * 2 * 4).collect();
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 4];
    images.extend(&pixels);
    let zipped = |name: &str, bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        fs::write(dir.path().join(name), encoder.finish().unwrap()).unwrap();
        dir.path().join(name)
    };
    let images_path = zipped("images.gz", &images);
    let labels = dir.path().join("labels");
    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 9]).unwrap();
    let class_names = vec!["Shirt".to_owned(), "Bag".to_owned()];
    let mut settings = ConvertSettings::new(Input::Idx { images: images_path, labels: labels.clone(), class_names });
    settings.max_count = 2;
    let out = to(&settings, &dir.path().join("out"), 0.5, 2).unwrap();
    assert_eq!((out.samples, out.rejects), (2, 1));
    let records = records(&out.dir);
    assert_eq!(records[0].fields["caption"], "Bag");
    let rgb = ovhost_data::image::decode_rgb(&records[1].media[0].bytes, 100).unwrap();
    assert_eq!((rgb.width, rgb.height), (4, 2));
    assert_eq!(rgb.data, pixels[8..16].iter().flat_map(|v| [*v; 3]).collect::<Vec<_>>());
    let rejects = fs::read_to_string(out.dir.join("rejects.jsonl")).unwrap();
    assert!(rejects.contains("label 9 has no class name; 2 names were given"), "{rejects}");

    let fails = || to(&settings, &dir.path().join("x"), 0.5, 1).err().unwrap().to_string();
    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 1, 0]).unwrap();
    assert!(fails().contains("has 2 labels for 3 pictures"));
    fs::write(&labels, [1, 2, 3]).unwrap();
    assert!(fails().contains("too short for an IDX header"));
    zipped("images.gz", &images[..30]);
    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 0]).unwrap();
    assert!(fails().contains("images.gz: item 1 of 3 cannot be read"));
}
