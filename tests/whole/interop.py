"""The other side of tests/whole/interop.rs: webdataset and Megatron-Energon, as their users call them.

    interop.py versions              what is installed, as JSON
    interop.py write FOLDER          shards by webdataset.ShardWriter, samples as in `samples()`
    interop.py prepare FOLDER        Energon's own preparing step over them, all of them in part train
    interop.py webdataset SHARD...   what webdataset reads: one JSON line a sample, parts as sha256
    interop.py energon PATH PART     what Energon reads (a prepared folder or a metadataset), in the same form
    interop.py fixture FOLDER        makes tests/fixtures/energon/5 or 7 anew, by the installed Energon
"""

import glob
import hashlib
import json
import os
import struct
import sys
import zlib


def png(grey):
    """A picture of 8 by 8 points of one grey."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([grey] * 8)) * 8
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def samples():
    """Keys and parts."""
    for i in range(7):
        key = f"part{i % 2}/sample-{i:03d}"
        record = {"question": f"What is {i}?", "answer": str(i)}
        parts = {"__key__": key, "json": json.dumps(record).encode(), "img0.png": png(30 * i)}
        if i == 3:
            parts["txt"] = "words: größe 文".encode()
        if i == 5:
            # Longer than a plain tar header holds.
            parts["__key__"] = "deep/" * 30 + f"sample-{i:03d}"
        yield parts


def line(key, parts):
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in parts.items()}
    return json.dumps({"key": key, "parts": digests}, sort_keys=True)


def show(key, parts):
    print(line(key, parts))


def versions():
    found = {}
    try:
        import webdataset

        found["webdataset"] = webdataset.__version__
    except ImportError:
        pass
    try:
        import megatron.energon

        # Version 7 has what version 5 has not.
        found["energon"] = 7 if hasattr(megatron.energon, "SampleDecoder") else 5
    except ImportError:
        pass
    print(json.dumps(found))


def write(folder):
    import webdataset

    with webdataset.ShardWriter(os.path.join(folder, "wds-%03d.tar"), maxcount=4, mtime=0, verbose=False) as writer:
        for sample in samples():
            writer.write(sample)


def prepare(folder):
    from megatron.energon.epathlib import EPath
    from megatron.energon.flavors import BaseWebdatasetFactory

    shards = sorted(os.path.relpath(p, folder) for p in glob.glob(os.path.join(folder, "**/*.tar"), recursive=True))
    try:
        from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator as preparator
    except ImportError:
        preparator = BaseWebdatasetFactory
    ratio = [("train", 1.0), ("val", 0.0), ("test", 0.0)]
    preparator.prepare_dataset(EPath(folder), shards, split_parts_ratio=ratio, workers=1)
    with open(os.path.join(folder, ".nv-meta", "dataset.yaml"), "w") as file:
        file.write("__module__: megatron.energon\n__class__: CrudeWebdataset\n")


def read_webdataset(shards):
    import webdataset

    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        show(sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")})


def read_energon(path, part):
    import megatron.energon as energon

    @energon.stateless
    def as_it_is(sample):
        return sample

    class Raw(energon.TaskEncoder):
        # Version 7 takes this; version 5 the argument below.
        decoder = None
        cookers = [energon.Cooker(as_it_is)]

    options = {} if hasattr(energon, "SampleDecoder") else {"auto_decode": False}
    dataset = energon.get_val_dataset(
        path,
        split_part=part,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        task_encoder=Raw(),
        **options,
    )
    for sample in energon.get_loader(dataset):
        # Energon puts the shard before the key.
        shard, key = sample["__shard__"], sample["__key__"]
        key = key[len(shard) + 1 :] if key.startswith(shard + "/") else key
        show(key, {name: value for name, value in sample.items() if not name.startswith("__")})


def fixture(folder):
    write(folder)
    prepare(folder)
    # Not read by ovhost, and different every time.
    for name in ["index.sqlite", "index.uuid"]:
        path = os.path.join(folder, ".nv-meta", name)
        if os.path.exists(path):
            os.remove(path)
    lines = []
    import webdataset

    for sample in webdataset.WebDataset(sorted(glob.glob(os.path.join(folder, "*.tar"))), shardshuffle=False):
        lines.append(line(sample["__key__"], {name: value for name, value in sample.items() if not name.startswith("__")}))
    with open(os.path.join(folder, "expected.jsonl"), "w") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "versions":
        versions()
    elif command == "write":
        write(*arguments)
    elif command == "prepare":
        prepare(*arguments)
    elif command == "webdataset":
        read_webdataset(arguments)
    elif command == "energon":
        read_energon(*arguments)
    elif command == "fixture":
        fixture(*arguments)
    else:
        sys.exit(f"unknown command {command}")
