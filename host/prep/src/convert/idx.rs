//! IDX picture and label files (MNIST, Fashion-MNIST) → rows: each picture a PNG, its class name the caption.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use ovhost_hf::Blob;
use serde_json::json;

use super::source::Loaded;
use crate::error::PrepError;

/// Largest picture side that a header may claim.
const MOST_SIDE: u32 = 1 << 14;

struct Idx {
    path: String,
    reader: Box<dyn Read + Send>,
    dimensions: Vec<u32>,
}

fn fail(path: &str, reason: String) -> PrepError {
    PrepError::Option(format!("{path}: {reason}"))
}

impl Idx {
    /// Opens an IDX file of unsigned bytes with `rank` dimensions; gzip is recognised by content.
    fn open(path: &Path, rank: u8) -> Result<Self, PrepError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| fail(&name, format!("cannot be opened: {e}")))?;
        let mut plain = BufReader::new(file);
        let head = plain.fill_buf().map_err(|e| fail(&name, format!("cannot be read: {e}")))?;
        let zipped = head.starts_with(&[0x1f, 0x8b]);
        let mut reader: Box<dyn Read + Send> =
            if zipped { Box::new(BufReader::new(flate2::bufread::GzDecoder::new(plain))) } else { Box::new(plain) };
        let mut magic = [0u8; 4];
        reader.read_exact(&mut magic).map_err(|e| fail(&name, format!("too short for an IDX header: {e}")))?;
        if magic != [0, 0, 8, rank] {
            return Err(fail(
                &name,
                format!(
                    "starts with {magic:02x?}; an IDX file of bytes with {rank} dimensions starts with [00, 00, 08, {rank:02x}]"
                ),
            ));
        }
        let mut dimensions = vec![];
        for _ in 0..rank {
            let mut word = [0u8; 4];
            reader.read_exact(&mut word).map_err(|e| fail(&name, format!("too short for an IDX header: {e}")))?;
            dimensions.push(u32::from_be_bytes(word));
        }
        Ok(Self { path: name, reader, dimensions })
    }

    fn item(&mut self, number: u64, buffer: &mut [u8]) -> Result<(), PrepError> {
        let wrong =
            |e: io::Error| format!("item {number} of {} cannot be read: {e}; fetch the file again", self.dimensions[0]);
        self.reader.read_exact(buffer).map_err(|e| fail(&self.path, wrong(e)))
    }

    fn skip(&mut self, number: u64, bytes: u64) -> Result<(), PrepError> {
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink());
        match skipped {
            Ok(n) if n == bytes => Ok(()),
            Ok(_) => Err(fail(&self.path, format!("it ends before item {number}; fetch the file again"))),
            Err(e) => Err(fail(&self.path, format!("cannot be read up to item {number}: {e}; fetch the file again"))),
        }
    }
}

/// The pair of files, whose headers fit together.
pub(super) struct Pair {
    images: PathBuf,
    labels: PathBuf,
    pub class_names: Vec<String>,
    count: u32,
    height: u32,
    width: u32,
}

impl Pair {
    pub fn open(images: &Path, labels: &Path, class_names: &[String]) -> Result<Self, PrepError> {
        let pictures = Idx::open(images, 3)?;
        let classes = Idx::open(labels, 1)?;
        let ([count, height, width], [labels_count]) = (&pictures.dimensions[..], &classes.dimensions[..]) else {
            return Err(fail(&pictures.path, "its header has another number of dimensions than it said".into()));
        };
        if labels_count != count {
            let what = format!("has {labels_count} labels for {count} pictures of {}", pictures.path);
            return Err(fail(&classes.path, what));
        }
        let (count, height, width) = (*count, *height, *width);
        if height == 0 || width == 0 || height > MOST_SIDE || width > MOST_SIDE {
            let what = format!("pictures of {width}x{height}; sides of 1 to {MOST_SIDE} are possible");
            return Err(fail(&pictures.path, what));
        }
        let (images, labels) = (images.to_owned(), labels.to_owned());
        Ok(Pair { images, labels, class_names: class_names.to_vec(), count, height, width })
    }

    /// Its rows.
    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }

    fn pixels(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// Bytes that a row takes in a shard, at most.
    pub fn row_bytes(&self) -> u64 {
        self.pixels() + 4096
    }

    /// Opens both files at their first item.
    pub fn items(&self) -> Result<Items, PrepError> {
        Ok(Items {
            class_names: self.class_names.clone(),
            labels: self.labels.clone(),
            images: self.images.clone(),
            pictures: Idx::open(&self.images, 3)?,
            classes: Idx::open(&self.labels, 1)?,
            next: 0,
            width: self.width,
            height: self.height,
        })
    }
}

/// The open pair.
pub(super) struct Items {
    class_names: Vec<String>,
    images: PathBuf,
    labels: PathBuf,
    pictures: Idx,
    classes: Idx,
    next: u64,
    width: u32,
    height: u32,
}

impl Items {
    pub fn read(&mut self, row: u64) -> Result<Result<Loaded, String>, PrepError> {
        let size = u64::from(self.height) * u64::from(self.width);
        if row < self.next {
            self.pictures = Idx::open(&self.images, 3)?;
            self.classes = Idx::open(&self.labels, 1)?;
            self.next = 0;
        }
        let over = row - self.next;
        self.pictures.skip(row, over * size)?;
        self.classes.skip(row, over)?;
        self.next = row + 1;
        let mut pixels = vec![0u8; size as usize];
        let mut label = [0u8];
        self.pictures.item(row, &mut pixels)?;
        self.classes.item(row, &mut label)?;
        let Some(class) = self.class_names.get(usize::from(label[0])) else {
            let (label, names, path) = (label[0], self.class_names.len(), self.labels.display());
            return Ok(Err(format!(
                "label {label} has no class name; {names} names were given (item {row} of {path})"
            )));
        };
        let mut png = vec![];
        PngEncoder::new(&mut png)
            .write_image(&pixels, self.width, self.height, ExtendedColorType::L8)
            .map_err(|e| fail(&self.pictures.path, format!("item {row} cannot be written as PNG: {e}")))?;
        let row = json!({"caption": class, "label": label[0], "image": "image"});
        let blob = Blob { column: "image".into(), pointer: "/image".into(), path: None, bytes: Some(png), image: true };
        Ok(Ok(Loaded::Row { row, blobs: vec![blob] }))
    }
}
