"""Rows with pictures to packed shards with webdataset, PIL and Hugging Face's tokenizers, in the three steps of `ovhost data`:
convert (pictures checked by decoding them), filter (captions and sizes), pack (tokens, best fit decreasing).

usage: data.py FOLDER SAMPLES    (FOLDER/rows.jsonl, images/, model/; one round for every line on its input)
"""
import bisect, io, json, math, os, re, shutil, statistics, sys, time
import webdataset as wds
from PIL import Image
from tokenizers import Tokenizer
import PIL, tokenizers

FOLDER, SAMPLES = sys.argv[1], int(sys.argv[2])
OUT = os.path.join(FOLDER, "peer")
CONFIG = json.load(open(os.path.join(FOLDER, "model", "preprocessor_config.json")))
FACTOR = CONFIG["patch_size"] * CONFIG["merge_size"]
CAPACITY = 8192
TOKENIZER = Tokenizer.from_file(os.path.join(FOLDER, "model", "tokenizer.json"))
PICTURES = ("jpg", "png")
PREFIXES = ("i'm sorry", "i am sorry", "i cannot", "i can't")
WORDS = re.compile(r"\w+")


def shards(step):
    os.makedirs(os.path.join(OUT, step), exist_ok=True)
    return os.path.join(OUT, step, "shard-%06d.tar")


def read(step):
    folder = os.path.join(OUT, step)
    return wds.WebDataset(sorted(os.path.join(folder, name) for name in os.listdir(folder)), shardshuffle=False)


def picture(sample):
    return next(kind for kind in PICTURES if kind in sample)


def convert():
    with open(os.path.join(FOLDER, "rows.jsonl")) as rows, wds.ShardWriter(shards("shards"), maxcount=10_000, verbose=0) as out:
        for _, line in zip(range(SAMPLES), rows):
            row = json.loads(line)
            with open(os.path.join(FOLDER, "images", row["image"]), "rb") as file:
                data = file.read()
            Image.open(io.BytesIO(data)).load()
            out.write({"__key__": row["id"], row["image"].rsplit(".", 1)[1]: data, "json": row})


def caption_is_good(text):
    if text.lower().startswith(PREFIXES):
        return False
    last, run = None, 0
    for word in WORDS.findall(text):
        run = run + 1 if word == last else 1
        last = word
        if run >= 8:
            return False
    return 50 <= len(text) <= 3500


def filter_shards():
    kept = 0
    with wds.ShardWriter(shards("clean"), maxcount=10_000, verbose=0) as out:
        for sample in read("shards"):
            row = json.loads(sample["json"])
            kind = picture(sample)
            width, height = Image.open(io.BytesIO(sample[kind])).size
            if min(width, height) < 28 or max(width, height) > 200 * min(width, height) or not caption_is_good(row["caption"]):
                continue
            out.write({"__key__": sample["__key__"], kind: sample[kind], "json": sample["json"]})
            kept += 1
    return kept


def image_tokens(width, height):
    h, w = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    if h * w > CONFIG["max_pixels"]:
        beta = math.sqrt(height * width / CONFIG["max_pixels"])
        h, w = (max(FACTOR, math.floor(side / beta / FACTOR) * FACTOR) for side in (height, width))
    elif h * w < CONFIG["min_pixels"]:
        beta = math.sqrt(CONFIG["min_pixels"] / (height * width))
        h, w = (math.ceil(side * beta / FACTOR) * FACTOR for side in (height, width))
    return h * w // FACTOR**2


def pack():
    samples = []
    for sample in read("clean"):
        kind = picture(sample)
        caption = json.loads(sample["json"])["caption"]
        text = ("<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
                f"<|im_start|>assistant\n{caption}<|im_end|>\n")
        length = len(TOKENIZER.encode(text).ids) - 1 + image_tokens(*Image.open(io.BytesIO(sample[kind])).size)
        samples.append((length, caption, sample[kind], sample["__key__"]))
    # Best fit decreasing: `rooms` is sorted, the fullest pack that still has room is a bisection away.
    rooms, packs = [], []
    for sample in sorted(samples, key=lambda s: -s[0]):
        at = bisect.bisect_left(rooms, (sample[0],))
        if at == len(rooms):
            packs.append([sample])
            room, number = CAPACITY - sample[0], len(packs) - 1
        else:
            room, number = rooms.pop(at)
            packs[number].append(sample)
            room -= sample[0]
        bisect.insort(rooms, (room, number))
    with wds.ShardWriter(shards("packed"), maxcount=1000, verbose=0) as out:
        for number, members in enumerate(packs):
            parts = {f"img{i}.jpg": data for i, (_, _, data, _) in enumerate(members)}
            out.write({"__key__": f"ps_{number:08d}", **parts, "json": {
                "prompts": ["" for _ in members], "captions": [caption for _, caption, _, _ in members],
                "images": [key for _, _, _, key in members]}})
    return sum(length for length, _, _, _ in samples), len(packs)


def timed(step):
    begin = time.process_time()
    return step(), time.process_time() - begin


for _ in sys.stdin:
    shutil.rmtree(OUT, ignore_errors=True)
    _, convert_s = timed(convert)
    kept, filter_s = timed(filter_shards)
    (tokens, packs), pack_s = timed(pack)
    shutil.rmtree(OUT, ignore_errors=True)
    print(json.dumps({"seconds": [convert_s, filter_s, pack_s], "kept": kept, "tokens": tokens, "packs": packs,
                      "versions": f"webdataset {wds.__version__}, PIL {PIL.__version__}, tokenizers {tokenizers.__version__}"}),
          flush=True)
