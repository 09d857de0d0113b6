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
    whole(rgb, from, to, BICUBIC)
}

/// As [`bicubic`], with the Lanczos filter.
pub fn lanczos(rgb: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    whole(rgb, from, to, LANCZOS)
}

/// As [`bicubic`], with the result given to `take` from top to bottom, `rows` rows at a time (the last may be fewer): nothing
/// of the picture's size is made on the way.
pub fn bicubic_stripes(rgb: &[u8], from: (usize, usize), to: (usize, usize), rows: usize, take: impl FnMut(&[u8])) {
    stripes(rgb, from, to, BICUBIC, rows, take);
}

fn whole(rgb: &[u8], from: (usize, usize), to: (usize, usize), kernel: Kernel) -> Vec<u8> {
    let mut out = Vec::with_capacity(to.0 * to.1 * 3);
    stripes(rgb, from, to, kernel, 32, |stripe| out.extend_from_slice(stripe));
    out
}

fn stripes(
    rgb: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    kernel: Kernel,
    stripe: usize,
    mut take: impl FnMut(&[u8]),
) {
    debug_assert_eq!(rgb.len(), from.0 * from.1 * 3);
    let row_bytes = to.0 * 3;
    let mut window = Window::new(rgb, from.0, to.0, kernel);
    if from.1 == to.1 {
        for first in (0..to.1).step_by(stripe) {
            take(window.rows(first, to.1.min(first + stripe)));
        }
        return;
    }
    let taps = Taps::new(from.1, to.1, kernel);
    let mut out = vec![0; stripe.min(to.1) * row_bytes];
    for first in (0..to.1).step_by(stripe) {
        let last = to.1.min(first + stripe);
        // Where the filter begins and ends never goes back from row to row.
        let top = taps.at(first).0;
        let (bottom, weights) = taps.at(last - 1);
        let rows = window.rows(top, bottom + weights.len());
        let out = &mut out[..(last - first) * row_bytes];
        for (target, position) in out.chunks_exact_mut(row_bytes).zip(first..) {
            let (first, weights) = taps.at(position);
            columns(&rows[(first - top) * row_bytes..], weights, target);
        }
        take(out);
    }
}

/// Rows that are filtered together, one vector lane each.
const LANES: usize = 16;
/// Values of a row that are filtered together along columns.
const SPAN: usize = 32;

/// One value of each of `LANES` rows.
type Column = [u8; LANES];

/// Rows of a picture, filtered along themselves when they are wanted.
///
/// Along rows, neighbouring values of one row meet different weights, so lanes are rows: `LANES` rows are turned into
/// columns of `LANES` bytes, filtered, and turned back.
struct Window<'a> {
    rgb: &'a [u8],
    /// Bytes of a row, before and after.
    row_bytes: (usize, usize),
    /// None where the width stays.
    taps: Option<Taps>,
    columns: Vec<Column>,
    filtered: Vec<Column>,
    /// Filtered rows from `first` on.
    rows: Vec<u8>,
    first: usize,
}

impl<'a> Window<'a> {
    fn new(rgb: &'a [u8], width: usize, new_width: usize, kernel: Kernel) -> Self {
        let row_bytes = (width * 3, new_width * 3);
        let taps = (width != new_width).then(|| Taps::new(width, new_width, kernel));
        let (columns, filtered) = if taps.is_some() { row_bytes } else { (0, 0) };
        Window {
            rgb,
            row_bytes,
            taps,
            columns: vec![[0; LANES]; columns],
            filtered: vec![[0; LANES]; filtered],
            rows: Vec::new(),
            first: 0,
        }
    }

    /// Rows `from..to`. Both may only grow from call to call.
    fn rows(&mut self, from: usize, to: usize) -> &[u8] {
        let (before, after) = self.row_bytes;
        let Some(taps) = &self.taps else { return &self.rgb[from * before..to * before] };
        let gone = ((from - self.first) * after).min(self.rows.len());
        self.rows.drain(..gone);
        self.first = from;
        let mut next = from + self.rows.len() / after;
        while next < to {
            let source = &self.rgb[next * before..];
            let source = &source[..source.len().min(LANES * before)];
            let count = source.len() / before;
            to_columns(source, before, &mut self.columns);
            rows(&self.columns, &mut self.filtered, taps);
            let start = self.rows.len();
            self.rows.resize(start + count * after, 0);
            to_rows(&self.filtered, after, &mut self.rows[start..]);
            next += count;
        }
        &self.rows[..(to - from) * after]
    }
}

/// Up to `LANES` rows of `row_bytes` → columns; lanes without a row repeat the last one.
fn to_columns(rows: &[u8], row_bytes: usize, columns: &mut [Column]) {
    let last = rows.len() / row_bytes - 1;
    let (blocks, rest) = columns.as_chunks_mut::<LANES>();
    for (from, block) in (0..).step_by(LANES).zip(&mut *blocks) {
        transpose(std::array::from_fn(|lane| load(&rows[lane.min(last) * row_bytes + from..])), block);
    }
    for (column, at) in rest.iter_mut().zip(blocks.len() * LANES..) {
        *column = std::array::from_fn(|lane| rows[lane.min(last) * row_bytes + at]);
    }
}

/// The way back: as many rows as `rows` has room for.
fn to_rows(columns: &[Column], row_bytes: usize, rows: &mut [u8]) {
    let (blocks, rest) = columns.as_chunks::<LANES>();
    let mut turned = [[0; LANES]; LANES];
    for (from, block) in (0..).step_by(LANES).zip(blocks) {
        transpose(*block, &mut turned);
        for (row, values) in rows.chunks_exact_mut(row_bytes).zip(&turned) {
            row[from..][..LANES].copy_from_slice(values);
        }
    }
    let whole = blocks.len() * LANES;
    for (lane, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        for (value, column) in row[whole..].iter_mut().zip(rest) {
            *value = column[lane];
        }
    }
}

#[inline(always)]
fn load(bytes: &[u8]) -> Column {
    bytes.first_chunk().copied().unwrap_or_default()
}

/// Byte j of row i ↔ byte i of row j. Riffling the rows of the upper half into those of the lower one moves the highest bit
/// of a byte's place (row and column, 8 bits) to its lowest; four times, and row and column have changed places.
#[inline(always)]
fn transpose(mut tile: [Column; LANES], out: &mut [Column; LANES]) {
    for _ in 0..LANES.ilog2() {
        let before = tile;
        for i in 0..LANES / 2 {
            [tile[2 * i], tile[2 * i + 1]] = riffle(before[i], before[i + LANES / 2]);
        }
    }
    *out = tile;
}

/// The bytes of `a` and `b` in turn.
#[inline(always)]
fn riffle(a: Column, b: Column) -> [Column; 2] {
    let half = |from: usize| std::array::from_fn(|i| if i % 2 == 0 { a[from + i / 2] } else { b[from + i / 2] });
    [half(0), half(LANES / 2)]
}

#[inline(always)]
fn rows_body(columns: &[Column], out: &mut [Column], taps: &Taps) {
    let (columns, _) = columns.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<3>();
    for (position, px) in out.iter_mut().enumerate() {
        let (first, weights) = taps.at(position);
        let values = &columns[first..first + weights.len()];
        for (c, out) in px.iter_mut().enumerate() {
            let mut sums = [HALF; LANES];
            for (weight, value) in weights.iter().zip(values) {
                for (sum, value) in sums.iter_mut().zip(value[c]) {
                    *sum += weight * i32::from(value);
                }
            }
            *out = sums.map(to_u8);
        }
    }
}

/// Values from `start` on of the row of `width` values that the weighted `rows` make.
fn columns_body(rows: &[u8], weights: &[i32], width: usize, start: usize, out: &mut [u8]) {
    for (offset, out) in (start..).zip(out) {
        let values = weights.iter().enumerate();
        *out = to_u8(values.fold(HALF, |sum, (k, weight)| sum + weight * i32::from(rows[k * width + offset])));
    }
}

/// The two passes said in AVX2. Left to itself, the compiler puts neighbouring weights of one value into the lanes of a
/// vector and gathers bytes one by one for them, which takes five times as long.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;

    use super::{Column, FRACTION_BITS, HALF, SPAN, Taps, columns_body};

    #[target_feature(enable = "avx2")]
    pub(super) fn rows(columns: &[Column], out: &mut [Column], taps: &Taps) {
        let (columns, _) = columns.as_chunks::<3>();
        let (out, _) = out.as_chunks_mut::<3>();
        for (position, px) in out.iter_mut().enumerate() {
            let (first, weights) = taps.at(position);
            let values = &columns[first..first + weights.len()];
            for (c, out) in px.iter_mut().enumerate() {
                let mut sums = [_mm256_set1_epi32(HALF); 2];
                for (weight, value) in weights.iter().zip(values) {
                    add(&mut sums, *weight, &value[c]);
                }
                *out = narrow(sums);
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn columns(rows: &[u8], weights: &[i32], target: &mut [u8]) {
        let width = target.len();
        let (spans, rest) = target.as_chunks_mut::<SPAN>();
        let done = spans.len() * SPAN;
        for (span, out) in spans.iter_mut().enumerate() {
            let mut sums = [[_mm256_set1_epi32(HALF); 2]; 2];
            for (k, weight) in weights.iter().enumerate() {
                let values = &rows[k * width + span * SPAN..][..SPAN];
                for (sums, values) in sums.iter_mut().zip(values.as_chunks().0) {
                    add(sums, *weight, values);
                }
            }
            out.as_chunks_mut().0.copy_from_slice(&sums.map(|sums| narrow(sums)));
        }
        if !rest.is_empty() {
            columns_body(rows, weights, width, done, rest);
        }
    }

    /// Sixteen sums and a weight times sixteen values.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(sums: &mut [__m256i; 2], weight: i32, values: &[u8; 16]) {
        let weight = _mm256_set1_epi32(weight);
        for (sum, eight) in sums.iter_mut().zip(values.as_chunks().0) {
            let eight = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(*eight)));
            *sum = _mm256_add_epi32(*sum, _mm256_mullo_epi32(weight, eight));
        }
    }

    /// As [`super::to_u8`]: both packings saturate, which is the clamp. They work on halves, which the permutation puts in order.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn narrow(sums: [__m256i; 2]) -> [u8; 16] {
        let low = _mm256_srai_epi32::<{ FRACTION_BITS as i32 }>(sums[0]);
        let high = _mm256_srai_epi32::<{ FRACTION_BITS as i32 }>(sums[1]);
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        let (low, high) = (_mm_cvtsi128_si64(bytes) as u64, _mm_extract_epi64::<1>(bytes) as u64);
        (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
    }
}

fn rows(columns: &[Column], out: &mut [Column], taps: &Taps) {
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
    columns_body(rows, weights, target.len(), 0, target);
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
        assert_eq!(fast, plain(&rgb, (w, h), (61, 50)));
    }

    /// The definition, value by value.
    fn plain(rgb: &[u8], (w, h): (usize, usize), (new_w, new_h): (usize, usize)) -> Vec<u8> {
        let pass = |taps: &Taps, position: usize, value: &dyn Fn(usize) -> u8| {
            let (first, weights) = taps.at(position);
            to_u8(weights.iter().zip(first..).fold(HALF, |sum, (weight, at)| sum + weight * i32::from(value(at))))
        };
        let (along, down) = (Taps::new(w, new_w, BICUBIC), Taps::new(h, new_h, BICUBIC));
        let value = |x: usize, y: usize, c: usize| move |rgb: &[u8], width: usize| rgb[(y * width + x) * 3 + c];
        let mut rows = vec![];
        for (y, x, c) in (0..h).flat_map(|y| (0..new_w).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
            rows.push(if w == new_w { value(x, y, c)(rgb, w) } else { pass(&along, x, &|x| value(x, y, c)(rgb, w)) });
        }
        let mut out = vec![];
        for (y, x, c) in (0..new_h).flat_map(|y| (0..new_w).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
            let get = |y: usize| value(x, y, c)(&rows, new_w);
            out.push(if h == new_h { get(y) } else { pass(&down, y, &get) });
        }
        out
    }

    #[test]
    fn every_size_and_every_stripe_equal_the_definition() {
        let mut noise = 1u32;
        for from in [(1, 1), (3, 40), (16, 16), (17, 15), (31, 33), (50, 20), (90, 7)] {
            let rgb: Vec<u8> = std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (noise >> 24) as u8
            })
            .take(from.0 * from.1 * 3)
            .collect();
            for to in [(1, 1), (28, 28), (16, 40), from, (from.0, 56), (56, from.1), (84, 28)] {
                let expected = plain(&rgb, from, to);
                assert!(bicubic(&rgb, from, to) == expected, "{from:?} to {to:?}");
                for rows in [1, 14, 28, 100] {
                    let (mut striped, mut sizes) = (vec![], vec![]);
                    bicubic_stripes(&rgb, from, to, rows, |stripe| {
                        striped.extend_from_slice(stripe);
                        sizes.push(stripe.len() / to.0 / 3);
                    });
                    assert!(striped == expected, "{from:?} to {to:?} by {rows}");
                    assert!(sizes[..sizes.len() - 1].iter().all(|n| *n == rows), "{sizes:?}");
                }
            }
        }
    }

    #[test]
    fn the_portable_passes_equal_the_wide_ones() {
        let columns_of =
            |n: usize| -> Vec<Column> { (0..n).map(|i| std::array::from_fn(|j| (i * 37 + j * 91) as u8)).collect() };
        let taps = Taps::new(40, 29, BICUBIC);
        let source = columns_of(120);
        let (mut fast, mut slow) = (columns_of(87), columns_of(87));
        rows(&source, &mut fast, &taps);
        rows_body(&source, &mut slow, &taps);
        assert_eq!(fast, slow);
        let (first, weights) = taps.at(7);
        let (mut fast, mut slow) = ([0; 101], [0; 101]);
        let source = &source.as_flattened()[first * 101..];
        columns(source, weights, &mut fast);
        columns_body(source, weights, 101, 0, &mut slow);
        assert_eq!(fast, slow);
    }
}
