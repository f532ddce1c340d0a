"""What a run is made from: settings, data, checkpoints, the network's shape. All of it is known before a model is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hrfr_fast.evaluation.evaluate import verifiable
from hrfr_fast.format.reader import Packed, PairSet, Split, open_packed
from hrfr_fast.model.lineage import data_record, pairs_as_known_to
from hrfr_fast.regimes import Phase, Regime, regime_named
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.models import completed, shape_of
from hrfr_fast.training.parents import Parent, find_parents, people_digest, refuse_other_people
from hrfr_fast.training.phases import set_trainable
from hrfr_fast.training.stream import training_splits
from hrfr_fast.training.teacher import find_teacher
from hrfr_fast.training.tuning import as_the_regime_tunes, tuned_phases
from hrfr_fast.training.two_views import with_domains

if TYPE_CHECKING:
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings


@dataclass(frozen=True)
class RunInputs:
    """What a run is made from, and the device it is made on."""

    settings: TrainSettings
    """As resolved: precision and what parents fix are decided."""
    regime: Regime
    ranks: Ranks
    """This process among those that train the run together."""
    compute: Compute
    packed: Packed
    splits: tuple[Split, ...]
    """What is trained on."""
    parents: list[Parent]
    teacher: Parent | None
    """Whose embeddings the run learns from."""
    origin: dict[str, Any]
    """What checkpoints record of data and parents."""
    pair_sets: list[PairSet]
    """To verify on."""
    shape: "BackboneSettings | FusedSettings"
    frozen_statistics: bool
    """Whether BatchNorm keeps a parent's statistics while its layer trains."""
    people: str
    """Which row of the head stands for whom, see ``people_digest``."""
    tuned: tuple[Phase, ...]
    """The regime's phases, as far as ``--tune`` lets them train."""

    @property
    def classes(self) -> int:
        """Identities of all splits together."""
        return sum(split.identities for split in self.splits)

    def train_only(self, backbone: nn.Module, head: nn.Module, parts: tuple[str, ...]) -> None:
        """Freeze all parts of the model but these."""
        set_trainable(
            backbone, head, parts,
            keep_statistics=self.frozen_statistics, adapters_only=self.settings.tuning.tune == "lora",
        )  # fmt: skip


def find_inputs(settings: TrainSettings, ranks: Ranks) -> RunInputs:
    """Open the data, find the parents and the teacher, and settle what they and the device decide.

    Raises UsageError for an unknown regime, a missing split or parent, and settings that do not fit these.
    """
    compute = choose_compute(settings.execution.device, settings.execution.precision)
    settings = settings.replaced(precision=compute.precision)  # a resumed run must not choose again
    packed, regime = open_packed(settings.data), regime_named(settings.regime)
    settings = as_the_regime_tunes(settings, regime)
    parents, tuned = find_parents(regime, settings), tuned_phases(settings.tuning, regime)
    splits = training_splits(packed, regime, settings)
    settings = completed(settings, regime, parents, console.print)
    teacher = find_teacher(regime, settings)
    origin = _origin(packed, regime, parents, teacher, settings.run_directory)
    pair_sets = _pair_sets(packed, origin, settings.logging.verify_on)
    shape = with_domains(shape_of(settings, regime, parents), regime, splits, parents, settings, ranks)
    inputs = RunInputs(
        settings, regime, ranks, compute, packed, splits, parents, teacher, origin, pair_sets, shape,
        _freezes_statistics(settings, regime, parents), people_digest(splits), tuned,
    )  # fmt: skip
    if regime.inherit_head:
        refuse_other_people(parents[0], inputs.classes, inputs.people)
    return inputs


def _origin(packed: Packed, regime: Regime, parents: list[Parent], teacher: Parent | None, run: Path) -> dict[str, Any]:
    """What checkpoints record of data, parents and teacher."""
    data, taught = data_record(packed, regime.sources, run), {"teacher": teacher.to_json(run)} if teacher else {}
    return {"data": data, "parents": [parent.to_json(run) for parent in parents], **taught}


def _pair_sets(packed: Packed, origin: dict[str, Any], verify_on: str) -> list[PairSet]:
    """``verify_on``: "all" or "development"."""
    known = [pairs_as_known_to(origin, pairs, packed) for pairs in packed.pairs.values()]
    wanted = [pairs for pairs in known if verify_on in ("all", pairs.kind)]
    pair_sets = verifiable(wanted, console.print)
    if not pair_sets:
        console.print(f"warning: {packed.path} has no pairs to verify on: nothing will tell what this run learns")
    return pair_sets


def _freezes_statistics(settings: TrainSettings, regime: Regime, parents: list[Parent]) -> bool:
    policy = settings.model.batchnorm if settings.model.batchnorm != "regime" else regime.batchnorm
    folded = [parent for parent in parents if parent.folded]
    if policy == "moving" and folded:
        raise UsageError(
            f"{folded[0].weights}: its BatchNorm was folded into convolutions, so there are no statistics that could"
            " move; train with --batchnorm frozen"
        )
    if policy == "frozen" and not parents:
        raise UsageError(
            f"batchnorm frozen keeps a parent's statistics; regime {regime.name} has no parent: leave it out"
        )
    return policy == "frozen"
