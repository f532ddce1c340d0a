"""What ``benchmarks/pack.py`` compares, each run in a process of its own: ``python -m benchmarks.packers NAME ...``.

Worker processes import the main module anew. This one imports nothing to speak of, as the command ``hrfr-fast`` does.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

CHUNK = 500


def with_hrfr(tree: Path, out: Path, workers: int) -> int:
    """`hrfr-fast pack --encoding raw`."""
    from hrfr_fast.packing.pack import pack

    return pack(tree, out, encoding="raw", workers=workers, show_progress=False).shards["lowres"].samples


def listed(tree: Path) -> list[tuple[str, int]]:
    """(path, label) of every file."""
    found = []
    for label, identity in enumerate(sorted(os.scandir(tree / "lowres"), key=lambda e: e.name)):
        found += [(file.path, label) for file in sorted(os.scandir(identity.path), key=lambda e: e.name)]
    return found


class Faces:
    """The dataset that DatasetWriter reads, decoded with libjpeg-turbo."""

    def __init__(self, files: list[tuple[str, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label = self.files[number]
        return _decoded(path), label


def _decoded(path: str) -> Any:
    import simplejpeg

    with open(path, "rb") as file:
        return simplejpeg.decode_jpeg(file.read(), "RGB")


def with_ffcv(tree: Path, out: Path, workers: int) -> int:
    """Stock FFCV, raw pixels, its default pages."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    files = listed(tree)
    out.mkdir()
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(out / "lowres.beton"), fields, num_workers=workers).from_indexed_dataset(Faces(files))
    return len(files)


def _decode_many(paths: list[str]) -> int:
    return sum(_decoded(path).nbytes for path in paths)


def decode_alone(tree: Path, out: Path, workers: int) -> int:
    """Read and decode every file, and store nothing."""
    paths = [path for path, _ in listed(tree)]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with get_context("fork").Pool(workers) as pool:
        sum(pool.imap_unordered(_decode_many, chunks))
    return len(paths)


PACKERS: dict[str, Callable[[Path, Path, int], int]] = {
    "hrfr-fast pack": with_hrfr,
    "FFCV DatasetWriter": with_ffcv,
    "read and decode": decode_alone,
}


def main(name: str, tree: Path, out: Path, workers: int, log: Path) -> None:
    """One round: prints pictures, seconds, and seconds of CPU of all processes as JSON. Imports are not timed."""
    answers = os.fdopen(os.dup(1), "w")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    import simplejpeg  # noqa: F401

    if name == "FFCV DatasetWriter":
        import ffcv.writer  # noqa: F401
    if name == "hrfr-fast pack":
        import hrfr_fast.packing.pack  # noqa: F401
    start, before = time.perf_counter(), _cpu()
    count = PACKERS[name](tree, out, workers)
    seconds = time.perf_counter() - start
    for child in active_children():  # FFCV's workers are not waited for; CPU seconds count once a process has ended
        child.join()
    json.dump([count, seconds, _cpu() - before], answers)
    answers.close()


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
