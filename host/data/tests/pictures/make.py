"""Makes the pictures beside it and `expected.json`: what Pillow decodes and resizes them to (first 16 hex digits of SHA-256).

Run with Pillow 11.3 (version 13 swaps the two resize passes for some sizes): python3 make.py
"""
import hashlib, json, pathlib, random
from PIL import Image

here = pathlib.Path(__file__).parent
rng = random.Random(1)


def base(w, h):
    image = Image.new("RGB", (w, h))
    image.putdata([((x * 5 + y) % 256, (x * y // 7) % 256, (200 - 3 * x + rng.randrange(40)) % 256)
                   for y in range(h) for x in range(w)])
    return image


rgb = base(61, 47)
alpha = rgb.convert("L").resize(rgb.size)
rgba = rgb.copy()
rgba.putalpha(alpha)
grey16 = Image.new("I;16", (33, 21))
grey16.putdata([(x * 1973 + y * 331) % 65536 for y in range(21) for x in range(33)])
palette = rgb.quantize(32)
saves = {
    "rgb.png": (rgb, {}), "rgba.png": (rgba, {}), "grey.png": (rgb.convert("L"), {}),
    "grey_alpha.png": (rgba.convert("LA"), {}), "palette.png": (palette, {}),
    "palette_clear.png": (palette, {"transparency": 3}), "bits1.png": (rgb.convert("1"), {}), "grey16.png": (grey16, {}),
    "420.jpg": (rgb, {"quality": 80, "subsampling": 2}), "422.jpg": (rgb, {"quality": 80, "subsampling": 1}),
    "444.jpg": (rgb, {"quality": 95, "subsampling": 0}), "progressive.jpg": (rgb, {"quality": 70, "progressive": True}),
    "grey.jpg": (rgb.convert("L"), {}), "cmyk.jpg": (rgb.convert("CMYK"), {}),
    "rgb.bmp": (rgb, {}), "rgb.tif": (rgb, {}), "palette.gif": (palette, {}), "lossless.webp": (rgb, {"lossless": True}),
    "lossless_alpha.webp": (rgba, {"lossless": True, "exact": True}), "lossy.webp": (rgb, {"quality": 80}),
}
digest = lambda image: hashlib.sha256(image.tobytes()).hexdigest()[:16]
expected = {}
for name, (image, options) in saves.items():
    image.save(here / name, **options)
    back = Image.open(here / name).convert("RGB")
    expected[name] = {"size": list(back.size), "rgb": digest(back), "resized": [
        [w, h, digest(back.resize((w, h), Image.BICUBIC))] for w, h in [(28, 28), (84, 56), (61, 90), (13, 47), (300, 7)]]}
(here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
