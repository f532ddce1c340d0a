"""Constants of the scale model: measured on smaller sets (benchmarks/RESULTS.md), or published."""

from typing import NamedTuple


class Constant(NamedTuple):
    """A number that was measured or published, and where it comes from."""

    value: float
    source: str


MEASURED = {
    "bytes of a 112-px JPEG": Constant(4070, "RESULTS: a million faces in an InsightFace .rec, 4.07 GB"),
    "faces packed in a CPU second": Constant(5300, "RESULTS: the same pack, 189 CPU seconds"),
    "bytes of the packing process a face": Constant(115, "RESULTS: 110 MiB of arrays on a million records"),
    "CPU seconds of a permutation of a million": Constant(0.08, "results/loaders.md: a permutation of records"),
    "bytes of a rank's tables a face": Constant(30, "offset, length, label 8 each, mode 1, CRC-32 4, verified 1"),
    "bytes of an order a face": Constant(8, "int64"),
    "orders that a rank keeps": Constant(16, "lru_cache of sampling/sampler.py"),
    "FLOP/s of a card": Constant(790e12, "RESULTS: the ceiling taken for an H200 (bf16); 7.82e14 were measured"),
    "bytes/s of a card's memory": Constant(4.3e12, "RESULTS: the same; 4.23e12 were measured"),
}
"""Constants that the model rests on."""

LINKS = {
    "NVLink 4": Constant(450e9, "NVIDIA H100 data sheet: 900 GB/s in both directions"),
    "PCIe 5 x16": Constant(63e9, "32 GT/s, 16 lanes, 128b/130b"),
    "PCIe 4 x16": Constant(31.5e9, "16 GT/s, 16 lanes, 128b/130b"),
    "400 Gb Ethernet": Constant(50e9, "its name"),
    "100 Gb Ethernet": Constant(12.5e9, "its name"),
    "NVMe drive": Constant(7e9, "sequential reads of PCIe 4 x4 drives"),
}
"""Bytes a second in one direction, as published: what protocols cost is not taken off."""
