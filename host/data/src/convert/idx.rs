//! IDX picture and label files (MNIST, Fashion-MNIST) → samples: each picture a PNG, its class name the caption.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use serde_json::json;

use super::ConvertError;
use super::sample::Draft;
use crate::record::Reject;

/// Largest picture side that a header may claim.
const MOST_SIDE: u32 = 1 << 14;

struct Idx {
    path: String,
    reader: Box<dyn Read>,
    dimensions: Vec<u32>,
}

impl Idx {
    /// Opens an IDX file of unsigned bytes with `rank` dimensions; gzip is recognised by content.
    fn open(path: &Path, rank: u8) -> Result<Self, ConvertError> {
        let name = path.display().to_string();
        let fail = |reason: String| ConvertError::Input { path: name.clone(), reason };
        let file = File::open(path).map_err(|e| fail(format!("cannot be opened: {e}")))?;
        let mut plain = BufReader::new(file);
        let zipped = plain.fill_buf().map_err(|e| fail(format!("cannot be read: {e}")))?.starts_with(&[0x1f, 0x8b]);
        let mut reader: Box<dyn Read> =
            if zipped { Box::new(BufReader::new(flate2::bufread::GzDecoder::new(plain))) } else { Box::new(plain) };
        let mut magic = [0u8; 4];
        reader.read_exact(&mut magic).map_err(|e| fail(format!("too short for an IDX header: {e}")))?;
        if magic != [0, 0, 8, rank] {
            return Err(fail(format!(
                "starts with {magic:02x?}; an IDX file of bytes with {rank} dimensions starts with [00, 00, 08, {rank:02x}]"
            )));
        }
        let mut dimensions = vec![];
        for _ in 0..rank {
            let mut word = [0u8; 4];
            reader.read_exact(&mut word).map_err(|e| fail(format!("too short for an IDX header: {e}")))?;
            dimensions.push(u32::from_be_bytes(word));
        }
        Ok(Self { path: name, reader, dimensions })
    }

    fn item(&mut self, number: u32, buffer: &mut [u8]) -> Result<(), ConvertError> {
        self.reader.read_exact(buffer).map_err(|error| ConvertError::Input {
            path: self.path.clone(),
            reason: format!("item {number} of {} cannot be read: {error}; fetch the file again", self.dimensions[0]),
        })
    }
}

/// Called with the number of samples and each sample in turn.
pub(super) type OnSample<'a> = dyn FnMut(u64, Result<Draft, Reject>) -> Result<(), ConvertError> + 'a;

/// Reads the pair of files. `pattern` names the shards, as in every reject of a conversion: by it a later run knows
/// which lines of `rejects.jsonl` are its own.
pub(super) fn read(
    images: &Path,
    labels: &Path,
    class_names: &[String],
    pattern: &str,
    on_sample: &mut OnSample,
) -> Result<(), ConvertError> {
    let mut pictures = Idx::open(images, 3)?;
    let mut classes = Idx::open(labels, 1)?;
    let fail = |path: &str, reason: String| ConvertError::Input { path: path.to_owned(), reason };
    let ([count, height, width], [labels_count]) = (&pictures.dimensions[..], &classes.dimensions[..]) else {
        return Err(fail(&pictures.path, "its header has another number of dimensions than it said".into()));
    };
    let (count, height, width) = (*count, *height, *width);
    if *labels_count != count {
        return Err(fail(
            &classes.path,
            format!("has {labels_count} labels for {count} pictures of {}", pictures.path),
        ));
    }
    if height == 0 || width == 0 || height > MOST_SIDE || width > MOST_SIDE {
        return Err(fail(
            &pictures.path,
            format!("pictures of {width}x{height}; sides of 1 to {MOST_SIDE} are possible"),
        ));
    }
    let mut pixels = vec![0u8; height as usize * width as usize];
    for number in 0..count {
        let mut label = [0u8];
        pictures.item(number, &mut pixels)?;
        classes.item(number, &mut label)?;
        let key = format!("{number:08}");
        let draft = match class_names.get(usize::from(label[0])) {
            Some(class) => {
                let mut png = vec![];
                PngEncoder::new(&mut png)
                    .write_image(&pixels, width, height, ExtendedColorType::L8)
                    .map_err(|e| fail(&pictures.path, format!("item {number} cannot be written as PNG: {e}")))?;
                let json = json!({"caption": class, "label": label[0]}).to_string().into_bytes();
                Ok(Draft { key, parts: vec![("json".into(), json), ("png".into(), png)] })
            }
            None => Err(Reject {
                key,
                shard: pattern.to_owned(),
                stage: "convert",
                reason: format!(
                    "label {} has no class name; {} names were given (item {number} of {})",
                    label[0],
                    class_names.len(),
                    labels.display()
                ),
            }),
        };
        on_sample(u64::from(count), draft)?;
    }
    Ok(())
}
