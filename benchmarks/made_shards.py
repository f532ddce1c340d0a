"""Packed pictures written directly by the format's writer, without picture files, JPEG codec or bcolz.

Noise is written in seconds at the scale of the study, 1,000,000 + 10,000 pictures, and trains exactly as fast as faces.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import beton, manifest
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.synthetic.scales import HIGH, LOW, SplitSpec, identity_name

Pictures = Callable[[str, SplitSpec, int], NDArray[np.uint8]]
"""(split, its plan, identity) to uint8 [n, size, size, 3] RGB, n either all pictures of the identity or 1 for all."""

CHUNK = 64 << 20  # bytes handed to the writer in one call


class NoiseScale(NamedTuple):
    """Number of identities, and of pictures of each, in lowres and in highres."""

    lowres: tuple[int, int]
    highres: tuple[int, int]

    def plans(self) -> dict[str, SplitSpec]:
        return {"lowres": SplitSpec(0, *self.lowres, LOW), "highres": SplitSpec(1, *self.highres, HIGH)}


NOISE_SCALES = {
    "tiny": NoiseScale((24, 6), (12, 4)),
    "small": NoiseScale((2_000, 20), (500, 4)),
    "classes": NoiseScale((50_000, 2), (2_500, 2)),  # the head of the study over little data
    "paper": NoiseScale((50_000, 20), (2_500, 4)),
}


def noise(split: str, plan: SplitSpec, identity: int) -> NDArray[np.uint8]:
    """One picture of noise for each identity, so that a network can learn to classify them."""
    generator = np.random.default_rng((plan.number, identity))
    pixels = np.frombuffer(generator.bytes(3 * plan.size**2), np.uint8)
    return pixels.reshape(1, plan.size, plan.size, 3)


def write_noise(out: Path, scale: str) -> None:
    """Pack noise of a key of NOISE_SCALES into ``out``, an absent or empty directory."""
    write_shards(out, NOISE_SCALES[scale].plans(), noise)


def write_shards(out: Path, plans: dict[str, SplitSpec], pictures: Pictures) -> None:
    """Pack ``pictures`` of every identity of ``plans`` raw into ``out``, without pairs."""
    out.mkdir(parents=True, exist_ok=True)
    entries = {}
    for split, plan in plans.items():
        writer = SplitWriter(out / f"{split}.beton", plan.identities * plan.pictures, plan.size)
        step = max(1, CHUNK // (plan.pictures * 3 * plan.size**2))
        for first in range(0, plan.identities, step):
            _append(writer, split, plan, range(first, min(first + step, plan.identities)), pictures)
        names = [identity_name(split, identity) for identity in range(plan.identities)]
        entries[split] = manifest.split_entry(split, writer.finish(), size=plan.size, identity_names=names)
    manifest.write(out, manifest.build(entries, {}, {"made": "without picture files"}))


def _append(writer: SplitWriter, split: str, plan: SplitSpec, identities: range, pictures: Pictures) -> None:
    payloads: list[bytes] = []
    checksums: list[int] = []
    for identity in identities:
        own = [picture.tobytes() for picture in pictures(split, plan, identity)]
        repeats = plan.pictures // len(own)
        payloads += own * repeats
        checksums += [zlib.crc32(payload) for payload in own] * repeats
    count = len(payloads)
    labels = np.repeat(np.asarray(identities), plan.pictures)
    lengths, modes = np.full(count, 3 * plan.size**2), np.full(count, beton.RAW)
    writer.extend(b"".join(payloads), lengths, labels, modes, checksums)
