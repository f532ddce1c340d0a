"""Findings: the result of one analysis, with its question, its answer, the numbers and the figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrfr_fast.runtime.files import write_json


@dataclass(frozen=True)
class CaptionedFigure:
    """A PNG file and the sentences that explain it."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Finding:
    """One answered question. ``numbers`` holds plain JSON values: rates in [0, 1], intervals as [low, high]."""

    key: str
    """File stem of everything this analysis writes, e.g. "resolution_gap"."""
    question: str
    answer: str
    """Plain sentences with the numbers that answer the question; a line for each model or pair of models."""
    numbers: dict[str, Any]
    figures: tuple[CaptionedFigure, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; figures by file name alone."""
        figures = [{"file": figure.path.name, "caption": figure.caption} for figure in self.figures]
        return {"question": self.question, "answer": self.answer, "numbers": self.numbers, "figures": figures}

    def save(self, folder: Path) -> Path:
        """Write ``folder/<key>.json`` atomically; figures are named relative to ``folder``."""
        path = folder / f"{self.key}.json"
        write_json(path, self.to_json())
        return path
