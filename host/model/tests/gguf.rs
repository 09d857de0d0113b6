//! GGUF files made here, byte by byte: what is in the folder, and what is refused.

use std::path::{Path, PathBuf};

use ovhost_data::ChatTokenizer;
use ovhost_model::Checkpoint;
use ovhost_model::gguf::{ImportOptions, import};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

enum Meta {
    Text(&'static str),
    Number(u32),
    Float(f32),
    Texts(Vec<String>),
    Types(Vec<i32>),
}

/// A tensor: name, dimensions from the innermost out, number of the type, bytes.
type Raw = (String, Vec<u64>, u32, Vec<u8>);

struct File {
    meta: Vec<(String, Meta)>,
    tensors: Vec<Raw>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl File {
    fn write(&self, path: &Path) {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            text(&mut out, key);
            match value {
                Meta::Text(t) => {
                    out.extend(8u32.to_le_bytes());
                    text(&mut out, t);
                }
                Meta::Number(n) => out.extend([4u32.to_le_bytes(), n.to_le_bytes()].concat()),
                Meta::Float(n) => out.extend([6u32.to_le_bytes(), n.to_le_bytes()].concat()),
                Meta::Texts(list) => {
                    out.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
                    out.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|t| text(&mut out, t));
                }
                Meta::Types(list) => {
                    out.extend([9u32.to_le_bytes(), 5u32.to_le_bytes()].concat());
                    out.extend((list.len() as u64).to_le_bytes());
                    list.iter().for_each(|n| out.extend(n.to_le_bytes()));
                }
            }
        }
        let mut at = 0u64;
        for (name, shape, kind, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(at.to_le_bytes());
            at += (bytes.len() as u64).next_multiple_of(32);
        }
        for (.., bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        std::fs::write(path, out).unwrap();
    }

    fn set(&mut self, key: &str, value: Meta) {
        self.meta.retain(|(k, _)| k != key);
        self.meta.push((key.to_owned(), value));
    }
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// fp16 of a small power of two.
fn half(exponent: i32) -> [u8; 2] {
    (((exponent + 15) as u16) << 10).to_le_bytes()
}

/// Rows of Q8_0 (scale 2⁻⁴) and what they are.
fn q8_0(rows: usize, width: usize, seed: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for block in 0..rows * width / 32 {
        bytes.extend(half(-4));
        for i in 0..32 {
            let q = ((block * 37 + i * 11 + seed) % 251) as u8 as i8;
            bytes.push(q as u8);
            values.push(f32::from(q) / 16.0);
        }
    }
    (bytes, values)
}

/// Rows of Q4_1 (scale 2⁻³, least value 2⁻²): the first 16 values are the low halves of the bytes, the others the high ones.
fn q4_1(rows: usize, width: usize, seed: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for block in 0..rows * width / 32 {
        bytes.extend([half(-3), half(-2)].concat());
        let packed: Vec<u8> = (0..16).map(|i| ((block * 29 + i * 53 + seed) % 256) as u8).collect();
        values.extend(packed.iter().map(|b| f32::from(b & 15) / 8.0 + 0.25));
        values.extend(packed.iter().map(|b| f32::from(b >> 4) / 8.0 + 0.25));
        bytes.extend(packed);
    }
    (bytes, values)
}

const WIDTH: usize = 64;
const INNER: usize = 96;
const HEADS: usize = 2;
const DIM: usize = 32;

/// A Llama of one layer, and its q projection as the file has it.
fn llama() -> (File, Vec<f32>) {
    let mut tokens: Vec<String> = vec!["<|endoftext|>".into(), "<|im_start|>".into(), "<|im_end|>".into()];
    // The byte alphabet, in an order of its own.
    let alphabet = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ').chain((0..68).filter_map(|i| char::from_u32(256 + i)));
    tokens.extend(alphabet.map(String::from));
    tokens.extend(["Ġr".into(), "ed".into(), "Ġred".into()]);
    let vocab = tokens.len();
    let types = (0..vocab).map(|i| if i < 3 { 3 } else { 1 }).collect();
    let mut file = File { meta: Vec::new(), tensors: Vec::new() };
    for (key, value) in [
        ("general.architecture", Meta::Text("llama")),
        ("llama.block_count", Meta::Number(1)),
        ("llama.context_length", Meta::Number(128)),
        ("llama.embedding_length", Meta::Number(WIDTH as u32)),
        ("llama.feed_forward_length", Meta::Number(INNER as u32)),
        ("llama.attention.head_count", Meta::Number(HEADS as u32)),
        ("llama.attention.head_count_kv", Meta::Number(1)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::Float(1e-5)),
        ("llama.rope.freq_base", Meta::Float(1e5)),
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("smollm")),
        ("tokenizer.ggml.tokens", Meta::Texts(tokens)),
        ("tokenizer.ggml.token_type", Meta::Types(types)),
        ("tokenizer.ggml.merges", Meta::Texts(vec!["Ġ r".into(), "e d".into(), "Ġr ed".into()])),
        ("tokenizer.ggml.eos_token_id", Meta::Number(2)),
        ("tokenizer.ggml.bos_token_id", Meta::Number(1)),
    ] {
        file.set(key, value);
    }
    let q = q4_1(HEADS * DIM, WIDTH, 1);
    let mut add = |name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>| {
        file.tensors.push((name.to_owned(), shape.iter().rev().map(|&d| d as u64).collect(), kind, bytes));
    };
    add("token_embd.weight", &[vocab, WIDTH], 8, q8_0(vocab, WIDTH, 3).0);
    add("output_norm.weight", &[WIDTH], 0, f32s(&[1.5; WIDTH]));
    add("blk.0.attn_norm.weight", &[WIDTH], 0, f32s(&[0.5; WIDTH]));
    add("blk.0.ffn_norm.weight", &[WIDTH], 0, f32s(&[2.5; WIDTH]));
    add("blk.0.attn_q.weight", &[HEADS * DIM, WIDTH], 3, q.0);
    add("blk.0.attn_k.weight", &[DIM, WIDTH], 0, f32s(&(0..DIM * WIDTH).map(|i| i as f32).collect::<Vec<_>>()));
    add("blk.0.attn_v.weight", &[DIM, WIDTH], 3, q4_1(DIM, WIDTH, 2).0);
    add("blk.0.attn_output.weight", &[WIDTH, HEADS * DIM], 3, q4_1(WIDTH, HEADS * DIM, 3).0);
    // fp16 ones.
    add("blk.0.ffn_gate.weight", &[INNER, WIDTH], 1, half(0).repeat(INNER * WIDTH));
    add("blk.0.ffn_up.weight", &[INNER, WIDTH], 3, q4_1(INNER, WIDTH, 5).0);
    add("blk.0.ffn_down.weight", &[WIDTH, INNER], 3, q4_1(WIDTH, INNER, 6).0);
    (file, q.1)
}

fn run(file: &File, dir: &Path, change: impl FnOnce(&mut ImportOptions)) -> Result<PathBuf, String> {
    let path = dir.join("model.gguf");
    file.write(&path);
    let out = dir.join("out");
    let mut options =
        ImportOptions { file: path, out: out.clone(), tokenizer: None, bf16: false, shard_bytes: 1 << 30 };
    change(&mut options);
    import(&options, &mut |done, total| assert!(done <= total)).map(|_| out).map_err(|e| e.to_string())
}

#[test]
fn a_llama_comes_out_in_the_order_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let (file, q) = llama();
    let out = run(&file, dir.path(), |_| {}).unwrap();
    let weights = Checkpoint::open_file(&out.join("model.safetensors")).unwrap();
    assert_eq!(weights.names().count(), 11);
    let there = Tensor::from_slice(&q).view([(HEADS * DIM) as i64, WIDTH as i64]);
    let here = weights.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    // Channels j and j + DIM/2 of a head turn together here, 2j and 2j + 1 there.
    for head in 0..HEADS {
        for j in 0..DIM / 2 {
            for part in 0..2 {
                let (a, b) = (head * DIM + part * DIM / 2 + j, head * DIM + 2 * j + part);
                assert!(here.get(a as i64).equal(&there.get(b as i64)), "head {head}, channel {j}, part {part}");
            }
        }
    }
    let k = weights.tensor("model.layers.0.self_attn.k_proj.weight").unwrap();
    assert_eq!(k.double_value(&[1, 0]), (2 * WIDTH) as f64);
    let v = weights.tensor("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert!(v.view([-1]).equal(&Tensor::from_slice(&q4_1(DIM, WIDTH, 2).1)));
    let rows = file.tensors[0].1[1] as usize;
    let embedding = weights.tensor("model.embed_tokens.weight").unwrap();
    assert!(embedding.view([-1]).equal(&Tensor::from_slice(&q8_0(rows, WIDTH, 3).1)));
    let gate = weights.tensor("model.layers.0.mlp.gate_proj.weight").unwrap();
    assert!(gate.equal(&Tensor::ones([INNER as i64, WIDTH as i64], (Kind::Float, Device::Cpu))));

    let config: Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    for (key, value) in [
        ("model_type", "\"llama\""),
        ("rms_norm_eps", "1e-05"),
        ("rope_theta", "100000.0"),
        ("tie_word_embeddings", "true"),
        ("head_dim", "32"),
        ("num_key_value_heads", "1"),
        ("eos_token_id", "2"),
    ] {
        let wanted: Value = serde_json::from_str(value).unwrap();
        assert_eq!(config[key], wanted, "{key}");
    }
    // The tokenizer: merges, single digits, special tokens.
    let tokenizer = tokenizers::Tokenizer::from_file(out.join("tokenizer.json")).unwrap();
    let encoded = tokenizer.encode("a red 42<|im_end|>", false).unwrap();
    assert_eq!(encoded.get_tokens(), ["a", "Ġred", "Ġ", "4", "2", "<|im_end|>"]);
    assert_eq!(tokenizer.decode(encoded.get_ids(), false).unwrap(), "a red 42<|im_end|>");
    ChatTokenizer::from_folder(&out).unwrap();
    // A second time into the folder, and rounded into another.
    assert!(run(&file, dir.path(), |_| {}).unwrap_err().contains("already holds a model"));
    let small = dir.path().join("bf16");
    run(&file, dir.path(), |o| {
        o.out.clone_from(&small);
        o.bf16 = true;
    })
    .unwrap();
    let rounded = Checkpoint::open_file(&small.join("model.safetensors")).unwrap();
    let rounded = rounded.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    assert!(rounded.equal(&here.to_kind(Kind::BFloat16)));
}

#[test]
fn what_is_not_supported_is_named() {
    type Change = fn(&mut File);
    let cases: &[(Change, &[&str])] = &[
        (|f| f.set("general.architecture", Meta::Text("gemma3")), &["gemma3", "llama, qwen2, qwen3"]),
        (|f| f.set("llama.expert_count", Meta::Number(8)), &["mixture of experts"]),
        (|f| f.set("llama.rope.scaling.type", Meta::Text("yarn")), &["yarn", "rope.scaling.type"]),
        (|f| f.set("llama.rope.dimension_count", Meta::Number(16)), &["rope.dimension_count", "16"]),
        (|f| f.set("llama.embedding_length", Meta::Number(32)), &["token_embd.weight", "64]", "32]"]),
        (|f| f.meta.retain(|(k, _)| k != "llama.block_count"), &["llama.block_count", "missing"]),
        (|f| f.set("llama.block_count", Meta::Number(2)), &["blk.1.", "missing"]),
        (|f| drop(f.tensors.remove(4)), &["blk.0.attn_q.weight", "missing"]),
        (|f| f.tensors[4].0 = "rope_freqs.weight".into(), &["blk.0.attn_q.weight", "missing"]),
        (
            |f| f.tensors.push(("rope_freqs.weight".into(), vec![16], 0, f32s(&[1.0; 16]))),
            &["rope_freqs.weight", "no place"],
        ),
        (
            |f| {
                // IQ4_NL: 18 bytes for 32 values.
                let tensor = &mut f.tensors[4];
                (tensor.2, tensor.3) = (20, vec![0; HEADS * DIM * WIDTH / 32 * 18]);
            },
            &["blk.0.attn_q.weight", "IQ4_NL", "Q4_1"],
        ),
        (|f| f.tensors[4].2 = 999, &["999"]),
        (|f| f.set("tokenizer.ggml.model", Meta::Text("llama")), &["tokenizer.ggml.model", "--tokenizer"]),
        (|f| f.set("tokenizer.ggml.pre", Meta::Text("tekken")), &["tekken", "smollm", "--tokenizer"]),
        (|f| f.set("tokenizer.ggml.merges", Meta::Texts(vec!["ab".into()])), &["\"ab\"", "no pair"]),
    ];
    for (change, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = llama();
        change(&mut file);
        let error = run(&file, dir.path(), |_| {}).expect_err(words[0]);
        for word in *words {
            assert!(error.contains(word), "no {word:?} in: {error}");
        }
        assert!(!dir.path().join("out/config.json").exists());
    }
    // Damage: cut off anywhere, or no such file at all.
    let dir = tempfile::tempdir().unwrap();
    let (file, _) = llama();
    let path = dir.path().join("whole.gguf");
    file.write(&path);
    let whole = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.gguf");
    for length in [0, 3, 20, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).unwrap();
        let options = ImportOptions {
            file: cut.clone(),
            out: dir.path().join("cut"),
            tokenizer: None,
            bf16: false,
            shard_bytes: 1 << 30,
        };
        let error = import(&options, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("cut.gguf") && error.contains("cut off"), "{length}: {error}");
    }
}
