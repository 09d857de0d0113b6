//! Histograms and sources as PNG files: the same numbers are the same bytes.

use std::path::Path;

use image::{Rgb, RgbImage};
use plotters::prelude::*;

use super::{MEASURES, Spread, Tally};
use crate::draw::{Canvas, INK, LINE, put_png, width, write};
use crate::error::PrepError;

const SIZE: (u32, u32) = (960, 540);
/// Height of the two lines of text above a chart.
const HEAD: u32 = 56;
/// Most bars of a histogram.
const BARS: usize = 64;
/// Most sources that are drawn.
const SOURCES: usize = 32;

const FILL: RGBColor = RGBColor(0x3B, 0x6F, 0xB6);
const MARK: RGBColor = RGBColor(0xC0, 0x50, 0x20);

/// Draws `NAME.png` for everything that has values, and `sources.png`.
pub fn draw(out: &Path, all: &Tally) -> Result<(), PrepError> {
    for (name, unit, of, scale) in MEASURES {
        if let Some(spread) = all.spreads.get(name).filter(|s| s.count() > 0) {
            put_png(&out.join(format!("{name}.png")), &histogram(name, unit, of, scale, spread)?)?;
        }
    }
    if all.sources.is_empty() { Ok(()) } else { put_png(&out.join("sources.png"), &sources(all)) }
}

/// Bars: from, to, how many.
type Bar = (f64, f64, f64);

/// A long tail is drawn on a logarithmic scale.
fn is_long(spread: &Spread) -> bool {
    spread.max() >= 64 && spread.max() as f64 > 12.0 * spread.per_mille(500).max(1) as f64
}

/// The values as bars. A place that lies in several bars gives each its share, so that the scale's own steps do not show.
fn bars(spread: &Spread, long: bool) -> Vec<Bar> {
    let (low, high) = (spread.min(), spread.max());
    if high - low < BARS as u64 {
        let mut bars: Vec<Bar> = (low..=high).map(|v| (v as f64 - 0.5, v as f64 + 0.5, 0.0)).collect();
        for (from, to, n) in spread.places() {
            // Places are wider than one only far above a range as short as this.
            let (from, to) = (from.max(low), to.min(high));
            for value in from..=to {
                bars[(value - low) as usize].2 += n as f64 / (to - from + 1) as f64;
            }
        }
        return bars;
    }
    let to_scale = |v: f64| if long { v.max(0.5).ln() } else { v };
    let back = |v: f64| if long { v.exp() } else { v };
    let (start, end) = (to_scale(low as f64), to_scale(high as f64 + 1.0));
    let step = (end - start) / BARS as f64;
    let mut bars: Vec<Bar> =
        (0..BARS).map(|i| (back(start + step * i as f64), back(start + step * (i + 1) as f64), 0.0)).collect();
    for (from, to, n) in spread.places() {
        let (from, to) = (to_scale(from.max(low) as f64), to_scale(to.min(high) as f64 + 1.0));
        let bar = |v: f64| (((v - start) / step) as usize).min(BARS - 1);
        // Far from zero a place can be narrower than numbers are exact.
        if to <= from {
            bars[bar(from)].2 += n as f64;
            continue;
        }
        for (i, slot) in bars.iter_mut().enumerate().take(bar(to) + 1).skip(bar(from)) {
            let left = from.max(start + step * i as f64);
            let right = to.min(start + step * (i + 1) as f64);
            slot.2 += n as f64 * ((right - left) / (to - from)).max(0.0);
        }
    }
    bars
}

/// A number in few characters: 950, 12.3k, 4.56M.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e12 => (value / 1e12, "T"),
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    text + unit
}

fn histogram(name: &str, unit: &str, of: &str, scale: u64, spread: &Spread) -> Result<RgbImage, PrepError> {
    let mut picture = RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb([255; 3]));
    let shown = |v: u64| short(v as f64 / scale as f64);
    let title = format!("{name}: {unit} of {} {of}s", short(spread.count() as f64));
    let numbers = format!(
        "mean {}  min {}  p5 {}  p50 {}  p95 {}  p99 {}  max {}  sum {}",
        short(spread.mean() / scale as f64),
        shown(spread.min()),
        shown(spread.per_mille(50)),
        shown(spread.per_mille(500)),
        shown(spread.per_mille(950)),
        shown(spread.per_mille(990)),
        shown(spread.max()),
        shown(spread.sum),
    );
    write(&mut picture, 16, 12, &title, INK);
    write(&mut picture, 16, 12 + LINE + 4, &numbers, INK);
    let long = is_long(spread);
    let bars: Vec<Bar> =
        bars(spread, long).into_iter().map(|(a, b, n)| (a / scale as f64, b / scale as f64, n)).collect();
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return Ok(picture) };
    let range = (first.0, last.1.max(first.0 + f64::EPSILON));
    let top = bars.iter().fold(0.0, |top: f64, bar| top.max(bar.2)) * 1.05;
    let marks = [("p50", 500), ("p95", 950), ("p99", 990)].map(|(n, s)| (n, spread.per_mille(s) as f64 / scale as f64));
    let area = Canvas(&mut picture).into_drawing_area();
    let drawn = if long {
        chart(&area, (range.0..range.1).log_scale(), top, unit, of, &bars, &marks)
    } else {
        chart(&area, range.0..range.1, top, unit, of, &bars, &marks)
    };
    drawn.map_err(|e| PrepError::Record {
        path: format!("{name}.png"),
        why: format!("the plot cannot be drawn: {e}"),
        next: "this is a defect of the program",
    })?;
    drop(area);
    Ok(picture)
}

type Failed = DrawingAreaErrorKind<std::convert::Infallible>;

fn chart<X>(
    area: &DrawingArea<Canvas<'_>, plotters::coord::Shift>,
    x: X,
    top: f64,
    unit: &str,
    of: &str,
    bars: &[Bar],
    marks: &[(&str, f64)],
) -> Result<(), Failed>
where
    X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    X::CoordDescType: plotters::coord::ranged1d::ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(16)
        .margin_top(HEAD)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(unit)
        .y_desc(format!("{of}s"))
        .x_label_formatter(&|v| short(*v))
        .y_label_formatter(&|v| short(*v))
        .light_line_style(WHITE)
        .draw()?;
    let solid = bars.iter().filter(|bar| bar.2 > 0.0);
    chart.draw_series(solid.map(|(a, b, n)| Rectangle::new([(*a, 0.0), (*b, *n)], FILL.filled())))?;
    for (i, (name, at)) in marks.iter().enumerate() {
        chart.draw_series([PathElement::new([(*at, 0.0), (*at, top)], MARK)])?;
        // Marks that lie close together have their names below one another.
        let height = top * (0.97 - 0.05 * i as f64);
        chart.draw_series([Text::new(
            format!(" {name}"),
            (*at, height),
            ("sans-serif", 16).into_font().color(&MARK),
        )])?;
    }
    area.present()
}

/// Samples of each source, the largest first.
fn sources(all: &Tally) -> RgbImage {
    let sources = all.by_size();
    let shown = &sources[..sources.len().min(SOURCES)];
    let rows = shown.len() as u32 + u32::from(sources.len() > SOURCES);
    let mut picture = RgbImage::from_pixel(SIZE.0, HEAD + rows * (LINE + 6) + 16, Rgb([255; 3]));
    let title = format!("sources: samples of {} sources, {} in all", sources.len(), short(all.samples as f64));
    write(&mut picture, 16, 12, &title, INK);
    let label = |name: &str| {
        let mut name = name.to_owned();
        while width(&name) > 280 {
            name = format!("{}…", name.chars().take(name.chars().count().saturating_sub(2)).collect::<String>());
        }
        name
    };
    let largest = shown.first().map_or(1, |(_, s)| s.samples).max(1);
    for (row, (name, source)) in (0u32..).zip(shown) {
        let y = HEAD + row * (LINE + 6);
        let name = label(name);
        write(&mut picture, 304 - width(&name), y, &name, INK);
        let long = (source.samples as u128 * 460 / u128::from(largest)) as u32;
        for (dx, dy) in (0..long.max(1)).flat_map(|dx| (0..LINE).map(move |dy| (dx, dy))) {
            picture.put_pixel(312 + dx, y + dy, Rgb([FILL.0, FILL.1, FILL.2]));
        }
        let share = 100.0 * source.samples as f64 / all.samples.max(1) as f64;
        write(&mut picture, 320 + long, y, &format!("{} ({share:.1} %)", short(source.samples as f64)), INK);
    }
    if sources.len() > SOURCES {
        let rest: u64 = sources[SOURCES..].iter().map(|(_, s)| s.samples).sum();
        let words = format!("and {} more with {} samples", sources.len() - SOURCES, short(rest as f64));
        write(&mut picture, 312, HEAD + shown.len() as u32 * (LINE + 6), &words, INK);
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: impl IntoIterator<Item = u64>) -> Spread {
        let mut spread = Spread::default();
        values.into_iter().for_each(|v| spread.add(v));
        spread
    }

    #[test]
    fn bars_hold_all_of_the_values() {
        for values in [
            spread([3, 3, 4]),
            spread(0..20_000),
            spread((0..4000).map(|i| (i * i) / 7)),
            spread([9]),
            spread([0, 1 << 60]),
        ] {
            for long in [false, true] {
                let bars = bars(&values, long);
                let sum: f64 = bars.iter().map(|b| b.2).sum();
                assert!(
                    (sum - values.count() as f64).abs() < 1e-6 * values.count() as f64,
                    "{sum} of {}",
                    values.count()
                );
                assert!(bars.windows(2).all(|w| (w[0].1 - w[1].0).abs() <= 1e-9 * w[1].0.abs().max(1.0)));
            }
        }
        // An even spread looks even: no comb from the scale's steps.
        let even = bars(&spread(0..64_000), false);
        assert!(even.iter().all(|b| (b.2 - 1000.0).abs() < 10.0), "{even:?}");
        assert_eq!(bars(&spread([3, 3, 4]), false), [(2.5, 3.5, 2.0), (3.5, 4.5, 1.0)]);
    }

    #[test]
    fn plots_have_bars_where_the_values_are() {
        let fill = Rgb([FILL.0, FILL.1, FILL.2]);
        let blue = |p: &RgbImage, half: u32| {
            p.enumerate_pixels().filter(|(x, _, c)| x / (SIZE.0 / 2) == half && **c == fill).count()
        };
        let low = histogram("tokens", "tokens", "sample", 1, &spread((0..1000).map(|i| i % 100).chain([500]))).unwrap();
        assert!(blue(&low, 0) > 20 * blue(&low, 1).max(1), "{} {}", blue(&low, 0), blue(&low, 1));
        let even = histogram("aspect", "width / height", "image", 1000, &spread(0..1000)).unwrap();
        let (left, right) = (blue(&even, 0), blue(&even, 1));
        assert!(left > 50_000 && right > 50_000, "{left} {right}");
        assert_eq!(even, histogram("aspect", "width / height", "image", 1000, &spread(0..1000)).unwrap());
        histogram("images", "images", "sample", 1, &spread([0])).unwrap();
        assert!(is_long(&spread((1..1000).chain([1 << 40]))) && !is_long(&spread(0..1000)));
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 7.0, 0.256, 9_999.0, 12_345.0, 4.56e6, 2e9, 100e3].map(short);
        assert_eq!(texts, ["0", "7", "0.26", "9999", "12.3k", "4.56M", "2G", "100k"]);
    }
}
