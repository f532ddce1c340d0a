"""CPU time of a training step, or of an evaluation: with kernels of our own, without them, and eager, in turns.

    python benchmarks/cpu_kernels.py                      # 32 and 144 px, widths 16 and 64: 10 minutes on a quiet core
    python benchmarks/cpu_kernels.py --size 32 --width 16 --classes 50000
    python benchmarks/cpu_kernels.py --evaluation         # embeddings, without gradients; 2 minutes

Rounds alternate (A B C C B A) in one process, on one constant random batch, and medians of the process's CPU seconds
are compared: they hold on a machine that others use, too, with one thread (OMP_NUM_THREADS=1), which nobody waits for.
To stand for a machine with AVX2 alone:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma \\
        python benchmarks/cpu_kernels.py --precision fp32
"""

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.command import run  # noqa: E402
from benchmarks.record import record  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.runtime.device import Compute

IMAGES = {(32, 16): 128, (32, 64): 32, (144, 16): 16, (144, 64): 4}
"""Batch by size and width where none is given: steps of about the same time."""
WARM_UP = 2


def our_step(
    settings: "BackboneSettings", classes: int, compute: "Compute", batch: int, kernels: bool
) -> "Callable[[], Any]":
    """The step that ``hrfr-fast train`` takes, on one random batch."""
    import torch

    from hrfr_fast.engines.base import Batch
    from hrfr_fast.model.backbone import build_backbone
    from hrfr_fast.model.heads import build_head
    from hrfr_fast.training.fused_kernels import with_kernels
    from hrfr_fast.training.optim import build_optimizer
    from hrfr_fast.training.step import TrainStep

    torch.manual_seed(0)
    backbone = compute.place(build_backbone(settings)).train()
    head = build_head("arcface", settings.embedding_size, classes)
    with_kernels(backbone, head, compute, wanted=kernels)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = TrainStep(backbone, head, build_optimizer([backbone, head], lr=0.01), scaler, compute, clip_gradient=5.0)
    images = torch.rand(batch, 3, settings.input_size, settings.input_size).mul(2).sub(1)
    images = images.to(compute.image_dtype).to(memory_format=torch.channels_last)
    constant = Batch(images, torch.randint(classes, (batch,)), 0)
    return lambda: step(constant, 0)


def evaluation(
    settings: "BackboneSettings", compute: "Compute", batch: int, *, kernels: bool = False, by_pixel: bool = True
) -> "Callable[[], Any]":
    """The embedding of one random batch, without its mirror image. ``by_pixel``: channels-last, as ours, or NCHW."""
    import torch

    from hrfr_fast.model.backbone import build_backbone
    from hrfr_fast.model.kernels.cpu_use import use_on_cpu

    torch.manual_seed(0)
    backbone = build_backbone(settings).eval()
    backbone = compute.place(backbone) if by_pixel else backbone
    if kernels:
        use_on_cpu(backbone)
    images = torch.rand(batch, 3, settings.input_size, settings.input_size).mul(2).sub(1)
    images = images.to(compute.image_dtype)
    images = images.to(memory_format=torch.channels_last) if by_pixel else images

    def embed() -> None:
        with torch.inference_mode(), compute.autocast():
            backbone(images)

    return embed


def evaluations(settings: "BackboneSettings", compute: "Compute", batch: int) -> "dict[str, Callable[[], Any]]":
    """The ways to evaluate; the eager one in NCHW and float32."""
    from hrfr_fast.runtime.device import choose_compute

    return {
        "kernels": evaluation(settings, compute, batch, kernels=True),
        "without": evaluation(settings, compute, batch),
        "eager": evaluation(settings, choose_compute("cpu", "fp32"), batch, by_pixel=False),
    }


def steps(settings: "BackboneSettings", classes: int, compute: "Compute", batch: int) -> "dict[str, Callable[[], Any]]":
    """The ways to take a training step."""
    from benchmarks.peers.eager_step import EagerStep

    return {
        "kernels": our_step(settings, classes, compute, batch, True),
        "without": our_step(settings, classes, compute, batch, False),
        "eager": EagerStep(settings, classes, compute, batch),
    }


def measure(size: int, width: int, classes: int, batch: int, precision: str, rounds: int) -> dict[str, Any]:
    """Median CPU milliseconds an image of each way, and their ratios. ``classes`` 0: of evaluations."""
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.runtime.device import choose_compute

    compute, settings = choose_compute("cpu", precision), BackboneSettings(size, width)
    ways = steps(settings, classes, compute, batch) if classes else evaluations(settings, compute, batch)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            began = time.process_time()
            ways[name]()
            if number >= WARM_UP:
                seconds[name].append(time.process_time() - began)
    costs = {name: 1000 * median(values) / batch for name, values in seconds.items()}
    return {
        "size": size, "width": width, "classes": classes, "batch": batch, "precision": compute.precision,
        "ms_an_image": costs, "spread": {name: max(values) / min(values) for name, values in seconds.items()},
        "times_without": costs["without"] / costs["kernels"], "times_eager": costs["eager"] / costs["kernels"],
    }  # fmt: skip


def main(
    size: Annotated[list[int] | None, typer.Option(help="32 and 144 if not given; may be repeated")] = None,
    width: Annotated[list[int] | None, typer.Option(help="16 and 64 if not given; may be repeated")] = None,
    classes: Annotated[int, typer.Option(help="rows of the head's matrix")] = 5000,
    batch_size: Annotated[int, typer.Option(help="0: by size and width")] = 0,
    precision: Annotated[str, typer.Option(help="auto | bf16 | fp32, of our steps; the eager step is fp32")] = "auto",
    rounds: Annotated[int, typer.Option(help="measured steps of each way")] = 8,
    evaluation: Annotated[bool, typer.Option("--evaluation", help="embed without gradients, no head")] = False,
    out: Annotated[Path, typer.Option(help="where cpu_kernels.json goes")] = Path("benchmarks/out"),
) -> None:
    """Measure the CPU time of training steps or evaluations with and without kernels, and of the eager ones."""
    results = []
    classes = 0 if evaluation else classes
    head = "evaluation" if evaluation else f"{classes:,} classes"
    out.mkdir(parents=True, exist_ok=True)
    for pixels in size or (32, 144):
        for channels in width or (16, 64):
            batch = batch_size or IMAGES.get((pixels, channels), 16)
            result = measure(pixels, channels, classes, batch, precision, rounds)
            results.append(result)
            costs = ", ".join(f"{name} {cost:.2f}" for name, cost in result["ms_an_image"].items())
            typer.echo(
                f"{pixels} px, width {channels}, {head}, batch {batch}, {result['precision']}: "
                f"CPU ms an image: {costs}; {result['times_without']:.2f} x without, "
                f"{result['times_eager']:.2f} x eager"
            )
            (out / "cpu_kernels.json").write_text(
                json.dumps(record("cpu_kernels", results), indent=1) + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    run(main)
