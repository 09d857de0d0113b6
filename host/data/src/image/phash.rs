//! A picture's perceptual hash: 64 bits that change little when it is scaled, recompressed or slightly edited.
//!
//! ```text
//!  RGB ─ luma (ITU-R 601) ─► Lanczos to 32 × 32 ─► DCT-II both ways ─► lowest 8 × 8 ─► bit = above their median
//! ```
//! The definition, and on pictures with any texture the bits, are those of `phash` in Python's ImageHash, so that hashes
//! made elsewhere compare. There a flat picture's bits come from rounding noise; here such coefficients count as 0.

use std::f64::consts::PI;
use std::sync::LazyLock;

use super::{RgbPicture, resample};

/// Side of the shrunken picture.
const SIDE: usize = 32;
/// Side of the block of low frequencies.
const LOW: usize = 8;
/// Coefficients are sums of 1,024 8-bit values: smaller than this is rounding.
const NOISE: f64 = 1e-6;

/// `cos(π k (2n + 1) / 2N)` for the low frequencies k and all n.
static COSINES: LazyLock<[[f64; SIDE]; LOW]> = LazyLock::new(|| {
    std::array::from_fn(|k| std::array::from_fn(|n| (PI * k as f64 * (2 * n + 1) as f64 / (2 * SIDE) as f64).cos()))
});

/// The hash; its most significant bit is the mean's. Compare two by the number of bits that differ.
pub fn phash(picture: &RgbPicture) -> u64 {
    let grey: Vec<u8> = picture
        .data
        .chunks_exact(3)
        .flat_map(|px| {
            let sum = 19_595 * u32::from(px[0]) + 38_470 * u32::from(px[1]) + 7_471 * u32::from(px[2]);
            [((sum + 0x8000) >> 16) as u8; 3]
        })
        .collect();
    let size = (picture.width as usize, picture.height as usize);
    let small = resample::lanczos(&grey, size, (SIDE, SIDE));
    // Along columns, then along rows; only what the block needs.
    let mut half = [[0.0; SIDE]; LOW];
    for (k, cosines) in COSINES.iter().enumerate() {
        for (x, sum) in half[k].iter_mut().enumerate() {
            *sum = (0..SIDE).map(|y| f64::from(small[(y * SIDE + x) * 3]) * cosines[y]).sum();
        }
    }
    let mut block = [0.0; LOW * LOW];
    for (row, line) in half.iter().enumerate() {
        for (k, cosines) in COSINES.iter().enumerate() {
            let sum: f64 = line.iter().zip(cosines).map(|(value, cosine)| value * cosine).sum();
            block[row * LOW + k] = if sum.abs() < NOISE { 0.0 } else { sum };
        }
    }
    let mut sorted = block;
    sorted.sort_unstable_by(f64::total_cmp);
    let median = f64::midpoint(sorted[block.len() / 2 - 1], sorted[block.len() / 2]);
    block.iter().fold(0, |hash, value| hash << 1 | u64::from(*value > median))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waves of several lengths and directions, as no two seeds share.
    fn picture(seed: u32, width: u32, height: u32) -> RgbPicture {
        let mut data = Vec::new();
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let value = (x * (3 + seed) + y * (5 + 2 * seed) + c * 40 + (x * y * (seed + 1)) / 97) % 256;
                    data.push(value as u8);
                }
            }
        }
        RgbPicture { width, height, data }
    }

    #[test]
    fn equals_imagehash() {
        // Computed by ImageHash 4.3 with Pillow from the same pixels.
        for (seed, width, height, expected) in EXPECTED {
            assert_eq!(phash(&picture(seed, width, height)), expected, "seed {seed}, {width} x {height}");
        }
    }

    #[test]
    fn flat_pictures_agree_and_scaling_changes_little() {
        let flat = |value: u8, side: u32| RgbPicture {
            width: side,
            height: side,
            data: vec![value; (side * side * 3) as usize],
        };
        assert_eq!(phash(&flat(200, 64)), phash(&flat(90, 17)));
        let large = picture(0, 256, 192);
        let small = resample::bicubic(&large.data, (256, 192), (200, 150));
        let small = RgbPicture { width: 200, height: 150, data: small };
        assert!((phash(&large) ^ phash(&small)).count_ones() <= 4);
        assert!((phash(&large) ^ phash(&picture(9, 256, 192))).count_ones() > 10);
    }

    const EXPECTED: [(u32, u32, u32, u64); 5] = [
        (0, 64, 48, 0xf881_3f60_0f7a_507b),
        (1, 640, 480, 0x87dd_42fd_2555_1598),
        (2, 33, 31, 0xab81_3f6a_425b_5176),
        (5, 500, 200, 0xc669_b122_da0b_f535),
        (7, 32, 32, 0xcad8_4b59_421b_b5ad),
    ];
}
