//! `cargo xtask demo`: from nothing to a model that answers questions about pictures that it never saw.
//!
//! ```text
//!  pip: easy-vqa ─► ovhost data convert ─► shards ─► ovhost tokenizer train ─► ovhost model new
//!     ─► ovhost train ─► ovhost eval (with pictures, and with blank ones) ─► ovhost infer
//! ```
//! Every step leaves a file; a second run goes on where the first one stopped.

mod align;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::{ovhost, setup, setup_all};

/// The examples that have a demo.
const EXAMPLES: [&str; 3] = ["easy_vqa", "fashion_mnist", "align_smollm2"];

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct DemoArgs {
    /// Which example to run: easy_vqa (questions about shapes), fashion_mnist (captions of product photos) or align_smollm2
    /// (the same captions by a pretrained language model that learns to see)
    #[arg(default_value = "easy_vqa")]
    example: String,
    /// Remove the example's data, model and run first
    #[arg(long)]
    fresh: bool,
    /// Train for this many steps instead of the recipe's
    #[arg(long)]
    steps: Option<u64>,
}

/// Runs the demo.
pub fn demo(root: &Path, args: &DemoArgs) -> Result<()> {
    let dir = root.join("examples").join(&args.example);
    ensure!(
        dir.join("recipe.toml").is_file() && EXAMPLES.contains(&args.example.as_str()),
        "there is no demo called {:?}; there are {}",
        args.example,
        EXAMPLES.join(", ")
    );
    setup_all(root)?;
    if args.fresh {
        for name in ["data", "tokenizer", "llm", "model", "runs"] {
            let path = dir.join(name);
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
        }
    }
    let demo = Demo { root, dir, started: Instant::now() };
    match args.example.as_str() {
        "align_smollm2" => return demo.align(args.steps),
        "fashion_mnist" => demo.fashion_data()?,
        _ => demo.easy_vqa_data()?,
    }
    demo.model()?;
    demo.train(args.steps)?;
    demo.evaluate(args.example == "easy_vqa")
}

struct Demo<'a> {
    root: &'a Path,
    dir: PathBuf,
    started: Instant,
}

impl Demo<'_> {
    /// Runs `ovhost` in the example's folder, showing the command line that a user would type.
    fn ovhost(&self, args: &[&str]) -> Result<()> {
        println!("\n$ ovhost {}", args.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" "));
        let status = Command::new(ovhost(self.root))
            .args(args)
            .current_dir(&self.dir)
            .env("OVHOST_PLUGIN_PATH", self.root.join("target/plugins"))
            .status()
            .context("ovhost could not be started")?;
        ensure!(status.success(), "`ovhost {}` failed ({status})", args.join(" "));
        Ok(())
    }

    fn done(&self, path: &str) -> bool {
        self.dir.join(path).exists()
    }

    fn easy_vqa_data(&self) -> Result<()> {
        let source = self.root.join(".deps/easy_vqa");
        if !source.join("train/questions.json").exists() {
            println!("\nfetching Easy-VQA (PyPI package easy-vqa 1.0, MIT, 3 MB)");
            let downloads = self.root.join(".deps/downloads");
            let status = Command::new("python3")
                .args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "easy-vqa==1.0", "-d"])
                .arg(&downloads)
                .status()
                .context("python3 -m pip could not be started")?;
            ensure!(status.success(), "pip could not download easy-vqa 1.0 ({status})");
            let staging = self.root.join(".deps/easy_vqa.tmp");
            unpack(&downloads.join("easy_vqa-1.0-py3-none-any.whl"), "easy_vqa/data/", &staging)?;
            fs::rename(&staging, &source)?;
        }
        for (split, group) in [("train", true), ("test", false)] {
            if self.done(&format!("data/{split}/shard-000000.tar")) {
                continue;
            }
            // Relative to the example's folder, as a user would type it.
            let (questions, images, out) = (
                format!("../../.deps/easy_vqa/{split}/questions.json"),
                format!("../../.deps/easy_vqa/{split}/images"),
                format!("data/{split}"),
            );
            let mut args = vec!["data", "convert", "--input", &questions, "--fields", "question,answer,image"];
            args.extend(["--image-dir", &images, "--image-pattern", "{image}.png", "--out", &out]);
            if group {
                args.extend(["--group-by", "image"]);
            }
            self.ovhost(&args)?;
        }
        Ok(())
    }

    fn fashion_data(&self) -> Result<()> {
        let source = self.root.join(".deps/fashion_mnist");
        let installed = Path::new("/usr/share/datasets/fashion-mnist");
        let debian = Path::new("/usr/share/dataset/fashion-mnist");
        let found =
            [source.as_path(), installed, debian].into_iter().find(|d| d.join("train-images-idx3-ubyte.gz").exists());
        let source = match found {
            Some(dir) => dir.to_path_buf(),
            None => {
                println!(
                    "\nfetching Fashion-MNIST (Debian package dataset-fashion-mnist, MIT, 31 MB; unpacked here, not installed)"
                );
                let downloads = self.root.join(".deps/downloads");
                fs::create_dir_all(&downloads)?;
                let status = Command::new("apt-get")
                    .args(["download", "dataset-fashion-mnist"])
                    .current_dir(&downloads)
                    .status()
                    .context("apt-get is not here; put the four .gz files of Fashion-MNIST into .deps/fashion_mnist and run this again")?;
                ensure!(
                    status.success(),
                    "apt-get could not download dataset-fashion-mnist ({status}); `apt-get update` may help"
                );
                let deb = fs::read_dir(&downloads)?
                    .flatten()
                    .map(|e| e.path())
                    .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("dataset-fashion-mnist")))
                    .context("the downloaded package is not in .deps/downloads")?;
                let tree = downloads.join("fashion");
                let status = Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(&deb)
                    .arg(&tree)
                    .status()
                    .context("dpkg-deb could not be started")?;
                ensure!(status.success(), "dpkg-deb could not unpack {} ({status})", deb.display());
                let staging = self.root.join(".deps/fashion_mnist.tmp");
                fs::create_dir_all(&staging)?;
                collect_gz(&tree, &staging)?;
                fs::rename(&staging, &source)?;
                source
            }
        };
        for (split, prefix) in [("train", "train"), ("test", "t10k")] {
            if self.done(&format!("data/{split}/shard-000000.tar")) {
                continue;
            }
            let images = source.join(format!("{prefix}-images-idx3-ubyte.gz"));
            let labels = source.join(format!("{prefix}-labels-idx1-ubyte.gz"));
            let (images, labels, out) = (images.to_string_lossy(), labels.to_string_lossy(), format!("data/{split}"));
            self.ovhost(&[
                "data",
                "convert",
                "--input",
                &images,
                "--labels",
                &labels,
                "--class-names",
                "classes.txt",
                "--out",
                &out,
            ])?;
        }
        Ok(())
    }

    fn model(&self) -> Result<()> {
        if !self.done("tokenizer/tokenizer.json") {
            self.ovhost(&["tokenizer", "train", "--data", "data/train", "--vocab-size", "512", "--out", "tokenizer"])?;
        }
        if !self.done("model/config.json") {
            let args = [
                "--config",
                "architecture.json",
                "--processor",
                "preprocessor_config.json",
                "--tokenizer",
                "tokenizer",
            ];
            self.ovhost(&[["model", "new"].as_slice(), &args, &["--out", "model"]].concat())?;
        }
        Ok(())
    }

    fn train(&self, steps: Option<u64>) -> Result<()> {
        if self.done("runs/demo/model") {
            println!("\nruns/demo already holds a trained model; `cargo xtask demo --fresh` trains again");
            return Ok(());
        }
        let set = steps.map(|s| format!("train.steps={s}"));
        // A folder of its own, so that a plain `ovhost train` here starts a run and finds none in its way.
        let mut args = vec!["train", "--set", "run.folder=runs/demo"];
        if let Some(set) = &set {
            args.extend(["--set", set]);
        }
        if self.done("runs/demo/run.json") {
            args.push("--resume");
        }
        let begin = Instant::now();
        self.ovhost(&args)?;
        println!("trained in {:.0} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    fn evaluate(&self, blank: bool) -> Result<()> {
        // Answers of an earlier demo, maybe by an older program or other plugins, would be refused or taken for these.
        for folder in ["runs/demo/eval", "runs/demo/eval-blank"] {
            let folder = self.dir.join(folder);
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
            }
        }
        self.ovhost(&["eval", "--recipe", "recipe.toml", "--model", "runs/demo/model", "--out", "runs/demo/eval"])?;
        let seen = self.score("runs/demo/eval")?;
        let blind = if blank {
            let args = ["eval", "--recipe", "recipe.toml", "--model", "runs/demo/model", "--blank-images"];
            self.ovhost(&[args.as_slice(), &["--out", "runs/demo/eval-blank"]].concat())?;
            Some(self.score("runs/demo/eval-blank")?)
        } else {
            None
        };
        let (picture, question) = self.picture(blank)?;
        self.ovhost(&["infer", "--model", "runs/demo/model", "--image", &picture, "--prompt", question])?;
        println!("\nheld-out exact match, with pictures     {:.2} %", seen * 100.0);
        if let Some(blind) = blind {
            println!("held-out exact match, pictures blanked  {:.2} %", blind * 100.0);
        }
        println!("demo finished in {:.0} s after set-up\n\nnext:", self.started.elapsed().as_secs_f64());
        let dir = self.dir.strip_prefix(self.root).unwrap_or(&self.dir).display();
        println!("  cd {dir}");
        println!(
            "  ../../target/release/ovhost infer --model runs/demo/model --image {picture} --prompt \"{question}\""
        );
        println!(
            "  ../../target/release/ovhost train --plugins packers/sequential.wasm      (less dense packs: compare the fill)"
        );
        println!("  ../../target/release/ovhost plugin inspect packers/padding_free.wasm");
        println!("  ../../target/release/ovhost recipe keys");
        Ok(())
    }

    /// A held-out picture as a file, and a question about it.
    fn picture(&self, easy: bool) -> Result<(String, &'static str)> {
        if easy {
            let path = self.root.join(".deps/easy_vqa/test/images/0.png");
            let near = self.dir.join("data/sample.png");
            fs::copy(&path, &near).with_context(|| format!("copying {}", path.display()))?;
            return Ok(("data/sample.png".into(), "what color is the shape?"));
        }
        self.ovhost(&["data", "show", "data/test", "--limit", "1", "--save-images", "data/sample"])?;
        let image = fs::read_dir(self.dir.join("data/sample"))?.flatten().next().context("no picture was saved")?;
        Ok((format!("data/sample/{}", image.file_name().to_string_lossy()), "What is this?"))
    }

    fn score(&self, folder: &str) -> Result<f64> {
        let path = self.dir.join(folder).join("results.json");
        let results: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).with_context(|| format!("reading {}", path.display()))?)?;
        results
            .pointer("/tasks/eval/metrics/exact_match/value")
            .and_then(serde_json::Value::as_f64)
            .with_context(|| format!("{} has no exact_match", path.display()))
    }
}

fn quote(arg: &str) -> String {
    if arg.is_empty() || arg.contains([' ', '{', '"', '?']) { format!("'{arg}'") } else { arg.to_owned() }
}

/// Unpacks the members below `prefix` of a wheel.
fn unpack(wheel: &Path, prefix: &str, to: &Path) -> Result<()> {
    let file = fs::File::open(wheel).with_context(|| format!("opening {}", wheel.display()))?;
    let mut zip = zip::ZipArchive::new(file)
        .with_context(|| format!("{} is damaged; delete it and run again", wheel.display()))?;
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let bar = setup::progress(zip.len() as u64, "unpacking");
    for i in 0..zip.len() {
        let mut member = zip.by_index(i)?;
        bar.inc(1);
        let Some(name) = member.enclosed_name() else { continue };
        let Ok(rel) = name.strip_prefix(prefix) else { continue };
        if member.is_dir() {
            continue;
        }
        let path = to.join(rel);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        std::io::copy(&mut member, &mut fs::File::create(&path)?)?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn collect_gz(tree: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(tree)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_gz(&path, to)?;
        } else if let Some(name) = path.file_name().filter(|n| n.to_string_lossy().ends_with(".gz")) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
