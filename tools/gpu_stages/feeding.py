"""Batches a second of our engines and of stock DALI, from raw pixels and from JPEG."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.made_shards import write_shards
from benchmarks.peers import load
from benchmarks.peers.base import Task
from hrfr_fast.format import beton, manifest
from hrfr_fast.format.writer import SplitWriter
from hrfr_fast.runtime.system import cores
from hrfr_fast.synthetic.scales import LOW, SplitSpec, identity_name
from tools.gpu_stages.report import StageReport, stage_report

LOADERS = {"raw": ("resident", "dali"), "jpeg": ("dali", "stock DALI")}
SECONDS, ROUNDS = 0.7, 3


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    plan = SplitSpec(0, 4 if report.dry else 500, 8, LOW)
    tree, packed = report.work / "tree", report.work / "packed"
    write_shards(packed / "raw", {"lowres": plan}, smooth)
    write_jpeg(tree, packed / "jpeg", plan)
    for encoding, names in LOADERS.items():
        for regime in ("lowres32", "lowres144"):
            task = Task(
                str(tree), str(packed), str(report.work / "formats"), regime, encoding, 8 if report.dry else 1024,
                "float32" if report.dry else "float16", report.device, cores(),
            )  # fmt: skip
            for name in names:
                report.attempt(f"{name}, {regime}", measure, name, task)
    return report.exit_code


def smooth(split: str, plan: SplitSpec, identity: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """A smooth picture of the identity's own, whose JPEG file is about as large as a face's."""
    coarse = np.random.default_rng(identity).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (plan.size, plan.size), interpolation=cv2.INTER_CUBIC)[None]


def write_jpeg(tree: Path, packed: Path, plan: SplitSpec) -> None:
    """The same pictures as files and as a shard of those files."""
    packed.mkdir(parents=True)
    writer = SplitWriter(packed / "lowres.beton", plan.identities * plan.pictures, plan.size)
    names = [identity_name("lowres", identity) for identity in range(plan.identities)]
    for identity, name in enumerate(names):
        content = cv2.imencode(".jpg", smooth("lowres", plan, identity)[0])[1].tobytes()
        (tree / "lowres" / name).mkdir(parents=True)
        for picture in range(plan.pictures):
            (tree / "lowres" / name / f"{picture:03d}.jpg").write_bytes(content)
            writer.append(content, identity, beton.JPEG)
    entry = manifest.split_entry("lowres", writer.finish(), size=plan.size, identity_names=names)
    manifest.write(packed, manifest.build({"lowres": entry}, {}, {}))


def measure(report: StageReport, name: str, task: Task) -> None:
    """Images a second in each of ROUNDS rounds after a first of the same length."""
    loader = load(name)
    what = f"{name}, {task.regime} from {task.encoding}"
    problem = loader.unavailable(task)
    if problem:
        report.add(f"{what}: left out", problem=problem)
        return
    batches: Any = loader.batches(task)
    rates = [rate(batches, task, 0.02 if report.dry else SECONDS) for _ in range(1 + ROUNDS)][1:]
    batches.close()
    report.add(what, images_per_second=sorted(rates)[ROUNDS // 2], rounds=rates, batch_size=task.batch_size)


def rate(batches: Any, task: Task, seconds: float) -> float:
    """Images a second over at least three batches."""
    began, images, count = time.perf_counter(), 0, 0
    while count < 3 or time.perf_counter() - began < seconds:
        images += len(next(batches)[0])
        count += 1
    if task.device != "cpu":
        import torch

        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
