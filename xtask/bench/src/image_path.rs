//! JPEG bytes to patches: images a second, against PIL and NumPy doing the same where Python has them.

use std::{io::Cursor, process::Command};

use anyhow::{Context, Result};
use ovhost_data::ImageProcessor;

use crate::{median, time};

const PROCESSOR: &str = r#"{"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "temporal_patch_size": 1,
    "min_pixels": 3136, "max_pixels": 2560000, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711], "rescale_factor": 0.00392156862745098, "resample": 3,
    "do_resize": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true}"#;

/// The same work as one would write it in Python: decode, resize, normalise, cut into patches.
const PEER: &str = r#"
import sys, time, statistics, numpy as np
from PIL import Image
mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32); std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
def work():
    im = Image.open(sys.argv[1]).convert("RGB")
    w, h = round(im.width / 28) * 28, round(im.height / 28) * 28
    x = (np.asarray(im.resize((w, h), Image.BICUBIC), np.float32) / 255 - mean) / std
    x = x.reshape(h // 28, 2, 14, w // 28, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    return np.ascontiguousarray(x).reshape(-1, 588)
work(); t = []
for _ in range(40):
    a = time.perf_counter(); work(); t.append(time.perf_counter() - a)
print(statistics.median(t))
"#;

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let processor = ImageProcessor::from_json(PROCESSOR).map_err(|e| anyhow::anyhow!(e))?;
    // Smooth with texture, as photographs are: noise alone would make the JPEG decoder the whole cost.
    let picture = image::RgbImage::from_fn(640, 480, |x, y| {
        let wave = |a: f32, b: f32| (127.0 + 90.0 * ((x as f32 * a).sin() + (y as f32 * b).cos()) / 2.0) as u8;
        image::Rgb([wave(0.05, 0.03), wave(0.11, 0.07), wave(0.31, 0.23)])
    });
    let mut jpeg = Cursor::new(Vec::new());
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&picture)?;
    let jpeg = jpeg.into_inner();
    let mut seconds = Vec::new();
    let mut patches = 0;
    for _ in 0..40 {
        let (s, pixels) = time(|| Ok(processor.process(&jpeg)?))?;
        seconds.push(s);
        patches = pixels.data.len() / processor.patch_dim();
    }
    let ours = median(seconds);
    println!(
        "640×480 JPEG, {} bytes -> {patches} patches: {:.1} images/s on one core ({:.2} ms)",
        jpeg.len(),
        1.0 / ours,
        ours * 1e3
    );
    let path = std::env::temp_dir().join(format!("ovhost-bench-{}.jpg", std::process::id()));
    std::fs::write(&path, &jpeg).context("writing the picture for the peer")?;
    let peer = Command::new("python3").args(["-c", PEER]).arg(&path).env("OMP_NUM_THREADS", "1").output();
    std::fs::remove_file(&path)?;
    match peer {
        Ok(out) if out.status.success() => {
            let peer: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().context("the peer's median")?;
            println!("PIL + NumPy: {:.1} images/s; ours is {:.2} times as fast", 1.0 / peer, peer / ours);
        }
        _ => println!("PIL + NumPy: not here (pip install pillow numpy to compare)"),
    }
    Ok(())
}
