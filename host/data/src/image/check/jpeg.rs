//! Baseline JPEG → whether every coefficient is there, without making a pixel.
//!
//! ```text
//!  segments (sizes, tables) ─► entropy-coded data, byte stuffing undone ─► code after code, by tables of lengths ─► as many as the
//!  size asks for, and right behind them the end of the image
//! ```
//! Of a code only its length in bits matters here, with that of the magnitude behind it, and how many coefficients it stands for. Two
//! codes are looked up at once where they are short. After ITU-T T.81: B (segments), F.2.2 (codes), C (tables).
//!
//! Files of any other kind (progressive, arithmetic, restart marks, CMYK) and all with something odd are left to the decoder.

use std::cell::RefCell;

/// Bits of a lookup.
const BITS: u32 = 10;

/// Longest side that the decoder takes.
const MOST_SIDE: u32 = 65_500;

/// In a count of coefficients: the block ends here.
const END: u16 = 128;

/// Behind the data, so that a block that reaches over its end needs no other look: one block has at most 27 + 63 · 26 bits.
const PADDING: usize = 256;

thread_local! {
    static WALKER: RefCell<Walker> = RefCell::default();
}

/// Whether a JPEG is of the usual form and has all of its data. False says nothing.
pub(super) fn is_sound(bytes: &[u8], max_pixels: u64) -> bool {
    bytes.starts_with(&[0xFF, 0xD8])
        && WALKER.with(|walker| walker.try_borrow_mut().is_ok_and(|mut w| w.walk(bytes, max_pixels).is_some()))
}

/// Lengths of the codes of one Huffman table.
#[derive(Default)]
struct Table {
    /// What it was made of: 16 counts and the symbols. Most files have the same tables, which are made once.
    source: Vec<u8>,
    /// By the next [`BITS`] bits: the bits that a code and its magnitude take, and from bit 8 on the coefficients that it stands for
    /// ([`END`]: up to the block's end). 0: a longer code, or none.
    one: Vec<u16>,
    /// The same of two codes in a row where the bits tell both, else of the first.
    two: Vec<u16>,
    /// Of each length the first code behind its last one, and what to add to a code for the place of its symbol.
    lengths: [(u32, i32); 17],
}

/// What a symbol says: bits of the magnitude and coefficients. None where a sound file has no such symbol.
fn meaning(symbol: u8, ac: bool) -> Option<(u16, u16)> {
    let (run, size) = (u16::from(symbol >> 4), u16::from(symbol & 15));
    match (ac, run, size) {
        (false, 0, 0..=11) => Some((size, 1)),
        (true, 0, 0) => Some((0, END)),
        (true, 15, 0) => Some((0, 16)),
        (true, _, 1..=10) => Some((size, run + 1)),
        _ => None,
    }
}

impl Table {
    fn make(&mut self, source: &[u8], ac: bool) -> Option<()> {
        if self.source == source {
            return Some(());
        }
        self.source.clear();
        let (counts, symbols) = source.split_at_checked(16)?;
        self.one.clear();
        self.one.resize(1 << BITS, 0);
        let (mut code, mut place) = (0_u32, 0_usize);
        for (length, count) in (1_u32..).zip(counts) {
            code <<= 1;
            self.lengths[length as usize] = (code + u32::from(*count), place as i32 - code as i32);
            for symbol in symbols.get(place..place + usize::from(*count))? {
                let (size, coefficients) = meaning(*symbol, ac)?;
                if code >> length != 0 {
                    return None;
                }
                if length <= BITS {
                    let first = (code << (BITS - length)) as usize;
                    let entry = coefficients << 8 | (length as u16 + size);
                    self.one.get_mut(first..first + (1 << (BITS - length)))?.fill(entry);
                }
                code += 1;
            }
            place += usize::from(*count);
        }
        self.two.clear();
        self.two.extend(self.one.iter().zip(0_u32..).map(|(entry, bits)| {
            let (used, coefficients) = (u32::from(*entry & 255), entry >> 8);
            if used == 0 || used >= BITS || coefficients >= END {
                return *entry;
            }
            // What follows the first code: the last bits are not known, so they may not matter.
            let known = BITS - used;
            let next = self.one[(bits << used) as usize & ((1 << BITS) - 1)];
            let size = symbol_length(counts, (bits << used) & ((1 << BITS) - 1));
            if next == 0 || size > known { *entry } else { *entry + next }
        }));
        self.source.extend_from_slice(source);
        Some(())
    }

    /// The entry of a code longer than a lookup, at the beginning of `window`.
    #[cold]
    fn long(&self, window: u64, ac: bool) -> Option<u16> {
        for length in BITS + 1..=16 {
            let code = (window >> (64 - length)) as u32;
            let (end, place) = self.lengths[length as usize];
            if code < end {
                let symbol = self.source.get(16 + usize::try_from(code as i32 + place).ok()?)?;
                let (size, coefficients) = meaning(*symbol, ac)?;
                return Some(coefficients << 8 | (length as u16 + size));
            }
        }
        None
    }
}

/// Length of the code at the beginning of [`BITS`] bits; more than that where there is none so short.
fn symbol_length(counts: &[u8], bits: u32) -> u32 {
    let mut end = 0;
    for (length, count) in (1..=BITS).zip(counts) {
        end = (end << 1) + u32::from(*count);
        if bits >> (BITS - length) < end {
            return length;
        }
    }
    BITS + 1
}

/// A component of the frame.
#[derive(Clone, Copy, Default)]
struct Component {
    id: u8,
    /// Blocks in an MCU.
    blocks: u32,
    quantizer: u8,
}

#[derive(Default)]
struct Frame {
    components: [Component; 3],
    count: usize,
    mcus: u64,
}

/// What is kept from file to file.
#[derive(Default)]
struct Walker {
    dc: [Table; 4],
    ac: [Table; 4],
    /// Entropy-coded data without stuffing, and zeros.
    data: Vec<u8>,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

impl Walker {
    fn walk(&mut self, bytes: &[u8], max_pixels: u64) -> Option<()> {
        let (mut quantizers, mut tables) = ([false; 4], [[false; 4]; 2]);
        let mut frame: Option<Frame> = None;
        let mut at = 2;
        loop {
            let [0xFF, marker] = *bytes.get(at..)?.first_chunk()? else { return None };
            let length = usize::from(number(bytes, at + 2)?);
            let body = bytes.get(at + 4..at + 2 + length)?;
            at += 2 + length;
            match marker {
                // Adobe's says which colours they are.
                0xEE if body.starts_with(b"Adobe") && body.get(11) != Some(&1) => return None,
                0xE0..=0xEF | 0xFE => {}
                0xDB => quantization(body, &mut quantizers)?,
                0xC4 => self.huffman(body, &mut tables)?,
                0xC0 | 0xC1 if frame.is_none() => frame = Some(Frame::read(body, max_pixels)?),
                0xDA => return self.scan(&frame?, body, bytes.get(at..)?, &quantizers, &tables),
                _ => return None,
            }
        }
    }

    fn huffman(&mut self, mut body: &[u8], defined: &mut [[bool; 4]; 2]) -> Option<()> {
        while let [info, rest @ ..] = body {
            let (class, number) = (usize::from(info >> 4), usize::from(info & 15));
            let symbols: usize = rest.get(..16)?.iter().map(|n| usize::from(*n)).sum();
            let (source, rest) = rest.split_at_checked(16 + symbols)?;
            *defined.get_mut(class)?.get_mut(number)? = symbols <= 256;
            let tables = if class == 0 { &mut self.dc } else { &mut self.ac };
            tables.get_mut(number)?.make(source, class == 1)?;
            body = rest;
        }
        Some(())
    }

    /// One scan with all components, and the end of the image behind it.
    fn scan(
        &mut self,
        frame: &Frame,
        head: &[u8],
        data: &[u8],
        quantizers: &[bool; 4],
        tables: &[[bool; 4]; 2],
    ) -> Option<()> {
        let [count, selectors @ .., 0, 63, 0] = head else { return None };
        let components = &frame.components[..frame.count];
        if usize::from(*count) != frame.count || selectors.len() != 2 * frame.count {
            return None;
        }
        let mut plan = [(0_usize, 0_usize, 0_u32); 3];
        for ((selector, component), slot) in selectors.as_chunks::<2>().0.iter().zip(components).zip(&mut plan) {
            let (dc, ac) = (usize::from(selector[1] >> 4), usize::from(selector[1] & 15));
            let known =
                *quantizers.get(usize::from(component.quantizer))? && *tables[0].get(dc)? && *tables[1].get(ac)?;
            if selector[0] != component.id || !known {
                return None;
            }
            *slot = (dc, ac, component.blocks);
        }
        unstuff(data, &mut self.data)?;
        let length = self.data.len();
        self.data.resize(length + PADDING, 0);
        let plan = plan.map(|(dc, ac, blocks)| (&self.dc[dc], &self.ac[ac], blocks));
        let end = length as u64 * 8;
        let mut at = 0;
        for _ in 0..frame.mcus {
            for (dc, ac, blocks) in &plan[..frame.count] {
                for _ in 0..*blocks {
                    if at >= end {
                        return None;
                    }
                    at = block(&self.data, at, dc, ac)?;
                }
            }
        }
        // What is left of the last byte is filled up.
        (at <= end && end - at < 8).then_some(())
    }
}

/// 8-bit tables only.
fn quantization(mut body: &[u8], defined: &mut [bool; 4]) -> Option<()> {
    while let [info, rest @ ..] = body {
        *defined.get_mut(usize::from(*info))? = true;
        body = rest.get(64..)?;
    }
    Some(())
}

impl Frame {
    fn read(body: &[u8], max_pixels: u64) -> Option<Frame> {
        let [8, h1, h0, w1, w0, count, rest @ ..] = body else { return None };
        let [height, width] = [[*h1, *h0], [*w1, *w0]].map(|side| u32::from(u16::from_be_bytes(side)));
        let sides = 1..=MOST_SIDE;
        let pixels = u64::from(width) * u64::from(height);
        if !sides.contains(&width) || !sides.contains(&height) || pixels > max_pixels {
            return None;
        }
        let mut frame = Frame { count: usize::from(*count), ..Frame::default() };
        if !matches!(frame.count, 1 | 3) || rest.len() != 3 * frame.count {
            return None;
        }
        // Luma's blocks are an MCU's width and height.
        let sampling = *rest.get(1)?;
        let (across, down) = (u32::from(sampling >> 4), u32::from(sampling & 15));
        for (i, (component, read)) in frame.components.iter_mut().zip(rest.as_chunks::<3>().0).enumerate() {
            let blocks = match (i, read[1]) {
                (0, 0x11) => 1,
                (0, 0x12 | 0x21) if frame.count == 3 => 2,
                (0, 0x22) if frame.count == 3 => 4,
                (1 | 2, 0x11) => 1,
                _ => return None,
            };
            *component = Component { id: read[0], blocks, quantizer: read[2] };
        }
        // Other names than these may stand for other colours.
        if frame.count == 3 && !matches!(frame.components.map(|c| c.id), [0, 1, 2] | [1, 2, 3]) {
            return None;
        }
        frame.mcus = u64::from(width.div_ceil(8 * across)) * u64::from(height.div_ceil(8 * down));
        Some(frame)
    }
}

/// Takes the stuffed zeros out of entropy-coded data, which must end with the image.
fn unstuff(mut data: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.clear();
    loop {
        // A compare of so many bytes at once is a few instructions.
        while let Some((chunk, rest)) = data.split_first_chunk::<32>() {
            if chunk.iter().fold(false, |found, byte| found | (*byte == 0xFF)) {
                break;
            }
            out.extend_from_slice(chunk);
            data = rest;
        }
        let marked = data.iter().position(|byte| *byte == 0xFF)?;
        out.extend_from_slice(&data[..marked]);
        match data.get(marked + 1)? {
            0 => out.push(0xFF),
            0xD9 => return Some(()),
            _ => return None,
        }
        data = &data[marked + 2..];
    }
}

/// The 64 bits from bit `at` on; of the last few of them zeros.
#[inline(always)]
fn window(data: &[u8], at: u64) -> Option<u64> {
    let bytes = data.get((at >> 3) as usize..)?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes) << (at & 7))
}

/// Walks over a block that begins at bit `at`. Returns where it ends.
#[inline(always)]
fn block(data: &[u8], mut at: u64, dc: &Table, ac: &Table) -> Option<u64> {
    const SHIFT: u32 = 64 - BITS;
    let (dc_one, ac_one): (&[u16; 1 << BITS], &[u16; 1 << BITS]) = (dc.one.first_chunk()?, ac.one.first_chunk()?);
    let ac_two: &[u16; 1 << BITS] = ac.two.first_chunk()?;
    let mut bits = window(data, at)?;
    let entry = match dc_one[(bits >> SHIFT) as usize] {
        0 => dc.long(bits, false)?,
        entry => entry,
    };
    at += u64::from(entry & 255);
    let mut done = 1;
    // Two codes stand for at most 32 coefficients: up to here they cannot go beyond the block.
    while done < 32 {
        bits = window(data, at)?;
        let mut entry = ac_two[(bits >> SHIFT) as usize];
        if entry == 0 {
            entry = ac.long(bits, true)?;
        } else {
            // At most 36 of the 57 bits are used.
            let more = ac_two[((bits << (entry & 63)) >> SHIFT) as usize];
            if done + (entry >> 8) < 32 && more != 0 {
                entry += more;
            }
        }
        at += u64::from(entry & 255);
        done += entry >> 8;
    }
    while done < 64 {
        bits = window(data, at)?;
        let entry = match ac_one[(bits >> SHIFT) as usize] {
            0 => ac.long(bits, true)?,
            entry => entry,
        };
        at += u64::from(entry & 255);
        done += entry >> 8;
    }
    (done == 64 || done >= END).then_some(at)
}
