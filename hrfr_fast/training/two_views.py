"""What a two-view regime adds to a run: terms of the loss, networks to compare with, BatchNorm by resolution.

All are read from the regime's fields and the settings; without any of them a run is what it is without this file.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from hrfr_fast.format.reader import Split
from hrfr_fast.model.domain_norm import domain_limit, domains_of
from hrfr_fast.regimes import Regime
from hrfr_fast.runtime.device import Compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.sampling.stream import BatchStream
from hrfr_fast.sampling.two_view_stream import TwoViewStream
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.objective import Consistency, Contrast, Features, Relations, Term, TwoViewLoss
from hrfr_fast.training.parents import Parent
from hrfr_fast.training.references import MovingCopy, References
from hrfr_fast.training.stream import degraded_view
from hrfr_fast.training.teacher import build_teacher, distillation_weight

if TYPE_CHECKING:
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings
    from hrfr_fast.model.heads import MarginHead
    from hrfr_fast.training.step import Objective


def _weight(given: float | None, regime: float) -> float:
    return regime if given is None else given


def terms_of(settings: TrainSettings, regime: Regime, head_scale: float) -> list[Term]:
    """The terms with a weight above 0, as the settings say, or the regime where they do not."""
    loss, distillation = settings.loss, distillation_weight(regime, settings)
    terms: list[Term] = [
        Consistency(_weight(loss.consistency, regime.consistency)),
        Contrast(_weight(loss.contrast, regime.contrast), loss.contrast_scale or head_scale),
        Features(distillation),
        Relations(distillation * loss.distillation_relations),
    ]
    return [term for term in terms if term.weight]


def two_view_objective(
    settings: TrainSettings, regime: Regime, stream: BatchStream, head: "MarginHead", compute: Compute
) -> "Objective":
    """The head's loss, with the terms between two views where the regime or the settings ask for some.

    Raises UsageError for a term that is asked for without a second view.
    """
    terms = terms_of(settings, regime, head.scale)
    if not isinstance(stream, TwoViewStream):
        if terms:
            name = "distillation" if isinstance(terms[0], Relations) else terms[0].name
            asked = getattr(settings.loss, name)
            raise UsageError(
                f"{name} is {asked}; regime {regime.name} has no second view to compare with: leave it out"
            )
        return head
    return TwoViewLoss(head, pairs_a_part(stream, settings), terms, compute.device) if terms else head


def pairs_a_part(stream: TwoViewStream, settings: TrainSettings) -> int:
    """Pairs of views in each micro-batch."""
    return stream.pairs // (stream.ranks * settings.sampling.accumulate)


def references_of(
    settings: TrainSettings, regime: Regime, backbone: nn.Module, objective: "Objective", teacher: Parent | None,
    compute: Compute,
) -> References | None:  # fmt: skip
    """The networks without gradient that the objective's terms need; None where it needs none."""
    if not isinstance(objective, TwoViewLoss):
        return None
    copy, frozen = reference_networks(settings, regime, backbone, teacher, compute)
    return References(objective.pairs, copy, frozen, compute) if copy or frozen else None


def reference_networks(
    settings: TrainSettings, regime: Regime, backbone: nn.Module, teacher: Parent | None, compute: Compute
) -> tuple[MovingCopy | None, nn.Module | None]:
    """The moving copy of ``backbone``, for contrast, and the frozen teacher, on the device; None where not needed."""
    loss, copy = settings.loss, None
    if _weight(loss.contrast, regime.contrast):
        dimension = settings.model.embedding_size
        copy = MovingCopy(backbone, loss.contrast_ema, loss.contrast_queue, dimension, compute.device)
    if teacher is None:
        return copy, None
    return copy, build_teacher(teacher, compute, kernels=settings.execution.fused_kernels != "off")


def objective_and_references(
    settings: TrainSettings, regime: Regime, stream: BatchStream, backbone: nn.Module, head: "MarginHead",
    teacher: Parent | None, compute: Compute,
) -> "tuple[Objective, References | None]":  # fmt: skip
    """What a run minimises, and the networks without gradient that it takes for that."""
    objective = two_view_objective(settings, regime, stream, head, compute)
    return objective, references_of(settings, regime, backbone, objective, teacher, compute)


def with_domains(
    shape: "BackboneSettings | FusedSettings", regime: Regime, splits: tuple[Split, ...], parents: list[Parent],
    settings: TrainSettings, ranks: Ranks,
) -> "BackboneSettings | FusedSettings":  # fmt: skip
    """The network's shape with BatchNorm as the regime says. Raises UsageError where a parent's or --sync-bn does not
    fit it."""
    from hrfr_fast.model.backbone import BackboneSettings

    if not isinstance(shape, BackboneSettings):
        return shape
    before, wanted = shape.domain_norm, regime.domain_norm
    if before not in ("shared", wanted) and (before, wanted) != ("statistics", "separate"):
        raise UsageError(
            f'{parents[0].weights}: its BatchNorm has domain_norm = "{before}"; regime {regime.name} has "{wanted}",'
            f' and needs "{before}" to go on from it'
        )
    if wanted == "shared":
        return shape
    if settings.model.sync_bn and ranks.distributed:
        raise UsageError(
            f"--sync-bn knows one BatchNorm for all rows; regime {regime.name} has one a resolution: leave it out"
        )
    low, high = splits[0].size, splits[1].size
    if low >= high:
        raise UsageError(
            f"regime {regime.name} tells low from high resolution by a picture's size, and lowres is packed at {low}"
            f" px, highres at {high}: pack lowres smaller (--size lowres=36), or leave domain_norm out"
        )
    # All that trains the statistics of low resolution has to count as such later, by its size alone; sharp faces never.
    degraded = min(degraded_view(regime, settings).largest_side(high), high - 1)
    limit = max(shape.domain_limit or domain_limit(low, high), degraded)
    return replace(shape, domain_norm=wanted, domain_limit=limit)


def tell_rows(backbone: nn.Module, stream: BatchStream, settings: TrainSettings) -> None:
    """Tell a network with BatchNorm by resolution which rows of a micro-batch are of which one.

    Raises UsageError where a domain would have a single row, whose variance is none.
    """
    domains = domains_of(backbone)
    if domains is None:
        return
    assert isinstance(stream, TwoViewStream), "the regime's fields say so"
    domains.pairs = pairs_a_part(stream, settings)
    domains.native = stream.lowres // (stream.ranks * settings.sampling.accumulate)
    if domains.pairs < 2:
        raise UsageError(
            "BatchNorm by resolution needs two faces of high resolution in each micro-batch of each rank; raise"
            " --batch-size or --highres-share, or lower --accumulate"
        )
