//! `image_geometry`: drops rows with an image that is too small, too large or too elongated.
//!
//! Sizes come from the images' headers (columns `widths` and `heights`, one value per image), so nothing is decoded. A
//! row goes if any of its images breaks a rule.
//!
//! ```toml
//! [[plugins.filter]]
//! plugin = "filters/image_geometry.wasm"
//! config = { min_side = 64, max_aspect = 4.0, keep_without_image = false }
//! ```
//!
//! | reason | rule |
//! |---|---|
//! | `no image` | no image, and `keep_without_image` is off |
//! | `side too small` | the shorter side is below `min_side` |
//! | `too elongated` | longer side ÷ shorter side is above `max_aspect` |
//! | `too few pixels`, `too many pixels` | width × height outside `min_pixels..=max_pixels` |
//!
//! The defaults drop only what the model's image processor cannot use: images with a side under one merged patch
//! (28 pixels), and an aspect ratio above 200.

use ovhost_sdk::prelude::*;

/// Configuration of `image_geometry`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, crate = "ovhost_sdk::serde")]
#[schemars(crate = "ovhost_sdk::schemars")]
pub struct Config {
    /// Least length of the shorter side, in pixels. 0 turns the rule off.
    pub min_side: u32,
    /// Largest ratio of the longer to the shorter side. 0 turns the rule off.
    pub max_aspect: f64,
    /// Fewest pixels (width × height). 0 turns the rule off.
    pub min_pixels: u64,
    /// Most pixels (width × height). 0 turns the rule off.
    pub max_pixels: u64,
    /// Whether rows without any image are kept.
    pub keep_without_image: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_side: 28, max_aspect: 200.0, min_pixels: 0, max_pixels: 0, keep_without_image: true }
    }
}

/// The filter.
pub struct ImageGeometry {
    config: Config,
}

impl Plugin for ImageGeometry {
    type Config = Config;
    const NAME: &'static str = "image_geometry";
    const SUMMARY: &'static str = "Drops rows with an image that is too small, too large or too elongated.";
    const READS: &'static [Need] = &[Need::u32_lists("widths"), Need::u32_lists("heights")];

    fn new(config: Config, _assets: &Assets) -> Result<Self, ConfigError> {
        let mut findings = Findings::new();
        findings.require(config.max_aspect == 0.0 || config.max_aspect >= 1.0, "/max_aspect", || {
            format!("{} is longer side ÷ shorter side: use 0 (off) or at least 1", config.max_aspect)
        });
        findings.require(config.max_pixels == 0 || config.max_pixels >= config.min_pixels, "/max_pixels", || {
            format!("{} is below min_pixels = {}; use 0 (no bound) or more", config.max_pixels, config.min_pixels)
        });
        findings.finish()?;
        Ok(Self { config })
    }
}

impl Filter for ImageGeometry {
    fn row(&mut self, _ctx: &mut RowCtx, row: &Row) -> Verdict {
        let widths = row.u32_list("widths").unwrap_or_default();
        let heights = row.u32_list("heights").unwrap_or_default();
        if widths.len() != heights.len() {
            return Verdict::Error(format!("{} widths and {} heights", widths.len(), heights.len()));
        }
        if widths.is_empty() && !self.config.keep_without_image {
            return Verdict::drop("no image");
        }
        let broken = widths.iter().zip(heights).find_map(|(&width, &height)| self.config.broken_rule(width, height));
        broken.map_or(Verdict::Keep, Verdict::drop)
    }
}

impl Config {
    /// The first rule that an image breaks.
    fn broken_rule(&self, width: u32, height: u32) -> Option<&'static str> {
        let (short, long) = (width.min(height), width.max(height));
        let pixels = u64::from(width) * u64::from(height);
        if short < self.min_side {
            Some("side too small")
        } else if self.max_aspect > 0.0 && f64::from(long) > self.max_aspect * f64::from(short) {
            Some("too elongated")
        } else if pixels < self.min_pixels {
            Some("too few pixels")
        } else if self.max_pixels > 0 && pixels > self.max_pixels {
            Some("too many pixels")
        } else {
            None
        }
    }
}

ovhost_sdk::export_filter!(ImageGeometry);

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::testing;

    fn reasons(config: Json, images: &[&[(u32, u32)]]) -> Vec<Option<String>> {
        let row = |sizes: &&[(u32, u32)]| {
            let (widths, heights): (Vec<_>, Vec<_>) = sizes.iter().copied().unzip();
            json!({ "widths": widths, "heights": heights })
        };
        let rows: Vec<_> = images.iter().map(row).collect();
        let outcome = testing::filter::<ImageGeometry>(config).unwrap().run(json!(rows));
        outcome.reasons().into_iter().map(|reason| reason.map(String::from)).collect()
    }

    fn reason(config: Json, width: u32, height: u32) -> Option<String> {
        reasons(config, &[&[(width, height)]]).remove(0)
    }

    #[test]
    fn each_rule_has_an_inclusive_bound_and_its_reason() {
        let config = json!({ "min_side": 50, "max_aspect": 3.0, "min_pixels": 5000, "max_pixels": 40000 });
        let cases = [
            (50, 100, None),
            (49, 120, Some("side too small")),
            (150, 50, None),
            (151, 50, Some("too elongated")),
            (50, 99, Some("too few pixels")),
            (200, 200, None),
            (201, 200, Some("too many pixels")),
        ];
        for (width, height, want) in cases {
            assert_eq!(reason(config.clone(), width, height).as_deref(), want, "{width}x{height}");
        }
    }

    #[test]
    fn defaults_drop_only_what_the_processor_cannot_use() {
        assert_eq!(reason(json!({}), 28, 28), None);
        assert_eq!(reason(json!({}), 27, 4000).as_deref(), Some("side too small"));
        assert_eq!(reason(json!({}), 28, 5600), None);
        assert_eq!(reason(json!({}), 28, 5601).as_deref(), Some("too elongated"));
        assert_eq!(reason(json!({}), u32::MAX, u32::MAX), None);
        assert_eq!(reason(json!({ "min_side": 0, "max_aspect": 0.0 }), 0, 9), None);
    }

    #[test]
    fn every_image_of_a_row_counts() {
        let good = (100, 100);
        let rows: [&[(u32, u32)]; 3] = [&[good, good], &[good, (10, 100)], &[]];
        let want = [None, Some("side too small".to_owned()), None];
        assert_eq!(reasons(json!({}), &rows), want);
        let want = [None, Some("side too small".to_owned()), Some("no image".to_owned())];
        assert_eq!(reasons(json!({ "keep_without_image": false }), &rows), want);
    }

    #[test]
    fn unequal_lists_are_row_errors() {
        let rows = json!([{ "widths": [5, 6], "heights": [5] }]);
        let outcome = testing::filter::<ImageGeometry>(json!({})).unwrap().run(rows);
        assert_eq!(outcome.errors(), [(0, "2 widths and 1 heights")]);
    }

    #[test]
    fn senseless_configurations_are_refused_with_their_place() {
        let bad = json!({ "max_aspect": 0.5, "min_pixels": 10, "max_pixels": 9 });
        let error = testing::filter::<ImageGeometry>(bad).err().unwrap();
        let paths: Vec<_> = error.findings.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["/max_aspect", "/max_pixels"]);
    }
}
