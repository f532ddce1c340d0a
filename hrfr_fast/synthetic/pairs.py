"""Verification pairs of synthetic faces: their choice, and the bcolz carray of a data tree."""

import os
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format.names import PAIR_FOLDER
from hrfr_fast.runtime.files import write_array
from hrfr_fast.runtime.optional import require_bcolz
from hrfr_fast.runtime.output_directory import raise_if_stopped
from hrfr_fast.runtime.philox import SYNTHESIS, philox
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.synthetic.directory import PARTIAL
from hrfr_fast.synthetic.scales import HIGH, Scale, identity_name

PAIR_STREAM = 3  # Philox view; the splits are 0, 1 and 2
APPENDED = 32  # pairs decoded and written at a time


class ChosenPairs(NamedTuple):
    """P pairs of ``highres_eval`` pictures: identity and picture number of both, [P, 2] each, and [P] same."""

    identities: NDArray[np.int64]
    pictures: NDArray[np.int64]
    same: NDArray[np.bool_]


def choose_pairs(scale: Scale, seed: int) -> ChosenPairs:
    """Pairs of ``highres_eval``: half genuine, half impostor, no pair twice, in random order."""
    identities, each = scale.highres_eval
    half = scale.pairs // 2
    inside = np.array(list(combinations(range(each), 2)))
    order = np.argsort(_random(seed, 0, identities * len(inside)), kind="stable")[:half]
    genuine_people = np.repeat((order // len(inside))[:, None], 2, axis=1)
    genuine_pictures = inside[order % len(inside)]
    # Each candidate is a picture and one of another person. More are drawn than needed, and duplicates are dropped.
    candidates = 4 * half + 64
    first = _random(seed, 1, candidates) % (identities * each)
    offset = _random(seed, 2, candidates) % ((identities - 1) * each)
    second = (first // each * each + each + offset) % (identities * each)
    low, high = np.minimum(first, second), np.maximum(first, second)
    _, unique = np.unique(low * identities * each + high, return_index=True)
    unique = np.sort(unique)[:half]
    impostors = np.stack([first, second], 1)[unique]
    people = np.concatenate([genuine_people, impostors // each])
    pictures = np.concatenate([genuine_pictures, impostors % each])
    shuffle = np.argsort(_random(seed, 3, scale.pairs), kind="stable")
    return ChosenPairs(people[shuffle], pictures[shuffle], (np.arange(scale.pairs) < half)[shuffle])


def _random(seed: int, stream: int, count: int) -> NDArray[np.int64]:
    return philox(seed, stream, np.arange(count), purpose=SYNTHESIS, view=PAIR_STREAM)[:, 0].astype(np.int64)


def write_pairs(root: Path, scale: Scale, seed: int, stop: StopFlag, advance: Callable[[int], None]) -> None:
    """Decode the files of the chosen pairs into the carray; the labels are written last and make the set complete."""
    import simplejpeg

    bcolz = require_bcolz(f"{root}: writing its pairs")
    folder = root / PAIR_FOLDER
    folder.mkdir(exist_ok=True)
    if (folder / "hres_list.npy").exists():
        advance(scale.pairs)
        return
    pairs, aside = choose_pairs(scale, seed), root / PARTIAL / "hres"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder / "hres", ignore_errors=True)
    bcolz.blosc_set_nthreads(1)  # the bytes must not depend on the number of cores
    empty = np.empty((0, 3, HIGH, HIGH), np.float32)
    array = bcolz.carray(empty, rootdir=str(aside), mode="w", expectedlen=2 * scale.pairs)
    for start in range(0, scale.pairs, APPENDED):
        raise_if_stopped(stop, f"{root} is incomplete; the same `hrfr-fast synth` continues it")
        chosen = slice(start, start + APPENDED)
        people, numbers = pairs.identities[chosen].ravel(), pairs.pictures[chosen].ravel()
        files = [
            root / "highres_eval" / identity_name("highres_eval", person) / f"{number:03d}.jpg"
            for person, number in zip(people.tolist(), numbers.tolist(), strict=True)
        ]
        pixels = np.stack([simplejpeg.decode_jpeg(file.read_bytes(), colorspace="BGR") for file in files])
        array.append(((pixels.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2))
        advance(len(files) // 2)
    array.flush()
    os.replace(aside, folder / "hres")
    write_array(folder / "hres_list.npy", pairs.same)
