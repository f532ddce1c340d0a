"""Backbone, head and optimiser apart, and each convolution by itself, in seconds and TFLOP/s."""

import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.training.optim import build_optimizer
from tools.gpu_stages.report import StageReport, stage_report

SIZES = {32: 1024, 144: 256}
"""Side of the input in pixels -> images in the batch."""
REPEATS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    compute = choose_compute(report.device)
    for size, batch in SIZES.items():
        count = 2 if report.dry else batch
        report.attempt(f"{size} px", measure, compute, size, count)
    return report.exit_code


def measure(report: StageReport, compute: Compute, size: int, batch: int) -> None:
    """The three parts of a step, then the convolutions of the network in its order."""
    width, classes = (8, 300) if report.dry else (64, 52_500)
    backbone = compute.place(build_backbone(BackboneSettings(size, width=width))).train()
    head = build_head("arcface", 512, classes).to(compute.device)
    if compute.autocast_dtype == torch.bfloat16:
        head.matmul_dtype = torch.bfloat16
    images = torch.randn(batch, 3, size, size, device=compute.device, dtype=compute.image_dtype)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device=compute.device)
    embeddings = torch.randn(batch, 512, device=compute.device, requires_grad=True)

    def network() -> None:
        with compute.autocast():
            made = backbone(images)
        made.sum().backward()

    parts = {"backbone": network, "head": lambda: head(embeddings, labels).backward()}
    for name, work in parts.items():
        report.add(f"{size} px: {name}", batch=batch, seconds=seconds(work, compute))
    optimizer = build_optimizer([backbone, head], lr=1e-6)
    report.add(f"{size} px: optimiser", batch=batch, seconds=seconds(optimizer.step, compute))
    for name, layer, given in convolutions(backbone, images, compute):
        convolution(report, compute, f"{size} px: {name}", layer, given)


def convolutions(backbone: nn.Module, images: Tensor, compute: Compute) -> list[tuple[str, nn.Conv2d, torch.Size]]:
    """Name, layer and shape of its input, of every convolution over more than one pixel, in the forward's order."""
    seen: list[tuple[str, nn.Conv2d, torch.Size]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, _, name=name: seen.append((name, layer, given[0].shape)))
        for name, layer in backbone.named_modules() if isinstance(layer, nn.Conv2d)
    ]  # fmt: skip
    with torch.no_grad(), compute.autocast():
        backbone(images)
    for hook in hooks:
        hook.remove()
    return [(name, layer, shape) for name, layer, shape in seen if shape[-1] > 1]


def convolution(report: StageReport, compute: Compute, what: str, layer: nn.Conv2d, shape: torch.Size) -> None:
    """Forward and both gradients of one convolution on numbers of the run's format."""
    given = torch.randn(shape, device=compute.device, dtype=compute.image_dtype).to(memory_format=torch.channels_last)
    given.requires_grad_(layer.in_channels > 3)
    weight = layer.weight.detach().to(compute.image_dtype).requires_grad_()

    def forward() -> Tensor:
        return nn.functional.conv2d(given, weight, None, layer.stride, layer.padding)

    made = forward()
    into = torch.randn_like(made)
    wanted = [tensor for tensor in (given, weight) if tensor.requires_grad]
    flops = 2.0 * weight.numel() * made.numel() / layer.out_channels
    ahead = seconds(forward, compute)
    back = seconds(lambda: torch.autograd.grad(made, wanted, into, retain_graph=True), compute)
    report.add(
        what, input=list(shape), channels=layer.out_channels, forward_tflops=flops / ahead / 1e12,
        backward_tflops=len(wanted) * flops / back / 1e12, forward_seconds=ahead, backward_seconds=back,
    )  # fmt: skip


def seconds(work: Callable[[], object], compute: Compute) -> float:
    """Median time of ``work`` on the device, or on a CPU by the clock."""
    on_cuda = compute.device.type == "cuda"
    times = []
    for _ in range(REPEATS + 3 if on_cuda else 2):
        if on_cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return median(times[3:] if on_cuda else times[1:])  # the first choose algorithms and fill caches


if __name__ == "__main__":
    sys.exit(main())
