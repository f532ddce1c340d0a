"""Small trees with pair sets of every kind, packed on the spot."""

import json

import numpy as np
import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack

bcolz = pytest.importorskip("bcolz")


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, **settings})


def write_csv(tree, lines, name="list"):
    folder = tree / "hres_eval_pairs"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def write_bcolz(tree, pictures, same, name="hres", convert=lambda p: p / 127.5 - 1, dtype=np.float32):
    """Pictures uint8 [2P, S, S, 3] RGB as the array a face validation set has: BGR, CHW."""
    folder = tree / "hres_eval_pairs"
    folder.mkdir(exist_ok=True)
    values = convert(pictures[..., ::-1].transpose(0, 3, 1, 2).astype(np.float64)).astype(dtype)
    bcolz.carray(values, rootdir=str(folder / name), mode="w", chunklen=3).flush()
    np.save(folder / f"{name}_list.npy", np.asarray(same))


def rejections(out):
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def eval_pictures(out):
    split = open_packed(out).splits["highres_eval"]
    return split.read(np.arange(split.samples)), split.labels
