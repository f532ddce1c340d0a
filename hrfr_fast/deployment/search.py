"""``hrfr-fast search``: who of a gallery is most like each probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.deployment.embeddings_file import SUFFIXES, Embeddings, read_embeddings
from hrfr_fast.deployment.nearest import nearest
from hrfr_fast.deployment.pictures import framed_batch, open_pictures
from hrfr_fast.evaluation.embedder import Embedder, embed_resampled, open_embedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console, progress_bar
from hrfr_fast.runtime.system import threads_per_rank

BATCH = 128


@dataclass(frozen=True)
class SearchResult:
    """The nearest gallery pictures of every probe.

    Attributes:
        probes, gallery: names, in order.
        rows: int64 [n, k], numbers of gallery pictures, nearest first.
        cosines: float64 [n, k].
    """

    probes: list[str]
    gallery: list[str]
    rows: NDArray[np.int64]
    cosines: NDArray[np.float64]

    def matches(self) -> list[tuple[str, int, str, float]]:
        """(probe, rank from 1, gallery picture, cosine), one after the other."""
        return [
            (probe, rank + 1, self.gallery[row], float(cosine))
            for probe, rows, cosines in zip(self.probes, self.rows.tolist(), self.cosines.tolist(), strict=True)
            for rank, (row, cosine) in enumerate(zip(rows, cosines, strict=True))
        ]

    def to_json(self) -> dict[str, Any]:
        """Probe -> its matches, nearest first."""
        result: dict[str, list[dict[str, Any]]] = {probe: [] for probe in self.probes}
        for probe, rank, name, cosine in self.matches():
            result[probe].append({"rank": rank, "name": name, "cosine": cosine})
        return result


def search(
    model: str | Path,
    gallery: str | Path,
    probes: str | Path,
    *,
    top: int = 5,
    backend: str = "auto",
    device: str = "auto",
    flags: OnnxFlags | None = None,
    show_progress: bool = True,
) -> SearchResult:
    """The ``top`` most similar gallery pictures of every probe, by cosine; equal ones in the gallery's order.

    Args:
        model: run directory, .safetensors checkpoint, or ONNX file.
        gallery, probes: a picture, a folder, a text list, a packed directory, or a file that ``embed`` wrote.
        top: how many for each probe, >= 1.
        backend: "faiss", "numpy", or "auto": faiss where it is installed. The result is the same.

    Returns:
        Names, and for n probes int64 [n, k] numbers of gallery pictures and float64 [n, k] cosines, nearest first; k is
        ``top``, or the size of a smaller gallery.

    Raises:
        UsageError: nothing there; embeddings of another size or model; no picture that decodes.
    """
    if top < 1:
        raise UsageError(f"--top {top}: at least 1")
    if backend not in ("auto", "faiss", "numpy"):
        raise UsageError(f"--backend {backend}: give auto, faiss or numpy")
    embedder = open_embedder(model, device=device, flags=flags)
    enrolled, asked = (embeddings_of(embedder, Path(place), show_progress) for place in (gallery, probes))
    rows, cosines = nearest(asked.rows, enrolled.rows, min(top, len(enrolled.rows)), backend=backend)
    return SearchResult(asked.names, enrolled.names, rows, cosines)


def embeddings_of(embedder: Embedder, place: Path, show_progress: bool) -> Embeddings:
    """The embeddings at ``place``: read from a file, or made of pictures. Pictures without pixels are named.

    Raises UsageError where there are none, or where they are another model's.
    """
    if place.suffix in SUFFIXES and place.is_file():
        found = read_embeddings(place)
        _refuse_other_model(embedder, place, found)
    else:
        found = _embedded(embedder, [place], show_progress)
    if not len(found.rows):
        raise UsageError(f"{place}: there is nothing to compare")
    return found


def _refuse_other_model(embedder: Embedder, place: Path, found: Embeddings) -> None:
    size = found.rows.shape[1]
    if size != embedder.dimension:
        raise UsageError(
            f"{place} holds embeddings of {size} numbers, {embedder.name} makes {embedder.dimension}: they are those of"
            " another model"
        )
    made_by, own = found.about.get("model"), embedder.describe()
    digest = made_by.get("weights_digest") if isinstance(made_by, dict) else None
    if digest != own["weights_digest"]:
        name = made_by.get("path", "another model") if isinstance(made_by, dict) else "an unknown model"
        console.print(
            f"warning: {place} was made by {name}, not by {own['path']}: if that is not the same model in another file,"
            " the cosines mean nothing",
            markup=False, highlight=False,
        )  # fmt: skip


def _embedded(embedder: Embedder, paths: Sequence[Path], show_progress: bool) -> Embeddings:
    from concurrent.futures import ThreadPoolExecutor

    pictures = open_pictures(paths)
    names: list[str] = []
    rows: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(threads_per_rank()) as threads, progress_bar(show_progress) as bar:
        task = bar.add_task(str(paths[0]), total=len(pictures), note="")
        for start in range(0, len(pictures), BATCH):
            numbers = range(start, min(start + BATCH, len(pictures)))
            images = []
            for number, image in zip(numbers, pictures.decoded(numbers, threads), strict=True):
                if isinstance(image, np.ndarray):
                    names.append(pictures.name(number))
                    images.append(image)
                else:
                    console.print(f"left out: {pictures.name(number)}: {image}", markup=False, highlight=False)
            if images:
                sides = [min(image.shape[:2]) for image in images]
                rows.append(embed_resampled(embedder, framed_batch(images, embedder.size), sides))
            bar.advance(task, len(numbers))
    return Embeddings(names, np.concatenate(rows) if rows else np.empty((0, embedder.dimension), np.float32), {})
