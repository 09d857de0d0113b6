//! A contact sheet: the first picture of each of a few samples, small, with its key and what is said of it.

use image::{Rgb, RgbImage, imageops};
use ovhost_data::columns::answers;
use ovhost_data::image::decode_rgb;
use ovhost_data::packed::{self, Layout};
use ovhost_data::record::{Record, RecordOptions, Reject};
use ovhost_data::shards::RawSample;
use serde_json::Value;

use super::{Folder, name};
use crate::draw::{INK, LINE, width, wrap, write};
use crate::error::PrepError;

/// Side of a thumbnail, in pixels.
const SIDE: u32 = 192;
/// Lines of text under it.
const LINES: u32 = 4;
const GAP: u32 = 12;
const COLUMNS: u32 = 6;

const PAPER: Rgb<u8> = Rgb([255; 3]);
const EMPTY: Rgb<u8> = Rgb([0xEE; 3]);
const GREY: Rgb<u8> = Rgb([0x77; 3]);
const RED: Rgb<u8> = Rgb([0xB0, 0x10, 0x10]);

/// A sample's place on the sheet.
struct Cell {
    picture: Result<RgbImage, String>,
    key: String,
    text: String,
}

/// Draws `count` samples, as many of each folder: the first ones, or drawn by `seed`. Returns the sheet and how many it shows.
/// Pictures of more than `max_pixels` pixels are not decoded.
///
/// # Errors
/// A shard that cannot be opened. A picture that cannot be decoded is shown as the reason.
pub fn contact_sheet(
    folders: &[Folder],
    count: u64,
    seed: Option<u64>,
    max_pixels: u64,
) -> Result<(RgbImage, usize), PrepError> {
    let mut cells = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        let share = count / folders.len() as u64 + u64::from((i as u64) < count % folders.len() as u64);
        let end = cells.len() + share as usize;
        folder.each(share, seed, |peek, index, raw| {
            let shard = name(&peek.path);
            match raw {
                Ok(raw) => records(raw, &shard, index, max_pixels).for_each(|record| {
                    // A pack gives as many as there is room for.
                    if cells.len() < end {
                        cells.push(cell(record, max_pixels));
                    }
                }),
                Err(reason) => {
                    cells.push(Cell { picture: Err(reason), key: format!("{shard} {index}"), text: String::new() })
                }
            }
        })?;
    }
    Ok((draw(&cells), cells.len()))
}

/// The samples of a sample: one, or those of a pack.
fn records(
    raw: RawSample,
    shard: &str,
    index: u64,
    max_pixels: u64,
) -> Box<dyn Iterator<Item = Result<Record, Reject>>> {
    let options = RecordOptions { max_pixels };
    let json = raw.parts.iter().find(|(part, _)| part == "json");
    let json = json.and_then(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok()).unwrap_or_default();
    if packed::layout(&raw.key, &json) == Layout::Plain {
        return Box::new(std::iter::once(Record::build(raw, shard, index, &options)));
    }
    match packed::parse(raw, shard, &options) {
        Ok(pack) => Box::new(pack.samples.into_iter().map(|sample| sample.record)),
        Err(reject) => Box::new(std::iter::once(Err(reject))),
    }
}

fn cell(record: Result<Record, Reject>, max_pixels: u64) -> Cell {
    let record = match record {
        Ok(record) => record,
        Err(reject) => return Cell { picture: Err(reject.reason), key: reject.key, text: String::new() },
    };
    let question = record.fields.get("question").and_then(Value::as_str).unwrap_or_default();
    let text = format!("{question} {}", answers(&record.fields).join(" / "));
    let picture = match record.media.first() {
        None => Err("no picture".to_owned()),
        Some(media) => decode_rgb(&media.bytes, max_pixels).map_err(|e| e.to_string()).and_then(|p| {
            RgbImage::from_raw(p.width, p.height, p.data)
                .ok_or_else(|| "its pixels are not as many as its size says".into())
        }),
    };
    Cell { picture: picture.map(|p| small(&p)), key: record.key, text }
}

/// Within the thumbnail's square, never larger than it was.
fn small(picture: &RgbImage) -> RgbImage {
    let (w, h) = picture.dimensions();
    let most = w.max(h);
    if most <= SIDE {
        return picture.clone();
    }
    let fit = |side: u32| ((u64::from(side) * u64::from(SIDE) / u64::from(most)) as u32).max(1);
    imageops::thumbnail(picture, fit(w), fit(h))
}

fn draw(cells: &[Cell]) -> RgbImage {
    let columns = COLUMNS.min(cells.len() as u32).max(1);
    let rows = (cells.len() as u32).div_ceil(columns).max(1);
    let (wide, high) = (SIDE + GAP, SIDE + LINE * LINES + GAP);
    let mut sheet = RgbImage::from_pixel(columns * wide + GAP, rows * high + GAP, PAPER);
    for (i, cell) in (0u32..).zip(cells) {
        let (x, y) = (GAP + i % columns * wide, GAP + i / columns * high);
        let frame = RgbImage::from_pixel(SIDE, SIDE, EMPTY);
        imageops::replace(&mut sheet, &frame, i64::from(x), i64::from(y));
        match &cell.picture {
            Ok(picture) => {
                let (dx, dy) = ((SIDE - picture.width()) / 2, (SIDE - picture.height()) / 2);
                imageops::replace(&mut sheet, picture, i64::from(x + dx), i64::from(y + dy));
            }
            Err(reason) => {
                for (line, text) in (0u32..).zip(wrap(reason, SIDE - 8, 10)) {
                    write(&mut sheet, x + 4, y + 4 + line * LINE, &text, RED);
                }
            }
        }
        // Of a long key the end tells samples apart.
        let mut key: String = cell.key.clone();
        while width(&key) > SIDE {
            key = format!("…{}", key.chars().skip(2).collect::<String>());
        }
        write(&mut sheet, x, y + SIDE + 2, &key, GREY);
        for (line, text) in (1u32..).zip(wrap(&cell.text, SIDE, LINES as usize - 1)) {
            write(&mut sheet, x, y + SIDE + 2 + line * LINE, &text, INK);
        }
    }
    sheet
}
