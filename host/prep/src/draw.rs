//! Text and charts on pixels, without system fonts: a picture in, the same picture with writing on it out.
//!
//! ```text
//!  text ─► glyphs of Unifont (8 or 16 pixels wide, 16 high) ─► RgbImage ─► PNG
//!                         plotters ─► Canvas ────────────────────┘
//! ```
//! GNU Unifont covers the Basic Multilingual Plane, so captions in Chinese are as legible as English ones. What it lacks is
//! drawn as a box.

use std::path::Path;

use image::{Rgb, RgbImage};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingErrorKind};

use crate::error::PrepError;
use crate::files::put;

/// Height of a line of text, in pixels.
pub const LINE: u32 = 16;

/// Black, for text.
pub const INK: Rgb<u8> = Rgb([0x20, 0x20, 0x20]);

/// Calls `dot(x, y)` for every black pixel of `text` in a coordinate system of its own, and returns the width.
fn dots(text: &str, mut dot: impl FnMut(u32, u32)) -> u32 {
    let mut left = 0;
    for c in text.chars() {
        let Some(glyph) = unifont::get_glyph(if c.is_control() { ' ' } else { c }) else {
            for at in 2..14 {
                [(1, at), (6, at)].into_iter().for_each(|(x, y)| dot(left + x, y));
            }
            for at in 1..7 {
                [(at, 2), (at, 13)].into_iter().for_each(|(x, y)| dot(left + x, y));
            }
            left += 8;
            continue;
        };
        let width = glyph.get_width() as u32;
        for y in 0..LINE {
            for x in 0..width {
                if glyph.get_pixel(x as usize, y as usize) {
                    dot(left + x, y);
                }
            }
        }
        left += width;
    }
    left
}

/// Width of a line of text, in pixels.
pub fn width(text: &str) -> u32 {
    text.chars().map(|c| unifont::get_glyph(c).map_or(8, |glyph| glyph.get_width() as u32)).sum()
}

/// Writes one line with its upper left corner at (`x`, `y`). What lies outside of the picture is cut off.
pub fn write(picture: &mut RgbImage, x: u32, y: u32, text: &str, colour: Rgb<u8>) {
    dots(text, |dx, dy| {
        if x + dx < picture.width() && y + dy < picture.height() {
            picture.put_pixel(x + dx, y + dy, colour);
        }
    });
}

/// Cuts a text into at most `lines` lines of `most` pixels, at spaces where there are any; what is left out is an ellipsis.
pub fn wrap(text: &str, most: u32, lines: usize) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut rest: Vec<char> = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    while !rest.is_empty() && out.len() < lines {
        let mut used = 0;
        let fits = rest.iter().position(|c| {
            used += width(c.encode_utf8(&mut [0; 4]));
            used > most
        });
        let Some(fits) = fits else {
            out.push(rest.drain(..).collect());
            break;
        };
        if out.len() + 1 == lines {
            let head: String = rest[..fits.saturating_sub(1)].iter().collect();
            out.push(head + "…");
            break;
        }
        // A line holds at least one character, however narrow it is.
        let space = rest[..fits].iter().rposition(|c| *c == ' ').filter(|at| *at > 0);
        let line: String = rest.drain(..space.unwrap_or(fits).max(1)).collect();
        out.push(line.trim().to_owned());
        while rest.first() == Some(&' ') {
            rest.remove(0);
        }
    }
    out
}

/// Writes a picture as PNG, whole or not at all; the same pixels are the same bytes.
pub fn put_png(path: &Path, picture: &RgbImage) -> Result<(), PrepError> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).map_err(|e| PrepError::Record {
        path: path.display().to_string(),
        why: format!("the picture cannot be encoded: {e}"),
        next: "this is a defect of the program",
    })?;
    put(path, &bytes.into_inner())
}

/// A picture that plotters draws on.
pub struct Canvas<'a>(pub &'a mut RgbImage);

/// Drawing on pixels cannot fail.
type Never = DrawingErrorKind<std::convert::Infallible>;

/// Text comes in whole multiples of the font's height.
fn scale(style: &impl BackendTextStyle) -> i32 {
    ((style.size() / f64::from(LINE)).round() as i32).clamp(1, 8)
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = std::convert::Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.0.dimensions()
    }

    fn ensure_prepared(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), Never> {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, colour: BackendColor) -> Result<(), Never> {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return Ok(()) };
        if x < self.0.width() && y < self.0.height() {
            let old = self.0.get_pixel(x, y).0;
            let new = <[u8; 3]>::from(colour.rgb);
            let mix = |i: usize| f64::from(old[i]) * (1.0 - colour.alpha) + f64::from(new[i]) * colour.alpha;
            self.0.put_pixel(x, y, Rgb([0, 1, 2].map(|i| mix(i).round() as u8)));
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Result<(), Never> {
        let scale = scale(style);
        let (wide, high) = (width(text) as i32 * scale, LINE as i32 * scale);
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Right => -wide,
            HPos::Center => -wide / 2,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -high / 2,
            VPos::Bottom => -high,
        };
        let (turn, colour) = (style.transform(), style.color());
        dots(text, |x, y| {
            for (dx, dy) in (0..scale).flat_map(|dy| (0..scale).map(move |dx| (dx, dy))) {
                let (x, y) = turn.transform(left + x as i32 * scale + dx, top + y as i32 * scale + dy);
                // Never fails: see the error's type.
                let _ = self.draw_pixel((at.0 + x, at.1 + y), colour);
            }
        });
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(&self, text: &str, style: &S) -> Result<(u32, u32), Never> {
        let scale = scale(style) as u32;
        Ok((width(text) * scale, LINE * scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(picture: &RgbImage) -> usize {
        picture.pixels().filter(|p| **p == INK).count()
    }

    #[test]
    fn text_is_where_it_was_put_in_any_script() {
        let mut picture = RgbImage::from_pixel(100, 20, Rgb([255; 3]));
        write(&mut picture, 4, 2, "aé图", INK);
        assert_eq!(width("aé图"), 32);
        let columns = |from: u32, to: u32| {
            picture.enumerate_pixels().filter(|(x, _, p)| (from..to).contains(x) && **p == INK).count()
        };
        assert!(columns(4, 12) > 5 && columns(12, 20) > 5 && columns(20, 36) > 20, "a glyph each");
        assert_eq!(columns(0, 4) + columns(36, 100), 0);
        // What the font lacks is a box, and what does not fit is cut off.
        let mut other = RgbImage::from_pixel(30, 20, Rgb([255; 3]));
        write(&mut other, 0, 0, "\u{1F600}", INK);
        assert_eq!(ink(&other), 32);
        write(&mut other, 26, 12, "WW", INK);
        assert!(ink(&other) > 32);
    }

    #[test]
    fn lines_break_at_spaces_and_end_in_an_ellipsis() {
        assert_eq!(wrap("a red\n dog", 48, 3), ["a red", "dog"]);
        assert_eq!(wrap("abcdefgh", 32, 3), ["abcd", "efgh"]);
        assert_eq!(wrap("a red dog runs", 48, 2), ["a red", "dog r…"]);
        assert_eq!(wrap("图图图", 32, 2), ["图图", "图"]);
        assert!(wrap("  ", 32, 2).is_empty());
        assert_eq!(wrap("图图", 8, 5), ["图", "图"], "too narrow for one: still one a line");
    }
}
