"""JPEG files to patch rows with PIL and torch, as one writes it after the model card; and by transformers' own processor.

usage: images.py FOLDER    (FOLDER/0.jpg, 1.jpg, …; leaves FOLDER/0.f32, …; one round for every line on its input)
"""
import io, json, math, os, sys, time
import numpy as np, PIL, torch
from PIL import Image

torch.set_num_threads(1)
FOLDER = sys.argv[1]
CONFIG = json.load(open(os.path.join(FOLDER, "preprocessor_config.json")))
PATCH, MERGE = CONFIG["patch_size"], CONFIG["merge_size"]
FACTOR = PATCH * MERGE
MEAN = torch.tensor(CONFIG["image_mean"]).view(3, 1, 1)
STD = torch.tensor(CONFIG["image_std"]).view(3, 1, 1)
FILES = [open(os.path.join(FOLDER, f"{i}.jpg"), "rb").read()
         for i in range(sum(name.endswith(".jpg") for name in os.listdir(FOLDER)))]


def smart_resize(height, width):
    h, w = round(height / FACTOR) * FACTOR, round(width / FACTOR) * FACTOR
    if h * w > CONFIG["max_pixels"]:
        beta = math.sqrt(height * width / CONFIG["max_pixels"])
        h, w = (max(FACTOR, math.floor(side / beta / FACTOR) * FACTOR) for side in (height, width))
    elif h * w < CONFIG["min_pixels"]:
        beta = math.sqrt(CONFIG["min_pixels"] / (height * width))
        h, w = (math.ceil(side * beta / FACTOR) * FACTOR for side in (height, width))
    return h, w


def with_torch(file):
    image = Image.open(io.BytesIO(file)).convert("RGB")
    h, w = smart_resize(image.height, image.width)
    image = image.resize((w, h), Image.BICUBIC)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    x = x.float().div_(255).sub_(MEAN).div_(STD)
    x = x.reshape(3, h // FACTOR, MERGE, PATCH, w // FACTOR, MERGE, PATCH).permute(1, 4, 2, 5, 0, 3, 6)
    return x.reshape(-1, 3 * PATCH * PATCH)


try:
    import transformers
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    processor = Qwen2VLImageProcessor(**CONFIG)

    def with_transformers(file):
        image = Image.open(io.BytesIO(file))
        return processor(images=[image], return_tensors="pt")["pixel_values"]
except ImportError:
    transformers = with_transformers = None

versions = f"PIL {PIL.__version__}, torch {torch.__version__}" + (f", transformers {transformers.__version__}" if transformers else "")


def measure(work):
    seconds = []
    for file in FILES:
        begin = time.process_time()
        work(file)
        seconds.append(time.process_time() - begin)
    return seconds


for i, file in enumerate(FILES):
    with_torch(file).contiguous().numpy().tofile(os.path.join(FOLDER, f"{i}.f32"))
for _ in sys.stdin:
    print(json.dumps({"torch": measure(with_torch), "versions": versions,
                      "transformers": measure(with_transformers) if with_transformers else None}), flush=True)
