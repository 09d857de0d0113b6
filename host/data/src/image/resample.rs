//! 8-bit RGB `[h,w,3]` → `[h2,w2,3]`: the separable filters that Pillow applies, bicubic (a = −0.5) and Lanczos (3 lobes), each
//! widened when shrinking.
//!
//! Results are Pillow's bit for bit: weights in f64 per output position, rounded to 22 fractional bits, one pass along
//! rows, rounding to 8 bits, one pass along columns (always in this order, as Pillow 11 does; 13 swaps them for some
//! sizes that change one side up and the other down). Libraries with 16-bit weights differ on about 1 % of the values.

const FRACTION_BITS: u32 = 22;
const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// A filter: its half width at scale 1, and its weight at a distance.
#[derive(Clone, Copy)]
struct Kernel {
    support: f64,
    weight: fn(f64) -> f64,
}

const BICUBIC: Kernel = Kernel { support: 2.0, weight: cubic };
const LANCZOS: Kernel = Kernel { support: 3.0, weight: lanczos3 };

/// For every output position along one axis: the first input position and the weights from there on.
struct Taps {
    first: Vec<usize>,
    /// `stride` weights a position, zero where the filter is cut by the border.
    weights: Vec<i32>,
    counts: Vec<usize>,
    stride: usize,
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

impl Taps {
    fn new(input: usize, output: usize, kernel: Kernel) -> Self {
        let scale = input as f64 / output as f64;
        let widen = scale.max(1.0);
        let support = kernel.support * widen;
        let stride = support.ceil() as usize * 2 + 1;
        let mut taps = Taps {
            first: Vec::with_capacity(output),
            weights: vec![0; output * stride],
            counts: Vec::with_capacity(output),
            stride,
        };
        let mut raw = vec![0.0f64; stride];
        for position in 0..output {
            let center = (position as f64 + 0.5) * scale;
            let inverse = 1.0 / widen;
            // Truncation towards zero, then the border: the order decides ties.
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let last = ((center + support + 0.5) as i64).min(input as i64) as usize;
            let count = last - first;
            let mut total = 0.0;
            for (k, weight) in raw[..count].iter_mut().enumerate() {
                *weight = (kernel.weight)(((k + first) as f64 - center + 0.5) * inverse);
                total += *weight;
            }
            for (weight, target) in raw[..count].iter().zip(&mut taps.weights[position * stride..]) {
                let weight = if total != 0.0 { weight / total } else { *weight };
                let fixed = weight * f64::from(1u32 << FRACTION_BITS);
                *target = if weight < 0.0 { (fixed - 0.5) as i32 } else { (fixed + 0.5) as i32 };
            }
            taps.first.push(first);
            taps.counts.push(count);
        }
        taps
    }

    fn at(&self, position: usize) -> (usize, &[i32]) {
        let from = position * self.stride;
        (self.first[position], &self.weights[from..from + self.counts[position]])
    }
}

#[inline(always)]
fn to_u8(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

/// Resizes `rgb` ([height, width, 3]; sizes are (width, height), none of them 0) to `to`.
pub fn bicubic(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    resize(rgb, from, to, BICUBIC)
}

/// As [`bicubic`], with the Lanczos filter.
pub fn lanczos(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    resize(rgb, from, to, LANCZOS)
}

fn resize(rgb: &[u8], from: (usize, usize), to: (usize, usize), kernel: Kernel) -> Vec<u8> {
    debug_assert_eq!(rgb.len(), from.0 * from.1 * 3);
    let rows_done;
    let rows: &[u8] = if from.0 == to.0 {
        rgb
    } else {
        rows_done = along_rows(rgb, from, to.0, kernel);
        &rows_done
    };
    if from.1 == to.1 { rows.to_vec() } else { along_columns(rows, to.0 * 3, from.1, to.1, kernel) }
}

/// Rows that are filtered together, one vector lane each.
const LANES: usize = 8;
/// Values of a row that are filtered together along columns.
const SPAN: usize = 32;

/// Along rows, neighbouring values of one row meet different weights, so lanes are rows: `LANES` rows are turned into
/// columns of `LANES` bytes, filtered, and turned back.
fn along_rows(rgb: &[u8], (width, height): (usize, usize), new_width: usize, kernel: Kernel) -> Vec<u8> {
    let taps = Taps::new(width, new_width, kernel);
    let mut out = vec![0; new_width * height * 3];
    let mut columns = vec![[0u8; LANES]; width * 3];
    let mut filtered = vec![[0u8; LANES]; new_width * 3];
    for (source, target) in rgb.chunks(width * 3 * LANES).zip(out.chunks_mut(new_width * 3 * LANES)) {
        to_columns(source, width * 3, &mut columns);
        rows(&columns, &mut filtered, &taps);
        to_rows(&filtered, new_width * 3, target);
    }
    out
}

/// Up to `LANES` rows of `row_bytes` → columns; lanes without a row keep what they held.
fn to_columns(rows: &[u8], row_bytes: usize, columns: &mut [[u8; LANES]]) {
    let whole = if rows.len() == row_bytes * LANES { row_bytes / LANES * LANES } else { 0 };
    for (from, block) in (0..).step_by(LANES).zip(columns[..whole].as_chunks_mut::<LANES>().0) {
        let tile = std::array::from_fn(|lane| load(&rows[lane * row_bytes + from..]));
        *block = transpose(tile).map(u64::to_le_bytes);
    }
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (column, value) in columns[whole..].iter_mut().zip(&row[whole..]) {
            column[lane] = *value;
        }
    }
}

/// The way back: as many rows as `rows` has room for.
fn to_rows(columns: &[[u8; LANES]], row_bytes: usize, rows: &mut [u8]) {
    let whole = if rows.len() == row_bytes * LANES { row_bytes / LANES * LANES } else { 0 };
    for (from, block) in (0..).step_by(LANES).zip(columns[..whole].as_chunks::<LANES>().0) {
        for (lane, word) in transpose(block.map(u64::from_le_bytes)).into_iter().enumerate() {
            rows[lane * row_bytes + from..][..LANES].copy_from_slice(&word.to_le_bytes());
        }
    }
    for (lane, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        for (value, column) in row[whole..].iter_mut().zip(&columns[whole..]) {
            *value = column[lane];
        }
    }
}

fn load(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// Byte j of word i ↔ byte i of word j: swaps halves, quarters, then bytes.
#[inline(always)]
fn transpose(mut tile: [u64; LANES]) -> [u64; LANES] {
    const STEPS: [(usize, u64); 3] =
        [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)];
    for (distance, mask) in STEPS {
        let shift = 8 * distance as u32;
        for i in (0..LANES).filter(|i| i & distance == 0) {
            let (low, high) = (tile[i], tile[i + distance]);
            tile[i] = (low & mask) | ((high & mask) << shift);
            tile[i + distance] = ((low >> shift) & mask) | (high & !mask);
        }
    }
    tile
}

fn along_columns(rows: &[u8], row_bytes: usize, height: usize, new_height: usize, kernel: Kernel) -> Vec<u8> {
    let taps = Taps::new(height, new_height, kernel);
    let mut out = vec![0; row_bytes * new_height];
    for (position, target) in out.chunks_exact_mut(row_bytes).enumerate() {
        let (first, weights) = taps.at(position);
        columns(&rows[first * row_bytes..], weights, target);
    }
    out
}

#[inline(always)]
fn rows_body(columns: &[[u8; LANES]], out: &mut [[u8; LANES]], taps: &Taps) {
    let (columns, _) = columns.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (position, px) in out.iter_mut().enumerate() {
        let (first, weights) = taps.at(position);
        let mut sums = [[HALF; LANES]; 3];
        for (weight, value) in weights.iter().zip(&columns[first..first + weights.len()]) {
            for c in 0..3 {
                for lane in 0..LANES {
                    sums[c][lane] += weight * i32::from(value[c][lane]);
                }
            }
        }
        *px = sums.map(|sums| sums.map(to_u8));
    }
}

#[inline(always)]
fn columns_body(rows: &[u8], weights: &[i32], target: &mut [u8]) {
    let width = target.len();
    let (spans, rest) = target.as_chunks_mut::<SPAN>();
    for (span, out) in spans.iter_mut().enumerate() {
        let mut sums = [HALF; SPAN];
        for (k, weight) in weights.iter().enumerate() {
            let from = k * width + span * SPAN;
            for (sum, value) in sums.iter_mut().zip(&rows[from..from + SPAN]) {
                *sum += weight * i32::from(*value);
            }
        }
        *out = sums.map(to_u8);
    }
    let start = width - rest.len();
    for (offset, out) in rest.iter_mut().enumerate() {
        let values = weights.iter().enumerate();
        *out = to_u8(values.fold(HALF, |sum, (k, weight)| sum + weight * i32::from(rows[k * width + start + offset])));
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{LANES, Taps, columns_body, rows_body};

    // Same code, compiled for AVX2: the compiler vectorises it; nothing in it depends on the width.
    #[target_feature(enable = "avx2")]
    pub(super) fn rows(columns: &[[u8; LANES]], out: &mut [[u8; LANES]], taps: &Taps) {
        rows_body(columns, out, taps);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn columns(rows: &[u8], weights: &[i32], target: &mut [u8]) {
        columns_body(rows, weights, target);
    }
}

fn rows(columns: &[[u8; LANES]], out: &mut [[u8; LANES]], taps: &Taps) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the function is safe code; its only requirement is AVX2, which was just detected.
        return unsafe { wide::rows(columns, out, taps) };
    }
    rows_body(columns, out, taps);
}

fn columns(rows: &[u8], weights: &[i32], target: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the function is safe code; its only requirement is AVX2, which was just detected.
        return unsafe { wide::columns(rows, weights, target) };
    }
    columns_body(rows, weights, target);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_colour_stays_flat_at_every_size() {
        for (from, to) in [((5, 7), (28, 28)), ((300, 200), (56, 28)), ((28, 1), (28, 28)), ((1, 1), (3, 5))] {
            let rgb: Vec<u8> = [17, 200, 255].repeat(from.0 * from.1);
            let out = bicubic(&rgb, from, to);
            assert_eq!(out.len(), to.0 * to.1 * 3);
            assert!(out.chunks_exact(3).all(|px| px == [17, 200, 255]), "{from:?} {to:?}");
        }
    }

    #[test]
    fn overshoot_is_clipped_and_lanes_equal_the_definition() {
        // A black and white checkerboard overshoots in both directions.
        let (w, h) = (37, 23);
        let rgb: Vec<u8> = (0..w * h).flat_map(|i| [if (i / 3) % 2 == 0 { 0 } else { 255 }; 3]).collect();
        let fast = bicubic(&rgb, (w, h), (61, 50));
        assert!(fast.contains(&0) && fast.contains(&255));
        // The definition, value by value, along rows; then the shared second pass.
        let taps = Taps::new(w, 61, BICUBIC);
        let mut plain = vec![];
        for y in 0..h {
            for x in 0..61 {
                let (first, weights) = taps.at(x);
                for c in 0..3 {
                    let values = weights.iter().zip(first..);
                    plain.push(to_u8(values.fold(HALF, |s, (k, x)| s + k * i32::from(rgb[(y * w + x) * 3 + c]))));
                }
            }
        }
        assert_eq!(along_columns(&plain, 61 * 3, h, 50, BICUBIC), fast);
    }
}
