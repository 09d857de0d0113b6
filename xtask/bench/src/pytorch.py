"""The model of the benchmark in PyTorch, as its users write it: transformers' Qwen3 and a ViT of torch.nn, trained with fused AdamW.

usage: pytorch.py FOLDER padded|packed   reads model.safetensors, batch.safetensors and config.json; answers each line of standard
input with one training step: {"seconds": s, "loss": mean over learnt tokens, "peak": bytes of this process}
"""
import json, sys, time

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

folder, how = sys.argv[1:]
with open(f"{folder}/config.json", encoding="utf-8") as file:
    config = json.load(file)
text, vision = config["text_config"], config["vision_config"]
torch.set_num_threads(config["threads"])
batch = load_file(f"{folder}/batch.safetensors")
lengths = batch["cu_seqlens"].diff().tolist()
grids = batch["grid_thw"].tolist()


def turn(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Block(nn.Module):
    def __init__(self, width, inner, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, cos, sin, segments):
        n, width = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).view(n, 3, self.heads, -1).unbind(1)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        parts = zip(*(t.transpose(0, 1).split(segments, 1) for t in (q, k, v)))
        out = torch.cat([F.scaled_dot_product_attention(*part) for part in parts], 1)
        x = x + self.attn.proj(out.transpose(0, 1).reshape(n, width))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class Merger(nn.Module):
    def __init__(self, width, joined, out):
        super().__init__()
        self.ln_q, self.joined = nn.LayerNorm(width, 1e-5), joined
        self.mlp = nn.Sequential(nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, out))

    def forward(self, x):
        return self.mlp(self.ln_q(x).view(-1, self.joined))


class Vision(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.patch, self.merge = c["hidden_size"], c["patch_size"], c["spatial_merge_size"]
        self.half = width // c["num_heads"] // 2
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.class_pos_emb = nn.Parameter(torch.zeros(1, self.half))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, self.patch, self.patch, bias=False)
        self.pre_layernorm = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(Block(width, c["intermediate_size"], c["num_heads"]) for _ in range(c["depth"]))
        self.merger = Merger(width, width * self.merge**2, text["hidden_size"])

    def angles(self, h, w):
        m = self.merge
        place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
        place = place.view(h // m, m, w // m, m, 2).transpose(1, 2).reshape(-1, 2, 1).float()
        return (place / 10000 ** (torch.arange(0, self.half, 2) / self.half)).flatten(1)

    def forward(self, pixels, grids):
        x = self.patch_embed.proj(pixels.view(-1, 3, self.patch, self.patch)).flatten(1)
        counts = [h * w for _, h, w in grids]
        x = torch.cat([row for part in x.split(counts) for row in (self.class_embedding[None], part)])
        angles = torch.cat([row for _, h, w in grids for row in (self.class_pos_emb, self.angles(h, w))])[:, None]
        x, segments = self.pre_layernorm(x), [n + 1 for n in counts]
        cos, sin = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, cos, sin, segments)
        return self.merger(torch.cat([part[1:] for part in x.split(segments)]))


def per_sample(module, query, key, value, attention_mask, scaling=None, **_):
    """Attention of packed samples without a mask: a careful user's, faster than transformers' own on a CPU."""
    parts = zip(*(t.split(lengths, 2) for t in (query, key, value)))
    outs = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scaling, enable_gqa=True) for part in parts]
    return torch.cat(outs, 2).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("per_sample", per_sample)
with torch.device("meta"):
    settings = Qwen3Config(**text, attn_implementation="sdpa" if how == "padded" else "per_sample")
    model = nn.Module()
    model.visual, model.language = Vision(vision), Qwen3ForCausalLM(settings)
model.language._apply(lambda t: torch.empty_like(t, device="cpu"))
model.language.model.rotary_emb = type(model.language.model.rotary_emb)(settings)
model.visual.to_empty(device="cpu")
names = {}
for name, tensor in load_file(f"{folder}/model.safetensors").items():
    name = name.replace("model.language_model.", "language.model.").removeprefix("model.")
    names["language." + name if name.startswith("lm_head") else name] = tensor
missing, unexpected = model.load_state_dict(names, strict=False)
model.language.tie_weights()
assert not unexpected and set(missing) <= {"language.lm_head.weight"}, (missing, unexpected)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

ids, labels = batch["ids"].split(lengths), batch["labels"].split(lengths)
if how == "padded":
    pad = nn.utils.rnn.pad_sequence
    inputs = {
        "attention_mask": pad([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }
    ids = pad(ids, batch_first=True)
else:
    inputs = {"position_ids": torch.cat([torch.arange(n) for n in lengths])[None], "labels": torch.cat(labels)[None]}
    ids = torch.cat(ids)[None]


def step():
    pictures = model.visual(batch["pixels"], grids)
    embedded = model.language.get_input_embeddings()(ids)
    places = (ids == config["image_token_id"]).unsqueeze(-1).expand_as(embedded)
    loss = model.language(inputs_embeds=embedded.masked_scatter(places, pictures), use_cache=False, **inputs).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def peak():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


for _ in sys.stdin:
    begin = time.perf_counter()
    loss = step()
    print(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss, "peak": peak()}), flush=True)
