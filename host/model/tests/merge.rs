//! Merging made-up towers and language models: what is in the result, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use ovhost_data::tokenizer_train::train_bpe;
use ovhost_model::llava_onevision1_5::merge::{MergeOptions, MergeReport, VisionSource, merge};
use ovhost_model::{Checkpoint, LlavaOnevision, LoadOptions, ModelConfig};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 16;
const VISION: i64 = 12;

type Tensors = BTreeMap<String, Tensor>;

/// Numbers that no other tensor has.
fn numbers(name: &str, shape: &[i64], kind: Kind) -> Tensor {
    let seed = name.bytes().fold(7i64, |n, b| (n * 31 + i64::from(b)) % 100_003);
    let n: i64 = shape.iter().product();
    ((Tensor::arange(n, (Kind::Double, Device::Cpu)) + seed as f64).sin() * 0.3).to_kind(kind).view(shape)
}

fn write(dir: &Path, tensors: &Tensors, config: &Value, files: usize) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut map = serde_json::Map::new();
    let all: Vec<(&String, &Tensor)> = tensors.iter().collect();
    for (i, part) in all.chunks(all.len().div_ceil(files)).enumerate() {
        let file = match files {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        Tensor::write_safetensors(part, dir.join(&file)).unwrap();
        map.extend(part.iter().map(|(name, _)| ((*name).clone(), json!(file))));
    }
    if files > 1 {
        let index = json!({"metadata": {}, "weight_map": map});
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

/// A tower as `transformers`' MLCD classes write it.
fn rice(dir: &Path, change: impl FnOnce(&mut Tensors, &mut Value)) {
    let mut tensors = Tensors::new();
    let mut add = |name: String, shape: &[i64]| {
        let name = format!("vision_model.{name}");
        tensors.insert(name.clone(), numbers(&name, shape, Kind::Float));
    };
    add("embeddings.class_embedding".into(), &[VISION]);
    add("embeddings.patch_embedding.weight".into(), &[VISION, 3, 4, 4]);
    add("class_pos_emb".into(), &[1, 2]);
    for norm in ["pre_layrnorm", "post_layernorm"] {
        add(format!("{norm}.weight"), &[VISION]);
        add(format!("{norm}.bias"), &[VISION]);
    }
    for layer in 0..2 {
        let at = |name: &str| format!("encoder.layers.{layer}.{name}");
        for name in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"] {
            add(at(&format!("{name}.weight")), &[VISION, VISION]);
            add(at(&format!("{name}.bias")), &[VISION]);
        }
        for norm in ["layer_norm1", "layer_norm2"] {
            add(at(&format!("{norm}.weight")), &[VISION]);
            add(at(&format!("{norm}.bias")), &[VISION]);
        }
        for (name, out, input) in [("mlp.fc1", 20, VISION), ("mlp.fc2", VISION, 20)] {
            add(at(&format!("{name}.weight")), &[out, input]);
            add(at(&format!("{name}.bias")), &[out]);
        }
    }
    let mut config = json!({"model_type": "mlcd_vision_model", "hidden_size": VISION, "intermediate_size": 20,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_channels": 3, "patch_size": 4, "image_size": 16,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_key_value_groups": 1});
    change(&mut tensors, &mut config);
    write(dir, &tensors, &config, 1);
}

struct Llm {
    tied: bool,
    files: usize,
    /// Rows of the embedding beyond the tokenizer's ids.
    spare: i64,
    kind: &'static str,
}

impl Default for Llm {
    fn default() -> Self {
        Llm { tied: false, files: 1, spare: 3, kind: "qwen3" }
    }
}

/// A language model with a tokenizer, in bf16. Gives the size of its vocabulary.
fn llm(dir: &Path, llm: &Llm, change: impl FnOnce(&mut Tensors, &mut Value)) -> i64 {
    let texts = ["What is this?", "a red square and a green circle"];
    std::fs::create_dir_all(dir).unwrap();
    let trained = train_bpe(texts.iter().map(|s| (*s).to_owned()), 300, dir).unwrap();
    let vocab = trained.vocab_size as i64 + llm.spare;
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[i64]| {
        tensors.insert(name.to_owned(), numbers(name, shape, Kind::BFloat16));
    };
    add("model.embed_tokens.weight", &[vocab, WIDTH]);
    add("model.norm.weight", &[WIDTH]);
    if !llm.tied {
        add("lm_head.weight", &[vocab, WIDTH]);
    }
    for layer in 0..2 {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        for (name, rows) in [("q", 32), ("k", 16), ("v", 16)] {
            add(&at(&format!("self_attn.{name}_proj.weight")), &[rows, WIDTH]);
            if llm.kind == "qwen2" {
                add(&at(&format!("self_attn.{name}_proj.bias")), &[rows]);
            }
        }
        add(&at("self_attn.o_proj.weight"), &[WIDTH, 32]);
        if llm.kind == "qwen3" {
            add(&at("self_attn.q_norm.weight"), &[8]);
            add(&at("self_attn.k_norm.weight"), &[8]);
        }
        add(&at("input_layernorm.weight"), &[WIDTH]);
        add(&at("post_attention_layernorm.weight"), &[WIDTH]);
        add(&at("mlp.gate_proj.weight"), &[24, WIDTH]);
        add(&at("mlp.up_proj.weight"), &[24, WIDTH]);
        add(&at("mlp.down_proj.weight"), &[WIDTH, 24]);
    }
    let mut config = json!({"architectures": ["X"], "model_type": llm.kind, "vocab_size": vocab, "hidden_size": WIDTH,
        "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "rope_theta": 1e6, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": llm.tied,
        "torch_dtype": "bfloat16", "max_position_embeddings": 512});
    change(&mut tensors, &mut config);
    write(dir, &tensors, &config, llm.files);
    vocab
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        World { dir: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> MergeOptions {
        MergeOptions {
            vision: VisionSource::Folder(self.dir.path().join("rice")),
            llm: self.dir.path().join("llm"),
            out: self.dir.path().join("out"),
            seed: 5,
            untie: false,
            shard_bytes: 1 << 30,
            processor: None,
            system: "You are a helpful assistant.".into(),
        }
    }

    fn merge(&self) -> Result<MergeReport, String> {
        merge(&self.options(), &mut |_, _| {}).map_err(|e| e.to_string())
    }

    fn refused(&self, parts: &[&str]) {
        let error = self.merge().expect_err("a refusal");
        for part in parts {
            assert!(error.contains(part), "no {part:?} in: {error}");
        }
        assert!(!self.dir.path().join("out/config.json").exists(), "a refused merge left a model");
    }
}

/// Every tensor of a folder's files, by the name there.
fn tensors(dir: &Path) -> Tensors {
    let mut out = Tensors::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "safetensors") {
            let file = Checkpoint::open_file(&entry).unwrap();
            let names: Vec<String> = file.names().map(str::to_owned).collect();
            out.extend(names.into_iter().map(|n| (n.clone(), file.tensor(&n).unwrap())));
        }
    }
    out
}

fn same(a: &Tensor, b: &Tensor) -> bool {
    a.kind() == b.kind() && a.size() == b.size() && a.equal(b)
}

#[test]
fn every_tensor_of_both_sources_is_in_the_result() {
    let w = World::new();
    rice(&w.dir.path().join("rice"), |_, _| {});
    let vocab = llm(&w.dir.path().join("llm"), &Llm { files: 3, ..Llm::default() }, |_, _| {});
    let options = MergeOptions { shard_bytes: 6000, ..w.options() };
    let report = merge(&options, &mut |done, total| assert!(done <= total)).unwrap();
    let (rice, llm, out) = (tensors(&w.dir.path().join("rice")), tensors(&options.llm), tensors(&options.out));
    for (name, tensor) in &llm {
        assert!(same(&out[name], tensor), "{name}");
    }
    // By the names of the public conversion.
    for (theirs, ours) in [
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
        ("class_pos_emb", "class_pos_emb"),
        ("pre_layrnorm.bias", "pre_layernorm.bias"),
        ("encoder.layers.1.layer_norm1.weight", "blocks.1.norm1.weight"),
        ("encoder.layers.0.layer_norm2.bias", "blocks.0.norm2.bias"),
        ("encoder.layers.1.self_attn.out_proj.weight", "blocks.1.attn.proj.weight"),
        ("encoder.layers.0.mlp.fc1.bias", "blocks.0.mlp.fc1.bias"),
        ("encoder.layers.1.mlp.fc2.weight", "blocks.1.mlp.fc2.weight"),
    ] {
        assert!(same(&out[&format!("visual.{ours}")], &rice[&format!("vision_model.{theirs}")]), "{theirs}");
    }
    for layer in 0..2 {
        for end in ["weight", "bias"] {
            let of = |p: &str| &rice[&format!("vision_model.encoder.layers.{layer}.self_attn.{p}_proj.{end}")];
            let qkv = Tensor::cat(&[of("q"), of("k"), of("v")], 0);
            assert!(same(&out[&format!("visual.blocks.{layer}.attn.qkv.{end}")], &qkv));
        }
    }
    // The merger is as wide as the language model, and drawn as the reference draws it.
    assert_eq!(out["visual.merger.mlp.2.weight"].size(), [WIDTH, 4 * VISION]);
    assert!(out["visual.merger.ln_q.weight"].eq(1.0).all().int64_value(&[]) == 1);
    assert!(out["visual.merger.mlp.0.bias"].eq(0.0).all().int64_value(&[]) == 1);
    let std = out["visual.merger.mlp.0.weight"].std(true).double_value(&[]);
    assert!((std - 0.02).abs() < 0.001, "{std}");
    // Nothing else is there, and the report counts it.
    assert_eq!(out.len(), llm.len() + (rice.len() - 2 - 2 * 2 * 2) + 6);
    assert_eq!((report.language.tensors, report.vision.as_ref().unwrap().tensors), (llm.len(), rice.len() - 2));
    assert_eq!(report.vision.as_ref().unwrap().left_out.len(), 2);
    assert!(report.files.len() > 3 && report.files.iter().all(|f| options.out.join(f).is_file()));
    let listed: Value = serde_json::from_slice(&std::fs::read(options.out.join("merge.json")).unwrap()).unwrap();
    assert_eq!(listed["tensors"].as_object().unwrap().len(), out.len());
    // What readers of config.json stumble over elsewhere.
    let config: Value = serde_json::from_slice(&std::fs::read(options.out.join("config.json")).unwrap()).unwrap();
    for at in ["/vocab_size", "/text_config/vocab_size"] {
        assert_eq!(config.pointer(at).unwrap(), vocab, "{at}");
    }
    for at in ["/tie_word_embeddings", "/text_config/tie_word_embeddings"] {
        assert_eq!(config.pointer(at).unwrap(), false, "{at}");
    }
    assert_eq!(config.pointer("/vision_config/text_hidden_size").unwrap(), WIDTH);
    assert_eq!(config.pointer("/text_config/rope_theta").unwrap(), 1e6);
    for key in ["vision_start_token_id", "vision_end_token_id", "image_token_id", "eos_token_id"] {
        assert!(!config[key].is_null(), "{key}");
    }
    // The same again gives the same bytes; a second merge into the folder is refused.
    let again = MergeOptions { out: w.dir.path().join("again"), ..options.clone() };
    let twice = merge(&again, &mut |_, _| {}).unwrap();
    assert_eq!(serde_json::to_value(&twice.tensors).unwrap(), serde_json::to_value(&report.tensors).unwrap());
    assert!(merge(&options, &mut |_, _| {}).unwrap_err().to_string().contains("already holds a model"));
    let other = MergeOptions { out: w.dir.path().join("other"), seed: 6, ..options.clone() };
    let other = merge(&other, &mut |_, _| {}).unwrap();
    assert_ne!(other.tensors["visual.merger.mlp.0.weight"], report.tensors["visual.merger.mlp.0.weight"]);
    // It is a model.
    LlavaOnevision::load(&options.out, &LoadOptions { device: Device::Cpu, kind: Kind::Float }).unwrap();
}

#[test]
fn tied_heads_stay_tied_or_become_a_copy() {
    let w = World::new();
    rice(&w.dir.path().join("rice"), |_, _| {});
    llm(&w.dir.path().join("llm"), &Llm { tied: true, ..Llm::default() }, |_, _| {});
    let report = w.merge().unwrap();
    assert!(report.tie_word_embeddings && !tensors(&w.options().out).contains_key("lm_head.weight"));
    let untied = MergeOptions { untie: true, out: w.dir.path().join("untied"), ..w.options() };
    assert!(!merge(&untied, &mut |_, _| {}).unwrap().tie_word_embeddings);
    let out = tensors(&untied.out);
    assert!(same(&out["lm_head.weight"], &out["model.embed_tokens.weight"]));
    let config = ModelConfig::from_folder(&untied.out).unwrap();
    assert!(!config.text.tie_word_embeddings);
    // A head in the file of a tied model: dropped where it is the embedding, refused where not.
    for (dir, differs) in [("equal", false), ("different", true)] {
        let w = World::new();
        rice(&w.dir.path().join("rice"), |_, _| {});
        llm(&w.dir.path().join("llm"), &Llm { tied: true, ..Llm::default() }, |tensors, _| {
            let head = &tensors["model.embed_tokens.weight"] * if differs { 2.0 } else { 1.0 };
            tensors.insert("lm_head.weight".into(), head);
        });
        if differs {
            w.refused(&["lm_head.weight is not the embedding", "--untie"]);
        } else {
            w.merge().unwrap_or_else(|e| panic!("{dir}: {e}"));
        }
    }
}

#[test]
fn special_tokens_that_are_missing_are_added() {
    let w = World::new();
    rice(&w.dir.path().join("rice"), |_, _| {});
    let dir = w.dir.path().join("llm");
    let vocab = llm(&dir, &Llm { tied: true, spare: -5, ..Llm::default() }, |_, _| {});
    // The five tokens of pictures are last; without them it is a text model's tokenizer.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let mut value: Value = serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap();
        if let Some(list) = value.get_mut("added_tokens").and_then(Value::as_array_mut) {
            list.truncate(3);
        }
        if let Some(map) = value.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
            map.retain(|id, _| id.parse::<i64>().unwrap() < vocab);
        }
        std::fs::write(dir.join(name), value.to_string()).unwrap();
    }
    let report = w.merge().unwrap();
    assert_eq!(report.vocab_size, vocab + 5);
    assert_eq!(report.added_tokens.len(), 5);
    let (before, out) = (tensors(&dir), tensors(&w.options().out));
    let (old, new) = (&before["model.embed_tokens.weight"], &out["model.embed_tokens.weight"]);
    assert!(same(&new.narrow(0, 0, vocab), old));
    let mean = old.to_kind(Kind::Double).mean_dim([0i64].as_slice(), false, Kind::Double).to_kind(Kind::BFloat16);
    for row in vocab..vocab + 5 {
        assert!(new.get(row).equal(&mean));
    }
    let config: Value =
        serde_json::from_slice(&std::fs::read(w.options().out.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(config["added_tokens_decoder"][(vocab + 3).to_string()]["content"], "<|image_pad|>");
}

#[test]
fn a_new_tower_and_other_families() {
    for kind in ["qwen2", "llama"] {
        let w = World::new();
        let vision = w.dir.path().join("vision.json");
        let config = json!({"model_type": "rice_vit", "depth": 1, "hidden_size": 8, "intermediate_size": 16, "num_heads": 2,
            "patch_size": 4});
        std::fs::write(&vision, config.to_string()).unwrap();
        llm(&w.dir.path().join("llm"), &Llm { kind, ..Llm::default() }, |_, config| {
            // As Qwen2.5's files have it.
            config["use_sliding_window"] = json!(false);
            config["sliding_window"] = json!(4096);
        });
        let options = MergeOptions { vision: VisionSource::New(vision), ..w.options() };
        let report = merge(&options, &mut |_, _| {}).unwrap();
        assert!(report.vision.is_none());
        let config = ModelConfig::from_folder(&options.out).unwrap();
        assert_eq!(
            (config.text.qkv_bias, config.text.output_bias, config.text.qk_norm),
            (kind == "qwen2", false, false)
        );
        let model =
            LlavaOnevision::load(&options.out, &LoadOptions { device: Device::Cpu, kind: Kind::Float }).unwrap();
        // An export keeps the switches.
        let export = w.dir.path().join("export");
        model.save_folder(&export, &options.out).unwrap();
        assert_eq!(ModelConfig::from_folder(&export).unwrap().text, config.text);
        assert!(!export.join("merge.json").exists());
        // The tower of a model of this family serves another language model.
        let second = MergeOptions {
            vision: VisionSource::Folder(options.out.clone()),
            out: w.dir.path().join("second"),
            ..options.clone()
        };
        merge(&second, &mut |_, _| {}).unwrap();
        let (a, b) = (tensors(&options.out), tensors(&second.out));
        assert!(same(&a["visual.blocks.0.attn.qkv.weight"], &b["visual.blocks.0.attn.qkv.weight"]));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    type Change = fn(&mut Tensors, &mut Value);
    let of_llm: &[(Change, &[&str])] = &[
        (|_, c| c["model_type"] = json!("mixtral"), &["mixtral", "qwen3, qwen2, llama, mistral", "config.json"]),
        (|_, c| c["quantization_config"] = json!({"bits": 4}), &["quantised"]),
        (|_, c| c["use_sliding_window"] = json!(true), &["use_sliding_window", "full attention"]),
        (|_, c| c["rope_scaling"] = json!({"rope_type": "llama3"}), &["rope_scaling", "llama3"]),
        (
            |t, _| drop(t.remove("model.layers.1.mlp.up_proj.weight")),
            &["model.language_model.layers.1.mlp.up_proj.weight", "[24, 16]", "is missing", "model.safetensors"],
        ),
        (|t, _| drop(t.remove("lm_head.weight")), &["lm_head.weight", "is missing"]),
        (
            |t, _| drop(t.insert("model.norm.weight".into(), Tensor::ones([5], (Kind::Float, Device::Cpu)))),
            &["model.norm.weight", "[5]", "[16]"],
        ),
        (
            |t, _| drop(t.insert("model.layers.2.extra.weight".into(), Tensor::ones([5], (Kind::Float, Device::Cpu)))),
            &["model.layers.2.extra.weight", "[5]", "no place"],
        ),
        (|_, c| c["vocab_size"] = json!(100), &["embed_tokens.weight", "[100, 16]"]),
    ];
    for (change, words) in of_llm {
        let w = World::new();
        rice(&w.dir.path().join("rice"), |_, _| {});
        llm(&w.dir.path().join("llm"), &Llm::default(), change);
        w.refused(words);
    }
    let of_rice: &[(Change, &[&str])] = &[
        (|_, c| c["model_type"] = json!("clip"), &["clip", "mlcd_vision_model"]),
        (|_, c| c["hidden_act"] = json!("quick_gelu"), &["hidden_act", "quick_gelu"]),
        (
            |t, _| drop(t.remove("vision_model.encoder.layers.0.self_attn.k_proj.bias")),
            &["encoder.layers.0.self_attn.k_proj.bias", "visual.blocks.0.attn.qkv.bias", "is missing"],
        ),
        (
            |t, _| {
                let name = "vision_model.encoder.layers.0.self_attn.k_proj.bias";
                t.insert(name.into(), Tensor::ones([3], (Kind::Float, Device::Cpu)));
            },
            &["vision_model.encoder.layers.0.self_attn.k_proj.bias", "[3]", "[12]"],
        ),
        (
            |t, _| drop(t.insert("vision_model.head.probe".into(), Tensor::ones([3], (Kind::Float, Device::Cpu)))),
            &["vision_model.head.probe", "no place"],
        ),
    ];
    for (change, words) in of_rice {
        let w = World::new();
        rice(&w.dir.path().join("rice"), change);
        llm(&w.dir.path().join("llm"), &Llm::default(), |_, _| {});
        w.refused(words);
    }
    // A tokenizer that is not there.
    let w = World::new();
    rice(&w.dir.path().join("rice"), |_, _| {});
    llm(&w.dir.path().join("llm"), &Llm::default(), |_, _| {});
    std::fs::remove_file(w.dir.path().join("llm/tokenizer.json")).unwrap();
    w.refused(&["tokenizer.json", "missing"]);
}
