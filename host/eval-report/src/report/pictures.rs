//! A picture's file → a small JPEG within the page.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageReader, imageops};
use serde::Serialize;

/// Of the thumbnails' JPEG.
const QUALITY: u8 = 85;
/// Longest side that is decoded: pictures of benchmarks are smaller, and a damaged header may say anything.
const LARGEST: u32 = 30_000;

/// A picture as the templates see it.
#[derive(Serialize)]
pub struct Picture {
    /// Its name.
    pub name: String,
    /// `data:image/jpeg;base64,…`; none where it cannot be read.
    pub uri: Option<String>,
    /// Its size, or why it cannot be read.
    pub words: String,
    /// Size of the thumbnail.
    pub size: Option<(u32, u32)>,
}

impl Picture {
    /// Of a file's bytes. Alpha is dropped, as models see it.
    pub fn of(name: &str, bytes: &[u8], side: u32) -> Self {
        match thumbnail(bytes, side) {
            Ok((jpeg, size, (width, height))) => Self {
                name: name.to_owned(),
                uri: Some(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg))),
                words: format!("{width}×{height}"),
                size: Some(size),
            },
            Err(e) => Self { name: name.to_owned(), uri: None, words: format!("cannot be shown: {e}"), size: None },
        }
    }
}

type Thumbnail = (Vec<u8>, (u32, u32), (u32, u32));

fn thumbnail(bytes: &[u8], side: u32) -> image::ImageResult<Thumbnail> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LARGEST), Some(LARGEST));
    reader.limits(limits);
    let picture = reader.decode()?.into_rgb8();
    let (width, height) = picture.dimensions();
    let most = width.max(height);
    let fit = |length: u32| ((u64::from(length) * u64::from(side) / u64::from(most)) as u32).max(1);
    let small = if most <= side { picture } else { imageops::thumbnail(&picture, fit(width), fit(height)) };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&small)?;
    Ok((jpeg, small.dimensions(), (width, height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_shrink_and_damaged_ones_say_so() {
        let mut png = Vec::new();
        let picture = image::RgbaImage::from_pixel(300, 100, image::Rgba([200, 10, 10, 0]));
        picture.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let small = Picture::of("a.png", &png, 150);
        assert_eq!((small.words.as_str(), small.size), ("300×100", Some((150, 50))));
        let data = small.uri.unwrap();
        let jpeg = STANDARD.decode(data.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
        let back = image::load_from_memory(&jpeg).unwrap().into_rgb8();
        assert_eq!(back.dimensions(), (150, 50));
        assert!(back.get_pixel(5, 5)[0] > 190, "colours are kept, alpha is dropped");
        assert_eq!(Picture::of("a.png", &png, 1000).size, Some((300, 100)));
        for damaged in [&png[..40], b"no picture", b""] {
            let none = Picture::of("b", damaged, 100);
            assert!(none.uri.is_none() && none.words.contains("cannot be shown"), "{}", none.words);
        }
    }
}
