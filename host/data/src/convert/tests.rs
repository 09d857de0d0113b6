use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::record::RecordOptions;
use crate::shards::Shard;

fn picture(path: &Path, shade: u8) -> Vec<u8> {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(5, 4, image::Rgb([shade, 1, 2])).save(path).unwrap();
    fs::read(path).unwrap()
}

/// A folder with `rows` as its table and three pictures.
fn table(name: &str, rows: &str) -> (tempfile::TempDir, ConvertOptions) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), rows).unwrap();
    for shade in 0..3 {
        picture(&dir.path().join(format!("images/{shade}.png")), shade);
    }
    let mut options = ConvertOptions::new(Input::Rows(dir.path().join(name)), dir.path().join("out"));
    options.images = Some(dir.path().join("images"));
    (dir, options)
}

fn records(summary: &Summary) -> Vec<crate::record::Record> {
    let mut all = vec![];
    for written in &summary.shards {
        let shard = Shard::open(&written.path).unwrap();
        all.extend((0..shard.len()).map(|i| shard.record(i, &RecordOptions::default()).unwrap()));
    }
    all
}

#[test]
fn llava_rows_of_every_shape() {
    let rows = json!([
        {"id": "a/b.c", "image": "0.png", "conversations": [{"from": "human", "value": "<image>\nhi"}]},
        {"id": 7, "image": ["1.png", "2.png"], "conversations": []},
        {"messages": [{"role": "user", "content": "words only"}]},
        [{"role": "user", "content": "a bare message list"}],
        {"id": 7, "question": "q", "answer": "a", "image": "./2.png"},
    ]);
    let (dir, mut options) = table("rows.json", &rows.to_string());
    options.max_count = 3;
    let mut seen = vec![];
    let summary = convert(&options, |p| seen.push(p.samples)).unwrap();
    assert_eq!((summary.rows, summary.samples, summary.images, summary.text_only), (5, 5, 4, 2));
    assert_eq!((summary.rejects, summary.renamed_keys, summary.shards.len()), (0, 1, 2));
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    let records = records(&summary);
    let keys: Vec<_> = records.iter().map(|r| r.key.as_str()).collect();
    assert_eq!(keys, ["a_b_c", "00000007", "00000002", "00000003", "00000007-2"]);
    assert_eq!(records[0].fields["conversations"][0]["value"], "<image>\nhi");
    assert_eq!(records[1].media.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["0.png", "1.png"]);
    assert_eq!(
        *records[1].media[1].bytes,
        fs::read(dir.path().join("images/2.png")).unwrap()[..],
        "copied as they are"
    );
    assert_eq!(records[3].fields["messages"][0]["content"], "a bare message list");
    assert!(dir.path().join("out/.nv-meta/split.yaml").is_file());
}

#[test]
fn list_rows_grouped_by_picture() {
    let rows = r#"[["q1","a1",2],["q2","a2",0],["q3","a3",2]]"#;
    let (_dir, mut options) = table("questions.json", rows);
    options.fields = Some(["question", "answer", "image"].map(String::from).to_vec());
    options.image_pattern = Some("{image}.png".into());
    options.group_by = Some("image".into());
    let summary = convert(&options, |_| ()).unwrap();
    assert_eq!((summary.rows, summary.samples), (3, 2));
    let records = records(&summary);
    assert_eq!(records.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["00000002", "00000000"]);
    let qa = json!([{"question": "q1", "answer": "a1"}, {"question": "q3", "answer": "a3"}]);
    assert_eq!(serde_json::Value::Object(records[0].fields.clone()), json!({"image": "2.png", "qa": qa}));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let rows: String = (0..40).map(|i| format!("{{\"caption\":\"c{i}\",\"image\":\"{}.png\"}}\n", i % 3)).collect();
    let (dir, mut options) = table("rows.jsonl", &rows);
    options.max_count = 15;
    let read = |options: &ConvertOptions| {
        let summary = convert(options, |_| ()).unwrap();
        assert_eq!(summary.shards.len(), 3);
        let bytes: Vec<_> = summary.shards.iter().map(|s| fs::read(&s.path).unwrap()).collect();
        (bytes, records(&summary).into_iter().map(|r| r.key).collect::<Vec<_>>())
    };
    let plain = read(&options);
    assert_eq!(plain, read(&options));
    options.shuffle_seed = Some(1);
    let shuffled = read(&options);
    options.output = dir.path().join("elsewhere");
    assert_eq!(shuffled, read(&options));
    assert_ne!(plain.1, shuffled.1);
    options.shuffle_seed = Some(2);
    let other = read(&options);
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
    ]
    .join("\n");
    let (dir, mut options) = table("rows.jsonl", &rows);
    let whole = fs::read(dir.path().join("images/0.png")).unwrap();
    fs::write(dir.path().join("images/broken.png"), &whole[..whole.len() - 20]).unwrap();
    let message = convert(&options, |_| ()).unwrap_err().to_string();
    assert!(message.contains("7 of 8 samples were rejected, more than max_reject_rate = 0.01"), "{message}");
    assert!(message.contains("\"gone\": image") && message.contains("nine.png cannot be read"), "{message}");
    let left: Vec<_> = fs::read_dir(dir.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["rejects.jsonl"], "a failed run leaves no shard");

    options.max_reject_rate = 0.9;
    let summary = convert(&options, |_| ()).unwrap();
    assert_eq!((summary.rows, summary.samples, summary.rejects), (8, 1, 7));
    let lines = fs::read_to_string(&summary.rejects_path).unwrap();
    for (line, (key, reason)) in lines.lines().zip([
        ("gone", "cannot be read"),
        ("broken", "corrupt PNG picture"),
        ("escape", "does not lie in the image folder"),
        ("film", "videos are not supported"),
        ("number", "holds a number; it must be a file name"),
        ("00000006", "line 7 is not valid JSON"),
        ("00000007", "the row is a number"),
    ]) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["key"], key, "{line}");
        assert!(value["reason"].as_str().unwrap().contains(reason), "{line}");
        assert_eq!(value["stage"], "convert");
    }
    assert_eq!(lines.lines().count(), 7);

    // Another split in the same folder keeps them; the same one again does not double them.
    fs::write(dir.path().join("rows2.jsonl"), "{\"caption\":\"c\",\"image\":\"1.png\"}\n").unwrap();
    let mut second = options.clone();
    second.input = Input::Rows(dir.path().join("rows2.jsonl"));
    (second.pattern, second.split) = ("test-%06d.tar".into(), "test".into());
    convert(&second, |_| ()).unwrap();
    convert(&options, |_| ()).unwrap();
    assert_eq!(fs::read_to_string(&summary.rejects_path).unwrap(), lines);
}

#[test]
fn inputs_and_options_that_cannot_work_are_errors() {
    let fails = |name: &str, rows: &str, change: &dyn Fn(&mut ConvertOptions), why: &str| {
        let (_dir, mut options) = table(name, rows);
        change(&mut options);
        let message = convert(&options, |_| ()).unwrap_err().to_string();
        assert!(message.contains(why), "{message:?} lacks {why:?}");
    };
    let rows = r#"[["q","a",1]]"#;
    fails("r.json", "", &|_| (), "r.json: it is empty");
    fails("r.json", "[]", &|_| (), "it holds no rows");
    fails("r.json", "[{\"caption\":\"c\"},\n{]", &|_| (), "not a valid JSON list: key must be a string at line 2");
    fails("r.json", rows, &|_| (), "name its positions with fields");
    fails("r.json", rows, &|o| o.input = Input::Rows("no/such.json".into()), "no/such.json: cannot be opened");
    fails("r.json", rows, &|o| o.fields = Some(vec!["q".into()]), "3 values but 1 field names");
    fails("r.json", rows, &|o| o.fields = Some(vec!["q".into(), "q".into()]), "\"q\" is named twice");
    fails("r.json", rows, &|o| o.image_pattern = Some("x.png".into()), "names no field");
    fails("r.json", rows, &|o| o.max_reject_rate = 1.5, "1.5 is not a share");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.group_by = Some("b".into()), "the row has no field \"b\"; it has a");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.split = "dev".into(), "train, val or test");
    fails("r.json", r#"[{"a":1}]"#, &|o| o.pattern = "dev.tar".into(), "train-%06d.tar");
}

#[test]
fn json_lines_whose_rows_are_lists() {
    let (_dir, mut options) = table("rows.jsonl", "[\"q\",\"a\",1]\n[\"q2\",\"a2\",2]\n");
    options.fields = Some(["question", "answer", "image"].map(String::from).to_vec());
    options.image_pattern = Some("{image}.png".into());
    let summary = convert(&options, |_| ()).unwrap();
    assert_eq!(records(&summary)[1].fields["question"], "q2");
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
    let input = Input::Idx { images: images_path, labels: labels.clone(), class_names };
    let mut options = ConvertOptions::new(input, dir.path().join("out"));
    options.max_reject_rate = 0.5;
    let summary = convert(&options, |p| assert_eq!(p.total, Some(3))).unwrap();
    assert_eq!((summary.samples, summary.rejects), (2, 1));
    let records = records(&summary);
    assert_eq!(records[0].fields["caption"], "Bag");
    let rgb = crate::image::decode_rgb(&records[1].media[0].bytes, 100).unwrap();
    assert_eq!((rgb.width, rgb.height), (4, 2));
    assert_eq!(rgb.data, pixels[8..16].iter().flat_map(|v| [*v; 3]).collect::<Vec<_>>());
    let rejects = fs::read_to_string(&summary.rejects_path).unwrap();
    assert!(rejects.contains("label 9 has no class name; 2 names were given"), "{rejects}");
    convert(&options, |_| ()).unwrap();
    assert_eq!(fs::read_to_string(&summary.rejects_path).unwrap(), rejects, "the same again does not double them");

    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 2, 1, 0]).unwrap();
    let message = convert(&options, |_| ()).unwrap_err().to_string();
    assert!(message.contains("has 2 labels for 3 pictures"), "{message}");
    fs::write(&labels, [1, 2, 3]).unwrap();
    assert!(convert(&options, |_| ()).unwrap_err().to_string().contains("too short for an IDX header"));
    zipped("images.gz", &images[..30]);
    fs::write(&labels, [0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 0]).unwrap();
    let message = convert(&options, |_| ()).unwrap_err().to_string();
    assert!(message.contains("images.gz: item 1 of 3 cannot be read"), "{message}");
}
