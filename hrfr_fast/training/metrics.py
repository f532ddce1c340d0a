"""What a run says of itself while it runs: metrics.jsonl (one JSON object a line) and TensorBoard."""

import json
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.files import fsync, write_bytes, writing
from hrfr_fast.runtime.untrusted import parsed_json
from hrfr_fast.training.tensorboard import Board

NUMBERS = {"train": ("loss", "learning_rate"), "verification": ("accuracy",)}
"""Kind of a line -> numbers that it holds beside its place in the run."""
SCALARS = ("loss", "learning_rate", "images_per_second", "accuracy", "auc", "eer")


class Metrics:
    """Appends to ``run/metrics.jsonl`` and, with ``board``, ``run/tensorboard``.

    What comes again is dropped at the start: lines written after ``samples`` (the state a run resumes from), and there
    those of the last verification, and of one on the way where that is still ``due``.
    """

    def __init__(self, run: Path, samples: int, *, due: bool = False, board: bool = True) -> None:
        self.path = run / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if not _comes_again(line, samples, due)]
        write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        with writing(run):
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self._board = Board(run / "tensorboard", kept[-1]["step"] if kept else 0) if board else None

    def write(self, kind: str, **values: Any) -> None:
        """Append a line, and its SCALARS and the terms of the loss to TensorBoard. ``values`` hold "step",
        verifications also "pairs"."""
        with writing(self.path):
            self._file.write(json.dumps({"kind": kind, **values}) + "\n")
            self._file.flush()
        prefix = f"{values['pairs']}/" if kind == "verification" else ""
        if self._board is None:
            return
        names = [*SCALARS, *(name for name in values if name.startswith("loss_"))]
        scalars = {f"{kind}/{prefix}{name}": values[name] for name in names if name in values}
        with writing(self._board.path):
            self._board.add(scalars, values["step"])

    def close(self) -> None:
        """Make all lines durable and end both."""
        with writing(self.path), closing(self._board) if self._board else nullcontext(), self._file:
            fsync(self._file.fileno())


def _comes_again(line: dict[str, Any], samples: int, due: bool) -> bool:
    verified = line["kind"] == "verification" and ("accuracy_ci" in line or due)
    return bool(line["samples"] >= samples if verified else line["samples"] > samples)


class NoMetrics:
    """Stands in for Metrics on ranks that write none."""

    def write(self, kind: str, **values: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file, each with its kind and its place in the run; a line cut short by a kill, or
    damaged, is left out."""
    lines = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                value = parsed_json(line)
            except ValueError:
                continue
            lines += [value] if is_line(value) else []
    return lines


def is_line(value: object) -> bool:
    """Whether the JSON ``value`` is a line of a metrics file, with what reports take from one of its kind.

    Lines of kinds that later versions write are left as they are.
    """
    if not isinstance(value, dict) or not isinstance(kind := value.get("kind"), str):
        return False
    numbers = ("epoch", *NUMBERS[kind]) if kind in NUMBERS else ()
    texts = ("pairs", "pairs_kind") if kind == "verification" else ()
    return (
        all(type(value.get(name)) is int for name in ("step", "samples"))
        and all(type(value.get(name)) in (int, float) for name in numbers)
        and all(isinstance(value.get(name), str) for name in texts)
    )
