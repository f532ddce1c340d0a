"""Embeddings of a protocol's pictures: read, decoded, framed and embedded batch by batch.

A picture that is missing or does not decode is named and refused: a set without some of its pictures is another test.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.embedder import Embedder, UnscaledEmbedder, embed_resampled
from hrfr_fast.evaluation.protocols.form import Pictures
from hrfr_fast.packing.decode import decode_whole
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.ranks import ALONE, Ranks
from hrfr_fast.runtime.shared_work import in_order, own_share
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import threads_per_rank

BATCH = 128
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Crop:
    """The part of a face picture that is embedded.

    Attributes:
        side: width and height in pixels of the pictures that it applies to; others are embedded whole.
        box: x0, y0, x1, y1 in their pixels; may leave the picture, whose edge is then repeated.
    """

    side: int
    box: Box


def embed_pictures(
    embedder: Embedder, pictures: Pictures, crop: Crop | None = None, *, title: str = "faces",
    show_progress: bool = True, sizes: Counter[str] | None = None, ranks: Ranks = ALONE,
) -> NDArray[np.float32]:  # fmt: skip
    """Embeddings of all pictures, float32 [N, D] of unit norm, on rank 0; the arguments and errors are those of
    ``embedded_batches``."""
    result = np.empty((len(pictures), embedder.dimension), np.float32)
    batches = embedded_batches(
        embedder, pictures, crop, title=title, show_progress=show_progress, sizes=sizes, ranks=ranks
    )
    for start, rows in batches:
        result[start : start + len(rows)] = rows
    return result


def embedded_batches(
    embedder: Embedder, pictures: Pictures, crop: Crop | None = None, *, title: str = "faces",
    show_progress: bool = True, sizes: Counter[str] | None = None, ranks: Ranks = ALONE,
) -> Iterator[tuple[int, NDArray[np.float32]]]:  # fmt: skip
    """Embeddings batch by batch, in constant memory: the number of the first picture, and float32 [n, D].

    They have norm 1, but where norms weigh in the templates of ``pictures`` and the embedder gives them.

    Args:
        crop: None: pictures are embedded whole.
        title: of the progress bar.
        sizes: how many pictures there are of each size, "112x112", is counted in it.
        ranks: share the batches, with a process group between them. Rank 0 gets all batches, the others none, but each
            has to go through the iterator to its end.

    Raises:
        HrfrError: a picture is missing, or is not one that can be decoded whole.
        Interrupted: after Ctrl-C.
    """
    unit = not (pictures.norms_weigh and isinstance(embedder, UnscaledEmbedder))
    with (
        StopFlag(launched=ranks.distributed) as stop,
        progress_bar(show_progress and ranks.is_main) as bar,
        ThreadPoolExecutor(threads_per_rank()) as threads,
    ):
        task = bar.add_task(title, total=len(pictures), note="")

        def embedded(start: int) -> tuple[int, NDArray[np.float32], list[str]]:
            if stop:
                raise Interrupted(
                    f"stopped after {start:,} of {len(pictures):,} faces", stop.signal_number or signal.SIGINT
                )
            numbers = range(start, min(start + BATCH, len(pictures)))
            decoded = list(threads.map(lambda number: face_picture(pictures, number), numbers))
            images = np.stack([framed(image, embedder.size, crop, pictures.not_square) for image in decoded])
            rows = embed_resampled(embedder, images, [min(image.shape[:2]) for image in decoded], unit=unit)
            return start, rows, [f"{image.shape[1]}x{image.shape[0]}" for image in decoded]

        starts = range(0, len(pictures), BATCH)
        for start, rows, found in in_order(ranks, map(embedded, own_share(ranks, starts)), len(starts)):
            if sizes is not None:
                sizes.update(found)
            yield start, rows
            bar.advance(task, len(rows))


def face_picture(pictures: Pictures, number: int) -> NDArray[np.uint8]:
    """Picture ``number``, decoded and prepared, uint8 [H, W, 3] RGB. Raises HrfrError with its name and the reason."""
    try:
        image = decode_whole(pictures.source.read(number))
        return pictures.prepare(number, image) if pictures.prepare else image
    except Rejected as reason:
        name = one_line(pictures.source.name(number))
        raise HrfrError(f"{name}: {reason}; without this picture the numbers would be those of another test") from None


def framed(image: NDArray[np.uint8], size: int, crop: Crop | None, not_square: str) -> NDArray[np.uint8]:
    """The embedder's input, uint8 [size, size, 3], of a picture uint8 [H, W, 3], by the one definition of resampling.

    Args:
        crop: applied to square pictures of its side.
        not_square: "stretch" or "centre", see ``Pictures``.
    """
    from hrfr_fast.resampling.crop import resampled_box  # numba: 0.5 s to import

    height, width = image.shape[:2]
    box: Box = (0, 0, width, height)
    if height != width and not_square == "centre":
        left, top, short = (width - min(width, height)) / 2, (height - min(width, height)) / 2, min(width, height)
        box = (left, top, left + short, top + short)
    elif crop is not None and height == width == crop.side:
        box = crop.box
    return resampled_box(image, box, size)
