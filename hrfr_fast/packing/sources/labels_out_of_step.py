"""Labels that are one line away from where they belong: the folders of the pictures tell.

A list whose labels were shifted by a line is read without an error, and one picture of every person then belongs to
another. Pictures of one person usually lie in one folder; where labels contradict the folders, and hardly do after a
shift by one line, the list is out of step.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST = 10
"""Contradictions below which nothing is said."""
LEFT = 0.1
"""Share of the contradictions that may be left after the shift."""


def list_out_of_step(folders: Sequence[Any], labels: NDArray[np.integer]) -> str:
    """The evidence that ``labels`` [N] of lines are out of step with the ``folders`` [N]; "" where they are not.

    A contradiction is a line whose folder is that of the line before while its label is not, or the reverse.
    """
    _, numbers = np.unique(np.asarray(folders, object).astype(str), return_inverse=True)
    return _evidence(np.diff(numbers) == 0, np.diff(labels) == 0, "lines")


def pairs_out_of_step(folders: Sequence[Any], same: NDArray[np.bool_]) -> str:
    """The evidence that the labels ``same`` [P] are out of step with the ``folders`` [2P] of the pictures, or "".

    A contradiction is a pair labelled same of two folders, or one labelled different of one folder.
    """
    one_folder = np.array([first == second for first, second in zip(folders[0::2], folders[1::2], strict=True)], bool)
    return _evidence(one_folder, same, "pairs")


def _evidence(expected: NDArray[np.bool_], found: NDArray[np.bool_], what: str) -> str:
    contradictions = int((expected != found).sum())
    if contradictions < FEWEST or len(found) < 2 * FEWEST:
        return ""
    shifted = {
        "the line before": int((expected[:-1] != found[1:]).sum()),
        "the next line": int((expected[1:] != found[:-1]).sum()),
    }
    place, left = min(shifted.items(), key=lambda item: item[1])
    if left > LEFT * contradictions:
        return ""
    return (
        f"in {contradictions:,} of {len(found):,} {what} the label contradicts the pictures' folders; if each label"
        f" belonged to {place}, {left:,} would: the labels seem to be out of step by one line"
    )
