//! A small world to run the program in: pictures of one colour, a question about each, a tokenizer, an untrained model.
//! It is made once by the program's own commands; each test works on a copy.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::{Value, json};

/// The colours of the pictures, which are also the answers.
pub const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 20, 20]), ("green", [20, 200, 30]), ("blue", [30, 40, 210]), ("white", [250, 250, 250])];

/// Samples in the training shards.
pub const SAMPLES: usize = 48;

/// A sample of a shard: its key and its parts (extension, bytes).
pub type Sample<'a> = (&'a str, Vec<(&'a str, Vec<u8>)>);

/// A folder with `recipe.toml`, `data/`, `tokenizer/` and `model/`.
pub struct Lab {
    /// Removed when the lab is dropped.
    dir: tempfile::TempDir,
}

/// What a run of the program gave.
pub struct Ran {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Asserts failure by an ordinary error (no panic, no signal) whose text has every one of `parts`.
    #[track_caller]
    pub fn fails_with(self, parts: &[&str]) -> Ran {
        assert!(
            self.code > 0 && self.code != 101,
            "exit code {}\nstdout:\n{}\nstderr:\n{}",
            self.code,
            self.out,
            self.err
        );
        for part in parts {
            assert!(self.err.contains(part), "the error lacks {part:?}:\n{}", self.err);
        }
        self
    }
}

/// Runs the built program in `dir`.
pub fn ovhost(dir: &Path, args: &[&str]) -> Ran {
    Ran::of(command(dir, args).output().expect("the built program starts"))
}

/// The built program, ready to start in `dir`.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovhost"));
    command.args(args).current_dir(dir).env("OVHOST_PLUGIN_PATH", plugins()).env_remove("RUST_LOG");
    command
}

/// The built first-party plugins.
pub fn plugins() -> PathBuf {
    let given = std::env::var_os("OVHOST_PLUGINS_DIR").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| root().join("target/plugins"));
    assert!(
        dir.join("packers/sequential.wasm").is_file(),
        "{} has no plugins: run `cargo xtask plugins` (or `cargo xtask test`, which does)",
        dir.display()
    );
    dir
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("host/cli is two levels down").to_path_buf()
}

/// One JSON object a line.
pub fn jsonl(path: impl AsRef<Path>) -> Vec<Value> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

/// A PNG of one colour.
pub fn png(width: u32, height: u32, rgb: [u8; 3]) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb(rgb));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).expect("PNG");
    bytes.into_inner()
}

const RECIPE: &str = r#"
[run]
folder = "runs/a"
seed = 7
threads = 1
device = "cpu"

[model]
folder = "model"
precision = "fp32"

[data]
train = "data/train"
capacity = 128
packs_per_batch = 2
workers = 2
shuffle_buffer = 16

[[plugins.filter]]
plugin = "filters/image_geometry.wasm"
config = { min_side = 8 }

[plugins.prompt]
plugin = "prompts/conversation.wasm"

[plugins.packer]
plugin = "packers/padding_free.wasm"
config = { window = 8 }

[[plugins.metric]]
plugin = "metrics/exact_match.wasm"

[train]
steps = 8
lr = 3e-3
warmup_steps = 2
weight_decay = 0.01

[checkpoint]
every = 2
keep = 2

[eval]
shards = ["data/test"]
max_new_tokens = 4
batch_size = 8
"#;

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TEMPLATE
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary folder");
            build(dir.path());
            dir
        })
        .path()
}

fn build(dir: &Path) {
    fs::create_dir_all(dir.join("source")).unwrap();
    for (name, rgb) in COLOURS {
        fs::write(dir.join(format!("source/{name}.png")), png(16, 16, rgb)).unwrap();
    }
    for (split, count) in [("train", SAMPLES), ("test", 12)] {
        let rows: Vec<String> = (0..count)
            .map(|i| {
                let name = COLOURS[i % COLOURS.len()].0;
                json!({"id": format!("{split}{i:03}"), "image": format!("{name}.png"), "question": "what colour is it?", "answer": name})
                    .to_string()
            })
            .collect();
        fs::write(dir.join(format!("{split}.jsonl")), rows.join("\n")).unwrap();
        let (input, out) = (format!("{split}.jsonl"), format!("data/{split}"));
        ovhost(dir, &["data", "convert", "--input", &input, "--image-dir", "source", "--out", &out]).ok();
    }
    ovhost(dir, &["tokenizer", "train", "--data", "data/train", "--vocab-size", "300", "--out", "tokenizer"]).ok();
    let architecture = json!({
        "architectures": ["LLaVAOneVision1_5_ForConditionalGeneration"], "model_type": "llavaonevision1_5",
        "text_config": {
            "model_type": "LLaVAOneVision1_5_text", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "max_position_embeddings": 512, "initializer_range": 0.05, "attention_bias": false,
            "tie_word_embeddings": false
        },
        "vision_config": {
            "model_type": "rice_vit", "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "in_channels": 3,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
            "initializer_range": 0.05, "text_hidden_size": 32
        }
    });
    fs::write(dir.join("architecture.json"), architecture.to_string()).unwrap();
    let processor = json!({
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "merge_size": 2, "temporal_patch_size": 1,
        "min_pixels": 64, "max_pixels": 4096, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 0.00392156862745098, "do_resize": true, "do_rescale": true, "do_normalize": true, "do_convert_rgb": true,
        "resample": 3
    });
    fs::write(dir.join("preprocessor_config.json"), processor.to_string()).unwrap();
    let args = ["model", "new", "--config", "architecture.json", "--processor", "preprocessor_config.json"];
    ovhost(dir, &[args.as_slice(), &["--tokenizer", "tokenizer", "--out", "model", "--seed", "3"]].concat()).ok();
    fs::write(dir.join("recipe.toml"), RECIPE).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Lab {
    /// A fresh copy.
    pub fn new() -> Lab {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy(template(), dir.path());
        Lab { dir }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the program in it.
    pub fn run(&self, args: &[&str]) -> Ran {
        ovhost(self.path(), args)
    }

    /// Replaces text in the recipe; the text must be there.
    #[track_caller]
    pub fn edit_recipe(&self, from: &str, to: &str) {
        let path = self.at("recipe.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "the recipe lacks {from:?}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// The only training shard.
    pub fn shard(&self) -> PathBuf {
        let mut tars: Vec<_> = fs::read_dir(self.at("data/train"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "tar"))
            .collect();
        assert_eq!(tars.len(), 1);
        tars.remove(0)
    }

    /// Replaces the training shard by one with these samples: (key, [(part, bytes)]).
    pub fn write_shard(&self, samples: &[Sample<'_>]) {
        let path = self.shard();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut tar = tar::Builder::new(fs::File::create(&path).unwrap());
        for (key, parts) in samples {
            for (part, bytes) in parts {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, format!("{key}.{part}"), bytes.as_slice()).unwrap();
            }
        }
        tar.finish().unwrap();
    }

    /// A good sample's parts.
    pub fn good(&self, colour: usize) -> Vec<(&'static str, Vec<u8>)> {
        let (name, rgb) = COLOURS[colour % COLOURS.len()];
        let json = json!({"question": "what colour is it?", "answer": name}).to_string();
        vec![("json", json.into_bytes()), ("png", png(16, 16, rgb))]
    }

    /// The losses of a run, by step.
    pub fn losses(&self, run: &str) -> Vec<(u64, f64)> {
        jsonl(self.at(run).join("metrics.jsonl"))
            .iter()
            .filter(|l| l.get("eval").is_none())
            .map(|l| (l["step"].as_u64().unwrap(), l["loss"].as_f64().unwrap()))
            .collect()
    }

    /// The values of a run's evaluations, by step.
    pub fn evals(&self, run: &str) -> Vec<(u64, Value)> {
        let lines = jsonl(self.at(run).join("metrics.jsonl"));
        lines.iter().filter_map(|l| Some((l["step"].as_u64().unwrap(), l.get("eval")?.clone()))).collect()
    }

    /// The bytes of a run's final weights.
    pub fn weights(&self, run: &str) -> Vec<u8> {
        fs::read(self.at(run).join("model/model.safetensors")).unwrap()
    }
}
