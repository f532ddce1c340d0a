"""``hrfr-fast embed``: pictures to a file of embeddings, in constant memory; a stopped command continues."""

import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.embeddings_file import Blocks, refuse_suffix, write_embeddings
from hrfr_fast.deployment.pictures import Pictures, framed_batch, open_pictures
from hrfr_fast.deployment.unfinished import DONE, REJECTED, UNREADABLE, Unfinished
from hrfr_fast.engines.prefetch import prefetch
from hrfr_fast.evaluation.description import EMBEDDING_RULE
from hrfr_fast.evaluation.embedder import Embedder, embed_resampled, open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.packing.picture_files import Unreadable
from hrfr_fast.runtime.errors import HrfrError, Interrupted, StrictRefusal, UsageError
from hrfr_fast.runtime.files import remove_leftovers, writing
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.names import one_line
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.ranks import Ranks, from_main
from hrfr_fast.runtime.shared_work import in_order, own_share, sharing_ranks
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.runtime.system import threads_per_rank
from hrfr_fast.runtime.version import __version__
from hrfr_fast.runtime.words import counted

BATCH = 128
SAVE_SECONDS = 5.0


@dataclass(frozen=True)
class EmbedResult:
    """What was embedded.

    Attributes:
        out: the file.
        embedded: rows in it.
        dimension: of a row.
        rejected: name -> reason of every picture that has no row; ``unreadable`` of them could not be read at all.
        resampled: size in pixels ("250x250") -> pictures of it, which were resampled to the model's input.
        size: width and height of that input in pixels.
        seconds: that this command worked, without what an earlier one had done.
    """

    out: Path
    embedded: int
    dimension: int
    rejected: dict[str, str]
    unreadable: int
    resampled: dict[str, int]
    size: int
    seconds: float

    def lines(self) -> list[str]:
        """The account for people."""
        lines = [f"{self.out}: {counted(self.embedded, 'embedding')} of {self.dimension} numbers"]
        if self.resampled:
            sizes = sorted(self.resampled.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{count:,} of {size} px" for size, count in sizes[:3])
            more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
            lines.append(f"resampled to {self.size}x{self.size} px (centre squares): {shown}{more}")
        for name, reason in list(self.rejected.items())[:10]:
            lines.append(f"left out: {name}: {reason}")
        if len(self.rejected) > 10:
            lines.append(f"... and {len(self.rejected) - 10:,} more, all in {rejected_file(self.out)}")
        return lines


class IncompleteEmbeddings(HrfrError):
    """Some files could not be read; everything else is embedded, and ``result`` describes it."""

    def __init__(self, message: str, result: EmbedResult) -> None:
        super().__init__(message)
        self.result = result


def embed(
    model: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    flags: OnnxFlags | None = None,
    batch_size: int = BATCH,
    strict: bool = False,
    show_progress: bool = True,
    stop: StopFlag | None = None,
) -> EmbedResult:
    """Embeddings of pictures, in order and with their names, to a ``.npz`` or ``.parquet`` file.

    Stopped or killed, the same command continues: finished rows lie in ``<out>.partial`` until the file is written. A
    picture that does not decode has no row; it is listed with the reason in ``<out>.rejected.txt`` and in the result.

    Ranks started by torchrun share the batches; rank 0 writes, and the result of the others counts nothing.

    Args:
        model: run directory, .safetensors checkpoint, or ONNX file.
        paths: pictures, folders (searched recursively) and text lists, or one packed directory.
        split: only this split of a packed directory.
        flags: what a user says about an ONNX file.
        strict: raise StrictRefusal, once everything is written, where a picture was rejected.
        stop: checked between batches; by default SIGINT and SIGTERM set one.

    Raises:
        UsageError: no such model or pictures, a file name of another format, unfinished work of something else.
        IncompleteEmbeddings: files could not be read; all others are embedded.
        Interrupted: stopped; calling again continues.
    """
    out, began = Path(out), time.monotonic()
    refuse_suffix(out)
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: at least 1")
    embedder = open_embedder(model, device=device, flags=flags, kernels=True)
    pictures = open_pictures(paths, split)
    about = {"model": embedder.describe(), "rule": EMBEDDING_RULE, "hrfr_fast": __version__}
    folder = out.with_name(f"{out.name}.partial")
    keep = f"what is finished is kept in {folder}, and the same command continues"
    with sharing_ranks() as ranks:
        if not ranks.is_main:
            _help(ranks, embedder, pictures, batch_size, stop)
            return EmbedResult(out, 0, embedder.dimension, {}, 0, {}, embedder.size, time.monotonic() - began)
        with directory_lock(folder), writing(folder, lambda: keep):
            remove_leftovers(out.parent, out.name)
            belongs_to = {"pictures": pictures.digest(), "model": about["model"]}
            work = Unfinished(folder, belongs_to, len(pictures), embedder.dimension)
            from_main(ranks, [work.done, len(pictures)])
            _run(work, ranks, embedder, pictures, batch_size, show_progress, stop)
            result = _finish(work, embedder, pictures, out, about, began)
    if result.unreadable:
        what = f"{counted(result.unreadable, 'file')} could not be read; everything else is in {out}"
        raise IncompleteEmbeddings(what, result)
    if strict and result.rejected:
        raise StrictRefusal(f"{counted(len(result.rejected), 'picture')} rejected, listed in {rejected_file(out)}")
    return result


def _finish(
    work: Unfinished, embedder: Embedder, pictures: Pictures, out: Path, about: dict[str, Any], began: float
) -> EmbedResult:
    """Write the file of all rows that there are, and the list of the pictures without one."""
    status = np.asarray(work.status)
    kept = np.flatnonzero(status == DONE)
    rejected = {_name(pictures, number): reason for number, reason in sorted(work.reasons.items())}
    if not len(kept):
        work.remove()
        name, reason = next(iter(rejected.items()))
        raise UsageError(f"none of {counted(len(pictures), 'picture')} can be embedded; {name}: {reason}")
    longest = max(len(_name(pictures, number)) for number in kept.tolist())
    blocks = Blocks(work.rows, kept, lambda number: _name(pictures, number))
    write_embeddings(out, blocks, len(kept), embedder.dimension, about, longest)
    _write_rejected(out, rejected)
    result = EmbedResult(
        out, len(kept), embedder.dimension, rejected, int((status == UNREADABLE).sum()), work.resampled, embedder.size,
        time.monotonic() - began,
    )  # fmt: skip
    work.remove()
    return result


def _run(
    work: Unfinished, ranks: Ranks, embedder: Embedder, pictures: Pictures, batch_size: int, show_progress: bool,
    stop: StopFlag | None,
) -> None:  # fmt: skip
    """Embed what is not done yet; what is done is put on disk, whatever ends it. Raises Interrupted."""
    saved = time.monotonic()
    with _stop_flag(stop, ranks) as flag, progress_bar(show_progress) as bar:
        task = bar.add_task("embedding", total=len(pictures), completed=work.done, note="")
        try:
            for batch in _embedded(ranks, embedder, pictures, work.done, batch_size):
                batch.put_into(work)
                bar.update(task, completed=work.done)
                if flag and work.done < len(pictures):
                    raise Interrupted(
                        f"stopped after {work.done:,} of {len(pictures):,} pictures; the same command continues",
                        flag.signal_number or signal.SIGINT,
                    )
                if time.monotonic() - saved > SAVE_SECONDS:
                    work.save()
                    saved = time.monotonic()
        finally:
            work.save()


def _help(ranks: Ranks, embedder: Embedder, pictures: Pictures, batch_size: int, stop: StopFlag | None) -> None:
    """Embed this rank's share of what rank 0 has not finished yet; rank 0 stops for all."""
    done, count = from_main(ranks, None)
    if count != len(pictures):
        raise UsageError(f"rank {ranks.rank} finds {len(pictures):,} pictures and rank 0 {count:,}; give all the same")
    with _stop_flag(stop, ranks):  # whose signal comes to all ranks
        for _ in _embedded(ranks, embedder, pictures, done, batch_size):
            pass


def _stop_flag(stop: StopFlag | None, ranks: Ranks) -> AbstractContextManager[StopFlag]:
    return StopFlag(launched=ranks.distributed) if stop is None else nullcontext(stop)


def _embedded(ranks: Ranks, embedder: Embedder, pictures: Pictures, start: int, batch_size: int) -> Iterator["_Batch"]:
    """The pictures from number ``start`` on, batch by batch, on rank 0; each rank embeds its share of the batches."""
    firsts = range(start, len(pictures), batch_size)
    with (
        ThreadPoolExecutor(threads_per_rank(), thread_name_prefix="hrfr-decode") as threads,
        closing(prefetch(_decoded(pictures, own_share(ranks, firsts), batch_size, embedder.size, threads))) as decoded,
    ):
        yield from in_order(ranks, (batch.embedded(embedder) for batch in decoded), len(firsts))


@dataclass(frozen=True)
class _Batch:
    """Consecutive pictures: the ``numbers`` of those with ``values``, and the ``reasons`` of the others."""

    end: int
    numbers: NDArray[np.int64]
    values: NDArray[Any]
    """Pixels, uint8 [n, size, size, 3], or embeddings, float32 [n, D]."""
    reasons: dict[int, tuple[int, str]]
    """Number -> status and reason."""
    resampled: dict[str, int]
    sides: list[int]
    """Of those with ``values``, in pixels, before they were resampled."""

    def embedded(self, embedder: Embedder) -> "_Batch":
        """With embeddings for pixels."""
        return replace(self, values=embed_resampled(embedder, self.values, self.sides)) if len(self.numbers) else self

    def put_into(self, work: Unfinished) -> None:
        if len(self.numbers):
            work.rows[self.numbers] = self.values
            work.status[self.numbers] = DONE
        for number, (status, reason) in self.reasons.items():
            work.status[number] = status
            work.reasons[number] = reason
        work.resampled = dict(Counter(work.resampled) + Counter(self.resampled))
        work.done = self.end


def _decoded(
    pictures: Pictures, firsts: Sequence[int], batch_size: int, size: int, threads: ThreadPoolExecutor
) -> Iterator[_Batch]:
    """The batches that begin at ``firsts``, decoded and framed to ``size`` px."""
    for first in firsts:
        numbers = range(first, min(first + batch_size, len(pictures)))
        decoded = pictures.decoded(numbers, threads)
        images: dict[int, NDArray[np.uint8]] = {}
        reasons: dict[int, tuple[int, str]] = {}
        for number, found in zip(numbers, decoded, strict=True):
            if isinstance(found, np.ndarray):
                images[number] = found
            else:
                reasons[number] = (UNREADABLE if isinstance(found, Unreadable) else REJECTED, str(found))
        sizes = Counter(f"{image.shape[1]}x{image.shape[0]}" for image in images.values())
        sizes.pop(f"{size}x{size}", None)
        kept = np.array(list(images), np.int64)
        sides = [min(image.shape[:2]) for image in images.values()]
        yield _Batch(numbers.stop, kept, framed_batch(list(images.values()), size), reasons, dict(sizes), sides)


def _name(pictures: Pictures, number: int) -> str:
    """The name of a picture as valid Unicode: bytes that are not UTF-8 are written as escapes."""
    return pictures.name(number).encode("utf-8", "backslashreplace").decode()


def rejected_file(out: Path) -> Path:
    """Where the pictures without a row are listed."""
    return out.with_name(f"{out.name}.rejected.txt")


def _write_rejected(out: Path, rejected: dict[str, str]) -> None:
    from hrfr_fast.runtime.files import write_bytes

    path = rejected_file(out)
    if not rejected:
        path.unlink(missing_ok=True)  # of an earlier command
        return
    lines = [f"{name}\t{one_line(reason)}\n" for name, reason in rejected.items()]
    write_bytes(path, "".join(lines).encode())
