"""Cache of embeddings: the highres_eval faces in several views through several models, each computed once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hrfr_fast.analysis.models import Model
from hrfr_fast.engines.base import refuse_damaged
from hrfr_fast.format import beton
from hrfr_fast.format.reader import Packed, PairSet, Split
from hrfr_fast.model.lineage import pairs_as_known_to
from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

FACES = "highres_eval"
CHUNK = 512  # pictures between two steps of the progress bar


@dataclass(frozen=True)
class View:
    """How a 144-px picture is shown: as it is, or shrunk to ``size`` pixels and then upscaled to the model's input.

    ``filter``: "cubic" is the project's own resampling; "lanczos" is Pillow's three-lobed one, which no training here
    can have used.
    """

    name: str
    size: int = 0
    filter: str = "cubic"


HR, LR36, LR32 = View("HR"), View("LR36", 36), View("LR32", 32)
HELD_OUT = View("LR56-Lanczos", 56, "lanczos")
"""A resampling filter that is none of the augmentation's, and a size beyond its default range of 16 to 48 px."""
HELD_OUT_VIEWS = (HELD_OUT, View("LR12-Lanczos", 12, "lanczos"))
"""Views that no training can have used, a mild one and a strong one, whose size lies below the published range of 0.1
to 0.5 of the side, too. Networks tell 56 px from 144 px hardly at all (after 46,000 pictures the probes of a narrow
highlow144 have AUC 0.52 and 0.51, at 20 px 0.84 and 0.62), so the mild view alone could show no gap closed."""


@dataclass(frozen=True)
class InMemorySplit(Split):
    """A split whose raw pictures are in memory: uint8 [N, size, size, 3]."""

    pixels: NDArray[np.uint8] = field(repr=False, default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        return self.pixels.reshape(-1)

    def verify(self, records: ArrayLike | None = None) -> NDArray[np.int64]:
        """None is damaged: they were compared when they were read."""
        return np.empty(0, np.int64)

    def refuse_shrunk(self) -> None:
        """Nothing to refuse: memory does not become shorter, as a mapped file may."""

    @cached_property
    def _tables(self) -> beton.Tables:
        bytes_each = 3 * self.size * self.size
        lengths = np.full(self.samples, bytes_each, np.int64)
        modes, labels = np.full(self.samples, beton.RAW, np.uint8), np.zeros(self.samples, np.int64)
        return beton.Tables(self.size, 0, np.arange(self.samples) * bytes_each, lengths, modes, labels)


class EmbeddingCache:
    """The embeddings of the pictures of ``packed`` by ``models``, computed at first use and kept.

    Args:
        advance: called with the number of pictures embedded since the last call; may raise to stop.
    """

    def __init__(
        self,
        models: list[Model],
        packed: Packed,
        compute: "Compute",
        *,
        seed: int = 0,
        advance: Callable[[int], None] = lambda pictures: None,
    ) -> None:
        self.models, self.packed, self.compute, self.seed = models, packed, compute, seed
        self._advance = advance
        self._embeddings: dict[tuple[str, View, bool], NDArray[np.float32]] = {}
        self._scores: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._loaded: tuple[str, nn.Module] | None = None

    @cached_property
    def faces(self) -> Split:
        """The highres_eval split. Raises UsageError where it is missing, empty or not of high resolution."""
        if reason := why_no_faces(self.packed):
            raise UsageError(reason)
        return self.packed.splits[FACES]

    @property
    def identities(self) -> NDArray[np.int64]:
        """Labels of the faces, int64 [N]."""
        return self.faces.labels

    @property
    def test_pairs(self) -> PairSet | None:
        """The largest set of test pairs, or of validation pairs without any; of equal ones the first, as in studies."""
        if not self.packed.pairs:
            return None
        largest = max(self.packed.pairs.values(), key=lambda pairs: (pairs.kind == "test", len(pairs)))
        by_model = [pairs_as_known_to(model.metadata, largest, self.packed) for model in self.models]
        return next((pairs for pairs in by_model if pairs.kind != largest.kind), largest)

    def backbone(self, model: Model) -> "nn.Module":
        """The network of ``model`` on the device; only the last one used is kept."""
        from hrfr_fast.evaluation.evaluate import load_backbone

        if self._loaded is None or self._loaded[0] != model.name:
            self._loaded = (model.name, load_backbone(model.weights, self.compute)[0])
        return self._loaded[1]

    def embeddings(self, model: Model, view: View = HR, *, raw: bool = False) -> NDArray[np.float32]:
        """Embeddings of the faces in ``view``, float32 [N, D]: unit rows, or f(x) + f(flip x) where ``raw``."""
        key = (model.name, view, raw)
        if key not in self._embeddings:
            self._embeddings[key] = self._embed(model, view, raw)
        return self._embeddings[key]

    def pair_scores(self, model: Model, pairs: PairSet) -> NDArray[np.float64]:
        """Cosine of every pair of a packed pair set, float64 [P]."""
        from hrfr_fast.evaluation.embedding import pair_scores

        key = (model.name, pairs.name)
        if key not in self._scores:
            self._scores[key] = pair_scores(self.backbone(model), pairs, model.input_size, self.compute)
            self._advance(pairs.split.samples)
        return self._scores[key]

    def _embed(self, model: Model, view: View, raw: bool) -> NDArray[np.float32]:
        from hrfr_fast.evaluation.embedding import embed

        backbone, chunks = self.backbone(model), []
        for start in range(0, self.faces.samples, CHUNK):
            records = np.arange(start, min(start + CHUNK, self.faces.samples))
            count = len(records)
            if view.filter == "cubic":
                split, degrade = self.faces, view.size
            else:
                split, degrade, records = shrink_lanczos(self.faces, records, view.size), 0, np.arange(count)
            chunks.append(
                embed(backbone, split, model.input_size, self.compute, records=records, degrade=degrade, unit=not raw)
            )
            self._advance(count)
        return np.concatenate(chunks)


def why_no_faces(packed: Packed) -> str | None:
    """Why ``packed`` has no high-resolution faces to analyse; None where it has."""
    split = packed.splits.get(FACES)
    if split is None or not split.samples:
        return f"{packed.path} holds no {FACES} faces"
    if split.size <= HELD_OUT.size:
        return f"the {FACES} faces of {packed.path} are {split.size} px, which gives no high-resolution view"
    return None


def shrink_lanczos(split: Split, records: NDArray[np.int64], size: int) -> InMemorySplit:
    """The pictures ``records`` downsampled to ``size`` pixels by Pillow's Lanczos filter.

    Raises DamageFound where one does not match its checksum.
    """
    from PIL import Image

    refuse_damaged(split, records)
    small = [
        np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))
        for picture in split.read(records)
    ]
    return InMemorySplit(split.name, split.path, size, len(small), 1, "raw", pixels=np.stack(small))
