"""The highest of a stream of scores, kept in memory that does not grow with the stream."""

import numpy as np
from numpy.typing import NDArray


class TopScores:
    """The ``most`` highest scores that were added, and whose they are.

    Attributes:
        scores: float32, falling, once ``finish`` was called.
        rows: int64, whose scores they are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.scores, self.rows = np.empty(0, np.float32), np.empty(0, np.int64)
        self._waiting: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        self._number = 0
        self._floor = -np.inf

    def add(self, scores: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Add scores [n] of ``rows`` [n]."""
        high = scores >= self._floor
        self._waiting.append((scores[high], rows[high]))
        self._number += int(high.sum())
        if self._number > 2 * self.most + (1 << 20):  # so that the selection below costs little for each score
            self._select()

    def finish(self) -> None:
        """Sort what was kept; ``scores`` and ``rows`` are valid from now on."""
        self._select()
        order = np.argsort(-self.scores, kind="stable")
        self.scores, self.rows = self.scores[order], self.rows[order]

    def _select(self) -> None:
        scores = np.concatenate([self.scores, *(part for part, _ in self._waiting)])
        rows = np.concatenate([self.rows, *(part for _, part in self._waiting)])
        self._waiting = []
        if len(scores) > self.most:
            high = np.argpartition(scores, len(scores) - self.most)[len(scores) - self.most :]
            scores, rows = scores[high], rows[high]
            self._floor = float(scores.min())
        self.scores, self.rows, self._number = scores, rows, len(scores)
