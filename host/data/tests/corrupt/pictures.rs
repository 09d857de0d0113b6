//! Pictures: every unusual kind is decoded as Pillow does it, every broken one is an error that says why.

use std::path::Path;

use image::{DynamicImage, GrayAlphaImage, ImageBuffer, RgbImage};
use ovhost_data::ImageProcessor;
use ovhost_data::image::{decode_rgb, header};
use ovhost_data::record::{Record, RecordOptions};
use ovhost_data::shards::RawSample;

use crate::forge::{encode, png, question};

const BOUND: u64 = 100_000_000;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

fn record(part: &str, bytes: Vec<u8>) -> Result<Record, String> {
    let parts = vec![("json".to_owned(), question()), (part.to_owned(), bytes)];
    Record::build(RawSample { key: "k".into(), parts }, "s.tar", 0, &RecordOptions::default()).map_err(|r| r.reason)
}

fn processor() -> ImageProcessor {
    ImageProcessor::from_json(r#"{"min_pixels": 3136, "max_pixels": 2560000}"#).unwrap()
}

#[test]
fn unusual_kinds_are_pictures_like_any_other() {
    // Their pixels are compared with Pillow's in the crate's own tests; here it is that they are accepted as samples.
    for name in [
        "cmyk.jpg",
        "grey.jpg",
        "progressive.jpg",
        "grey16.png",
        "palette.png",
        "palette_clear.png",
        "grey_alpha.png",
        "bits1.png",
        "rgba.png",
        "palette.gif",
        "lossy.webp",
        "lossless_alpha.webp",
        "rgb.bmp",
        "rgb.tif",
    ] {
        let record = record(name.rsplit('.').next().unwrap(), file(name)).unwrap();
        let (width, height) = (record.media[0].width, record.media[0].height);
        let pixels = processor().process(&record.media[0].bytes).unwrap();
        assert_eq!(processor().grid(width, height).unwrap(), pixels.grid.map(|n| n as usize), "{name}");
    }
    let deep = ImageBuffer::from_pixel(5, 4, image::Rgb([0x1234_u16, 0xff00, 0x00ff]));
    let deep = decode_rgb(&encode(DynamicImage::ImageRgb16(deep)), BOUND).unwrap();
    assert_eq!(deep.data[..3], [0x12, 0xff, 0x00], "the high bytes");
    let grey = GrayAlphaImage::from_pixel(5, 4, image::LumaA([77, 0]));
    assert_eq!(decode_rgb(&encode(grey.into()), BOUND).unwrap().data[..3], [77; 3], "alpha is dropped");
}

#[test]
fn of_an_animation_the_first_frame() {
    let mut gif = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    let frame = |rgb: [u8; 3]| {
        image::Frame::new(DynamicImage::ImageRgb8(RgbImage::from_pixel(12, 8, image::Rgb(rgb))).into_rgba8())
    };
    encoder.encode_frames([frame([250, 10, 10]), frame([10, 250, 10])]).unwrap();
    drop(encoder);
    let picture = decode_rgb(&gif, BOUND).unwrap();
    assert_eq!((picture.width, picture.height, picture.data.len()), (12, 8, 288));
    assert!(picture.data[0] > 200 && picture.data[1] < 60, "{:?}", &picture.data[..3]);

    // Two frames, each a picture of its own in the container.
    let still = |rgb: [u8; 3]| {
        let mut out = Vec::new();
        let pixels = RgbImage::from_pixel(12, 8, image::Rgb(rgb));
        let encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut out);
        encoder.encode(&pixels, 12, 8, image::ExtendedColorType::Rgb8).unwrap();
        out[12..].to_vec()
    };
    let chunk = |name: &[u8; 4], content: &[u8]| {
        let mut out = [&name[..], &(content.len() as u32).to_le_bytes(), content].concat();
        out.resize(out.len().next_multiple_of(2), 0);
        out
    };
    let frame = |rgb| chunk(b"ANMF", &[&[0, 0, 0, 0, 0, 0, 11, 0, 0, 7, 0, 0, 50, 0, 0, 2][..], &still(rgb)].concat());
    let body = [
        b"WEBP".to_vec(),
        chunk(b"VP8X", &[2, 0, 0, 0, 11, 0, 0, 7, 0, 0]),
        chunk(b"ANIM", &[0, 0, 0, 0, 0, 0]),
        frame([250, 10, 10]),
        frame([10, 250, 10]),
    ]
    .concat();
    let webp = [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat();
    let picture = decode_rgb(&webp, BOUND).unwrap();
    assert_eq!((picture.width, picture.height, &picture.data[..3]), (12, 8, &[250, 10, 10][..]));
}

/// The reference opens pictures and converts them to RGB; it never turns them.
#[test]
fn exif_rotation_is_not_applied() {
    let plain = file("444.jpg");
    for orientation in 1..=8u8 {
        let tiff = [b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec(), vec![orientation, 0, 0, 0, 0, 0, 0, 0]]
            .concat();
        let content = [b"Exif\0\0".to_vec(), tiff].concat();
        let app1 = [&[0xff, 0xe1][..], &(content.len() as u16 + 2).to_be_bytes(), &content].concat();
        let turned = [&plain[..2], &app1, &plain[2..]].concat();
        assert_eq!(header(&turned, BOUND).unwrap(), header(&plain, BOUND).unwrap());
        assert_eq!(decode_rgb(&turned, BOUND).unwrap(), decode_rgb(&plain, BOUND).unwrap(), "{orientation}");
    }
}

#[test]
fn sizes_from_nothing_to_twenty_thousand() {
    assert!(record("png", Vec::new()).unwrap_err().contains("the file is empty"));
    let one = record("png", png(1, 1)).unwrap();
    assert_eq!(processor().process(&one.media[0].bytes).unwrap().grid, [1, 4, 4]);
    // The reference's rule: a side may be 200 times the other, and no more.
    let wide = record("png", png(20_000, 100)).unwrap();
    assert_eq!(processor().process(&wide.media[0].bytes).unwrap().grid, [1, 8, 1428]);
    for (width, height) in [(20_000, 99), (20_000, 1), (1, 20_000)] {
        let thin = record("png", png(width, height)).unwrap();
        let error = processor().process(&thin.media[0].bytes).unwrap_err().to_string();
        assert!(error.contains(&format!("{width}x{height} has a side ratio")), "{error}");
        assert!(processor().tokens(width, height).is_err(), "known without its pixels");
    }
}

/// Formats in which a few bytes promise gigapixels: refused from the header.
#[test]
fn bombs_of_every_format() {
    let edited = |name: &str, edits: &[(usize, &[u8])]| {
        let mut bytes = file(name);
        edits.iter().for_each(|(at, value)| bytes[*at..at + value.len()].copy_from_slice(value));
        bytes
    };
    let jpeg = {
        let plain = file("420.jpg");
        let frame = plain.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        edited("420.jpg", &[(frame + 5, &[0xff, 0xff, 0xff, 0xff])])
    };
    let gif = edited("palette.gif", &[(6, &[0xff, 0xff, 0xff, 0xff])]);
    let bmp = edited("rgb.bmp", &[(18, &60_000u32.to_le_bytes()), (22, &60_000u32.to_le_bytes())]);
    for (part, bytes) in [("jpg", jpeg), ("gif", gif), ("bmp", bmp)] {
        let reason = record(part, bytes.clone()).unwrap_err();
        assert!(reason.contains("is over the bound of 100000000 pixels"), "{part}: {reason}");
        assert!(decode_rgb(&bytes, BOUND).is_err(), "{part}");
    }
}

/// Pillow refuses a file that ends early, and so does this: a grey lower half is no training data.
#[test]
fn cut_anywhere_a_picture_is_an_error_or_whole() {
    for name in
        ["420.jpg", "progressive.jpg", "cmyk.jpg", "rgb.png", "palette.gif", "lossy.webp", "lossless.webp", "rgb.tif"]
    {
        let bytes = file(name);
        let whole = decode_rgb(&bytes, BOUND).unwrap();
        let mut accepted = Vec::new();
        for cut in 0..bytes.len() {
            match decode_rgb(&bytes[..cut], BOUND) {
                Ok(picture) => {
                    assert!(picture == whole, "{name} cut at {cut} of {} is another picture", bytes.len());
                    accepted.push(cut);
                }
                Err(error) => assert!(error.to_string().len() > 20, "{error}"),
            }
        }
        // What comes behind the last pixel (an end mark, a checksum) may be missing, and no more.
        println!("{name}: {} of {} cuts give the whole picture", accepted.len(), bytes.len());
        assert!(accepted.first().is_none_or(|cut| *cut + 64 >= bytes.len()), "{name}: {accepted:?}");
    }
}
