"""From a regime to its model: a fresh one, one that continues a parent, or two parents fused."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrfr_fast.format.beton import file_digest
from hrfr_fast.format.reader import Split
from hrfr_fast.model import checkpoint
from hrfr_fast.model.lineage import trained_on
from hrfr_fast.regimes import Regime, is_checkpoint
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted
from hrfr_fast.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from hrfr_fast.model.backbone import IRSE18, BackboneSettings
    from hrfr_fast.model.fused import Fused, FusedSettings
    from hrfr_fast.runtime.device import Compute


@dataclass(frozen=True)
class Parent:
    """A checkpoint that training starts from."""

    weights: Path
    metadata: dict[str, Any]

    def to_json(self, run: Path) -> dict[str, Any]:
        """For the metadata of the child in ``run``: what it was made from, and all that this was trained on."""
        path = self.weights.resolve()
        known = {name: self.metadata.get(name) for name in ("regime", "step", "samples")}
        return {
            "path": str(path), "from_run": os.path.relpath(path, run.resolve()), **known,
            "digest": file_digest(path), "data_digest": self.metadata["data"]["digest"],
            "trained_on": trained_on(self.metadata),
        }  # fmt: skip

    def is_what(self, recorded: Mapping[str, Any]) -> bool:
        """Whether this is the checkpoint that ``to_json`` once described, wherever it lies now."""
        if "digest" in recorded:
            return bool(recorded["digest"] == file_digest(self.weights))
        known = {name: self.metadata.get(name) for name in ("regime", "step", "samples")}
        known["data_digest"] = self.metadata["data"]["digest"]
        return all(recorded[name] == value for name, value in known.items())


def find_parents(regime: Regime, settings: TrainSettings) -> list[Parent]:
    """The checkpoints that ``regime`` starts from: those of ``--init``, else the runs beside this one.

    Raises:
        UsageError: a parent that is not there, or not as many in ``--init`` as the regime has.
    """
    return [
        _parent(regime, name, path) for name, path in zip(regime.parents, parent_paths(regime, settings), strict=True)
    ]


def parent_paths(regime: Regime, settings: TrainSettings) -> list[str]:
    """Where ``find_parents`` looks. Raises UsageError for a wrong number of paths in ``--init``."""
    given = paths_in(settings.init)
    if given and len(given) != len(regime.parents):
        wanted = ", ".join(regime.parents) or "nothing"
        raise UsageError(f"--init names {counted(len(given), 'checkpoint')}; regime {regime.name} starts from {wanted}")
    runs = settings.run_directory.parent
    return given or [name if is_checkpoint(name) else str(runs / name) for name in regime.parents]


def paths_in(init: str) -> list[str]:
    """The paths of ``--init``, which stand with commas between them."""
    return [one.strip() for one in init.split(",") if one.strip()]


def _parent(regime: Regime, name: str, path: str) -> Parent:
    try:
        weights = checkpoint.weights_path(path)
    except UsageError as error:
        raise UsageError(
            f"regime {regime.name} starts from {name}: {error}\n"
            f"Train that first, with its --out {path}, or name another run with --init"
        ) from None
    return Parent(weights, checkpoint.read_metadata(weights))


def with_inherited_shape(settings: TrainSettings, regime: Regime, parents: list[Parent]) -> TrainSettings:
    """``settings`` with the width and embedding size that the parents fix."""
    if not parents:
        return settings
    shapes = [parent.metadata["backbone"] for parent in parents]
    if regime.model == "single":
        return replace(settings, width=shapes[0].get("width", settings.width), embedding_size=_size_of(parents[0]))
    if not regime.phases:
        return replace(settings, embedding_size=sum(map(_size_of, parents)))
    return settings


def _size_of(parent: Parent) -> int:
    return int(parent.metadata["backbone"]["embedding_size"])


def shape_of(settings: TrainSettings, regime: Regime, parents: list[Parent]) -> "BackboneSettings | FusedSettings":
    """The model's settings. Raises UsageError for a parent of another input size or kind than the regime needs."""
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings, model_settings

    shapes = [model_settings(parent.metadata["backbone"]) for parent in parents]
    if regime.model == "fused":
        large, small = (_single(shape, parent) for shape, parent in zip(shapes, parents, strict=True))
        return FusedSettings(
            (replace(large, dropout=settings.dropout), replace(small, dropout=settings.dropout)),
            settings.embedding_size, fusion=bool(regime.phases), input_size=regime.input_size,
        )  # fmt: skip
    if not shapes:
        return BackboneSettings(regime.input_size, settings.width, settings.embedding_size, settings.dropout)
    if shapes[0].input_size != regime.input_size:
        raise UsageError(
            f"{parents[0].weights}: it takes {shapes[0].input_size} px; {regime.name} needs {regime.input_size} px"
        )
    return replace(_single(shapes[0], parents[0]), dropout=settings.dropout)


def _single(shape: "BackboneSettings | FusedSettings", parent: Parent) -> "BackboneSettings":
    from hrfr_fast.model.backbone import BackboneSettings

    if not isinstance(shape, BackboneSettings):
        raise UsageError(f"{parent.weights}: a fused model; a single one is needed here")
    return shape


def build_embedder(
    shape: "BackboneSettings | FusedSettings", parents: list[Parent], compute: "Compute", *, checkpointing: bool
) -> "IRSE18 | Fused":
    """The embedder on the device, with its parents' weights where it has parents.

    ``checkpointing``: recompute activations in the backward pass.
    """
    from hrfr_fast.model.backbone import IRSE18
    from hrfr_fast.model.fused import Fused, build_model

    model = build_model(shape)
    branches: list[nn.Module] = [model.large, model.small] if isinstance(model, Fused) else [model]
    for branch, parent in zip(branches, parents, strict=False):  # a fresh model has no parents
        checkpoint.load_module(parent.weights, "backbone", branch)
    for part in model.modules():
        if isinstance(part, IRSE18):
            part.activation_checkpointing = checkpointing
    return compute.place(model)


def build_classifier(
    settings: TrainSettings, regime: Regime, classes: int, parents: list[Parent], compute: "Compute"
) -> "nn.Module":
    """The head over ``classes`` identities on the device, fresh or the parent's.

    Raises:
        UsageError: a parent's head that is to be inherited and does not fit.
    """
    import torch

    from hrfr_fast.model.heads import build_head

    head = build_head(
        settings.head,
        settings.embedding_size,
        classes,
        scale=settings.scale or None,
        margin=settings.margin if settings.margin >= 0 else None,
    )
    if regime.inherit_head:
        checkpoint.load_module(parents[0].weights, "head", head)
    if compute.device.type == "cuda":
        # 220 GFLOP a step at 1,024 x 52,500 classes: 3 ms of an H100 in float32, most of a step at 32 px.
        head.matmul_dtype = compute.autocast_dtype if compute.autocast_dtype == torch.bfloat16 else torch.float32
    return head.to(compute.device)


def people_digest(splits: Iterable[Split]) -> str:
    """SHA-256 of the identities' names in the order of their labels: which row of a head stands for whom."""
    names = [f"{split.name}/{name}" for split in splits for name in split.identity_names]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def refuse_other_people(parent: Parent, classes: int, people: str) -> None:
    """Raise UsageError where ``parent``'s head stands for other people than ``people_digest`` of these data."""
    known = parent.metadata["head"]
    if known["classes"] != classes:
        raise UsageError(
            f"{parent.weights}: its head is over {counted(known['classes'], 'identity')}; these data have {classes:,}"
        )
    if known.get("people", people) != people:
        raise UsageError(
            f"{parent.weights}: its head is over {classes:,} other identities than these data have; "
            "give the data it was trained on, or a regime that does not inherit the head"
        )


def shape_metadata(shape: "BackboneSettings | FusedSettings") -> dict[str, Any]:
    """What a checkpoint's metadata holds under ``backbone``; ``model_settings`` reads it."""
    return asdict(shape)
