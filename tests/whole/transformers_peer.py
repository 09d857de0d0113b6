"""The other side of tests/whole/transformers.rs: models as `transformers` makes, computes and reads them.

    transformers_peer.py versions PACKAGE...   which of these are installed, as JSON
    transformers_peer.py language KIND FOLDER  a random qwen2, qwen3 or llama beside the tokenizer in FOLDER, and its logits in FOLDER/expected
    transformers_peer.py tower FOLDER          a random MLCD (RICE) tower, and its features in FOLDER/expected
    transformers_peer.py export FOLDER OUT     reads a model folder of ours with transformers' classes; expected values go to OUT
    transformers_peer.py adapter BASE ADAPTER OUT   puts an adapter folder of ours on its base with peft; expected values go to OUT
    transformers_peer.py gguf KIND FOLDER      a llama in FOLDER/KIND.gguf with matrices of that quantisation, and its weights in FOLDER/expected
"""

import json
import os
import sys


def versions(*names):
    found = {}
    for name in names:
        try:
            found[name] = getattr(__import__(name), "__version__", "?")
        except ImportError:
            pass
    print(json.dumps(found))


def write_expected(folder, tensors, extra):
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, f"{folder}/expected.safetensors")
    with open(f"{folder}/expected.json", "w") as file:
        json.dump(extra, file)


def text_values(model, vocab, end):
    """Logits, losses and a greedy continuation of two sequences."""
    import torch

    tensors, sequences = {}, []
    for s, length in enumerate([23, 9]):
        ids = torch.tensor([[(7 * i * i + 3 * i + s) % (vocab - 10) for i in range(length)]])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
            settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            greedy = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, length:]
        labels = ids[0].clone()
        labels[:4] = -100
        loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        tensors |= {
            f"seq.{s}.input_ids": ids[0],
            f"seq.{s}.labels": labels,
            f"seq.{s}.logits": logits,
            f"seq.{s}.loss_sum": loss.reshape(1),
        }
        sequences.append({"images": [], "prompt_length": length, "greedy": greedy.tolist()})
    return tensors, sequences


def vocabulary(folder):
    tokens = json.load(open(f"{folder}/tokenizer.json"))
    return 1 + max([*tokens["model"]["vocab"].values(), *(token["id"] for token in tokens["added_tokens"])])


def language(kind, folder):
    import torch
    import transformers

    names = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama"}
    vocab = vocabulary(folder)
    sizes = {
        "vocab_size": vocab, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_theta": 20000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "tie_word_embeddings": kind == "llama", "initializer_range": 0.2,
    }
    if kind == "qwen3":
        sizes["head_dim"] = 16
    torch.manual_seed(3)
    config = getattr(transformers, f"{names[kind]}Config")(**sizes)
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()
    # Fresh biases and norms are zeros and ones, which would hide that they are lost.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tensors, sequences = text_values(model, vocab, None)
    write_expected(f"{folder}/expected", tensors, {"sequences": sequences})


def tower(folder):
    import torch
    from transformers import MLCDVisionConfig, MLCDVisionModel

    torch.manual_seed(4)
    config = MLCDVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3, patch_size=4, image_size=24, initializer_range=0.2
    )
    model = MLCDVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tensors = {}
    for i, (rows, columns) in enumerate([(6, 6), (4, 6)]):
        picture = torch.randn(3, rows * 4, columns * 4)
        with torch.no_grad():
            # Without the class token; patches by rows there, by squares of two by two here.
            features = model(picture[None]).last_hidden_state[0, 1:]
        squares = lambda x: x.reshape(rows // 2, 2, columns // 2, 2, -1).permute(0, 2, 1, 3, 4).reshape(rows * columns, -1)
        patches = picture.reshape(3, rows, 4, columns, 4).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        tensors |= {
            f"image.{i}.pixel_values": squares(patches),
            f"image.{i}.grid_thw": torch.tensor([1, rows, columns]),
            f"image.{i}.vit": squares(features),
        }
    write_expected(f"{folder}/expected", tensors, {})


def export(folder, out):
    import torch
    from PIL import Image
    from safetensors import safe_open
    from transformers import AutoTokenizer, GenerationConfig, Qwen2VLImageProcessor, Qwen3Config, Qwen3ForCausalLM

    config = json.load(open(f"{folder}/config.json"))
    text, vision = config["text_config"], config["vision_config"]
    assert config["model_type"] == "llavaonevision1_5" and config["architectures"] == ["LLaVAOneVision1_5_ForConditionalGeneration"]
    assert config["vocab_size"] == text["vocab_size"] and config["tie_word_embeddings"] == text["tie_word_embeddings"]
    assert vision["text_hidden_size"] == text["hidden_size"]

    # The weights: every tensor by name, shape and kind.
    index = f"{folder}/model.safetensors.index.json"
    files = sorted(set(json.load(open(index))["weight_map"].values())) if os.path.exists(index) else ["model.safetensors"]
    tensors = {}
    for file in files:
        with safe_open(f"{folder}/{file}", "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}
    assert {str(t.dtype) for t in tensors.values()} == {f"torch.{config['dtype']}"}
    language = {name: t for name, t in tensors.items() if not name.startswith("visual.")}
    model = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in text.items() if k not in ("model_type", "dtype")})).eval()
    missing, unexpected = model.load_state_dict(language, strict=False)
    assert not unexpected, unexpected
    assert missing == (["lm_head.weight"] if text["tie_word_embeddings"] else []), missing
    w, m = vision["hidden_size"], vision["spatial_merge_size"] ** 2
    for name, shape in {
        "visual.class_embedding": [w],
        "visual.class_pos_emb": [1, w // vision["num_heads"] // 2],
        "visual.patch_embed.proj.weight": [w, 3, vision["patch_size"], vision["patch_size"]],
        "visual.blocks.0.attn.qkv.weight": [3 * w, w],
        "visual.merger.mlp.2.weight": [text["hidden_size"], m * w],
    }.items():
        assert list(tensors[name].shape) == shape, name

    # The tokenizer, with the ids of config.json and a template that shows pictures.
    tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen3Config())
    assert len(tokenizer) <= text["vocab_size"]
    for name, token in [("image_token_id", "<|image_pad|>"), ("vision_start_token_id", "<|vision_start|>")]:
        assert tokenizer.convert_tokens_to_ids(token) == config[name], name
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is it?"}]}
    prompt = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert "<|vision_start|><|image_pad|><|vision_end|>what colour" in prompt and prompt.endswith("<|im_start|>assistant\n"), prompt
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token is not None
    generation = GenerationConfig.from_pretrained(folder)
    ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    assert tokenizer.eos_token_id in ends

    # The processor, on a picture.
    processor = Qwen2VLImageProcessor.from_pretrained(folder)
    os.makedirs(out, exist_ok=True)
    picture = Image.radial_gradient("L").resize((40, 24)).convert("RGB")
    picture.save(f"{out}/picture.png")
    made = processor(picture, return_tensors="pt")
    expected, sequences = text_values(model.float(), text["vocab_size"], None)
    expected |= {"image.0.pixel_values": made["pixel_values"], "image.0.grid_thw": made["image_grid_thw"][0]}
    write_expected(out, expected, {"images": ["picture.png"], "sequences": sequences})


def adapter(base, folder, out):
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import Qwen3Config, Qwen3ForCausalLM

    text = json.load(open(f"{base}/config.json"))["text_config"]
    decoder = Qwen3ForCausalLM(Qwen3Config(**{k: v for k, v in text.items() if k not in ("model_type", "dtype")})).eval()
    tensors = load_file(f"{base}/model.safetensors")
    _, unexpected = decoder.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("visual.")}, strict=False)
    assert not unexpected, unexpected
    # The whole model's names for the decoder's modules. What peft puts into them is then in the decoder too.
    whole = torch.nn.Module()
    whole.model = torch.nn.Module()
    whole.model.language_model = decoder.model
    model = PeftModel.from_pretrained(whole, folder).eval()
    saved, loaded = load_file(f"{folder}/adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert sorted(saved) == sorted(loaded), set(saved) ^ set(loaded)
    assert all(torch.equal(saved[name], loaded[name]) for name in saved)
    expected, sequences = text_values(decoder.float(), text["vocab_size"], None)
    write_expected(out, expected, {"images": [], "sequences": sequences})


def gguf_file(kind, folder):
    import gguf
    import numpy
    import torch
    from safetensors.torch import save_file

    quantisation = gguf.GGMLQuantizationType[kind]
    width, inner, heads, key_heads, dim, layers = 512, 256, 4, 2, 128, 1
    tokens = json.load(open(f"{folder}/tokenizer.json"))
    vocab = vocabulary(folder)
    random = numpy.random.default_rng(5)
    writer = gguf.GGUFWriter(f"{folder}/{kind}.gguf", "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(20000.0)
    texts, types = [""] * vocab, [gguf.TokenType.NORMAL] * vocab
    for text, id in tokens["model"]["vocab"].items():
        texts[id] = text
    for token in tokens["added_tokens"]:
        texts[token["id"]], types[token["id"]] = token["content"], gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokens["model"]["merges"]])
    expected = {}

    def add(name, there, rows, columns, permuted=0):
        values = (random.standard_normal((rows, columns)) * 0.05).astype(numpy.float32)
        try:
            data = gguf.quants.quantize(values, quantisation)
        except NotImplementedError:
            # K-quants are read but not made there: any bytes are blocks, if their scales are finite.
            block, size = gguf.GGML_QUANT_SIZES[quantisation]
            data = random.integers(0, 255, (rows, columns // block * size), dtype=numpy.uint8)
            halves = data.reshape(rows, -1, size)
            places = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind]
            for at in places:
                halves[:, :, at : at + 2] = numpy.frombuffer(numpy.float16(0.001).tobytes(), numpy.uint8)
        writer.add_tensor(name, data, raw_dtype=quantisation)
        values = gguf.quants.dequantize(data, quantisation).reshape(rows, columns)
        if permuted:
            # The converter's reordering, from the file's order back to that of transformers.
            values = values.reshape(permuted, rows // permuted // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        expected[there] = torch.from_numpy(values.astype(numpy.float32).copy())

    def vector(name, there):
        values = random.standard_normal(width).astype(numpy.float32)
        writer.add_tensor(name, values)
        expected[there] = torch.from_numpy(values)

    add("token_embd.weight", "model.embed_tokens.weight", vocab, width)
    vector("output_norm.weight", "model.norm.weight")
    vector("blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight")
    vector("blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight")
    at = "model.layers.0."
    add("blk.0.attn_q.weight", at + "self_attn.q_proj.weight", heads * dim, width, heads)
    add("blk.0.attn_k.weight", at + "self_attn.k_proj.weight", key_heads * dim, width, key_heads)
    add("blk.0.attn_v.weight", at + "self_attn.v_proj.weight", key_heads * dim, width)
    add("blk.0.attn_output.weight", at + "self_attn.o_proj.weight", width, heads * dim)
    add("blk.0.ffn_gate.weight", at + "mlp.gate_proj.weight", inner, width)
    add("blk.0.ffn_up.weight", at + "mlp.up_proj.weight", inner, width)
    add("blk.0.ffn_down.weight", at + "mlp.down_proj.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.makedirs(f"{folder}/expected", exist_ok=True)
    save_file({name: value.contiguous() for name, value in expected.items()}, f"{folder}/expected/{kind}.safetensors")


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    commands = {"versions": versions, "language": language, "tower": tower, "export": export, "adapter": adapter, "gguf": gguf_file}
    commands[command](*arguments)
