//! Folders written by `datasets` and pyarrow (`tests/fixtures/hf/make.py`) read as pyarrow reads them.

use std::fs;
use std::path::{Path, PathBuf};

use ovhost_hf::{Dataset, HfError, Kind, Row, splits};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

fn at(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf").join(name)
}

fn expected(folder: &str, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(at(folder).join("expected.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Map<String, Value>>(line).unwrap());
    let of_file = rows.filter(|row| row["file"] == file).map(|mut row| {
        row.shift_remove("file");
        Value::Object(row)
    });
    of_file.collect()
}

/// The row with its bytes put back, as hashes.
fn whole(row: Row) -> Value {
    let mut value = Value::Object(row.fields);
    for blob in row.blobs {
        let bytes = blob.bytes.map(|bytes| {
            let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            json!({ "sha256": hash })
        });
        let place = value.pointer_mut(&blob.pointer).expect("the pointer leads to the name");
        assert!(place.as_str().is_some_and(|name| blob.path.as_deref().is_none_or(|path| path == name)));
        *place = if blob.image { json!({ "bytes": bytes, "path": blob.path }) } else { bytes.into() };
    }
    value
}

#[test]
fn every_row_is_what_pyarrow_reads() {
    for folder in ["midtraining", "instruct", "messages", "mmmu", "kinds"] {
        let mut rows = 0;
        for split in splits(&at(folder)).unwrap() {
            let dataset = Dataset::open(&at(folder), Some(&split)).unwrap();
            for file in dataset.files() {
                let expected = expected(folder, &file.name);
                assert_eq!(expected.len() as u64, file.rows);
                for from in 0..=expected.len() {
                    let got: Vec<Value> = file.rows(from as u64).unwrap().map(|row| whole(row.unwrap())).collect();
                    // The shortest text of a 32-bit number is read; Python prints it as a 64-bit one.
                    let narrow = |rows: &[Value]| -> Vec<Value> {
                        rows.iter()
                            .cloned()
                            .map(|mut row| {
                                if let Some(single) = row.get_mut("single").filter(|v| v.is_f64()) {
                                    *single = json!(single.as_f64().unwrap() as f32);
                                }
                                row
                            })
                            .collect()
                    };
                    assert_eq!(narrow(&got), narrow(&expected[from..]), "{folder}/{} from {from}", file.name);
                    rows += got.len();
                }
            }
        }
        assert!(rows > 0, "{folder}");
    }
}

#[test]
fn counts_columns_and_starts() {
    let dataset = Dataset::open(&at("midtraining"), None).unwrap();
    assert_eq!((dataset.len(), dataset.files().len()), (10, 2));
    let groups: Vec<u64> = dataset.files().iter().flat_map(|f| &f.groups).map(|g| g.rows).collect();
    assert_eq!(groups, [2, 2, 2, 3, 1]);
    let kinds: Vec<String> = dataset.columns().iter().map(|c| format!("{}: {}", c.name, c.kind)).collect();
    assert_eq!(kinds, ["id: text", "image: image", "caption: text"]);
    for from in 0..=11 {
        let ids: Vec<Row> = dataset.rows(from).map(|row| row.unwrap()).collect();
        assert_eq!(ids.len() as u64, 10_u64.saturating_sub(from));
        assert!(ids.iter().zip(from..).all(|(row, i)| row.fields["id"] == format!("imagenet/{i:04}.jpg")));
    }
    let captions: Vec<Row> = dataset.files()[1].rows_of(&["caption".into()], 2).unwrap().map(|r| r.unwrap()).collect();
    assert_eq!(captions[0].fields, json!({ "caption": "caption 8 图" }).as_object().unwrap().clone());
    assert_eq!((captions.len(), captions[0].blobs.len()), (2, 0));

    let dataset = Dataset::open(&at("kinds"), None).unwrap();
    let kinds: Vec<String> = dataset.columns().iter().map(|c| format!("{}: {}", c.name, c.kind)).collect();
    let wanted = "flag: bool, small: int, unsigned: int, half: float, single: float, double: float, text: text, large: text, \
                  fixed: text, raw: bytes, lists: list of list of int, texts: list of text, \
                  nested: {a: {b: list of float}, c: list of {d: text}}, one/two: text";
    assert_eq!(kinds.join(", "), wanted);

    let sound = Dataset::open(&at("audio"), None).unwrap();
    assert_eq!(sound.columns()[0].kind, Kind::Media("audio".into()));
    let row = sound.rows(0).next().unwrap().unwrap();
    assert_eq!((row.blobs[0].image, row.fields["audio"].as_str()), (false, Some("a.wav")));
}

#[test]
fn splits_are_chosen_by_name() {
    assert_eq!(splits(&at("mmmu")).unwrap(), ["dev", "validation"]);
    let error = Dataset::open(&at("mmmu"), None).unwrap_err().to_string();
    assert!(error.contains("it has the splits dev, validation; name one of them"), "{error}");
    let error = Dataset::open(&at("mmmu"), Some("test")).unwrap_err().to_string();
    assert!(error.contains("no split test; it has dev, validation"), "{error}");
    let rows: Vec<Row> = Dataset::open(&at("mmmu"), Some("val")).unwrap().rows(0).map(|r| r.unwrap()).collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2].blobs.iter().map(|b| b.column.as_str()).collect::<Vec<_>>(), ["image_1", "image_2", "image_3"]);
    assert_eq!(rows[2].fields["image_7"], Value::Null);
    let error = Dataset::open(&at("no such folder"), None).unwrap_err().to_string();
    assert!(error.contains("no such folder: cannot be opened"), "{error}");
    let error = Dataset::open(&at("..").join("guests"), None).unwrap_err().to_string();
    assert!(error.contains("there is no .parquet file in it"), "{error}");
}

#[test]
fn configurations_are_those_of_the_readme() {
    let dir = tempfile::tempdir().unwrap();
    let put = |from: &str, to: &str| {
        let to = dir.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(at("mmmu/Accounting").join(from), to).unwrap();
    };
    let (dev, validation) = ("dev-00000-of-00001.parquet", "validation-00000-of-00001.parquet");
    put(dev, "data/one.parquet");
    put(validation, "data/two.parquet");
    put(validation, &format!("Art/{validation}"));
    let readme = |configs: &str| {
        fs::write(dir.path().join("README.md"), format!("---\nlicense: mit\n{configs}---\n# A set\n")).unwrap();
    };
    let open = |config: Option<&str>, split: Option<&str>| {
        let set = Dataset::open_config(dir.path(), config, split).map_err(|e| e.to_string())?;
        Ok::<_, String>(set.files().iter().map(|file| file.name.clone()).collect::<Vec<_>>())
    };
    let says = |config, split, words: &[&str]| {
        let error = open(config, split).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };

    // Without configurations a folder is one, and none is all there is.
    says(None, None, &["it has the splits train, validation"]);
    assert_eq!(open(Some("Art"), None).unwrap(), [format!("Art/{validation}")]);
    says(Some("Arts"), None, &["no README.md in it names a configuration", "no folder Arts"]);
    let mixed = "configs:\n- config_name: short\n  data_files:\n  - {split: test, path: 'data/o*'}\n  - {split: later, path: 'data/t*.parquet'}\n  - {split: gone, path: 'x/*'}\n";
    readme(mixed);
    // One is taken without being named; its splits are not those of the files' names, and what is not asked for may be missing.
    assert_eq!(open(None, Some("later")).unwrap(), ["data/two.parquet"]);
    assert_eq!(open(Some("short"), Some("test")).unwrap(), ["data/one.parquet"]);
    says(None, None, &["it has the splits test, later, gone; name one of them in its configuration short"]);
    says(None, Some("gone"), &["no parquet file matches x/*", "split gone", "configuration short"]);
    says(None, Some("dev"), &["no split dev; it has test, later, gone"]);
    // A folder that the README does not name is one still.
    assert_eq!(open(Some("Art"), Some("val")).unwrap(), [format!("Art/{validation}")]);
    says(Some("long"), None, &["no configuration long; it has short"]);
    readme(&format!("{mixed}- config_name: long\n  data_files: ['data/*', 'data/two.parquet']\n"));
    says(None, Some("test"), &["it has the configurations short, long; name one of them"]);
    assert_eq!(open(Some("long"), None).unwrap(), ["data/one.parquet", "data/two.parquet"]);
    readme(&format!("{mixed}- config_name: long\n  default: true\n  data_dir: Art\n"));
    assert_eq!(open(None, None).unwrap(), [format!("Art/{validation}")]);
    readme("configs: 3\n");
    says(None, None, &["README.md", "no list", "name the parquet files"]);
    let file = dir.path().join("data/one.parquet");
    assert_eq!(Dataset::open_config(&file, None, None).unwrap().files().len(), 1);
    let error = Dataset::open_config(&file, Some("short"), None).unwrap_err().to_string();
    assert!(error.contains("one.parquet"), "{error}");
}

#[test]
fn damage_costs_its_row_group_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let good = fs::read(at("midtraining/data/train-00000-of-00002.parquet")).unwrap();
    fs::write(&path, &good[..good.len() - 30]).unwrap();
    let error = Dataset::open(&path, None).unwrap_err();
    assert!(matches!(&error, HfError::File { .. }) && error.to_string().contains("no whole parquet file"), "{error}");

    // The header of the first page of the second row group's pictures.
    let mut bad = good.clone();
    bad[2266..2290].fill(0xFF);
    fs::write(&path, &bad).unwrap();
    let rows: Vec<Result<Row, HfError>> = Dataset::open(&path, None).unwrap().rows(0).collect();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false, true, true]);
    let error = rows[3].as_ref().unwrap_err().to_string();
    assert!(error.contains("train.parquet, row group 1, column image: "), "{error}");
}

#[test]
fn no_damaged_byte_ends_the_process_or_the_count() {
    // What parquet's reader panics on is caught; its words would fill the log of the test.
    std::panic::set_hook(Box::new(|_| ()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let (mut opened, mut failed) = (0, 0);
    for name in ["kinds/kinds.parquet", "mmmu/Accounting/dev-00000-of-00001.parquet", "messages/0000.parquet"] {
        let good = fs::read(at(name)).unwrap();
        for place in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            fs::write(&path, &bad).unwrap();
            let Ok(dataset) = Dataset::open(&path, None) else { continue };
            opened += 1;
            // A footer that promises more rows than there are gives that many errors; a billion would take long.
            let rows = dataset.rows(0).take(1000);
            let (count, errors) = rows.fold((0, 0), |(n, bad), row| (n + 1, bad + u64::from(row.is_err())));
            assert_eq!(count, dataset.len().min(1000), "{name} at {place}");
            failed += u64::from(errors > 0);
        }
    }
    assert!(opened > 1000 && failed > 100, "{opened} opened, {failed} with errors");
}
