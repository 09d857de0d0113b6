//! The image path, JPEG bytes to patches (decode, resize, normalise, cut up), against PIL and torch on the same pictures, and
//! against `transformers`' own processor where it is there: CPU seconds of one thread each, and how far the values lie apart.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ovhost_data::ImageProcessor;
use serde::Deserialize;

use crate::{cpu_time, median, pictures, python, verdict};

const ROUNDS: usize = 9;
/// Least that ours is faster by, and most that a value may differ by, in steps of the 8-bit pixels.
const RATIO: f64 = 2.0;
const LEVELS: f32 = 1.0;
/// Width, height, quality: a thumbnail, one that needs no resizing, web and data set sizes, and two that must shrink.
const PICTURES: [(usize, usize, u8); 7] = [
    (256, 171, 85),
    (448, 448, 90),
    (640, 480, 90),
    (800, 533, 85),
    (1024, 768, 85),
    (2048, 1365, 85),
    (4032, 3024, 92),
];
const SCRIPT: &str = include_str!("images.py");

/// What LLaVA-OneVision-1.5's training uses.
pub const PROCESSOR: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "temporal_patch_size": 1,
    "min_pixels": 3136, "max_pixels": 2560000, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "rescale_factor": 0.00392156862745098, "resample": 3,
    "do_resize": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true}"#;

/// CPU seconds of every picture.
#[derive(Deserialize)]
struct Round {
    torch: Vec<f64>,
    transformers: Option<Vec<f64>>,
    versions: String,
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let processor = ImageProcessor::from_json(PROCESSOR).map_err(|e| anyhow::anyhow!(e))?;
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("preprocessor_config.json"), PROCESSOR)?;
    let mut files = Vec::new();
    for (i, (width, height, quality)) in PICTURES.into_iter().enumerate() {
        let bytes = pictures::jpeg(width, height, quality, i as u64)?;
        std::fs::write(dir.path().join(format!("{i}.jpg")), &bytes)?;
        files.push(bytes);
    }
    let peer = python::has(&["PIL", "torch", "numpy"], "pillow==11.3.0 torch==2.11.0 numpy transformers==4.53.1");
    let mut peer = if peer { Some(python::Peer::start(SCRIPT, &[dir.path().as_os_str()])?) } else { None };
    let (mut ours, mut theirs) = (vec![Vec::new(); files.len()], Vec::new());
    for _ in 0..ROUNDS {
        for (bytes, times) in files.iter().zip(&mut ours) {
            times.push(cpu_time(|| Ok(processor.process(bytes)?))?.0);
        }
        if let Some(peer) = &mut peer {
            theirs.push(peer.go::<Round>()?);
        }
    }
    let ours: Vec<f64> = ours.into_iter().map(median).collect();
    let of = |pick: &dyn Fn(&Round) -> Option<&Vec<f64>>| -> Option<Vec<f64>> {
        let rounds: Vec<&Vec<f64>> = theirs.iter().map(pick).collect::<Option<_>>()?;
        let column = |i: usize| rounds.iter().filter_map(|r| r.get(i).copied()).collect();
        (!rounds.is_empty()).then(|| (0..files.len()).map(|i| median(column(i))).collect())
    };
    let torch = of(&|r| Some(&r.torch));
    let transformers = of(&|r| r.transformers.as_ref());
    if let Some(round) = theirs.first() {
        println!("{}", round.versions);
    }
    println!("JPEG          kB  bit/px  patches   ours ms  PIL + torch  ratio  transformers  ratio  levels off");
    let shown = |times: &Option<Vec<f64>>, i: usize, ours: f64, width: usize| match times {
        Some(times) => format!("{:>width$.2}  {:>5.2}", times[i] * 1e3, times[i] / ours),
        None => format!("{:>width$}  {:>5}", "-", "-"),
    };
    let (mut worst, mut off, mut all) = (0.0f32, 0, 0);
    for (i, ((width, height, _), bytes)) in PICTURES.into_iter().zip(&files).enumerate() {
        let [_, rows, columns] = processor.grid(width as u32, height as u32)?;
        let mut levels = "-".to_owned();
        if torch.is_some() {
            let (most, differ, count) = differences(&processor, bytes, &dir.path().join(format!("{i}.f32")))?;
            levels = format!("{most:.2}");
            worst = worst.max(most);
            off += differ;
            all += count;
        }
        println!(
            "{:<10} {:>5.0} {:>7.2} {:>8} {:>9.2}  {}  {}  {levels:>10}",
            format!("{width}×{height}"),
            bytes.len() as f64 / 1e3,
            8.0 * bytes.len() as f64 / (width * height) as f64,
            rows * columns,
            ours[i] * 1e3,
            shown(&torch, i, ours[i], 11),
            shown(&transformers, i, ours[i], 12),
        );
    }
    let sum = |times: &[f64]| times.iter().sum::<f64>();
    let pixels: usize = PICTURES.iter().map(|(w, h, _)| w * h).sum();
    println!("ours: {:.1} megapixels/s on one core", pixels as f64 / 1e6 / sum(&ours));
    let Some(torch) = torch else { return Ok(()) };
    let ratios: Vec<f64> = torch.iter().zip(&ours).map(|(a, b)| a / b).collect();
    let (middle, least) = (median(ratios.clone()), ratios.iter().copied().fold(f64::INFINITY, f64::min));
    println!(
        "against PIL + torch: {middle:.2} times as fast on the middle picture, {least:.2} on the worst, {:.2} on all together; \
         bar {RATIO}: {}",
        sum(&torch) / sum(&ours),
        verdict(least >= RATIO)
    );
    println!(
        "largest difference {worst:.2} of an 8-bit level; {:.4} % of {all} values differ by more than a hundredth of one; \
         bar {LEVELS}: {}",
        100.0 * off as f64 / all as f64,
        verdict(worst <= LEVELS * 1.001)
    );
    Ok(())
}

/// Largest difference to the peer's patches in 8-bit levels; how many values differ, of how many.
fn differences(processor: &ImageProcessor, bytes: &[u8], file: &Path) -> Result<(f32, usize, usize)> {
    let ours = processor.process(bytes)?.data;
    let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let theirs = std::fs::read(file).with_context(|| format!("the peer left no patches {name}"))?;
    let theirs = theirs.as_chunks::<4>().0;
    ensure!(ours.len() == theirs.len(), "{name}: the peer has {} values, ours {}", theirs.len(), ours.len());
    let channel = processor.patch_dim() / 3;
    let (mut worst, mut off) = (0.0f32, 0);
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let level = (processor.rescale_factor / processor.image_std[i / channel % 3]) as f32;
        let difference = (a - f32::from_ne_bytes(*b)).abs() / level;
        off += usize::from(difference > 0.01);
        worst = worst.max(difference);
    }
    Ok((worst, off, ours.len()))
}
