"""The model and head of a regime: fresh ones, those that continue a parent, or two parents fused."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hrfr_fast.model import checkpoint
from hrfr_fast.regimes import Regime
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.parents import Parent
from hrfr_fast.training.recipes import with_recipe

if TYPE_CHECKING:
    from hrfr_fast.model.backbone import Backbone, BackboneSettings
    from hrfr_fast.model.class_shards import ClassShard
    from hrfr_fast.model.fused import Fused, FusedSettings
    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.runtime.device import Compute


def with_inherited_shape(settings: TrainSettings, regime: Regime, parents: list[Parent]) -> TrainSettings:
    """``settings`` with the network, its width and its embedding size, which the parents fix."""
    if not parents:
        return settings
    shapes = [parent.metadata["backbone"] for parent in parents]
    if regime.model == "single":
        inherited = {
            "backbone": shapes[0].get("name", "irse18"),
            "width": shapes[0].get("width", settings.model.width),
            "embedding_size": _size_of(parents[0]),
        }
        return settings.updated(inherited, str(parents[0].weights))
    if not regime.phases:
        return settings.updated({"embedding_size": sum(map(_size_of, parents))}, "the parents")
    return settings


def completed(
    settings: TrainSettings, regime: Regime, parents: list[Parent], say: Callable[[str], None]
) -> TrainSettings:
    """``settings`` with what the parents fix, and with the network's recipe where they leave it open."""
    settings = with_inherited_shape(settings, regime, parents)
    names = [parent.metadata["backbone"].get("name", "irse18") for parent in parents] or [settings.model.backbone]
    return with_recipe(settings, names, fused=regime.model == "fused", say=say)


def _size_of(parent: Parent) -> int:
    return int(parent.metadata["backbone"]["embedding_size"])


def shape_of(settings: TrainSettings, regime: Regime, parents: list[Parent]) -> "BackboneSettings | FusedSettings":
    """The model's settings. Raises UsageError for a parent of another input size or kind than the regime needs."""
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings, model_settings, refuse_larger_model

    shapes = [model_settings(parent.metadata["backbone"]) for parent in parents]
    for parent, shape in zip(parents, shapes, strict=True):
        refuse_larger_model(parent.weights, shape)
    in_training: dict[str, Any] = {"dropout": settings.model.dropout, "drop_path": settings.model.drop_path or 0.0}
    if regime.model == "fused":
        large, small = (_single(shape, parent) for shape, parent in zip(shapes, parents, strict=True))
        return FusedSettings(
            (replace(large, **in_training), replace(small, **in_training)),
            settings.model.embedding_size, fusion=bool(regime.phases), input_size=regime.input_size,
        )  # fmt: skip
    if not shapes:
        model = settings.model
        return BackboneSettings(
            regime.input_size, model.width, model.embedding_size, model.dropout,
            name=model.backbone, drop_path=model.drop_path or 0.0,
        )  # fmt: skip
    if shapes[0].input_size != regime.input_size and not settings.model.resample_parent:
        raise UsageError(
            f"{parents[0].weights}: it takes {shapes[0].input_size} px; {regime.name} needs {regime.input_size} px; "
            "--resample-parent resamples its weights"
        )
    return replace(_single(shapes[0], parents[0]), input_size=regime.input_size, **in_training)


def _single(shape: "BackboneSettings | FusedSettings", parent: Parent) -> "BackboneSettings":
    from hrfr_fast.model.backbone import BackboneSettings

    if not isinstance(shape, BackboneSettings):
        raise UsageError(f"{parent.weights}: a fused model; a single one is needed here")
    return shape


def build_embedder(
    shape: "BackboneSettings | FusedSettings", parents: list[Parent], compute: "Compute", *, checkpointing: bool
) -> "Backbone | Fused":
    """The embedder on the device, with its parents' weights where it has parents.

    ``checkpointing``: recompute activations in the backward pass.
    """
    from hrfr_fast.model.backbone import Backbone
    from hrfr_fast.model.fused import Fused, build_model

    model = build_model(shape)
    branches = [model.large, model.small] if isinstance(model, Fused) else [model]
    for branch, parent in zip(branches, parents, strict=False):  # a fresh model has no parents
        _load(branch, parent)
    for part in model.modules():
        if isinstance(part, Backbone):
            part.activation_checkpointing = checkpointing
    return compute.place(model)


def _load(branch: "Backbone", parent: Parent) -> None:
    """The parent's weights, resampled where it takes another input size."""
    from hrfr_fast.model.backbones.resizing import resized_weights
    from hrfr_fast.model.fused import model_settings

    before, size = model_settings(parent.metadata["backbone"]), branch.settings.input_size
    if before.input_size == size or not isinstance(before, type(branch.settings)):
        checkpoint.load_module(parent.weights, "backbone", branch)
    else:
        resized = partial(resized_weights, settings=before, input_size=size)
        checkpoint.load_module(parent.weights, "backbone", branch, resized)


def build_classifier(
    settings: TrainSettings, regime: Regime, classes: int, parents: list[Parent], compute: "Compute",
    shard: "ClassShard | None" = None,
) -> "MarginHead":  # fmt: skip
    """The head over ``classes`` identities on the device, fresh or the parent's; with ``shard`` its rows alone.

    Raises:
        UsageError: a parent's head that is to be inherited and does not fit.
    """
    import torch

    from hrfr_fast.model.heads import build_head

    head = build_head(
        settings.loss.head,
        settings.model.embedding_size,
        classes,
        scale=settings.loss.scale,
        margin=settings.loss.margin,
        shard=shard,
    )
    if regime.inherit_head:
        rows = slice(shard.rows.start, shard.rows.stop) if shard else slice(None)
        fresh = head.state_dict()

        def inherited(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            """The class matrix, and what a head of the same kind knows beside it; another kind begins it afresh."""
            return {name: state.get(name, own) for name, own in fresh.items()} | {"weight": state["weight"][rows]}

        checkpoint.load_module(parents[0].weights, "head", head, inherited)
    if compute.device.type == "cuda":
        # 220 GFLOP a step at 1,024 x 52,500 classes: 3 ms of an H100 in float32, most of a step at 32 px.
        head.matmul_dtype = compute.autocast_dtype if compute.autocast_dtype == torch.bfloat16 else torch.float32
    return head.to(compute.device)


def shape_metadata(shape: "BackboneSettings | FusedSettings") -> dict[str, Any]:
    """What a checkpoint's metadata holds under ``backbone``; ``model_settings`` reads it."""
    return asdict(shape)
