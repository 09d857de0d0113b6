//! The walkers against the decoder: what they take for sound decodes, whatever was done to it; and sound files they do take.

use std::io::Cursor;
use std::path::PathBuf;

use image::{DynamicImage, ImageFormat};
use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};
use proptest::prelude::*;

use super::*;

const BOUND: u64 = 1_000_000;

/// Something with detail.
fn pixels(width: u32, height: u32, channels: u32) -> Vec<u8> {
    let mut state = 7_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 27
    };
    let value = |at: u32| at % (width * channels) * 3 + at / (width * channels) * 2;
    (0..width * height * channels).map(|at| (value(at) + noise()) as u8).collect()
}

/// Files of the usual form, of every kind that the walkers know.
fn usual() -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for (width, height) in [(1, 1), (17, 9), (40, 33)] {
        let (w, h) = (width as usize, height as usize);
        let rgb = pixels(width, height, 3);
        for halved in [Subsampling::S444, Subsampling::S422, Subsampling::S420, Subsampling::S440] {
            for quality in [20, 85, 100] {
                let bytes = compress(&rgb, w, h, PixelFormat::Rgb, quality, halved).unwrap();
                out.push((format!("{w}x{h} {halved:?} {quality}.jpg"), bytes));
            }
        }
        let grey = compress(&pixels(width, height, 1), w, h, PixelFormat::Grayscale, 90, Subsampling::S444).unwrap();
        out.push((format!("{w}x{h} grey.jpg"), grey));
        let pictures = [
            DynamicImage::ImageLuma8(image::GrayImage::from_raw(width, height, pixels(width, height, 1)).unwrap()),
            DynamicImage::ImageLumaA8(
                image::GrayAlphaImage::from_raw(width, height, pixels(width, height, 2)).unwrap(),
            ),
            DynamicImage::ImageRgb8(image::RgbImage::from_raw(width, height, rgb).unwrap()),
            DynamicImage::ImageRgba8(image::RgbaImage::from_raw(width, height, pixels(width, height, 4)).unwrap()),
        ];
        for picture in pictures {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
            out.push((format!("{w}x{h} {:?}.png", picture.color()), bytes.into_inner()));
        }
    }
    // As Pillow writes them: tables made for the picture, a header that says where it came from.
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    for name in ["420.jpg", "422.jpg", "444.jpg", "grey.jpg", "rgb.png", "rgba.png", "grey.png", "grey_alpha.png"] {
        out.push((name.to_owned(), std::fs::read(folder.join(name)).unwrap()));
    }
    out
}

/// What is taken for sound decodes, and what is said is what decoding says.
fn agree(what: &str, bytes: &[u8]) -> bool {
    let sound = is_sound(bytes, BOUND);
    if sound {
        decode_rgb(bytes, BOUND).unwrap_or_else(|e| panic!("{what} was taken for sound: {e}"));
    }
    sound
}

#[test]
fn usual_files_are_not_decoded() {
    for (name, bytes) in usual() {
        assert!(agree(&name, &bytes), "{name}");
        assert!(!is_sound(&bytes, 0), "{name} is over the bound");
        check(&bytes, BOUND).unwrap();
    }
}

#[test]
fn cut_anywhere_none_is_sound() {
    for (name, bytes) in usual() {
        for length in 0..bytes.len() {
            assert!(!agree(&format!("{name} cut to {length}"), &bytes[..length]), "{name} cut to {length}");
        }
    }
}

#[test]
fn with_any_bit_wrong_what_is_sound_decodes() {
    let mut sound = [0, 0];
    for (name, mut bytes) in usual().into_iter().filter(|(_, bytes)| bytes.len() < 1500) {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let taken = agree(&format!("{name} with bit {bit} wrong"), &bytes);
            sound[usize::from(name.ends_with(".png"))] += usize::from(taken);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    // A wrong bit in a JPEG is often another picture; in a PNG each is under a checksum.
    assert!(sound[0] > 1000 && sound[1] == 0, "{sound:?}");
}

#[test]
fn what_is_of_another_form_is_decoded() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        agree(&path.display().to_string(), &bytes);
        let words = |result: Result<(), ImageError>| result.map_err(|e| e.to_string());
        assert_eq!(words(check(&bytes, BOUND)), words(decode_rgb(&bytes, BOUND).map(|_| ())), "{}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_in_several_places_what_is_sound_decodes(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..4), 1..6),
    ) {
        thread_local! {
            static USUAL: Vec<(String, Vec<u8>)> = usual();
        }
        let (name, mut bytes) = USUAL.with(|usual| usual[which.index(usual.len())].clone());
        for (at, value, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes.insert(at, value),
                1 => { bytes.remove(at); }
                _ => bytes[at] = value,
            }
        }
        agree(&name, &bytes);
    }
}
