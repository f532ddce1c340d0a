"""The GPU's kernels of the step: parity with torch, each one's bytes a second, and the step with and without them.

What torch.compile makes of the step comes last: compiling it takes longer than all the rest.
"""

import copy
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import MarginHead, build_head
from hrfr_fast.model.kernels import gate, stem_launch
from hrfr_fast.model.kernels import norm_launch as launch
from hrfr_fast.model.kernels.head import computes
from hrfr_fast.model.kernels.launching import only_compiled
from hrfr_fast.runtime.device import Compute, choose_compute, kernels_run_on
from tools.gpu_stages.layers import seconds
from tools.gpu_stages.report import StageReport, stage_report

SIZES = {32: 1024, 144: 256}
"""Side of the input in pixels -> images in the batch."""
CALLS = 10
"""Of a kernel in a captured graph: launched one by one, small ones would be timed by how fast the host launches."""
MORE, LARGEST = 1.5, 0.02
"""How much further from float32 than torch's own 16-bit step the kernels may be, and a head from the chunked one."""


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    compute = choose_compute(report.device, "fp32" if report.dry else "auto")
    if not kernels_run_on(compute.device):
        report.add("kernels", left_out="no CUDA device, and no interpreter (TRITON_INTERPRET=1)")
        return report.exit_code
    for size, batch in ({16: 4} if report.dry else SIZES).items():
        report.attempt(f"step at {size} px", compare_steps, compute, size, batch, 8 if report.dry else 64)
        report.attempt(f"kernels at {size} px", time_kernels, compute, size, batch)
    report.attempt("head", compare_heads, compute)
    for size, batch in ({} if report.dry else SIZES).items():
        report.attempt(f"compiled step at {size} px", time_compiled, compute, size, batch)
    return report.exit_code


def compare_steps(report: StageReport, compute: Compute, size: int, batch: int, width: int) -> None:
    """Embeddings, gradients and running statistics of irse18 with and without the kernels, and the time of a step."""
    plain = compute.place(build_backbone(BackboneSettings(size, width=width))).train()
    if report.dry:
        plain.body = plain.body[:1]
        plain.output = nn.Sequential(nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * (size // 2) ** 2, 4))
    ours, exact = copy.deepcopy(plain), copy.deepcopy(plain)
    ours.gpu_kernels = True
    images, began = pictures(batch, size, compute), time.perf_counter()
    with only_compiled(compute.device) as variants:
        step(copy.deepcopy(ours), images, compute)
    ready = time.perf_counter() - began
    results = []
    for network in (ours, plain):
        made = step(network, images, compute)
        results.append((made, *(joined(tensors) for tensors in (gradients(network), network.buffers()))))
    made = exact(images.float())
    (made.sigmoid() * made).sum().backward()
    wanted = (made.detach(), joined(gradients(exact)), joined(exact.buffers()))
    off, torch_off = ([difference(one, right) for one, right in zip(found, wanted, strict=True)] for found in results)
    holds = all(one <= MORE * other + 1e-4 for one, other in zip(off, torch_off, strict=True))
    named = {"kernels": ours, "eager": plain}
    timed = {name: seconds(partial(step, network, images, compute), compute) for name, network in named.items()}
    report.check(
        f"irse18 of {size} px, batch {batch}: kernels and torch against float32", holds, difference=off,
        torchs=torch_off, seconds=timed, images_per_second={name: batch / time for name, time in timed.items()},
        ratio=timed["eager"] / timed["kernels"], variants=len(variants), seconds_to_compile_them=ready,
    )  # fmt: skip


def pictures(batch: int, size: int, compute: Compute) -> Tensor:
    """Random images [batch, 3, size, size], channels-last, of the run's format."""
    images = torch.randn(batch, 3, size, size, device=compute.device).to(compute.image_dtype)
    return images.contiguous(memory_format=torch.channels_last)


def step(network: Callable[[Tensor], Tensor], images: Tensor, compute: Compute) -> Tensor:
    """Forward and backward pass; the embeddings, float32."""
    with compute.autocast():
        made = network(images).float()
    (made.sigmoid() * made).sum().backward()
    return made.detach()


def time_compiled(report: StageReport, compute: Compute, size: int, batch: int) -> None:
    """The time of a step of irse18 that torch compiled, and how long it took to."""
    network, images = compute.place(build_backbone(BackboneSettings(size))).train(), pictures(batch, size, compute)
    compiled, began = torch.compile(network, dynamic=False), time.perf_counter()
    step(compiled, images, compute)
    ready = time.perf_counter() - began
    timed = seconds(partial(step, compiled, images, compute), compute)
    report.add(f"irse18 of {size} px, batch {batch}: compiled", seconds=timed, seconds_until_ready=ready)


def time_kernels(report: StageReport, compute: Compute, size: int, batch: int) -> None:
    """Each kernel on the largest map of the network, and the rate of a copy of it."""
    channels = 8 if report.dry else 64
    rows, gradient, shortcut = (
        torch.randn(batch, size, size, channels, device=compute.device).to(compute.image_dtype) for _ in range(3)
    )
    weight, bias, slope = (torch.rand(channels, device=compute.device) for _ in range(3))
    share = torch.rand(batch, channels, device=compute.device)
    found = launch.statistics(rows, launch.groups_of_batch(rows, launch.PROGRAMS))
    norm = launch.Norm(*launch.merged(found, 1e-5, None), weight, bias)
    groups, totals = launch.groups_of_batch(rows, launch.PROGRAMS), torch.rand(2, channels, device=compute.device)
    cases: dict[str, tuple[float, Callable[[], object]]] = {
        "copy": (2, lambda: shortcut.copy_(rows)),
        "statistics": (1, lambda: launch.statistics(rows, found.groups)),
        "merge": (0, lambda: launch.merged(found, 1e-5, None)),
        "normalise, PReLU": (2, lambda: launch.normalised(rows, norm, "prelu", slope)),
        "gate, sum, next statistics": (
            3, lambda: launch.normalised(rows, norm, gate=share, shortcut=shortcut, measure=True),
        ),
        "gradient sums, PReLU": (2, lambda: launch.gradient_sums(rows, gradient, norm, groups, "prelu", slope)),
        "map gradient, PReLU": (3, lambda: launch.map_gradient(rows, gradient, norm, totals, "prelu", slope)),
        "map gradient, gate": (3, lambda: launch.map_gradient(rows, gradient, norm, totals, gate=share, pooled=share)),
    }  # fmt: skip
    others = gate_cases(rows, norm) | stem_cases(gradient, norm, slope)
    for name, (maps, work) in (cases | others).items():
        taken = seconds_captured(work, compute)
        report.add(f"{size} px: {name}", seconds=taken, gigabytes_per_second=maps * rows.nbytes / taken / 1e9)


def seconds_captured(work: Callable[[], object], compute: Compute) -> float:
    """Median time of ``work``, which never waits for the device, without the host's launches."""
    if compute.device.type != "cuda":
        return seconds(work, compute)
    work()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            work()
    return seconds(graph.replay, compute) / CALLS


def gate_cases(rows: Tensor, norm: launch.Norm) -> dict[str, tuple[float, Callable[[], object]]]:
    """The kernels of squeeze-and-excitation, by the maps that each reads or writes."""
    channels, groups = rows.shape[-1], launch.groups_of_images(rows)
    found, sums = launch.statistics(rows, groups), launch.gradient_sums(rows, rows, norm, groups)
    squeeze = torch.randn(max(2, channels // 16), channels, device=rows.device)
    excite = squeeze.t().contiguous()
    gates = gate.gates(found, norm, squeeze, excite)
    return {
        "statistics of images": (1, lambda: launch.statistics(rows, groups)),
        "gates": (0, lambda: gate.gates(found, norm, squeeze, excite)),
        "gradients of gates": (
            0, lambda: gate.gate_gradients(sums, groups.splits, norm, squeeze, excite, None, gates),
        ),
        "gradient sums of images": (2, lambda: launch.gradient_sums(rows, rows, norm, groups)),
        "merge of sums": (0, lambda: launch.totals_of(sums, norm.inverse_std)),
    }  # fmt: skip


def stem_cases(gradient: Tensor, norm: launch.Norm, slope: Tensor) -> dict[str, tuple[float, Callable[[], object]]]:
    """The kernels of the stem, by the maps that each reads or writes; the images, small, are part of one."""
    count, height, width, channels = gradient.shape
    images = torch.randn(count, 3, height, width, device=gradient.device).to(gradient.dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 3, 3, 3, device=gradient.device)
    stem = stem_launch.Convolution(stem_launch.padded(images, gradient.dtype), stem_launch.taps(weight))
    totals, share = torch.rand(3, channels, device=gradient.device), 4 / channels

    def forward(activation: str, measure: bool) -> object:
        return stem_launch.normalised(stem, norm, activation, slope, measure=measure)

    return {
        "stem: padding": (2 * share, lambda: stem_launch.padded(images, gradient.dtype)),
        "stem: statistics": (share, lambda: stem_launch.statistics(stem)),
        "stem: maps, ReLU": (1 + share, lambda: forward("relu", False)),
        "stem: maps, PReLU, next statistics": (1 + share, lambda: forward("prelu", True)),
        "stem: gradient sums, PReLU": (
            1 + share, lambda: stem_launch.gradient_sums(stem, gradient, norm, "prelu", slope),
        ),
        "stem: weight gradient, PReLU": (
            1 + share, lambda: stem_launch.weight_gradient(stem, gradient, norm, totals, "prelu", slope),
        ),
    }  # fmt: skip


def compare_heads(report: StageReport, compute: Compute) -> None:
    """The fused softmax against chunks: losses, gradients by class vectors, time and peak memory."""
    classes, batch, size = (40, 5, 16) if report.dry else (52_500, 1024, 512)
    chunked = build_head("arcface", size, classes).to(compute.device)
    chunked.matmul_dtype = torch.float32 if report.dry else torch.bfloat16
    if not computes(compute.device, chunked.matmul_dtype, size):
        report.add("head", left_out="the fused softmax has no tiles for this card")
        return
    fused = copy.deepcopy(chunked)
    fused.gpu_kernels, chunked.chunk_entries = True, 16 if report.dry else chunked.chunk_entries
    embeddings = torch.randn(batch, size, device=compute.device, requires_grad=True)
    labels = torch.randint(classes, (batch,), device=compute.device)

    def once(head: MarginHead) -> Tensor:
        loss: Tensor = head(embeddings, labels)
        loss.backward()
        return loss.detach()

    results, timed = [], {}
    for name, head in (("fused", fused), ("chunked", chunked)):
        results.append((once(head), head.weight.grad.clone() if head.weight.grad is not None else head.weight))
        timed[name] = seconds(partial(once, head), compute)
    off = max(difference(one, other) for one, other in zip(*results, strict=True))
    report.check(f"head, {classes:,} classes, batch {batch}", off < LARGEST, difference=off, seconds=timed)


def gradients(network: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def joined(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors])


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-6))


if __name__ == "__main__":
    sys.exit(main())
