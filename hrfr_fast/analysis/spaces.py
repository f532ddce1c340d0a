"""The embeddings every question is asked of: highres_eval in several views through several models, each made once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.format import beton
from hrfr_fast.format.reader import Packed, PairSet, Split
from hrfr_fast.model.lineage import as_seen_by
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.toml_files import read_toml

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.runtime.device import Compute

FACES = "highres_eval"
CHUNK = 512  # pictures between two signs of progress


@dataclass(frozen=True)
class View:
    """How a 144-px picture is shown: as it is, or shrunk to ``side`` pixels and upscaled again by the model's input.

    ``kernel``: "cubic" is the project's own resampling; "lanczos" is Pillow's three-lobed one, which no training here
    can have used.
    """

    name: str
    side: int = 0
    kernel: str = "cubic"


HR, LR36, LR32 = View("HR"), View("LR36", 36), View("LR32", 32)
HELD_OUT = View("LR56-Lanczos", 56, "lanczos")
"""A kernel that is none of the augmentation's, and a size beyond its default range of 16 to 48 px."""


@dataclass(frozen=True)
class Model:
    """One run or checkpoint. ``settings``: the run's settings.toml, empty for a checkpoint that lies alone."""

    name: str
    weights: Path
    metadata: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def input_size(self) -> int:
        return int(self.metadata["backbone"]["input_size"])

    @property
    def sees_no_detail(self) -> bool:
        """Whether its input is so small that a high-resolution view is shrunk as far as a low-resolution one."""
        return self.input_size <= LR36.side

    @property
    def label(self) -> str:
        return f"{self.name} ({self.input_size} px: near-identity control)" if self.sees_no_detail else self.name


@dataclass(frozen=True)
class Pictures(Split):
    """A split whose raw pictures lie in memory: uint8 [N, size, size, 3]."""

    pixels: NDArray[np.uint8] = field(repr=False, default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))

    @cached_property
    def data(self) -> NDArray[np.uint8]:
        return self.pixels.reshape(-1)

    def refuse_shrunk(self) -> None:
        """Nothing to refuse: memory does not become shorter, as a mapped file may."""

    @cached_property
    def _tables(self) -> beton.Tables:
        each = 3 * self.size * self.size
        lengths = np.full(self.samples, each, np.int64)
        modes, labels = np.full(self.samples, beton.RAW, np.uint8), np.zeros(self.samples, np.int64)
        return beton.Tables(self.size, 0, np.arange(self.samples) * each, lengths, modes, labels)


class Spaces:
    """``models`` seen through the pictures of ``packed``; embeddings are made at first use and kept.

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
        """highres_eval. Raises UsageError where it is missing, empty or not of high resolution."""
        if reason := why_no_faces(self.packed):
            raise UsageError(reason)
        return self.packed.splits[FACES]

    @property
    def identities(self) -> NDArray[np.int64]:
        """int64 [N] of the faces."""
        return self.faces.labels

    @property
    def test_pairs(self) -> PairSet | None:
        """The largest set of test pairs (of development pairs where there are no test pairs)."""
        sets = sorted(self.packed.pairs.values(), key=lambda pairs: (pairs.kind == "test", len(pairs)))
        if not sets:
            return None
        seen = [as_seen_by(model.metadata, sets[-1], self.packed) for model in self.models]
        return next((pairs for pairs in seen if pairs.kind != sets[-1].kind), sets[-1])

    def backbone(self, model: Model) -> "nn.Module":
        """The network of ``model`` on the device; only the last one asked for is kept."""
        from hrfr_fast.evaluation.evaluate import load_backbone

        if self._loaded is None or self._loaded[0] != model.name:
            self._loaded = (model.name, load_backbone(model.weights, self.compute)[0])
        return self._loaded[1]

    def embeddings(self, model: Model, view: View = HR, *, raw: bool = False) -> NDArray[np.float32]:
        """float32 [N, D] of the faces in ``view``: unit rows, or f(x) + f(flip x) as it is where ``raw``."""
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

        backbone, parts = self.backbone(model), []
        for start in range(0, self.faces.samples, CHUNK):
            records = np.arange(start, min(start + CHUNK, self.faces.samples))
            count = len(records)
            if view.kernel == "cubic":
                split, degrade = self.faces, view.side
            else:
                split, degrade, records = shrunk(self.faces, records, view.side), 0, np.arange(count)
            parts.append(
                embed(backbone, split, model.input_size, self.compute, records=records, degrade=degrade, unit=not raw)
            )
            self._advance(count)
        return np.concatenate(parts)


def why_no_faces(packed: Packed) -> str | None:
    """Why ``packed`` has no faces of high resolution to ask questions of; None where it has."""
    split = packed.splits.get(FACES)
    if split is None or not split.samples:
        return f"{packed.path} holds no {FACES} faces"
    if split.size <= HELD_OUT.side:
        return f"the {FACES} faces of {packed.path} are {split.size} px, which gives no high-resolution view"
    return None


def shrunk(split: Split, records: NDArray[np.int64], side: int) -> Pictures:
    """Some pictures at ``side`` pixels, by Pillow's Lanczos kernel."""
    from PIL import Image

    small = [
        np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
        for picture in split.read(records)
    ]
    return Pictures(split.name, split.path, side, len(small), 1, "raw", pixels=np.stack(small))


def read_model(run_or_checkpoint: str | Path, name: str) -> Model:
    """The model of a run directory (its last checkpoint) or a weights file. Raises UsageError where there is none."""
    from hrfr_fast.model.checkpoint import read_metadata, weights_of

    weights = weights_of(run_or_checkpoint)
    file = weights.parent.parent / "settings.toml"
    settings: dict[str, Any] = {}
    if weights.parent.name == "checkpoints" and file.is_file():
        settings = read_toml(file, "settings")
    return Model(name, weights, read_metadata(weights), settings)


def model_names(runs: list[str | Path]) -> list[str]:
    """Directory names; a checkpoint other than last adds its own; with parents in front where two would be equal.

    Raises UsageError where one run is given twice.
    """
    paths = [Path(run).resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise UsageError("one run is given twice; give each once")
    depth = 1
    while True:
        names = [_name(path, depth) for path in paths]
        if len(set(names)) == len(names) or depth > 20:
            return names
        depth += 1


def _name(path: Path, depth: int) -> str:
    suffix = ""
    if path.suffix == ".safetensors":
        suffix = "" if path.stem == "last" else f"-{path.stem}"
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    name = "-".join(path.parts[-depth:]).strip("/") + suffix
    return "".join(sign if sign.isprintable() else "_" for sign in name)  # no font draws bytes that are not UTF-8
