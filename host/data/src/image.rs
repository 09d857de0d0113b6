//! Encoded picture → patch rows, equal to the reference's `Qwen2VLImageProcessor` on Pillow.
//!
//! ```text
//!  bytes ─ decode ─► RGB u8 [h,w,3] ─ smart_resize + bicubic ─► rows of tokens ─ scale, normalise, patchify ─► f32 [patches, 3·t·p·p]
//!            │                            (resample.rs)                          (one table look-up a value)
//!            └ decode.rs: header, bounds, Pillow's conversion to RGB (check.rs: whether it would succeed)
//! ```
//! Sizes, grids and token counts need only (width, height), never pixels.

pub mod check;
pub mod decode;
pub mod phash;
pub mod resample;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use check::check;
pub use decode::{RgbPicture, decode_rgb, header, header_of};

/// Pictures whose header promises more pixels than this are refused before anything is decoded.
pub const DEFAULT_MAX_DECODE_PIXELS: u64 = 100_000_000;

/// Side ratio beyond which the reference refuses a picture.
const MAX_ASPECT: f64 = 200.0;

/// Why a picture or a processor configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The bytes are no picture of a known kind.
    #[error(
        "not a picture that can be read: the first bytes are {head}; JPEG, PNG, WebP, GIF, BMP and TIFF are supported"
    )]
    Unknown {
        /// First bytes, in hex.
        head: String,
    },
    /// Header or pixel data are damaged.
    #[error("corrupt {format} picture: {reason}; replace the file or leave the sample out")]
    Corrupt {
        /// Format by content.
        format: &'static str,
        /// The decoder's own words.
        reason: String,
    },
    /// More pixels than the bound: a decompression bomb, or a bound that is too low.
    #[error(
        "picture of {width}x{height} = {pixels} pixels is over the bound of {bound} pixels and was not decoded; raise max_image_pixels (in a recipe data.max_image_pixels) if it is meant"
    )]
    TooLarge {
        /// Width of the header.
        width: u32,
        /// Height of the header.
        height: u32,
        /// Their product.
        pixels: u64,
        /// The bound in force.
        bound: u64,
    },
    /// Too thin for the model's resize rule.
    #[error("picture of {width}x{height} has a side ratio of {ratio:.1}; at most 200 is possible: crop or drop it")]
    Aspect {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Longer side by shorter side.
        ratio: f64,
    },
    /// `preprocessor_config.json` is missing or unusable.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
}

/// The fields of `preprocessor_config.json` that matter here; every other field is left alone.
#[derive(Debug, Default, Deserialize)]
struct RawConfig {
    image_processor_type: Option<String>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    resample: Option<i64>,
    rescale_factor: Option<f64>,
    image_mean: Option<Vec<f64>>,
    image_std: Option<Vec<f64>>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    size: Option<RawSize>,
    patch_size: Option<u32>,
    merge_size: Option<u32>,
    temporal_patch_size: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct RawSize {
    shortest_edge: Option<u64>,
    longest_edge: Option<u64>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
}

/// A configured image processor. Cheap to clone; shared freely between threads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageProcessor {
    /// Smallest area after resizing, pixels.
    pub min_pixels: u64,
    /// Largest area after resizing, pixels.
    pub max_pixels: u64,
    /// Side of a ViT patch, pixels.
    pub patch_size: u32,
    /// Patches merged along each side into one token.
    pub merge_size: u32,
    /// Frames per patch; a still picture is repeated.
    pub temporal_patch_size: u32,
    /// Mean per channel (R, G, B) after scaling.
    pub image_mean: [f64; 3],
    /// Standard deviation per channel (R, G, B) after scaling.
    pub image_std: [f64; 3],
    /// Factor on the 8-bit values; 1 when rescaling is off.
    pub rescale_factor: f64,
    /// Bound on header pixels before decoding (`data.max_image_pixels`); not part of the model's configuration.
    #[serde(skip)]
    pub max_decode_pixels: u64,
}

/// Patch rows of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Row-major [grid product, 3 · temporal · patch · patch]; a row is ordered channel, frame, y, x.
    pub data: Vec<f32>,
    /// Patches along time, height and width.
    pub grid: [i64; 3],
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a model folder.
    pub fn from_folder(dir: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path: PathBuf = dir.as_ref().join("preprocessor_config.json");
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path).map_err(|error| ImageError::Config {
            path: name.clone(),
            reason: format!("cannot be read ({error}); a model folder needs this file to know its picture sizes"),
        })?;
        Self::from_json(&text).map_err(|reason| ImageError::Config { path: name, reason })
    }

    /// Reads the text of a `preprocessor_config.json`. The error says which field is wrong.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let raw: RawConfig = serde_json::from_str(text).map_err(|error| format!("not valid: {error}"))?;
        if let Some(kind) = &raw.image_processor_type
            && !kind.starts_with("Qwen2VLImageProcessor")
            && !kind.starts_with("Qwen2_5_VLImageProcessor")
        {
            return Err(format!("image_processor_type is \"{kind}\"; only Qwen2VLImageProcessor is supported"));
        }
        if raw.do_resize == Some(false) {
            return Err("do_resize is false; patches need sides that are whole multiples: set it to true".into());
        }
        if let Some(resample) = raw.resample.filter(|r| *r != 3) {
            return Err(format!("resample is {resample}; only 3 (bicubic) is supported"));
        }
        let size = raw.size.unwrap_or_default();
        // As in transformers: the top-level names win over `size`.
        let min_pixels = raw.min_pixels.or(size.shortest_edge).or(size.min_pixels).unwrap_or(56 * 56);
        let max_pixels = raw.max_pixels.or(size.longest_edge).or(size.max_pixels).unwrap_or(28 * 28 * 1280);
        let three = |name: &str, values: Option<Vec<f64>>, default: [f64; 3]| -> Result<[f64; 3], String> {
            match values {
                None => Ok(default),
                Some(v) => <[f64; 3]>::try_from(v).map_err(|v| format!("{name} has {} values; it needs 3", v.len())),
            }
        };
        let mut mean = three("image_mean", raw.image_mean, [0.48145466, 0.4578275, 0.40821073])?;
        let mut std = three("image_std", raw.image_std, [0.26862954, 0.26130258, 0.27577711])?;
        if raw.do_normalize == Some(false) {
            (mean, std) = ([0.0; 3], [1.0; 3]);
        }
        let factor = if raw.do_rescale == Some(false) { 1.0 } else { raw.rescale_factor.unwrap_or(1.0 / 255.0) };
        Self {
            min_pixels,
            max_pixels,
            patch_size: raw.patch_size.unwrap_or(14),
            merge_size: raw.merge_size.unwrap_or(2),
            temporal_patch_size: raw.temporal_patch_size.unwrap_or(2),
            image_mean: mean,
            image_std: std,
            rescale_factor: factor,
            max_decode_pixels: DEFAULT_MAX_DECODE_PIXELS,
        }
        .validated()
    }

    /// Checks the fields against each other; the error names the field, its value and what is allowed.
    pub fn validated(self) -> Result<Self, String> {
        let small = |name: &str, value: u32, most: u32| {
            if value == 0 || value > most {
                return Err(format!("{name} is {value}; it must be between 1 and {most}"));
            }
            Ok(())
        };
        small("patch_size", self.patch_size, 256)?;
        small("merge_size", self.merge_size, 64)?;
        small("temporal_patch_size", self.temporal_patch_size, 16)?;
        if self.min_pixels == 0 || self.min_pixels > self.max_pixels {
            return Err(format!(
                "pixel bounds are {} to {}; the lower one must be at least 1 and not above the upper one",
                self.min_pixels, self.max_pixels
            ));
        }
        if self.max_pixels > 1 << 31 {
            return Err(format!("max_pixels is {}; at most {} is supported", self.max_pixels, 1u64 << 31));
        }
        if let Some(std) = self.image_std.iter().find(|s| !s.is_finite() || **s == 0.0) {
            return Err(format!("image_std holds {std}; every value must be finite and not 0"));
        }
        Ok(self)
    }

    /// Pixels along one side of a token: patch × merge.
    pub fn factor(&self) -> u32 {
        self.patch_size * self.merge_size
    }

    /// Values in one patch row.
    pub fn patch_dim(&self) -> usize {
        3 * (self.temporal_patch_size * self.patch_size * self.patch_size) as usize
    }

    /// Size after resizing: (height, width) in, (height', width') out, both whole multiples of [`Self::factor`].
    /// Rounds half to even, as Python does.
    pub fn smart_resize(&self, height: u32, width: u32) -> Result<(u32, u32), ImageError> {
        let (h, w) = (f64::from(height), f64::from(width));
        let ratio = h.max(w) / h.min(w);
        if height == 0 || width == 0 || ratio > MAX_ASPECT {
            return Err(ImageError::Aspect { width, height, ratio });
        }
        let factor = f64::from(self.factor());
        let (min, max) = (self.min_pixels as f64, self.max_pixels as f64);
        let mut h_bar = (h / factor).round_ties_even() * factor;
        let mut w_bar = (w / factor).round_ties_even() * factor;
        if h_bar * w_bar > max {
            let beta = (h * w / max).sqrt();
            h_bar = ((h / beta / factor).floor() * factor).max(factor);
            w_bar = ((w / beta / factor).floor() * factor).max(factor);
        } else if h_bar * w_bar < min {
            let beta = (min / (h * w)).sqrt();
            h_bar = (h * beta / factor).ceil() * factor;
            w_bar = (w * beta / factor).ceil() * factor;
        }
        // A side that rounds to nothing makes the area 0, so it went through the second branch: both are at least one token.
        Ok((h_bar as u32, w_bar as u32))
    }

    /// Patches along (time, height, width) for a picture of this size.
    pub fn grid(&self, width: u32, height: u32) -> Result<[usize; 3], ImageError> {
        let (h, w) = self.smart_resize(height, width)?;
        Ok(self.whole_grid(h, w).map(|side| side as usize))
    }

    /// Patches along (time, height, width) of a picture whose sides are whole multiples of the factor.
    fn whole_grid(&self, height: u32, width: u32) -> [i64; 3] {
        [1, (height / self.patch_size).into(), (width / self.patch_size).into()]
    }

    /// Tokens that a picture of this size takes in the decoder (without its start and end tags).
    pub fn tokens(&self, width: u32, height: u32) -> Result<usize, ImageError> {
        let (h, w) = self.smart_resize(height, width)?;
        let factor = self.factor();
        Ok((h / factor) as usize * (w / factor) as usize)
    }

    /// Decodes, resizes, normalises and patchifies one encoded picture.
    pub fn process(&self, bytes: &[u8]) -> Result<Pixels, ImageError> {
        let mut data = Vec::new();
        let grid = self.process_to(bytes, &mut data)?;
        Ok(Pixels { data, grid })
    }

    /// As [`Self::process`], with the patches put at the end of `out`: a pack's pictures lie one after the other, and are
    /// made in their place. Returns the grid.
    pub fn process_to(&self, bytes: &[u8], out: &mut Vec<f32>) -> Result<[i64; 3], ImageError> {
        let picture = decode_rgb(bytes, self.max_decode_pixels)?;
        let (height, width) = self.smart_resize(picture.height, picture.width)?;
        let to = (width as usize, height as usize);
        let from = (picture.width as usize, picture.height as usize);
        let grid = self.whole_grid(height, width);
        out.reserve(to.0 * to.1 * self.patch_dim() / (self.patch_size * self.patch_size) as usize);
        let levels = self.levels();
        // One row of tokens after the other: the resized picture never exists as a whole.
        let stripe = self.factor() as usize;
        resample::bicubic_stripes(&picture.data, from, to, stripe, |rows| {
            self.patchify(rows, rows.len() / (to.0 * 3), to.0, &levels, out);
        });
        Ok(grid)
    }

    /// What a black picture of this size becomes: same grid, no content. For measuring what a model sees.
    pub fn blank_to(&self, width: u32, height: u32, out: &mut Vec<f32>) -> Result<[i64; 3], ImageError> {
        let (h, w) = self.smart_resize(height, width)?;
        self.patchify(&vec![0; h as usize * w as usize * 3], h as usize, w as usize, &self.levels(), out);
        Ok(self.whole_grid(h, w))
    }

    /// The normalised value of every 8-bit level, per channel. The product is taken in f64 and rounded once to f32,
    /// then mean and deviation are applied in f32: the order in which the reference rounds.
    fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            let (mean, std) = (self.image_mean[c] as f32, self.image_std[c] as f32);
            std::array::from_fn(|v| ((v as f64 * self.rescale_factor) as f32 - mean) / std)
        })
    }

    /// `rgb`: [height, width, 3], sides whole multiples of the factor. Patch order: block row, block column, row in the
    /// block, column in the block; a block is `merge`×`merge` patches.
    fn patchify(&self, rgb: &[u8], height: usize, width: usize, levels: &[[f32; 256]; 3], data: &mut Vec<f32>) {
        let (patch, merge) = (self.patch_size as usize, self.merge_size as usize);
        let frame = patch * patch;
        let frames = self.temporal_patch_size as usize;
        let (rows, cols) = (height / patch, width / patch);
        data.reserve(rows * cols * self.patch_dim());
        for block_row in (0..rows).step_by(merge) {
            for block_col in (0..cols).step_by(merge) {
                for row in block_row..block_row + merge {
                    for col in block_col..block_col + merge {
                        for (c, level) in levels.iter().enumerate() {
                            let start = data.len();
                            for y in row * patch..(row + 1) * patch {
                                let from = (y * width + col * patch) * 3;
                                let line = &rgb[from..from + patch * 3];
                                data.extend(line.chunks_exact(3).map(|px| level[usize::from(px[c])]));
                            }
                            for _ in 1..frames {
                                data.extend_from_within(start..start + frame);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
