//! PNG → whether its data are whole, without undoing the rows' filters.
//!
//! ```text
//!  chunks, each with its checksum ─► IDATs, inflated, with theirs ─► as many bytes as the size asks for, a known filter in each row
//! ```
//! After the PNG specification (third edition): 5 (chunks), 7.3 (filters), 10 (compression). Palettes, 16-bit samples, interlacing,
//! animations, transparent colours and all with something odd are left to the decoder.

use std::cell::RefCell;

use fdeflate::Decompressor;
use flate2::Crc;

const SIGNATURE: [u8; 8] = [137, 80, 78, 71, 13, 10, 26, 10];

/// Most bytes of pixels: room for them is kept from file to file.
const MOST: u64 = 16 << 20;

/// Chunks that change no pixel and that the decoder passes over whatever they hold, if they are no longer than [`LONG`].
const PASSED: [&[u8; 4]; 7] = [b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"tEXt", b"eXIf"];
const LONG: usize = 1 << 16;

thread_local! {
    static ROWS: RefCell<Vec<u8>> = RefCell::default();
}

/// Whether a PNG is of the usual form and has all of its data. False says nothing.
pub(super) fn is_sound(bytes: &[u8], max_pixels: u64) -> bool {
    let walk = |rows: &RefCell<Vec<u8>>| walk(bytes, max_pixels, &mut *rows.try_borrow_mut().ok()?);
    bytes.starts_with(&SIGNATURE) && ROWS.with(walk).is_some()
}

/// The first chunk's name and content, and what follows it.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (named, rest) = rest.split_at_checked(length.checked_add(4)?)?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let mut crc = Crc::new();
    crc.update(named);
    let (name, content) = named.split_first_chunk::<4>()?;
    (crc.sum() == u32::from_be_bytes(*sum)).then_some((name, content, rest))
}

fn walk(bytes: &[u8], max_pixels: u64, rows: &mut Vec<u8>) -> Option<()> {
    let (b"IHDR", head, mut rest) = chunk(&bytes[SIGNATURE.len()..])? else { return None };
    let [w3, w2, w1, w0, h3, h2, h1, h0, 8, colours, 0, 0, 0] = *head else { return None };
    let [width, height] = [[w3, w2, w1, w0], [h3, h2, h1, h0]].map(|side| u64::from(u32::from_be_bytes(side)));
    let samples: u64 = match colours {
        0 => 1,
        2 => 3,
        4 => 2,
        6 => 4,
        _ => return None,
    };
    let pixels = width.checked_mul(height).filter(|pixels| (1..=max_pixels.min(MOST)).contains(pixels))?;
    let row = usize::try_from(1 + width * samples).ok()?;
    let size = usize::try_from(pixels * samples + height).ok().filter(|size| *size as u64 <= MOST)?;
    // Where the end of the data is still to come, the inflater wants a little room to say so.
    rows.resize(size + 8, 0);
    let (mut inflater, mut made, mut data, mut ended) = (Decompressor::new(), 0, false, false);
    loop {
        let (name, mut content, next) = chunk(rest)?;
        rest = next;
        match name {
            b"IDAT" if !ended && !content.is_empty() => {
                data = true;
                while !content.is_empty() {
                    let (read, written) = inflater.read(content, rows, made, false).ok()?;
                    made += written;
                    content = &content[read..];
                    if (read, written) == (0, 0) {
                        return None;
                    }
                }
            }
            b"IEND" if data && content.is_empty() => break,
            name if PASSED.contains(&name) && content.len() <= LONG => ended = data,
            _ => return None,
        }
    }
    let filters = rows[..size].chunks_exact(row).all(|row| row[0] <= 4);
    (inflater.is_done() && made == size && filters).then_some(())
}
