use ovhost_data::shards::ShardFile;
use serde_json::json;

use super::*;

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = std::io::Cursor::new(vec![]);
    image::RgbImage::from_pixel(width, height, image::Rgb([200, 30, 30]))
        .write_to(&mut out, image::ImageFormat::Png)
        .unwrap();
    out.into_inner()
}

const OPTIONS: InspectOptions = InspectOptions { sample: 0, examples: 2, seed: None, workers: 2, max_pixels: 1 << 20 };

/// Shards of four samples each.
fn shards(dir: &Path, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|s| {
            let path = dir.join(format!("s{s}.tar"));
            let mut file = ShardFile::create(path.clone()).unwrap();
            for i in 0..4 {
                let json = json!({"caption": format!("caption {i}"), "score": s * 4 + i}).to_string();
                let picture = png(10 + i as u32, 20);
                let mut parts: Vec<(&str, &[u8])> = vec![("json", json.as_bytes()), ("img0.png", &picture)];
                if i == 3 {
                    parts.push(("img1.png", b"no picture"));
                }
                file.write(&format!("k{s}{i}"), &parts).unwrap();
            }
            file.publish().unwrap();
            path
        })
        .collect()
}

#[test]
fn all_of_it_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let paths = shards(dir.path(), 5);
    let seen = inspect(&paths, &OPTIONS, &|| Ok(())).unwrap();
    let [(all, folder)] = &seen[..] else { panic!("one folder") };
    assert_eq!((all.shards, all.indexed, all.samples, all.looked_at, all.layout), (5, 5, 20, 20, "webdataset"));
    assert_eq!((all.faults, all.first_faults[0].reason.as_str().split(':').next()), (5, Some("k03")));
    let pictures = &all.members["img#.png"];
    assert_eq!(
        (pictures.samples, pictures.count, pictures.unreadable, &pictures.formats["png"]),
        (20, 25, Some(5), &20)
    );
    assert_eq!(pictures.width, Some(Range { min: 10, max: 13 }));
    let schema = all.members["json"].schema.as_ref().unwrap();
    assert_eq!(schema.fields["score"].numbers, Some(Range { min: 0.0, max: 19.0 }));
    assert_eq!((all.examples.len(), all.examples[1].key.as_str()), (2, "k01"));
    assert_eq!(all.examples[0].members[0].content, json!({"format": "png", "width": 10, "height": 20}));
    let alone = inspect(&paths, &InspectOptions { workers: 1, ..OPTIONS }, &|| Ok(())).unwrap();
    assert_eq!(&alone[0].0, all);
    // Without the indexes nothing else changes.
    paths.iter().for_each(|p| std::fs::remove_file(format!("{}.idx", p.display())).unwrap());
    let scanned = inspect(&paths, &OPTIONS, &|| Ok(())).unwrap();
    assert_eq!(Dataset { indexed: 5, ..scanned[0].0.clone() }, *all);
    assert_eq!(folder.shards.iter().map(|s| s.1).collect::<Vec<_>>(), [4; 5]);
}

#[test]
fn a_part_of_it_is_spread_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let paths = shards(dir.path(), 6);
    let look =
        |sample, seed| inspect(&paths, &InspectOptions { sample, seed, ..OPTIONS }, &|| Ok(())).unwrap().remove(0).0;
    let few = look(2, None);
    assert_eq!((few.samples, few.looked_at), (24, 2), "a sample out of every third shard");
    assert_eq!(
        few.members["json"].schema.as_ref().unwrap().fields["score"].numbers,
        Some(Range { min: 0.0, max: 12.0 })
    );
    let (drawn, again) = (look(12, Some(5)), look(12, Some(5)));
    assert_eq!((drawn.looked_at, &drawn.examples), (12, &again.examples));
    assert_ne!(drawn.examples[0].key, "k00", "drawn examples are not the first ones");
}

#[test]
fn damage_is_told_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let paths = shards(dir.path(), 1);
    let bytes = std::fs::read(&paths[0]).unwrap();
    std::fs::write(&paths[0], &bytes[..bytes.len() / 2]).unwrap();
    let seen = inspect(&paths, &OPTIONS, &|| Ok(())).unwrap();
    let all = &seen[0].0;
    assert!(all.samples < 4 && all.indexed == 0, "{all:?}");
    let reasons: Vec<&str> = all.first_faults.iter().map(|f| f.reason.as_str()).collect();
    assert!(reasons[0].contains("index") && reasons[1].contains("damaged at byte"), "{reasons:?}");
}

#[test]
fn the_sheet_has_a_place_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let paths = shards(dir.path(), 2);
    let seen = inspect(&paths, &OPTIONS, &|| Ok(())).unwrap();
    let folders: Vec<Folder> = seen.into_iter().map(|(_, folder)| folder).collect();
    let (sheet, shown) = contact_sheet(&folders, 7, None, 1 << 20).unwrap();
    assert_eq!((shown, sheet.width()), (7, 6 * 204 + 12));
    let red = image::Rgb([200, 30, 30]);
    assert_eq!(
        sheet.pixels().filter(|p| **p == red).count(),
        [10, 11, 12, 10, 11, 12].map(|w| w * 20).iter().sum::<usize>()
    );
    let (again, _) = contact_sheet(&folders, 7, None, 1 << 20).unwrap();
    assert_eq!(sheet, again);
    assert_eq!(pattern("img12_3.jpg"), "img#_#.jpg");
    assert_eq!(
        (pattern("png"), pattern("mp4"), pattern("a.b1.json")),
        ("png".into(), "mp4".into(), "a.b#.json".into())
    );
}
