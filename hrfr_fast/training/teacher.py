"""The teacher of a run: found, refused where it does not fit, its class vectors taken over where people match.

The class vectors are where training starts, not frozen: the people of low resolution, whom the teacher has not seen,
have to find their place among them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from hrfr_fast.evaluation.evaluate import load_backbone
from hrfr_fast.format.reader import Split
from hrfr_fast.model import checkpoint
from hrfr_fast.regimes import Regime, is_checkpoint
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.words import counted
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.parents import Parent, people_digest

if TYPE_CHECKING:
    from hrfr_fast.model.heads import MarginHead


def distillation_weight(regime: Regime, settings: TrainSettings) -> float:
    """The setting, or what the regime says where that is not set."""
    given = settings.loss.distillation
    return regime.distillation if given is None else given


def teacher_path(regime: Regime, settings: TrainSettings) -> str | None:
    """Where the teacher lies: ``--teacher``, else the regime's path, else the run of its name beside this one.

    None where nothing is distilled. Raises UsageError for distillation without a teacher.
    """
    if not distillation_weight(regime, settings):
        return None
    if settings.loss.teacher:
        return settings.loss.teacher
    if not regime.teacher:
        raise UsageError(
            f"distillation is {settings.loss.distillation}; regime {regime.name} has no teacher:"
            " name a run with --teacher"
        )
    beside = settings.run_directory.parent / regime.teacher
    return regime.teacher if is_checkpoint(regime.teacher) else str(beside)


def find_teacher(regime: Regime, settings: TrainSettings) -> Parent | None:
    """The teacher's checkpoint; None where nothing is distilled. Raises UsageError where it is not there or unfit.

    ``settings``: with all that the parents of the run fix.
    """
    path = teacher_path(regime, settings)
    if path is None:
        return None
    try:
        weights = checkpoint.weights_path(path)
    except UsageError as error:
        raise UsageError(
            f"regime {regime.name} learns from {regime.teacher or path}: {error}\n"
            f"Train that first, with its --out {path}, or name another run with --teacher"
        ) from None
    teacher = Parent(weights, checkpoint.read_metadata(weights))
    _refuse_unfit(teacher, regime, settings)
    return teacher


def _refuse_unfit(teacher: Parent, regime: Regime, settings: TrainSettings) -> None:
    """Raise UsageError where the teacher takes other images than the run, or makes other embeddings."""
    shape = teacher.metadata["backbone"]
    size, dimension = shape["input_size"], shape["embedding_size"]
    if size != regime.input_size:
        raise UsageError(
            f"{teacher.weights}: the teacher takes {size} px and regime {regime.name} {regime.input_size} px; both see"
            f" the same images, so give the regime input_size = {size}, or name a teacher of {regime.input_size} px"
        )
    if dimension != settings.model.embedding_size:
        raise UsageError(
            f"{teacher.weights}: the teacher's embeddings have {dimension} dimensions, this run's"
            f" {settings.model.embedding_size}; a distance needs equally many: --embedding-size {dimension}"
        )


def build_teacher(teacher: Parent, compute: Compute, *, kernels: bool = True) -> nn.Module:
    """The frozen network on the device; ``kernels`` as in ``load_backbone``."""
    backbone, _ = load_backbone(teacher.weights, compute, kernels=kernels)
    return backbone


def take_class_vectors(
    head: "MarginHead", teacher: Parent | None, regime: Regime, splits: Sequence[Split], say: Callable[[str], None]
) -> None:
    """Let ``head`` begin with the teacher's class vectors of the people whom both were trained on, and ``say`` so.

    The vectors keep the lengths of fresh ones, on which depends how far a step turns them. People are the same where
    the teacher was trained on all of ``splits`` or on one of them, by the digest of their names. Nothing without a
    teacher, and where the regime goes on with a parent's head.
    """
    if teacher is None or regime.inherit_head:
        return
    rows = _rows_of(teacher, splits)
    if rows is None:
        say("the teacher was trained on other people: the class matrix begins afresh")
        return
    weights = checkpoint.load_tensor(teacher.weights, "head.weight")
    held = head.shard.rows if head.shard else range(len(head.weight))
    common = range(max(rows.start, held.start), min(rows.stop, held.stop))
    if len(common):
        with torch.no_grad():
            ours = head.weight[common.start - held.start : common.stop - held.start]
            theirs = weights[common.start - rows.start : common.stop - rows.start].to(ours)
            ours.copy_(nn.functional.normalize(theirs) * ours.norm(dim=1, keepdim=True))
    say(f"the class vectors of {counted(len(rows), 'identity')} begin as the teacher's")


def _rows_of(teacher: Parent, splits: Sequence[Split]) -> range | None:
    """Rows of a head over ``splits`` that stand for the people of the teacher's head, in its order."""
    known = teacher.metadata["head"].get("people")
    if known is None:
        return None
    if known == people_digest(splits):
        return range(sum(split.identities for split in splits))
    offset = 0
    for split in splits:
        if known == people_digest([split]):
            return range(offset, offset + split.identities)
        offset += split.identities
    return None
