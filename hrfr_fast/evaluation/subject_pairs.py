"""How many pairs each two subjects have, from which follows the weight of all pairs in a resample of the subjects."""

import numpy as np
from numpy.typing import NDArray


class SubjectPairs:
    """Counts of pairs by their two subjects: memory for each two subjects that have a pair, not for each pair.

    Args:
        subjects: how many there are.
    """

    def __init__(self, subjects: int) -> None:
        from scipy.sparse import csr_array

        self._subjects = subjects
        self._counts = csr_array((subjects, subjects), dtype=np.float64)
        self._waiting: list[NDArray[np.int64]] = []
        self._number = 0

    def add(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
        """Count pairs of the subjects ``first`` [n] and ``second`` [n]."""
        self._waiting.append(np.minimum(first, second) * self._subjects + np.maximum(first, second))
        self._number += len(first)
        if self._number >= 1 << 21:
            self._merge()

    def totals(self, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """The weight of all pairs in R resamples, float64 [R].

        Args:
            drawn: float64 [R, subjects], how often each subject was drawn; a pair of two subjects weighs the product,
                a pair of one subject its number.
        """
        self._merge()
        diagonal = self._counts.diagonal()
        of_one = drawn @ diagonal - (drawn**2) @ diagonal
        return np.asarray((drawn.T * (self._counts @ drawn.T)).sum(axis=0) + of_one)

    def _merge(self) -> None:
        if not self._number:
            return
        from scipy.sparse import coo_array

        keys, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        places = np.divmod(keys, self._subjects)
        shape = (self._subjects, self._subjects)
        self._counts = self._counts + coo_array((counts.astype(np.float64), places), shape=shape).tocsr()
        self._waiting, self._number = [], 0
