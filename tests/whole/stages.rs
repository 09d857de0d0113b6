//! The stages of `examples/llava_ov_1_5` in miniature: each recipe as it is written, from the folder that the last stage left.

use std::{collections::BTreeMap, fs, path::Path};

use ovhost_train::Recipe;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::lab::{Lab, jsonl, root};

const STAGES: [&str; 3] = ["stage_1_alignment", "stage_1_5_mid_training", "stage_2_instruct"];

/// Names and bytes of a folder's tensors.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(path).unwrap();
            let file = SafeTensors::deserialize(&bytes).unwrap();
            out.extend(file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())));
        }
    }
    out
}

/// The lab's decoder in a folder of its own, as Qwen3's is, tied.
fn language_model(lab: &Lab, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        fs::copy(lab.at("tokenizer").join(name), to.join(name)).unwrap();
    }
    let bytes = fs::read(lab.at("model/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let own = file.tensors().into_iter().filter(|(name, _)| name.starts_with("model."));
    safetensors::serialize_to_file(own, None, &to.join("model.safetensors")).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(lab.at("model/config.json")).unwrap()).unwrap();
    let mut config = config["text_config"].clone();
    config["model_type"] = json!("qwen3");
    config["tie_word_embeddings"] = json!(true);
    fs::write(to.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn three_stages_start_one_from_the_other() {
    let lab = Lab::new();
    let stages = lab.at("stages");
    for stage in STAGES {
        fs::create_dir_all(stages.join(stage)).unwrap();
        let path = format!("examples/llava_ov_1_5/{stage}/recipe.toml");
        fs::copy(root().join(path), stages.join(stage).join("recipe.toml")).unwrap();
    }
    language_model(&lab, &lab.at("llm"));
    // The script of stage 0, with the lab's sources.
    let merge = "examples/llava_ov_1_5/stage_0_merge/merge.sh";
    fs::create_dir(stages.join("stage_0_merge")).unwrap();
    fs::copy(root().join(merge), stages.join("stage_0_merge/merge.sh")).unwrap();
    let ran = std::process::Command::new("sh")
        .args(["stages/stage_0_merge/merge.sh", "--processor", "preprocessor_config.json"])
        .current_dir(lab.path())
        .envs([("RICE", "model"), ("LLM", "llm"), ("OVHOST", env!("CARGO_BIN_EXE_ovhost"))])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let mut before = tensors(&stages.join("stage_0_merge/model"));
    assert!(before.contains_key("lm_head.weight"), "4B's head is its own");
    for stage in STAGES {
        let path = stages.join(stage).join("recipe.toml");
        let recipe = Recipe::read(&path, &[]).unwrap();
        // Small enough for a moment on a CPU; everything else is the recipe's.
        let (path, data) = (path.to_str().unwrap(), lab.at("data/train"));
        let data = format!("data.train={}", data.display());
        let small = [
            &data,
            "data.capacity=128",
            "data.workers=1",
            "train.steps=2",
            "train.warmup_steps=1",
            "train.accumulation=2",
            "train.lr=1e-3",
            "run.device=cpu",
            "run.threads=1",
            "model.precision=fp32",
        ];
        let mut args = vec!["train", "--recipe", path];
        small.iter().for_each(|set| args.extend(["--set", set]));
        lab.run(&args).ok();
        let run = stages.join(stage).join(&recipe.run.folder);
        let steps: Vec<u64> = jsonl(run.join("metrics.jsonl")).iter().map(|l| l["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [1, 2], "{stage} begins anew");
        let after = tensors(&run.join("model"));
        assert!(after.keys().eq(before.keys()), "{stage}");
        for (name, bytes) in &after {
            let merger = name.starts_with("visual.merger.");
            let trained = match name.starts_with("visual.") {
                true => recipe.train.vision.train || merger,
                false => recipe.train.language.train,
            };
            if !trained {
                assert!(*bytes == before[name], "{stage} changed {name}");
            } else if name.ends_with("proj.weight") || merger && name.ends_with("weight") {
                assert!(*bytes != before[name], "{stage} left {name} as it was");
            }
        }
        before = after;
    }
}

#[test]
fn recipes_have_the_hyper_parameters_of_the_reference() {
    let read = |stage: &str| {
        let path = root().join("examples/llava_ov_1_5").join(stage).join("recipe.toml");
        Recipe::read(&path, &[]).unwrap_or_else(|e| panic!("{stage}: {e:#}"))
    };
    for (stage, steps, samples, lr, decay, beta, warmup) in [
        (STAGES[0], 2500, 8, 1e-4, 0.0, 0.99, 5),
        (STAGES[1], 20_000, 16, 1e-5, 0.01, 0.95, 40),
        (STAGES[2], 3500, 224, 1e-5, 0.0, 0.99, 7),
    ] {
        let recipe = read(stage);
        let t = &recipe.train;
        assert_eq!((t.steps, t.warmup_steps, t.lr, t.min_lr), (steps, warmup, lr, 1e-6), "{stage}");
        assert_eq!((t.weight_decay, t.betas, t.eps, t.clip_grad_norm), (decay, [0.9, beta], 1e-5, 1.0), "{stage}");
        let items = u64::from(recipe.data.max_items_per_pack.max(1));
        assert_eq!((t.accumulation * items, recipe.data.capacity), (samples, 32768), "{stage}");
        assert_eq!(t.language.train, stage != STAGES[0], "{stage}");
    }
}
