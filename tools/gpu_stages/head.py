"""The head of the study, 52,500 classes: chunked with bf16 products against whole in float32."""

import sys
from collections.abc import Sequence

import torch

from hrfr_fast.model.heads import MarginHead, build_head
from tools.gpu_stages.report import StageReport, stage_report

LARGEST = 0.02  # relative difference of losses and of gradients' norms


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    for name in ("arcface", "adaface"):
        report.attempt(name, compare, name)
    return report.exit_code


def compare(report: StageReport, name: str) -> None:
    """Loss, gradients and peak memory of one batch both ways."""
    classes, batch, size = (300, 16, 16) if report.dry else (52_500, 1024, 512)
    torch.manual_seed(0)
    head = build_head(name, size, classes).to(report.device)
    embeddings = torch.randn(batch, size, device=report.device)
    labels = torch.randint(classes, (batch,), device=report.device)
    whole = once(head, embeddings, labels, torch.float32, batch * classes)
    chunked = once(head, embeddings, labels, torch.bfloat16, 16 * 64 if report.dry else head.chunk_entries)
    worst = {
        what: float((one - other).norm() / one.norm())
        for what, one, other in zip(("loss", "by_embeddings", "by_weights"), whole[:3], chunked[:3], strict=True)
    }
    report.check(
        f"{name}, {classes:,} classes, batch {batch}: chunked bf16 against fp32", max(worst.values()) < LARGEST,
        loss=float(whole[0]), relative_differences=worst, peak_bytes={"whole": whole[3], "chunked": chunked[3]},
    )  # fmt: skip


def once(
    head: MarginHead, embeddings: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype, entries: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Loss, gradient by embeddings, gradient by class vectors, peak bytes on the device above those held before."""
    head.matmul_dtype, head.chunk_entries = dtype, entries
    on_cuda, before = embeddings.is_cuda, 0
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    batch = embeddings.clone().requires_grad_()
    head.eval()  # AdaFace's averages stay as they are
    loss = head(batch, labels)
    loss.backward()
    by_embeddings, by_weights, head.weight.grad = batch.grad, head.weight.grad, None
    assert by_embeddings is not None and by_weights is not None
    return loss.detach(), by_embeddings, by_weights, torch.cuda.max_memory_allocated() - before if on_cuda else 0


if __name__ == "__main__":
    sys.exit(main())
