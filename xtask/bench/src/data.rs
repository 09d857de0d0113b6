//! Rows with small pictures to packed shards: `ovhost data convert`, `filter` and `pack`, against the same steps in Python with
//! webdataset, PIL and Hugging Face's tokenizers. CPU seconds of whole processes, the system's part included: what a core does,
//! whatever else the machine is busy with.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::{Usage, ovhost};
use crate::{filter::captions, images::PROCESSOR, median, pictures, python, verdict};

const SAMPLES: usize = 100_000;
/// Python does fewer, and its time is scaled: a sample costs it the same.
const PEER_SAMPLES: usize = 5_000;
/// Different pictures; more would only take longer to make.
const DISTINCT: usize = 2_000;
const ROUNDS: usize = 3;
/// Least that ours is faster by, a core.
const RATIO: f64 = 10.0;
const STEPS: [&str; 3] = ["convert", "filter", "pack"];
const SCRIPT: &str = include_str!("data.py");

#[derive(Deserialize)]
struct Round {
    seconds: [f64; 3],
    kept: u64,
    tokens: u64,
    packs: u64,
    versions: String,
}

/// Runs the benchmark.
pub fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let small = tempfile::tempdir()?;
    write(dir.path(), SAMPLES)?;
    write(small.path(), PEER_SAMPLES)?;
    let has = python::has(&["webdataset", "PIL", "tokenizers"], "webdataset pillow tokenizers");
    let count = PEER_SAMPLES.to_string();
    let mut peer =
        if has { Some(python::Peer::start(SCRIPT, &[small.path().as_os_str(), count.as_ref()])?) } else { None };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(steps(dir.path())?);
        if let Some(peer) = &mut peer {
            theirs.push(peer.go::<Round>()?);
        }
    }
    let column = |i: usize| median(ours.iter().map(|round| round[i].seconds).collect()) / SAMPLES as f64;
    let ours: Vec<f64> = (0..STEPS.len()).map(column).collect();
    let total: f64 = ours.iter().sum();
    println!("{SAMPLES} samples of 64 to 128 pixels a side, captions of 10 to 60 words; microseconds of CPU a sample");
    let counts = |folder: &Path| -> Result<[u64; 3]> {
        let text = std::fs::read_to_string(folder.join("packed/pack.json")).context("the packs' description")?;
        let counts = serde_json::from_str::<Value>(&text)?["counts"].take();
        Ok(["samples", "tokens", "packs"].map(|name| counts[name].as_u64().unwrap_or(0)))
    };
    let Some(round) = theirs.first() else {
        STEPS.iter().zip(&ours).for_each(|(step, s)| println!("{step:<8} {:>7.1}", s * 1e6));
        println!("all      {:>7.1}: {:.0} samples/s on one core", total * 1e6, 1.0 / total);
        return Ok(());
    };
    let column = |i: usize| median(theirs.iter().map(|round| round.seconds[i]).collect()) / PEER_SAMPLES as f64;
    let theirs: Vec<f64> = (0..STEPS.len()).map(column).collect();
    println!("Python ({}) does {PEER_SAMPLES} of them, scaled", round.versions);
    println!("{:<8} {:>7} {:>8} {:>6}", "", "ours", "Python", "ratio");
    for ((step, ours), theirs) in STEPS.iter().zip(&ours).zip(&theirs) {
        println!("{step:<8} {:>7.1} {:>8.1} {:>6.1}", ours * 1e6, theirs * 1e6, theirs / ours);
    }
    let sum: f64 = theirs.iter().sum();
    println!(
        "{:<8} {:>7.1} {:>8.1} {:>6.1}  bar {RATIO} {}; {:.0} samples/s on one core, Python {:.0}",
        "all",
        total * 1e6,
        sum * 1e6,
        sum / total,
        verdict(sum >= RATIO * total),
        1.0 / total,
        1.0 / sum
    );
    // Ours on the very samples of the peer: the same are kept, and they have the same tokens.
    steps(small.path())?;
    let [kept, tokens, packs] = counts(small.path())?;
    ensure!(
        (kept, tokens) == (round.kept, round.tokens),
        "the peer keeps {} samples with {} tokens, ours {kept} with {tokens}: they do not do the same",
        round.kept,
        round.tokens
    );
    println!(
        "of the {PEER_SAMPLES} both keep {kept} with {tokens} tokens; packs of 8192: ours {packs}, Python {}",
        round.packs
    );
    Ok(())
}

/// The three steps over a folder that `write` made.
fn steps(folder: &Path) -> Result<[Usage; 3]> {
    for made in ["shards", "clean", "packed"] {
        match std::fs::remove_dir_all(folder.join(made)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    let convert = ["data", "convert", "--input", "rows.jsonl", "--image-dir", "images", "--out", "shards"];
    let filter =
        ["data", "filter", "--input", "shards", "--out", "clean", "--filters", "filters.toml", "--workers", "1"];
    let pack = ["data", "pack", "--recipe", "recipe.toml", "--input", "clean", "--out", "packed", "--workers", "1"];
    Ok([ovhost(folder, &convert)?, ovhost(folder, &filter)?, ovhost(folder, &pack)?])
}

/// A table with pictures in a folder, a tokenizer and the settings of the steps.
pub fn write(folder: &Path, samples: usize) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let long = captions(samples, 60);
    let words = |text: &str, n: usize| text.split(' ').take(n).collect::<Vec<_>>().join(" ");
    let model = folder.join("model");
    ovhost_data::tokenizer_train::train_bpe(long.iter().take(500).cloned(), 600, &model)?;
    std::fs::write(model.join("preprocessor_config.json"), PROCESSOR)?;
    let mut files = Vec::new();
    for i in 0..DISTINCT.min(samples) {
        let (width, height) = (random.random_range(64..=128), random.random_range(64..=128));
        // One in five is a PNG, and smaller: they take several times the bytes.
        files.push(match i % 5 {
            0 => {
                let (width, height) = (width.min(96), height.min(96));
                let picture =
                    image::RgbImage::from_raw(width as u32, height as u32, pictures::photo(width, height, i as u64));
                let mut png = std::io::Cursor::new(Vec::new());
                picture.context("the picture has its size")?.write_to(&mut png, image::ImageFormat::Png)?;
                ("png", png.into_inner())
            }
            _ => ("jpg", pictures::jpeg(width, height, 85, i as u64)?),
        });
    }
    let images = folder.join("images");
    std::fs::create_dir(&images)?;
    let mut rows = std::io::BufWriter::new(std::fs::File::create(folder.join("rows.jsonl"))?);
    for (i, text) in long.iter().enumerate() {
        let mut caption = words(text, random.random_range(10..=60));
        match i % 50 {
            0 => caption.insert_str(0, "I'm sorry, but "),
            1 => caption.truncate(30),
            2 => caption.push_str(&" very".repeat(12)),
            _ => {}
        }
        let (kind, bytes) = &files[i % files.len()];
        let image = format!("{i:06}.{kind}");
        std::fs::write(images.join(&image), bytes)?;
        writeln!(rows, "{}", json!({ "id": format!("{i:06}"), "image": image, "caption": caption }))?;
    }
    rows.flush()?;
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins").canonicalize()?;
    let plugin = |name: &str| json!(plugins.join(name)).to_string();
    let filters = format!(
        "[[filter]]\nplugin = {}\n\n[[filter]]\nplugin = {}\n",
        plugin("filters/image_geometry.wasm"),
        plugin("filters/caption_quality.wasm")
    );
    std::fs::write(folder.join("filters.toml"), filters)?;
    let recipe = format!(
        "[run]\nfolder = \"run\"\nseed = 1\n\n[model]\nfolder = \"model\"\n\n[data]\ntrain = \"clean\"\ncapacity = 8192\n\n\
         [plugins.prompt]\nplugin = {}\n\n[plugins.packer]\nplugin = {}\nconfig = {{ mode = \"offline\" }}\n\n[train]\nsteps = 1\nlr = 1e-4\n",
        plugin("prompts/conversation.wasm"),
        plugin("packers/padding_free.wasm")
    );
    std::fs::write(folder.join("recipe.toml"), recipe)?;
    Ok(())
}
