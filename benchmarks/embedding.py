"""Embedding of picture files, side by side: `hrfr-fast embed` of a run and of its ONNX file, and two plain loops.

The loops are around ONNX Runtime and PyTorch. Each way takes turns in a process of its own; rounds alternate the order.

They are what a careful user writes: OpenCV decodes and resizes in threads, one batch ahead of the network; f(x) +
f(flip x), normalised. All make the same embeddings but for the resampling.

    python benchmarks/embedding.py FOLDER --count 10000 --width 16 --rounds 2
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.command import run as run_command

BATCH = 128
WAYS = ("embed RUN", "embed ONNX", "ONNX Runtime loop", "PyTorch loop")


def made_run(folder: Path, size: int, width: int, embedding_size: int) -> Path:
    """A run directory with an untrained IR-SE-18, and its ONNX file beside it."""
    import torch
    from torch import nn

    from hrfr_fast.deployment.export import export
    from hrfr_fast.model.backbone import BackboneSettings, build_backbone
    from hrfr_fast.model.checkpoint import save_weights

    torch.manual_seed(0)
    shape = BackboneSettings(size, width, embedding_size)
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    data = {"path": "/nowhere", "from_run": "", "digest": "0", "splits": {"lowres": "0"}, "pairs": {}}
    metadata = {"regime": "lowres32", "backbone": asdict(shape), "data": data, "parents": []}
    save_weights(run / "checkpoints" / "last.safetensors", build_backbone(shape), nn.Linear(1, 1), metadata)
    export(run, folder / "model.onnx", show_progress=False)
    return run


def decoded(paths: list[str], size: int) -> Iterator[NDArray[np.uint8]]:
    """Batches uint8 [n, size, size, 3] RGB, one ahead of its user."""
    import cv2

    def picture(path: str) -> Any:
        image = cv2.imread(path)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)[:, :, ::-1]

    with ThreadPoolExecutor() as threads:
        starts = list(range(0, len(paths), BATCH))
        ahead = [threads.submit(picture, path) for path in paths[:BATCH]]
        for start in starts:
            batch = np.stack([future.result() for future in ahead])
            ahead = [threads.submit(picture, path) for path in paths[start + BATCH : start + 2 * BATCH]]
            yield batch


def onnx_loop(folder: Path, paths: list[str], size: int) -> None:
    """The plain loop around ONNX Runtime."""
    from hrfr_fast.runtime.optional import require_export
    from hrfr_fast.runtime.system import cores

    onnxruntime = require_export("onnxruntime", "the loop")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    rows = []
    for batch in decoded(paths, size):
        sides = [session.run(None, {"images": np.ascontiguousarray(x)})[0] for x in (batch, batch[:, :, ::-1])]
        rows.append(sides[0] + sides[1])
    save(folder, np.concatenate(rows))


def torch_loop(folder: Path, paths: list[str], size: int) -> None:
    """The plain loop around eager PyTorch, in float32, channels-last."""
    import torch

    from hrfr_fast.evaluation.embedder import BackboneEmbedder, open_embedder

    embedder = open_embedder(folder / "run", device="cpu", precision="fp32")
    assert isinstance(embedder, BackboneEmbedder)
    rows = []
    with torch.inference_mode():
        for batch in decoded(paths, size):
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
            rows.append((embedder.backbone(images) + embedder.backbone(images.flip(3))).numpy())
    save(folder, np.concatenate(rows))


def save(folder: Path, rows: NDArray[np.float32]) -> None:
    """Write the embeddings as our command does."""
    np.savez(folder / "loop.npz", embeddings=rows / np.linalg.norm(rows, axis=1, keepdims=True))


def ours(model: str) -> Callable[[Path, list[str], int], None]:
    """Our command on ``model`` of the folder."""

    def embed_all(folder: Path, paths: list[str], size: int) -> None:
        from hrfr_fast.deployment.embed import embed

        embed(folder / model, [folder / "list.txt"], folder / "ours.npz", device="cpu", show_progress=False)

    return embed_all


DO: dict[str, Callable[[Path, list[str], int], None]] = dict(
    zip(WAYS, (ours("run"), ours("model.onnx"), onnx_loop, torch_loop), strict=True)
)


def turn(folder: Path, way: str, size: int) -> None:
    """Embed everything in one way and print images a second and CPU seconds per 1,000 images, of all threads together.

    Libraries are imported and kernels compiled before the clocks start.
    """
    import cv2  # noqa: F401
    import torch  # noqa: F401

    from hrfr_fast.deployment.pictures import framed_batch
    from hrfr_fast.runtime.optional import require_export

    require_export("onnxruntime", "embedding")
    framed_batch([np.zeros((size + 4, size + 4, 3), np.uint8)], size)  # numba compiles the kernel, or loads it
    paths = (folder / "list.txt").read_text(encoding="utf-8").split("\n")
    began, cpu_began = time.perf_counter(), time.process_time()
    DO[way](folder, paths, size)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    print(json.dumps([len(paths) / seconds, 1000 * cpu_seconds / len(paths)]))


def main(
    faces: Annotated[Path, typer.Argument(help="a folder of pictures, searched recursively")],
    count: Annotated[int, typer.Option(help="pictures; those there are taken again and again")] = 10_000,
    size: Annotated[int, typer.Option(help="input size of the network in pixels")] = 32,
    width: Annotated[int, typer.Option(help="of the network")] = 16,
    embedding_size: Annotated[int, typer.Option(help="of the network")] = 512,
    rounds: Annotated[int, typer.Option(help="turns of each")] = 2,
    only: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Compare ways to embed picture files."""
    if only:
        turn(faces, only, size)
        return
    from hrfr_fast.deployment.pictures import PictureFiles

    found = [str(Path(path).absolute()) for path in PictureFiles([faces]).paths]
    with tempfile.TemporaryDirectory(prefix="hrfr-embedding-") as temporary:
        folder = Path(temporary)
        (folder / "list.txt").write_text("\n".join(found[i % len(found)] for i in range(count)), encoding="utf-8")
        made_run(folder, size, width, embedding_size)
        rates: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                command = [sys.executable, "-m", "benchmarks.embedding", temporary, "--only", way, "--size", str(size)]
                done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
                rates[way].append(json.loads(done.stdout.splitlines()[-1]))
                print("{}: {:,.0f} images/s, {:.2f} CPU s / 1,000".format(way, *rates[way][-1]), flush=True)
    for way, values in rates.items():
        speed, cpu = (round(median(column), 2) for column in zip(*values, strict=True))
        print(json.dumps({"way": way, "images_per_second": speed, "cpu_seconds_per_1000": cpu}))


if __name__ == "__main__":
    run_command(main)
