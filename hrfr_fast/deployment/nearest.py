"""The nearest rows of a gallery by cosine: exact, and the same whether faiss or NumPy looks for them.

Both only propose candidates in float32. The order is decided here, by cosines in float64 and, among equal ones, by the
gallery's order; where float32 could have hidden a nearer row, all rows are looked at.
"""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

PROBES, GALLERY = 256, 65_536  # rows compared at a time: 64 MB of float32 cosines
SPARE = 8  # candidates more than are asked for
FLOAT32_ERROR = 1e-5  # of a cosine of unit rows; 512 products are off by 1e-6 at most


def nearest(
    probes: NDArray[np.float32], gallery: NDArray[np.float32], count: int, *, backend: str = "auto"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The ``count`` nearest rows of ``gallery`` of each probe, nearest first.

    Args:
        probes, gallery: float32 unit rows, [n, D] and [m, D].
        count: 1 to m.
        backend: "faiss" (an exact index of inner products), "numpy" (blocks of matrix products) or "auto": faiss where
            it is installed.

    Returns:
        Rows, int64 [n, count], and their cosines, float64 [n, count].
    """
    if backend == "auto":
        backend = "faiss" if find_spec("faiss") else "numpy"
    wanted = min(count + SPARE, len(gallery))
    propose = _faiss_candidates if backend == "faiss" else _numpy_candidates
    rows = np.empty((len(probes), count), np.int64)
    cosines = np.empty((len(probes), count))
    for start in range(0, len(probes), PROBES):
        block = probes[start : start + PROBES]
        for number, candidates in enumerate(propose(block, gallery, wanted)):
            chosen, values = _ordered(block[number], gallery, candidates, count)
            if wanted < len(gallery) and values[-1] - values[count - 1] > -FLOAT32_ERROR:
                chosen, values = _ordered(block[number], gallery, np.arange(len(gallery)), count)
            rows[start + number], cosines[start + number] = chosen[:count], values[:count]
    return rows, cosines


def _ordered(
    probe: NDArray[np.float32], gallery: NDArray[np.float32], candidates: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All candidates by falling cosine, equal ones by number."""
    candidates = np.sort(candidates)
    exact = probe.astype(np.float64)
    parts = np.array_split(candidates, max(1, len(candidates) // GALLERY))
    values = np.concatenate([gallery[part].astype(np.float64) @ exact for part in parts])
    # Equal rows must have equal cosines, though sums of different rows of a product may be rounded differently.
    order = np.argsort(-np.round(values, 12), kind="stable")
    return candidates[order], values[order]


def _faiss_candidates(probes: NDArray[np.float32], gallery: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
    import faiss

    _, found = faiss.knn(probes, gallery, wanted, metric=faiss.METRIC_INNER_PRODUCT)
    return np.asarray(found, np.int64)


def _numpy_candidates(probes: NDArray[np.float32], gallery: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
    rows = np.empty((len(probes), 0), np.int64)
    cosines = np.empty((len(probes), 0), np.float32)
    for start in range(0, len(gallery), GALLERY):
        part = probes @ gallery[start : start + GALLERY].T
        numbers = np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)
        rows, cosines = np.concatenate([rows, numbers], axis=1), np.concatenate([cosines, part], axis=1)
        if rows.shape[1] > wanted:
            best = np.argpartition(-cosines, wanted - 1, axis=1)[:, :wanted]
            rows, cosines = np.take_along_axis(rows, best, axis=1), np.take_along_axis(cosines, best, axis=1)
    return rows
