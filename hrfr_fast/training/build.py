"""From settings to everything a run needs: device, data, parents, model, batches, phases, in this order."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hrfr_fast.engines.base import Engine
from hrfr_fast.engines.choice import choose_engine, resident_pixels
from hrfr_fast.evaluation.evaluate import verifiable
from hrfr_fast.format.reader import Packed, PairSet, Split, open_packed
from hrfr_fast.model.class_shards import ClassShard
from hrfr_fast.model.heads import MarginHead
from hrfr_fast.model.lineage import data_record, pairs_as_known_to
from hrfr_fast.regimes import Regime, regime_named
from hrfr_fast.runtime.device import Compute, choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.ranks import ALONE, Ranks, from_main
from hrfr_fast.sampling.stream import BatchStream
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.averaging import WeightAverage
from hrfr_fast.training.batch_size import found_in_words, largest_batch, most_samples
from hrfr_fast.training.compiling import compile_choice
from hrfr_fast.training.cuda_graph import graphs_choice
from hrfr_fast.training.data_parallel import is_sharded, synchronise
from hrfr_fast.training.fused_kernels import kernels_choice, with_kernels, worth_trying
from hrfr_fast.training.models import build_classifier, build_embedder, completed, shape_of
from hrfr_fast.training.parents import Parent, find_parents, people_digest, refuse_other_people
from hrfr_fast.training.phases import ScheduledPhase, schedule_phases, set_trainable
from hrfr_fast.training.sharding import add_sampling, class_shard
from hrfr_fast.training.speed import matrix_rate, training_flops
from hrfr_fast.training.stream import build_stream, training_splits
from hrfr_fast.training.teacher import find_teacher, take_class_vectors
from hrfr_fast.training.tuning import add_tuning, as_the_regime_tunes, tuned_phases
from hrfr_fast.training.two_views import objective_and_references, reference_networks, tell_rows, with_domains

if TYPE_CHECKING:
    from hrfr_fast.model.backbone import BackboneSettings
    from hrfr_fast.model.fused import FusedSettings
    from hrfr_fast.training.references import References
    from hrfr_fast.training.step import Objective


@dataclass(frozen=True)
class Execution:
    """How steps are executed, and what that can be compared with."""

    compile: str
    """auto, on or off."""
    graphs: str
    """auto, on or off."""
    kernels: str = "off"
    """auto, on or off: those for GPUs, see ``kernels_choice``."""
    flops: float = 0.0
    """Operations of one training image; 0 where they are not counted."""
    peak: float | None = None
    """FLOP/s of the device in the run's number format, measured; None where it is not."""


@dataclass(frozen=True)
class RunSetup:
    """Everything that a run needs and that stays the same while it trains."""

    settings: TrainSettings
    """As resolved: precision, batch size and what parents fix are decided."""
    regime: Regime
    ranks: Ranks
    """This process among those that train the run together."""
    compute: Compute
    packed: Packed
    parents: list[Parent]
    origin: dict[str, Any]
    """What checkpoints record of data and parents."""
    pair_sets: list[PairSet]
    """To verify on."""
    shape: "BackboneSettings | FusedSettings"
    backbone: nn.Module
    head: nn.Module
    people: str
    """Which row of the head stands for whom, see ``people_digest``."""
    frozen_statistics: bool
    """Whether BatchNorm keeps a parent's statistics while its layer trains."""
    stream: BatchStream
    objective: "Objective"
    engine: Engine
    phases: list[ScheduledPhase]
    total_steps: int
    execution: Execution
    teacher: Parent | None = None
    """Whose embeddings the run learns from."""
    references: "References | None" = None
    """Networks without gradient that the objective compares with: a moving copy, the teacher."""

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of a phase that takes the whole rate."""
        return self.settings.optimizer.learning_rate or 0.0

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.settings.run_directory

    def checkpoint(self, name: str) -> Path:
        """The file ``name`` among the run's checkpoints."""
        return self.run / "checkpoints" / name

    def train_only(self, parts: tuple[str, ...]) -> None:
        """Freeze all parts of the model but these."""
        set_trainable(
            self.backbone, self.head, parts,
            keep_statistics=self.frozen_statistics, adapters_only=self.settings.tuning.tune == "lora",
        )  # fmt: skip


def build(settings: TrainSettings, ranks: Ranks = ALONE) -> RunSetup:
    """Open the data, find the parents, build the model on its device and choose how it is fed.

    Several ``ranks``, of one process group, build the same model, and each its own share of the batches.

    Raises:
        UsageError: an unknown regime, a missing split or parent, settings that do not fit these.
    """
    compute = choose_compute(settings.execution.device, settings.execution.precision)
    settings = settings.replaced(precision=compute.precision)  # a resumed run must not choose again
    packed, regime = open_packed(settings.data), regime_named(settings.regime)
    settings = as_the_regime_tunes(settings, regime)
    parents, regime_phases = find_parents(regime, settings), tuned_phases(settings.tuning, regime)
    splits = training_splits(packed, regime, settings)
    settings = completed(settings, regime, parents, console.print)
    teacher = find_teacher(regime, settings)
    origin = _origin(packed, regime, parents, teacher, settings.run_directory)
    pair_sets = _pair_sets(packed, origin, settings.logging.verify_on)
    shape = with_domains(shape_of(settings, regime, parents), regime, splits, parents, settings, ranks)
    frozen_statistics = _freezes_statistics(settings, regime, parents)
    freezing = {"keep_statistics": frozen_statistics, "adapters_only": settings.tuning.tune == "lora"}
    people, classes = people_digest(splits), sum(split.identities for split in splits)
    if regime.inherit_head:
        refuse_other_people(parents[0], classes, people)
    kernels = _kernels(settings, compute, shape, ranks)
    shard = class_shard(settings, classes, ranks, console.print)
    model = partial(_model, settings, regime, shape, parents, compute, classes, shard, kernels)
    backbone, head = model()
    if settings.sampling.batch_size is None:
        _refuse_trial_steps(head, compute)
        if regime_phases:
            longest = max(regime_phases, key=lambda phase: len(phase.train))
            set_trainable(backbone, head, longest.train, **freezing)
        found = _largest_batch(settings, regime, splits, compute, ranks, backbone, head, teacher)
        if compute.device.type == "cuda":
            del backbone, head
            backbone, head = model()  # the trial moved BatchNorm's statistics
            console.print(found_in_words(found))
        settings = settings.replaced(batch_size=found)
    batch_size = settings.sampling.batch_size or 0
    take_class_vectors(head, teacher, regime, splits, console.print)
    add_sampling(head, settings, batch_size)
    stream = build_stream(packed, settings, batch_size, ranks)
    tell_rows(backbone, stream, settings)
    objective, references = objective_and_references(settings, regime, stream, backbone, head, teacher, compute)
    engine = choose_engine(settings, stream, compute, console.print)
    steps = settings.budget.steps or max(1, math.ceil(settings.budget.epochs * stream.epoch_length / batch_size))
    phases = schedule_phases(regime_phases, steps)
    if phases:  # the last is the longest, and what is frozen costs no backward pass
        set_trainable(backbone, head, phases[-1].phase.train, **freezing)
    total_steps = steps if phases else 0
    execution = _execution(settings, compute, backbone, stream, total_steps, ranks, head, kernels)
    synchronise(backbone, settings, ranks)
    return RunSetup(
        settings, regime, ranks, compute, packed, parents, origin, pair_sets, shape, backbone, head, people,
        frozen_statistics, stream, objective, engine, phases, total_steps, execution, teacher, references,
    )  # fmt: skip


def _kernels(settings: TrainSettings, compute: Compute, shape: "BackboneSettings | FusedSettings", ranks: Ranks) -> str:
    asked = settings.execution
    return kernels_choice(
        asked.fused_kernels, compute, shape, asked.compile,
        synchronised=settings.model.sync_bn and ranks.distributed,
        tried=not (ranks.distributed or asked.deterministic),
    )  # fmt: skip


def _model(
    settings: TrainSettings, regime: Regime, shape: "BackboneSettings | FusedSettings", parents: list[Parent],
    compute: Compute, classes: int, shard: ClassShard | None, kernels: str,
) -> tuple[nn.Module, MarginHead]:  # fmt: skip
    """Embedder and head, decided by the seed and the parents."""
    torch.manual_seed(settings.seed)
    checkpointing = settings.execution.activation_checkpointing
    backbone: nn.Module = build_embedder(shape, parents, compute, checkpointing=checkpointing)
    add_tuning(backbone, settings.tuning, regime)
    head = build_classifier(settings, regime, classes, parents, compute, shard)
    return with_kernels(backbone, head, compute, wanted=kernels == "on")


def _largest_batch(
    settings: TrainSettings, regime: Regime, splits: tuple[Split, ...], compute: Compute, ranks: Ranks,
    backbone: nn.Module, head: nn.Module, teacher: Parent | None,
) -> int:  # fmt: skip
    """The largest batch that fits and that ranks and blocks of faces can share; where none can, one to be refused.

    It fits beside all that a run holds: the moving average of the weights, the moving copy of the network, the teacher.
    """
    blocks, accumulate = settings.sampling.resident_shard or 1, settings.sampling.accumulate
    holders = ranks.count if blocks > 1 else 1
    pixels = resident_pixels(settings.execution.engine, splits, compute, holders)
    most = most_samples(regime.input_size, sum(split.samples for split in splits))
    average, references = None, []  # on a CPU nothing is tried
    if compute.device.type != "cpu":
        average = WeightAverage(backbone, head, settings.optimizer.ema) if settings.optimizer.ema else None
        copy, frozen = reference_networks(settings, regime, backbone, teacher, compute)
        references = [network for network in (copy.backbone if copy else None, frozen) if network is not None]
    found = largest_batch(backbone, head, regime.input_size, compute, accumulate, pixels, ranks, most, references)
    del average  # held until here, as a run holds it
    unit = math.lcm(blocks, accumulate * ranks.count if ranks.distributed else 1)
    return found // unit * unit or found


def _refuse_trial_steps(head: nn.Module, compute: Compute) -> None:
    if is_sharded(head) and compute.device.type == "cuda":
        raise UsageError(
            "--batch-size auto takes trial steps on a rank alone, and a sharded head needs the rows of the others;"
            " give a --batch-size, or --shard-head off"
        )


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


def _execution(
    settings: TrainSettings,
    compute: Compute,
    backbone: nn.Module,
    stream: BatchStream,
    steps: int,
    ranks: Ranks,
    head: nn.Module,
    kernels: str,
) -> Execution:
    asked, flops, peak = settings.execution, 0.0, None
    if asked.deterministic and asked.compile == "on":
        raise UsageError("--compile on: compiled kernels are chosen by timing them; leave out --deterministic or it")
    compile_asked = "off" if asked.deterministic else asked.compile
    if compute.device.type == "cuda":
        flops = training_flops(backbone, stream.size) + 6.0 * settings.model.embedding_size * stream.classes
        peak = matrix_rate(compute)
    whole_run = flops * (stream.batch_size // ranks.count) * steps
    compiled = compile_choice(
        compile_asked, compute, whole_run, peak, checkpointing=asked.activation_checkpointing, kernels=kernels
    )  # fmt: skip
    compiled = from_main(ranks, compiled)  # ranks that measure different rates still take the same steps
    on_gpu = compute.device.type == "cuda"
    if not on_gpu or (kernels == "auto" and not worth_trying(backbone, head, whole_run, peak)):
        kernels = "off"
    return Execution(compiled, graphs_choice(asked.graphs, compute), kernels, flops, peak)
