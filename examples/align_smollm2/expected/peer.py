"""What `transformers` computes from the same GGUF file: perplexity of a text, greedy continuations.

    peer.py MODEL.gguf FOLDER    writes FOLDER/expected.safetensors and FOLDER/expected.json for `ovhost model verify`

It needs transformers, torch and gguf. De-quantising, reordering and cutting text into tokens are theirs.
"""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "The lighthouse stood at the end of a long stone pier, and for eighty years its keeper had climbed the same 112 steps every "
    "evening to light the lamp. When the town decided to automate it, nobody asked him what he thought. He went up one last time, "
    "polished the glass, wound the clock and waited for the sun to go down. From the top he could see the fishing boats coming home, "
    "their lights small and yellow on the dark water, and he counted them, as he always did, until the last one was safely inside the "
    "harbour."
)
PROMPTS = ["What is the capital of France?", "Name three fruits."]


def main(file, folder):
    where, name = os.path.split(os.path.abspath(file))
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, torch_dtype=torch.float32).eval()
    tensors, sequences = {}, []

    def add(ids, first, greedy):
        labels = ids.clone()
        labels[:first] = -100
        with torch.no_grad():
            logits = model(ids[None]).logits[0].float()
        loss = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        s = len(sequences)
        tensors.update({f"seq.{s}.input_ids": ids, f"seq.{s}.labels": labels, f"seq.{s}.loss_sum": loss.reshape(1)})
        entry = {"images": [], "learned_tokens": len(ids) - max(first, 1), "prompt_length": first or len(ids)}
        if greedy:
            entry |= {"greedy": ids[first:].tolist(), "text": tokenizer.decode(ids[first:])}
        else:
            entry |= {"perplexity": (loss / entry["learned_tokens"]).exp().item(), "text": TEXT}
        sequences.append(entry)
        print(json.dumps(entry))

    add(torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"]), 0, False)
    for prompt in PROMPTS:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False, eos_token_id=2, pad_token_id=2)
        add(whole[0], ids.shape[1], True)
    os.makedirs(folder, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, f"{folder}/expected.safetensors")
    with open(f"{folder}/expected.json", "w") as out:
        json.dump({"made_by": "transformers " + __import__("transformers").__version__, "sequences": sequences}, out, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
