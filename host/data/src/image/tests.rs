use std::io::Cursor;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn fixture() -> PathBuf {
    here("../../tests/fixtures/tiny-llava-ov-1.5")
}

fn pictures() -> (PathBuf, serde_json::Map<String, Value>) {
    let folder = here("tests/pictures");
    let expected = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    (folder, serde_json::from_str(&expected).unwrap())
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn pixel_values_equal_the_reference() {
    let dir = fixture();
    let processor = ImageProcessor::from_folder(&dir).unwrap();
    assert_eq!((processor.min_pixels, processor.max_pixels, processor.patch_dim()), (3136, 18816, 588));
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut total = 0;
    for (i, name) in ["landscape.png", "portrait.jpg", "tiny.png", "gray.png"].iter().enumerate() {
        let file = std::fs::read(dir.join(name)).unwrap();
        let pixels = processor.process(&file).unwrap();
        let grid: Vec<i64> = tensors
            .tensor(&format!("image.{i}.grid_thw"))
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|c| i64::from_ne_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(pixels.grid[..], grid[..], "{name}");
        let expected: Vec<f32> = tensors
            .tensor(&format!("image.{i}.pixel_values"))
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|c| f32::from_ne_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(pixels.data.len(), expected.len(), "{name}");
        let off = pixels.data.iter().zip(&expected).filter(|(a, b)| a != b).count();
        let worst = pixels.data.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {off} of {} values differ, at most by {worst:e}", expected.len());
        assert_eq!(off, 0, "{name}: differs by up to {worst}");
        let (width, height) = header(&file, u64::MAX).unwrap();
        assert_eq!(processor.grid(width, height).unwrap(), pixels.grid.map(|g| g as usize));
        assert_eq!(processor.tokens(width, height).unwrap() * 4 * 588, pixels.data.len());
        total += expected.len();
    }
    assert!(total > 100_000);
}

/// Every kind of file and a spread of sizes, against Pillow's digests (`tests/pictures/make.py`).
#[test]
fn decoding_and_resizing_equal_pillow() {
    let (folder, expected) = pictures();
    let mut wrong = vec![];
    for (name, want) in &expected {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let size = (want["size"][0].as_u64().unwrap() as u32, want["size"][1].as_u64().unwrap() as u32);
        assert_eq!(header(&bytes, u64::MAX).unwrap(), size, "{name}");
        let picture = decode_rgb(&bytes, u64::MAX).unwrap();
        if digest(&picture.data) != want["rgb"] {
            wrong.push(name.clone());
            continue;
        }
        for resized in want["resized"].as_array().unwrap() {
            let to = (resized[0].as_u64().unwrap() as usize, resized[1].as_u64().unwrap() as usize);
            let out = resample::bicubic(&picture.data, (size.0 as usize, size.1 as usize), to);
            assert_eq!(digest(&out), resized[2], "{name} to {to:?}");
        }
    }
    assert!(expected.len() >= 18);
    assert_eq!(wrong, Vec::<String>::new(), "pixels differ from Pillow's");
}

#[test]
fn sizes_follow_the_reference_rule() {
    let processor = ImageProcessor::from_json(r#"{"min_pixels": 3136, "max_pixels": 2560000}"#).unwrap();
    // (height, width) → (height', width'); 42 and 70 lie half-way: Python rounds 1.5 and 2.5 both to 2.
    for (from, to) in [
        ((480, 640), (476, 644)),
        ((42, 70), (56, 56)),
        ((64, 64), (56, 56)),
        ((28, 28), (56, 56)),
        ((1, 1), (56, 56)),
        ((5, 900), (28, 756)),
        ((4000, 3000), (1820, 1372)),
        ((20, 4000), (28, 4004)),
        ((13, 2000), (28, 700)),
        ((5, 10), (56, 84)),
    ] {
        assert_eq!(processor.smart_resize(from.0, from.1).unwrap(), to, "{from:?}");
    }
    assert_eq!(processor.grid(640, 480).unwrap(), [1, 34, 46]);
    assert_eq!(processor.tokens(640, 480).unwrap(), 391);
    let message = processor.smart_resize(10, 2001).unwrap_err().to_string();
    assert!(message.contains("2001x10 has a side ratio of 200.1"), "{message}");
    assert!(processor.smart_resize(0, 10).is_err());
}

#[test]
fn configurations() {
    let both =
        r#"{"size": {"shortest_edge": 1000, "longest_edge": 90000}, "patch_size": 16, "temporal_patch_size": 2}"#;
    let processor = ImageProcessor::from_json(both).unwrap();
    assert_eq!((processor.min_pixels, processor.max_pixels), (1000, 90000));
    assert_eq!((processor.factor(), processor.patch_dim()), (32, 3 * 2 * 256));
    let mut data = Vec::new();
    let grid = processor.blank_to(64, 32, &mut data).unwrap();
    let pixels = Pixels { data, grid };
    assert_eq!((pixels.grid, pixels.data.len()), ([1, 2, 4], 8 * 1536));
    let black = (0.0f32 - 0.48145466f32) / 0.26862954f32;
    assert!(pixels.data[..512].iter().all(|v| *v == black), "both frames of the red channel");
    for (text, why) in [
        ("{", "not valid"),
        (r#"{"resample": 2}"#, "resample is 2"),
        (r#"{"do_resize": false}"#, "do_resize is false"),
        (r#"{"patch_size": 0}"#, "patch_size is 0"),
        (r#"{"min_pixels": 9, "max_pixels": 4}"#, "9 to 4"),
        (r#"{"image_mean": [0.5]}"#, "image_mean has 1 values"),
        (r#"{"image_std": [1, 0, 1]}"#, "image_std holds 0"),
        (r#"{"image_processor_type": "CLIPImageProcessor"}"#, "CLIPImageProcessor"),
    ] {
        let message = ImageProcessor::from_json(text).unwrap_err();
        assert!(message.contains(why), "{message:?} lacks {why:?}");
    }
    let message = ImageProcessor::from_folder("no/such/folder").unwrap_err().to_string();
    assert!(message.contains("preprocessor_config.json"), "{message}");
}

#[test]
fn bad_files_are_errors_that_say_why() {
    let (folder, _) = pictures();
    for (name, format) in [("420.jpg", "JPEG"), ("progressive.jpg", "JPEG"), ("rgb.png", "PNG"), ("lossy.webp", "WebP")]
    {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let message = decode_rgb(&bytes[..bytes.len() / 2], u64::MAX).unwrap_err().to_string();
        assert!(message.starts_with(&format!("corrupt {format} picture: ")), "{name}: {message}");
        let message = decode_rgb(&bytes, 61 * 47 - 1).unwrap_err().to_string();
        assert!(message.contains("61x47 = 2867 pixels is over the bound of 2866"), "{name}: {message}");
        assert!(header(&bytes, 2866).is_err());
    }
    let message = decode_rgb(b"<!DOCTYPE html>", u64::MAX).unwrap_err().to_string();
    assert!(message.contains("first bytes are 3c 21 44 4f"), "{message}");
    // A bomb: a header that promises 4 gigapixels, refused without an allocation.
    let mut bomb = std::fs::read(folder.join("rgb.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let crc = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&crc);
    let processor = ImageProcessor::from_json("{}").unwrap();
    let message = processor.process(&bomb).unwrap_err().to_string();
    assert!(message.contains("65536x65536 = 4294967296 pixels is over the bound of 100000000"), "{message}");
}

/// A JPEG whose size lies behind segments of other programs, as cameras and editors write them.
fn behind_segments(jpeg: &[u8], count: usize) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    for i in 0..count {
        out.extend([0xFF, 0xE1 + (i % 12) as u8, 0xFF, 0xFF]);
        // It looks like the frame header of another size.
        out.extend([0xFF, 0xC0, 0x00, 0x11, 0x08, 0x00, 0x07, 0x00, 0x09].iter().cycle().take(65_533));
    }
    out.extend([0xFF, 0xFF]);
    out.extend_from_slice(&jpeg[2..]);
    out
}

#[test]
fn sizes_behind_large_segments_are_found_and_read_by_seeking() {
    struct Counted<'a>(Cursor<&'a [u8]>, u64);
    impl std::io::Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1 += read as u64;
            Ok(read)
        }
    }
    impl std::io::Seek for Counted<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let (folder, _) = pictures();
    for name in ["420.jpg", "progressive.jpg"] {
        let jpeg = std::fs::read(folder.join(name)).unwrap();
        let large = behind_segments(&jpeg, 30);
        assert!(large.len() > 1_900_000);
        assert_eq!(decode_rgb(&large, u64::MAX).unwrap(), decode_rgb(&jpeg, u64::MAX).unwrap(), "{name}");
        assert_eq!(header(&large, u64::MAX).unwrap(), (61, 47), "{name}");
        let mut file = std::io::BufReader::with_capacity(512, Counted(Cursor::new(&large), 0));
        assert_eq!(header_of(&mut file, u64::MAX).unwrap(), (61, 47), "{name}");
        let read = file.into_inner().1;
        assert!(read < 40_000, "{read} bytes were read to learn a size");
        // A file that ends within them has no size.
        let message = header(&large[..1_000_000], u64::MAX).unwrap_err().to_string();
        assert!(message.contains("it ends before the size of its frame"), "{message}");
    }
    for (bytes, why) in [
        (&[0xFF, 0xD8, 0xFF, 0xDA, 0, 2][..], "marker FFDA comes before"),
        (&[0xFF, 0xD8, 0xFF, 0xE0, 0, 1], "segment FFE0 has the length 1"),
        (&[0xFF, 0xD8, 0xFF, 0xD8], "a second time"),
        (&[0xFF, 0xD8, 0xFF, 0xC0, 0, 8, 8, 0, 0, 0, 9], "its size is 9x0"),
    ] {
        let message = header(bytes, u64::MAX).unwrap_err().to_string();
        assert!(message.starts_with("corrupt JPEG picture: ") && message.contains(why), "{message}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_and_damaged_bytes_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        keep in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let _ = decode_rgb(&noise, 1_000_000);
        let _ = header(&noise, 1_000_000);
        let (folder, expected) = pictures();
        let names: Vec<_> = expected.keys().collect();
        let mut bytes = std::fs::read(folder.join(names[which.index(names.len())])).unwrap();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(keep.index(bytes.len()) + 1);
        let size = header(&bytes, 1_000_000);
        if let Ok(picture) = decode_rgb(&bytes, 1_000_000) {
            prop_assert_eq!(picture.data.len(), picture.width as usize * picture.height as usize * 3);
            prop_assert_eq!(size.unwrap(), (picture.width, picture.height), "header and decoder agree");
        }
    }

    #[test]
    fn any_size_gives_whole_tokens_or_an_error(height in 0u32..9000, width in 0u32..9000) {
        let processor = ImageProcessor::from_json(r#"{"min_pixels": 3136, "max_pixels": 2560000}"#).unwrap();
        if let Ok((h, w)) = processor.smart_resize(height, width) {
            prop_assert!(h >= 28 && w >= 28 && h % 28 == 0 && w % 28 == 0);
            prop_assert!(u64::from(h) * u64::from(w) <= 2_560_000);
            prop_assert_eq!(processor.tokens(width, height).unwrap(), (h * w / 784) as usize);
        }
    }
}

/// `cargo test --release -p ovhost-data -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed() {
    let path = std::env::var("PICTURE").expect("PICTURE names a file");
    let bytes = std::fs::read(path).unwrap();
    let processor =
        ImageProcessor::from_json(r#"{"min_pixels": 3136, "max_pixels": 2560000, "temporal_patch_size": 1}"#).unwrap();
    let time = |name: &str, work: &dyn Fn()| {
        work();
        let mut best = f64::MAX;
        for _ in 0..7 {
            let start = std::time::Instant::now();
            (0..20).for_each(|_| work());
            best = best.min(start.elapsed().as_secs_f64() / 20.0);
        }
        println!("{name}: {:.3} ms, {:.0} a second", best * 1e3, 1.0 / best);
    };
    let picture = decode_rgb(&bytes, u64::MAX).unwrap();
    let (h, w) = processor.smart_resize(picture.height, picture.width).unwrap();
    let (from, to) = ((picture.width as usize, picture.height as usize), (w as usize, h as usize));
    let resized = resample::bicubic(&picture.data, from, to);
    println!("{from:?} to {to:?}");
    time("header", &|| drop(header(&bytes, u64::MAX)));
    time("decode", &|| drop(decode_rgb(&bytes, u64::MAX)));
    time("resize", &|| drop(resample::bicubic(&picture.data, from, to)));
    time("patchify", &|| {
        processor.patchify(&resized, to.1, to.0, &processor.levels(), &mut Vec::new());
    });
    time("all", &|| drop(processor.process(&bytes)));
}
