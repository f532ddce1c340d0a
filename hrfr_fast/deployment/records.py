"""Embeddings of packed pictures by any embedder, whatever file it comes from, and what a check needs of them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.engines.base import refuse_damaged
from hrfr_fast.engines.pixels import resample_records
from hrfr_fast.evaluation.embedder import Embedder, embed_resampled
from hrfr_fast.evaluation.embedding import distinct_pictures
from hrfr_fast.format.reader import PairSet, Split
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.sampling.augmentation import no_augmentation

BATCH = 128


def record_pixels(split: Split, records: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Whole frames of ``records`` at the input size of an embedder, uint8 [n, size, size, 3] RGB.

    Raises DamageFound where a record does not match its checksum.
    """
    refuse_damaged(split, records)
    pixels = np.empty((len(records), size, size, 3), np.uint8)
    resample_records(split, records, no_augmentation(len(records)), pixels)
    return pixels


def batches(total: int) -> Iterator[NDArray[np.int64]]:
    """The numbers from 0 to ``total`` - 1, BATCH at a time."""
    for start in range(0, total, BATCH):
        yield np.arange(start, min(start + BATCH, total))


def scores_of_pairs(
    embedder: Embedder, pairs: PairSet, *, title: str = "", show_progress: bool = True
) -> NDArray[np.float64]:
    """Cosine of every pair, float64 [P]; a picture of several pairs is embedded once."""
    unique, rows = distinct_pictures(pairs.split)
    embeddings = np.empty((len(unique), embedder.dimension), np.float32)
    with progress_bar(show_progress) as bar:
        task = bar.add_task(f"{title or embedder.name} on {pairs.name}", total=len(unique), note="")
        for batch in batches(len(unique)):
            embeddings[batch] = embed_resampled(
                embedder, record_pixels(pairs.split, unique[batch], embedder.size), [pairs.split.size] * len(batch)
            )
            bar.advance(task, len(batch))
    exact = embeddings.astype(np.float64)
    return np.einsum("pd,pd->p", exact[rows[0::2]], exact[rows[1::2]])
