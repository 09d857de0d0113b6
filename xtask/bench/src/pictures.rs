//! Pictures that cost a decoder about what photographs do: detail at every scale, falling off with frequency, under smooth
//! colour, with a few hard edges. The same seed gives the same picture.

use anyhow::{Result, anyhow};
use libjpeg_turbo_rs::{PixelFormat, Subsampling};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// RGB of such a picture, [height, width, 3].
pub fn photo(width: usize, height: usize, seed: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut light = vec![128.0f32; width * height];
    let mut cell = (width.max(height) / 3).max(2);
    let mut strength = 55.0;
    while cell >= 2 {
        add_noise(&mut light, width, height, cell, strength, &mut random);
        cell /= 2;
        strength *= 0.72;
    }
    for _ in 0..6 {
        let (x, y) = (random.random_range(0..width), random.random_range(0..height));
        let (w, h) = (random.random_range(1..=width.div_ceil(4)), random.random_range(1..=height.div_ceil(4)));
        let step = random.random_range(-60.0..60.0f32);
        for row in light.chunks_mut(width).skip(y).take(h) {
            row.iter_mut().skip(x).take(w).for_each(|v| *v += step);
        }
    }
    let tints: Vec<Vec<f32>> = (0..2)
        .map(|_| {
            let mut tint = vec![0.0f32; width * height];
            for part in [3, 12, 40] {
                add_noise(&mut tint, width, height, (width.max(height) / part).max(2), 24.0, &mut random);
            }
            tint
        })
        .collect();
    let mut out = Vec::with_capacity(width * height * 3);
    for (i, light) in light.iter().enumerate() {
        let grain = random.random_range(-2.0..2.0f32);
        let (a, b) = (tints[0][i], tints[1][i]);
        out.extend([light + a + grain, light - 0.5 * (a + b) + grain, light + b + grain].map(|v| v as u8));
    }
    out
}

/// The same as a JPEG with halved colour, as cameras and the web write them.
pub fn jpeg(width: usize, height: usize, quality: u8, seed: u64) -> Result<Vec<u8>> {
    let rgb = photo(width, height, seed);
    libjpeg_turbo_rs::compress(&rgb, width, height, PixelFormat::Rgb, quality, Subsampling::S420)
        .map_err(|e| anyhow!("a picture could not be encoded: {e}"))
}

/// Adds random values at the corners of squares of `cell` pixels, joined smoothly.
fn add_noise(out: &mut [f32], width: usize, height: usize, cell: usize, strength: f32, random: &mut ChaCha8Rng) {
    let (columns, rows) = (width / cell + 2, height / cell + 2);
    let corners: Vec<f32> = (0..columns * rows).map(|_| random.random_range(-strength..strength)).collect();
    let smooth = |at: usize| {
        let t = (at % cell) as f32 / cell as f32;
        t * t * (3.0 - 2.0 * t)
    };
    for (y, row) in out.chunks_mut(width).enumerate().take(height) {
        let (top, v) = (y / cell * columns, smooth(y));
        for (x, value) in row.iter_mut().enumerate() {
            let (left, u) = (top + x / cell, smooth(x));
            let across = |at: usize| corners[at] + u * (corners[at + 1] - corners[at]);
            let (a, b) = (across(left), across(left + columns));
            *value += a + v * (b - a);
        }
    }
}
