"""What a run says of itself while it runs: metrics.jsonl (one JSON object a line) and TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

from hrfr_fast.files import write_bytes
from hrfr_fast.progress import console

SCALARS = ("loss", "learning_rate", "images_per_second", "accuracy", "auc", "eer")


class Metrics:
    """Appends to ``run/metrics.jsonl`` and, with ``board``, ``run/tensorboard``.

    Lines written after ``samples`` (the state a run resumes from) are dropped at the start: they will come again.
    """

    def __init__(self, run: Path, samples: int, *, board: bool = True) -> None:
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["samples"] <= samples]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
        step = kept[-1]["step"] if kept else 0
        self._board = _tensorboard(run / "tensorboard", purge_step=step + 1 if step else None) if board else None

    def write(self, kind: str, **values: Any) -> None:
        """Append a line, and its SCALARS to TensorBoard. ``values`` hold "step", verifications also "pairs"."""
        self._file.write(json.dumps({"kind": kind, **values}) + "\n")
        self._file.flush()
        prefix = f"{values['pairs']}/" if kind == "verification" else ""
        for name in SCALARS:
            if name in values and self._board:
                self._board.add_scalar(f"{kind}/{prefix}{name}", values[name], values["step"])

    def close(self) -> None:
        """Make all lines durable and end both."""
        os.fsync(self._file.fileno())
        self._file.close()
        if self._board:
            self._board.close()


def _tensorboard(folder: Path, purge_step: int | None) -> Any:
    """TensorBoard's writer into ``folder``; None, and a word about it, where TensorBoard cannot name the folder."""
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]

    try:
        str(folder).encode()
    except UnicodeEncodeError:
        console.print(
            f"{folder}: no TensorBoard log, its name is not UTF-8; metrics.jsonl has the numbers", markup=False
        )
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; a line cut short by a kill is left out."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return lines
