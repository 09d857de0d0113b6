//! Mistakes in recipes, models and arguments: each ends in an error that says what and where.

use std::fs;

use crate::lab::Lab;

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_nearest_name() {
    let lab = Lab::new();
    lab.edit_recipe("warmup_steps", "warmup_step");
    lab.run(&["train"]).fails_with(&["recipe.toml", "warmup_step", "did you mean `warmup_steps`?", "line"]);
}

#[test]
fn an_unknown_table_and_an_unknown_setting_too() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steeps=5"]).fails_with(&["--set", "steeps", "did you mean `steps`?"]);
    lab.edit_recipe("[checkpoint]", "[checkpoints]");
    lab.run(&["train"]).fails_with(&["checkpoints", "did you mean `checkpoint`?"]);
}

#[test]
fn wrong_types_and_values_are_named() {
    let lab = Lab::new();
    lab.run(&["train", "--set", "train.steps=0"]).fails_with(&["train.steps is 0"]);
    lab.run(&["train", "--set", "train.lr=-1.0"]).fails_with(&["train.lr is -1"]);
    lab.run(&["train", "--set", "train.decay=\"cosin\""]).fails_with(&["cosin", "cosine"]);
    lab.run(&["train", "--set", "run.device=\"gpu\""]).fails_with(&["gpu", "cuda:N"]);
    lab.edit_recipe("steps = 8", "steps = \"many\"");
    lab.run(&["train"]).fails_with(&["recipe.toml", "many"]);
}

#[test]
fn a_missing_recipe_says_how_to_name_one() {
    let lab = Lab::new();
    lab.run(&["train", "--recipe", "other.toml"]).fails_with(&["other.toml", "--recipe"]);
}

#[test]
fn recipe_commands_show_every_key() {
    let lab = Lab::new();
    let keys = lab.run(&["recipe", "keys"]).ok().out;
    for key in ["run.seed", "data.capacity", "train.clip_grad_norm", "checkpoint.keep", "plugins.packer.config"] {
        assert!(keys.contains(key), "{key} is missing:\n{keys}");
    }
    let schema: serde_json::Value = serde_json::from_str(&lab.run(&["recipe", "schema"]).ok().out).unwrap();
    assert!(schema["properties"]["train"].is_object());
    let full = lab.run(&["recipe", "check"]).ok().out;
    assert!(full.contains("betas") && full.contains("steps = 8"), "{full}");
}

/// Rewrites the model's tensors.
fn edit_weights(
    lab: &Lab,
    edit: impl Fn(&str, safetensors::Dtype, Vec<usize>, Vec<u8>) -> Option<(Vec<usize>, Vec<u8>)>,
) {
    let path = lab.at("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<_> = tensors
        .tensors()
        .into_iter()
        .filter_map(|(name, t)| {
            let (shape, data) = edit(&name, t.dtype(), t.shape().to_vec(), t.data().to_vec())?;
            Some((name, t.dtype(), shape, data))
        })
        .collect();
    let views: Vec<_> = kept
        .iter()
        .map(|(name, dtype, shape, data)| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        })
        .collect();
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_missing_tensor_is_named() {
    let lab = Lab::new();
    edit_weights(&lab, |name, _, shape, data| (!name.contains("layers.1.mlp.up_proj")).then_some((shape, data)));
    lab.run(&["train"]).fails_with(&["layers.1.mlp.up_proj.weight", "model.safetensors"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let lab = Lab::new();
    edit_weights(&lab, |name, _, shape, data| {
        if name.ends_with("lm_head.weight") { Some((vec![shape[1], shape[0]], data)) } else { Some((shape, data)) }
    });
    lab.run(&["train"]).fails_with(&["lm_head.weight", "32"]);
}

#[test]
fn a_damaged_weight_file_is_named() {
    let lab = Lab::new();
    let path = lab.at("model/model.safetensors");
    let len = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    lab.run(&["train"]).fails_with(&["model.safetensors"]);
}

#[test]
fn a_tokenizer_that_is_larger_than_the_model_is_refused() {
    let lab = Lab::new();
    let config: serde_json::Value = serde_json::from_slice(&fs::read(lab.at("model/config.json")).unwrap()).unwrap();
    let size = config["vocab_size"].as_u64().unwrap();
    let path = lab.at("model/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut extra = tokenizer["added_tokens"][0].clone();
    extra["id"] = size.into();
    extra["content"] = "<|extra|>".into();
    tokenizer["added_tokens"].as_array_mut().unwrap().push(extra);
    fs::write(&path, tokenizer.to_string()).unwrap();
    lab.run(&["train"]).fails_with(&["tokenizer", &size.to_string(), &(size + 1).to_string()]);
}
