//! Encoded picture → 8-bit RGB, with Pillow's pixels and Pillow's conversion rules.
//!
//! * Size and kind come from the content, never from the file's name, and are read without decoding.
//! * JPEG goes through a port of libjpeg-turbo, because other decoders differ on a fifth of the values.
//! * A file that ends early is refused, as Pillow refuses it: libjpeg-turbo would fill in grey and carry on.
//! * Conversion to RGB: grey is repeated, alpha is dropped (not blended), palettes are looked up. 16-bit colour keeps
//!   its high byte, but plain 16-bit grey is clipped at 255, because Pillow does so and models were trained on that.
//!   EXIF rotation is not applied. Animations give their first frame.

use std::io::{BufRead, Cursor, ErrorKind, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use libjpeg_turbo_rs::{DecodeLimits, PixelFormat};

use super::ImageError;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPicture {
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    /// [height, width, 3].
    pub data: Vec<u8>,
}

/// Bytes at the beginning that tell every known kind.
const HEAD: usize = 64;

/// File extensions (lower case) that mean "this member is a picture".
pub const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// Whether the part name of a tar member (`png`, `img0.jpg`, `JPG`) is a picture's.
pub fn is_picture_name(part: &str) -> bool {
    let last = part.rsplit('.').next().unwrap_or(part);
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(last))
}

fn format_of(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    let unknown = || ImageError::Unknown {
        head: if bytes.is_empty() {
            "missing (the file is empty)".into()
        } else {
            bytes.iter().take(8).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
        },
    };
    let format = image::guess_format(bytes).map_err(|_| unknown())?;
    let name = match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        _ => return Err(unknown()),
    };
    Ok((format, name))
}

/// The usual extension for the content of `bytes`.
pub fn extension_of(bytes: &[u8]) -> Result<&'static str, ImageError> {
    Ok(match format_of(bytes)?.0 {
        ImageFormat::Jpeg => "jpg",
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
        ImageFormat::Gif => "gif",
        ImageFormat::Bmp => "bmp",
        _ => "tif",
    })
}

/// A decoder that panics on a damaged file must cost one sample, not the run.
fn contained<T>(format: &'static str, work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(ImageError::Corrupt { format, reason: "the decoder gave up on it (it panicked)".into() })
    })
}

fn corrupt(format: &'static str) -> impl Fn(&dyn std::fmt::Display) -> ImageError {
    move |error| ImageError::Corrupt { format, reason: error.to_string() }
}

fn bounded(format: &'static str, width: u32, height: u32, bound: u64) -> Result<(), ImageError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(ImageError::Corrupt { format, reason: format!("its size is {width}x{height}") });
    }
    if pixels > bound {
        return Err(ImageError::TooLarge { width, height, pixels, bound });
    }
    Ok(())
}

/// (width, height) from the header alone; pictures over `max_pixels` are refused.
pub fn header(bytes: &[u8], max_pixels: u64) -> Result<(u32, u32), ImageError> {
    header_of(&mut Cursor::new(bytes), max_pixels)
}

/// As [`header`], of a file that is read no further than its size needs: the first kilobytes of most, and of the others those
/// places where the size lies.
pub fn header_of<R: BufRead + Seek>(file: &mut R, max_pixels: u64) -> Result<(u32, u32), ImageError> {
    let mut head = Vec::with_capacity(HEAD);
    let read =
        file.by_ref().take(HEAD as u64).read_to_end(&mut head).and_then(|_| file.seek_relative(-(head.len() as i64)));
    let (format, name) = format_of(&head)?;
    let (width, height) = contained(name, || {
        read.map_err(|e| corrupt(name)(&e))?;
        match format {
            ImageFormat::Jpeg => jpeg_size(file).map_err(|e| corrupt(name)(&e)),
            _ => ImageReader::with_format(file, format).into_dimensions().map_err(|e| corrupt(name)(&e)),
        }
    })?;
    bounded(name, width, height, max_pixels)?;
    Ok((width, height))
}

/// (width, height) out of a JPEG's frame header (ITU-T T.81, B.2.2). Segments before it are skipped over, however large; what
/// follows it is not looked at.
fn jpeg_size<R: BufRead + Seek>(file: &mut R) -> std::io::Result<(u32, u32)> {
    fn bytes<const N: usize>(file: &mut impl Read) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let read = file.read_exact(&mut bytes);
        read.map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => std::io::Error::other("it ends before the size of its frame"),
            _ => e,
        })?;
        Ok(bytes)
    }
    let wrong = |what: String| Err(std::io::Error::other(what));
    let [_, _] = bytes(file)?;
    loop {
        // As libjpeg does: bytes that belong to nothing are skipped, and a marker may have any number of FF before it.
        while bytes(file)? != [0xFF] {}
        let marker = loop {
            let [byte] = bytes(file)?;
            if byte != 0xFF {
                break byte;
            }
        };
        match marker {
            // A stuffed FF is data; restart and TEM markers have nothing after them.
            0x00 | 0x01 | 0xD0..=0xD7 => continue,
            0xD8 => return wrong("it begins a second time before its frame".into()),
            0xD9 | 0xDA => return wrong(format!("marker FF{marker:02X} comes before the size of its frame")),
            _ => {}
        }
        let length = u16::from_be_bytes(bytes(file)?);
        match marker {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF if length >= 8 => {
                let [_precision, h1, h0, w1, w0] = bytes(file)?;
                return Ok((u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into()));
            }
            _ if length < 2 => return wrong(format!("segment FF{marker:02X} has the length {length}")),
            _ => file.seek_relative(i64::from(length) - 2)?,
        }
    }
}

/// Decodes to RGB; pictures over `max_pixels` are refused from their header.
pub fn decode_rgb(bytes: &[u8], max_pixels: u64) -> Result<RgbPicture, ImageError> {
    let (format, name) = format_of(bytes)?;
    contained(name, || match format {
        ImageFormat::Jpeg => decode_jpeg(bytes, max_pixels),
        _ => decode_other(bytes, format, name, max_pixels),
    })
}

fn decode_jpeg(bytes: &[u8], max_pixels: u64) -> Result<RgbPicture, ImageError> {
    let fail = corrupt("JPEG");
    let mut decoder = libjpeg_turbo_rs::Decoder::new(bytes).map_err(|e| fail(&e))?;
    let frame = decoder.header();
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    bounded("JPEG", width, height, max_pixels)?;
    // Scans are bounded too: a small progressive file can ask for thousands of passes over a large picture.
    decoder.set_limits(DecodeLimits { max_pixels, max_scans: 512, ..DecodeLimits::default() });
    decoder.set_output_format(PixelFormat::Rgb);
    if !has_end(bytes) {
        return Err(fail(&"it ends before its end-of-image mark, so a part of the picture is missing"));
    }
    let image = decoder.decode_image().map_err(|e| fail(&e))?;
    let data = image.data;
    if data.len() != width as usize * height as usize * 3 {
        return Err(fail(&format!("{} bytes of pixels for {width}x{height}", data.len())));
    }
    Ok(RgbPicture { width, height, data })
}

/// Whether the end-of-image mark comes after the last scan. Marks within segments (a thumbnail's) do not count.
fn has_end(bytes: &[u8]) -> bool {
    const FILL: u8 = 0xff;
    let mut at = 2;
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.iter().position(|b| *b == FILL)) {
        at += next + 1;
        match bytes.get(at) {
            Some(0xd9) => return true,
            // Stuffed into a scan's data, or fill before a mark, or marks without content.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(&FILL) => {}
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2),
                None => return false,
            },
            None => return false,
        }
    }
    false
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    max_pixels: u64,
) -> Result<RgbPicture, ImageError> {
    let fail = corrupt(name);
    let reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder = reader.into_decoder().map_err(|e| fail(&e))?;
    let (width, height) = decoder.dimensions();
    bounded(name, width, height, max_pixels)?;
    let mut limits = Limits::no_limits();
    // Eight bytes a pixel hold 16-bit RGBA; decoders may keep one more copy.
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits).map_err(|e| fail(&e))?;
    let picture = DynamicImage::from_decoder(decoder).map_err(|e| fail(&e))?;
    let data = to_rgb(picture).map_err(|reason| fail(&reason))?;
    Ok(RgbPicture { width, height, data })
}

/// Pillow's `convert("RGB")`.
fn to_rgb(picture: DynamicImage) -> Result<Vec<u8>, String> {
    fn grey(values: impl Iterator<Item = u8>) -> Vec<u8> {
        values.flat_map(|v| [v; 3]).collect()
    }
    fn high(value: u16) -> u8 {
        (value >> 8) as u8
    }
    Ok(match picture {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageRgba8(p) => p.as_raw().chunks_exact(4).flat_map(|px| [px[0], px[1], px[2]]).collect(),
        DynamicImage::ImageLuma8(p) => grey(p.as_raw().iter().copied()),
        DynamicImage::ImageLumaA8(p) => grey(p.as_raw().chunks_exact(2).map(|px| px[0])),
        DynamicImage::ImageLuma16(p) => grey(p.as_raw().iter().map(|v| (*v).min(255) as u8)),
        DynamicImage::ImageLumaA16(p) => grey(p.as_raw().chunks_exact(2).map(|px| high(px[0]))),
        DynamicImage::ImageRgb16(p) => p.as_raw().iter().map(|v| high(*v)).collect(),
        DynamicImage::ImageRgba16(p) => {
            p.as_raw().chunks_exact(4).flat_map(|px| [high(px[0]), high(px[1]), high(px[2])]).collect()
        }
        other => return Err(format!("pixels of kind {:?} have no 8-bit RGB form", other.color())),
    })
}
